// SPDX-License-Identifier: GPL-2.0
// cluster.js PORT [REQUESTS]: workers of node's cluster, each of which ends after so many
// requests.
const cluster = require('cluster');
const http = require('http');

if (cluster.isPrimary ?? cluster.isMaster) {
	for (let i = 0; i < 3; i++)
		cluster.fork();
	cluster.on('exit', () => cluster.fork());
} else {
	let left = Number(process.argv[3] ?? 200);
	http.createServer((request, response) => {
		response.end('hello\n');
		if (--left === 0)
			cluster.worker.disconnect();
	}).listen(Number(process.argv[2]), '127.0.0.1');
}
