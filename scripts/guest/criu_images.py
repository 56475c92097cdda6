#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""criu_images.py: see what crit shows of epoll instances in an image of CRIU.

The image is made without /dev/epoll_cr and with it, if there is a module, and restored.
"""

import ctypes
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

import pycriu

CRIU = "/tmp/criu"
DIR = pathlib.Path("/tmp/images")
# Seconds, on a machine that is emulated and busy.
PATIENCE = 120
# The numbers of what the process has, and watches.
OUTER, INNER, COUNTER, READER, WRITER, FILE, NEAR, FAR, FIRED = range(10, 19)
CLOSED = 100
IN, ET, ONESHOT = select.EPOLLIN, select.EPOLLET, select.EPOLLONESHOT


class Failure(Exception):
    pass


def wait_for(what, condition):
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            raise Failure(f"no {what} within {PATIENCE} s")
        time.sleep(0.01)


def watch():
    """Be the process that is dumped."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    near, far = socket.socketpair()
    reader, writer = os.pipe()
    # Python closes none of them before this process ends.
    opened = {
        OUTER: select.epoll(),
        INNER: select.epoll(),
        COUNTER: os.eventfd(0),
        READER: reader,
        WRITER: writer,
        FILE: os.open(__file__, os.O_RDONLY),
        NEAR: near,
        FAR: far,
        FIRED: os.eventfd(1),
    }
    for number, file in opened.items():
        os.dup2(file if isinstance(file, int) else file.fileno(), number + 200)
    os.closerange(3, 200)
    for number in opened:
        os.dup2(number + 200, number)
    os.closerange(200, 300)

    outer, inner = select.epoll.fromfd(OUTER), select.epoll.fromfd(INNER)
    os.write(WRITER, b"x")
    outer.register(READER, IN | ET)
    outer.register(FIRED, IN | ONESHOT)
    assert len(outer.poll(0)) == 2
    os.dup2(COUNTER, CLOSED)
    outer.register(CLOSED, IN)
    os.close(CLOSED)
    for number in COUNTER, INNER, NEAR:
        outer.register(number, IN)
    inner.register(COUNTER, IN)
    (DIR / "ready").touch()
    while True:
        signal.pause()


def is_there(pid):
    """Whether a process has not ended. What was restored is a child of ours."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    return os.path.exists(f"/proc/{pid}")


def end(pid):
    os.kill(pid, signal.SIGKILL)
    wait_for("end of the process", lambda: not is_there(pid))


def criu(action, *args):
    """Run CRIU; return its exit status and its log."""
    log = DIR / f"{action}.log"
    log.unlink(missing_ok=True)
    command = [CRIU, action, "-D", DIR / "images", "-v4", "-o", log, *args]
    try:
        ended = subprocess.run(list(map(str, command)), capture_output=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Failure(f"criu {action} does not end") from None
    text = log.read_text(errors="replace")
    for line in text.splitlines():
        # Those that are left are killed when one has failed.
        if "BUG at" in line or re.search(r"killed by signal (?!9\b)|exited, status=(?!1\b)", line):
            raise Failure(f"criu {action}: {line}")
    if ended.returncode < 0:
        raise Failure(f"criu {action}: killed by signal {-ended.returncode}")
    if ended.returncode and not errors(text):
        raise Failure(f"criu {action}: status {ended.returncode}, and no error in its log")
    return ended.returncode, text


def errors(text):
    """The errors in a log, without one that CRIU goes on after, where root lacks a capability."""
    lines = [line for line in text.splitlines() if "Error (" in line]
    return [re.sub(r"^.*?Error \(.*?\): ", "", line) for line in lines if "Can't setup RLIMIT_NOFILE" not in line]


def dump():
    """Dump a process; return its pid and the entries of its files."""
    shutil.rmtree(DIR, ignore_errors=True)
    (DIR / "images").mkdir(parents=True)
    pid = os.fork()
    if not pid:
        try:
            watch()
        finally:
            os._exit(1)
    wait_for("subject", lambda: (DIR / "ready").exists() or not is_there(pid))
    status, text = criu("dump", "-t", pid)
    if status:
        end(pid)
        raise Failure("criu dump: " + "; ".join(errors(text)))
    wait_for("end of the process", lambda: not is_there(pid))
    with open(DIR / "images/files.img", "rb") as image:
        return pid, pycriu.images.load(image)


def files(image):
    """The files by their ids, and the ids by the numbers of the process."""
    by_id = {entry["id"]: entry for entry in image["entries"]}
    with next((DIR / "images").glob("fdinfo-*.img")).open("rb") as fdinfo:
        ids = {entry["fd"]: entry["id"] for entry in pycriu.images.load(fdinfo)["entries"]}
    return by_id, ids


def targets(image, instance):
    by_id, ids = files(image)
    return by_id[ids[instance]]["epfd"]["tfd"]


def target(image, tfd, instance=OUTER):
    (found,) = (t for t in targets(image, instance) if t["orig_tfd"] == tfd)
    return found


def shown():
    """crit shows what the image says of each target."""
    command = ["python3", "-m", "crit", "show", DIR / "images/files.img"]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if ended.returncode:
        raise Failure(f"crit show: {ended.stderr.strip()}")
    image = json.loads(ended.stdout)
    _, ids = files(image)
    found = {t["orig_tfd"]: t["file_id"] for t in targets(image, OUTER)}
    wanted = {fd: ids[fd] for fd in (READER, FIRED, COUNTER, INNER, NEAR)} | {CLOSED: ids[COUNTER]}
    if found != wanted:
        raise Failure(f"crit shows targets {found}, not {wanted}")
    if target(image, READER).get("ready") is not False:
        raise Failure(f"crit shows that an edge was not reported: {target(image, READER)}")
    lines = [line for line in ended.stdout.splitlines() if re.search("orig_tfd|file_id|ready", line)]
    if len(lines) < 2 * len(wanted) + 1:
        raise Failure("crit shows: " + ended.stdout)


def restore(pid, image):
    """Restore an image; return what CRIU says if it refuses."""
    with open(DIR / "images/files.img", "wb") as out:
        pycriu.images.dump(image, out)
    status, text = criu("restore", "-d")
    if status:
        wait_for("end of what was restored", lambda: not is_there(pid))
        return errors(text)[0]
    if not is_there(pid):
        raise Failure("criu restore succeeds, and there is no process")
    end(pid)
    return None


def cycle(what):
    """Returns whether it failed."""
    try:
        pid, image = dump()
        shown()
        error = restore(pid, image)
        if error:
            raise Failure(f"criu restore: {error}")
    except Failure as failure:
        print(f"# {failure}\nnot ok crit shows the targets, {what}", flush=True)
        return True
    print(f"ok crit shows the targets, {what}", flush=True)
    return False


def main():
    # PR_SET_CHILD_SUBREAPER: what was restored becomes our child.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    failed = cycle("without the device")
    if subprocess.run(["modprobe", "epoll_cr"], capture_output=True, check=False).returncode:
        print("# there is no module epoll_cr")
    else:
        failed |= cycle("with the device")
        subprocess.run(["modprobe", "-r", "epoll_cr"], check=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
