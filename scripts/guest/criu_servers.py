#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""criu_servers.py [NAME...]: dump real servers with CRIU, and restore them.

Clients keep their connections open, and send requests all the time. The server is stopped,
dumped, which ends it, and restored. Then its epoll instances have to have the same targets,
and every connection has to go on: each client waits for the answer to its last request.
Each server is tried without /dev/epoll_cr and with it.
"""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

CRIU = "/tmp/criu"
DIR = pathlib.Path("/tmp/servers")
CLIENTS = 8
# Seconds, on a machine that is emulated and busy.
PATIENCE = 120

HTTP = (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", re.compile(rb"hello\n?\Z"))
NGINX = """
daemon off;
user root;
worker_processes 3;
pid {dir}/nginx.pid;
error_log {dir}/nginx.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path {dir}/1; proxy_temp_path {dir}/2;
    fastcgi_temp_path {dir}/3; uwsgi_temp_path {dir}/4; scgi_temp_path {dir}/5;
    server {{ listen 127.0.0.1:{port}; location / {{ return 200 hello; }} }}
}}
"""


def nginx(port):
    conf = DIR / "nginx.conf"
    conf.write_text(NGINX.format(dir=DIR, port=port))
    return ["nginx", "-p", DIR, "-c", conf, "-e", DIR / "nginx.log"], HTTP


def redis(port):
    args = ["--port", port, "--bind", "127.0.0.1", "--dir", DIR, "--save", "", "--io-threads", 2]
    return ["redis-server", *args], (b"SET k v\r\n", re.compile(rb"\+OK\r\n\Z"))


def node(port):
    return ["node", "cluster.js", port, 1000000], HTTP


def python(port):
    return ["python3", "server.py", port], HTTP


SERVERS = {f.__name__: f for f in (nginx, redis, node, python)}


class Failure(Exception):
    pass


def wait_for(what, condition):
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            raise Failure(f"no {what} within {PATIENCE} s")
        time.sleep(0.05)


class Client(threading.Thread):
    """A connection that is never closed. Counts the answers to its requests."""

    def __init__(self, port, request, answer):
        super().__init__(daemon=True)
        self.request, self.answer = request, answer
        self.answers, self.error, self.ends = 0, None, False
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)

    def run(self):
        try:
            while not self.ends:
                self.socket.sendall(self.request)
                got = b""
                while not self.answer.search(got):
                    part = self.socket.recv(4096)
                    if not part:
                        raise ConnectionError("the server has closed the connection")
                    got += part
                self.answers += 1
        except OSError as error:
            self.error = error


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
        return True
    except ConnectionRefusedError:
        return False


def processes(session):
    """The processes of a session that have not ended."""
    pids = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == session and state != "Z":
            pids.append(int(stat.parent.name))
    return sorted(pids)


def states(session):
    return {
        pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        for pid in processes(session)
    }


def targets(session):
    """What the epoll instances of each process watch, as fdinfo shows it."""
    found = {}
    for pid in processes(session):
        for fdinfo in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir():
            lines = re.findall(r"^tfd: *(\d+) events: *(\w+) data: *(\w+)", fdinfo.read_text(), re.M)
            if os.readlink(f"/proc/{pid}/fd/{fdinfo.name}") == "anon_inode:[eventpoll]":
                found[pid, int(fdinfo.name)] = sorted(lines)
    return found


def criu(action, *args):
    images = DIR / "images"
    images.mkdir(exist_ok=True)
    began = time.monotonic()
    options = ["--tcp-established", "--network-lock", "nftables", "-v4", "-o", f"{action}.log"]
    ended = subprocess.run([CRIU, action, "-D", images, *options, *map(str, args)], capture_output=True)
    if ended.returncode:
        log = (images / f"{action}.log").read_text(errors="replace").splitlines()
        errors = [line for line in log if "Error" in line]
        raise Failure(f"criu {action}: " + "; ".join(errors[:4]))
    return time.monotonic() - began


def go_on(clients, what):
    before = [client.answers for client in clients]

    def all_have():
        for client in clients:
            if client.error:
                raise Failure(f"{what}: {client.error}")
        return all(client.answers > n + 2 for client, n in zip(clients, before))

    wait_for(f"answers {what}", all_have)


def cycle(command, port, request, answer):
    log = (DIR / "log").open("wb")
    server = subprocess.Popen(
        list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    session, clients = server.pid, []
    try:
        wait_for("server", lambda: listens(port) or server.poll() is not None)
        if server.poll() is not None:
            raise Failure("it does not start: " + (DIR / "log").read_text(errors="replace"))
        clients = [Client(port, request, answer) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        go_on(clients, "before the dump")

        os.killpg(session, signal.SIGSTOP)
        wait_for("stop", lambda: states(session) == {"T"})
        before = targets(session)
        dumped = criu("dump", "-t", session)
        server.wait()
        if processes(session):
            raise Failure("it goes on after the dump")
        answers = sum(client.answers for client in clients)

        restored = criu("restore", "-d")
        after = targets(session)
        if before != after:
            changed = {k: (before.get(k), after.get(k)) for k in before.keys() | after.keys()}
            changed = {k: v for k, v in changed.items() if v[0] != v[1]}
            raise Failure(f"other targets: {changed}")
        os.killpg(session, signal.SIGCONT)
        go_on(clients, "after the restore")
        if not listens(port):
            raise Failure("it does not accept connections")
        instances, watched = len(before), sum(map(len, before.values()))
        print(
            f"# {len(processes(session))} processes, {instances} epoll instances, {watched} targets;"
            f" {answers} answers before; dumped in {dumped:.1f} s, restored in {restored:.1f} s"
        )
        if not instances or not watched:
            raise Failure("it has no epoll instances")
    finally:
        for client in clients:
            client.ends = True
        for pid in processes(session):
            os.kill(pid, signal.SIGKILL)
        wait_for("end", lambda: not processes(session))
        log.close()


def main(names):
    # CRIU cannot dump an io_uring, which node has if it may.
    pathlib.Path("/proc/sys/kernel/io_uring_disabled").write_text("2")
    failed = 0
    port = 20000
    for name in names or SERVERS:
        for device in False, True:
            subprocess.run(["modprobe", *([] if device else ["-r"]), "epoll_cr"], check=True)
            port += 1
            shutil.rmtree(DIR, ignore_errors=True)
            DIR.mkdir()
            what = f"{name} {'with' if device else 'without'} the device"
            try:
                command, (request, answer) = SERVERS[name](port)
                cycle(command, port, request, answer)
                print(f"ok {what}", flush=True)
            except Failure as failure:
                failed += 1
                print(f"# {failure}\nnot ok {what}", flush=True)
    subprocess.run(["modprobe", "-r", "epoll_cr"], check=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
