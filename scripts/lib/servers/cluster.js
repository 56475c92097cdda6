// SPDX-License-Identifier: GPL-2.0
// cluster.js PORT: workers of node's cluster, each of which ends after some requests.
const cluster = require('cluster');
const http = require('http');

if (cluster.isPrimary ?? cluster.isMaster) {
	for (let i = 0; i < 3; i++)
		cluster.fork();
	cluster.on('exit', () => cluster.fork());
} else {
	let left = 200;
	http.createServer((request, response) => {
		response.end('hello\n');
		if (--left === 0)
			cluster.worker.disconnect();
	}).listen(Number(process.argv[2]), '127.0.0.1');
}
