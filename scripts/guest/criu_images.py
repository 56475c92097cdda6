#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""criu_images.py [COUNT [SEED]]: edit what an image of CRIU says of epoll instances.

crit shows the fields of each target. Then the image is restored after each of some edits,
and COUNT random ones: CRIU refuses it with an error, or restores it. It must not crash, hang
or leave processes behind. Each is tried without /dev/epoll_cr and with it, if there is a
module.
"""

import copy
import ctypes
import json
import os
import pathlib
import random
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
EXCLUSIVE = select.EPOLLEXCLUSIVE


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


def duplicate(image):
    twice = targets(image, OUTER)
    twice.append(copy.deepcopy(twice[0]))


def loop(image):
    _, ids = files(image)
    target(image, COUNTER, INNER)["file_id"] = ids[OUTER]


def to(tfd, **fields):
    """An edit of a target. A function is called with the ids of the files."""

    def edit(image):
        _, ids = files(image)
        what = target(image, tfd)
        for field, value in fields.items():
            what[field] = value(ids) if callable(value) else value

    return edit


def without(tfd, field):
    def edit(image):
        del target(image, tfd)[field]

    return edit


def regular(ready):
    return to(READER, file_id=lambda ids: ids[FILE], events=IN | ET, ready=ready)


# CRIU has to refuse these, and to restore those below.
REFUSED = {
    "orig_tfd is -1": to(CLOSED, orig_tfd=2**32 - 1),
    "orig_tfd is 2^31": to(CLOSED, orig_tfd=2**31),
    "orig_tfd is 2^30": to(CLOSED, orig_tfd=2**30),
    "all of them are": lambda image: [t.update(orig_tfd=2**31) for t in targets(image, OUTER)],
    "file_id of no file": to(CLOSED, file_id=0x7FFFFFFF),
    "file_id 0": to(CLOSED, file_id=0),
    "file_id of the instance": to(CLOSED, file_id=lambda ids: ids[OUTER]),
    "file_id of an instance around it": loop,
    "file_id of a regular file": to(COUNTER, file_id=lambda ids: ids[FILE]),
    "a regular file has reported": regular(False),
    "a regular file is ready": regular(True),
    "one target twice": duplicate,
    "all events that there are": to(COUNTER, events=2**32 - 1),
    "EPOLLEXCLUSIVE of an instance": to(INNER, events=IN | EXCLUSIVE),
    "tfd alone, and it is closed": lambda image: [
        without(CLOSED, "file_id")(image),
        target(image, CLOSED).update(tfd=2**32 - 1),
    ],
}
ACCEPTED = {
    "nothing": lambda image: None,
    "no event, and no EPOLLONESHOT": to(COUNTER, events=0),
    "disarmed, and EPOLLET": to(FIRED, events=ONESHOT | ET, ready=True),
    "all have reported": lambda image: [t.update(ready=False) for t in targets(image, OUTER)],
    "number of the instance": to(CLOSED, orig_tfd=OUTER),
    "no file_id": without(COUNTER, "file_id"),
    "no orig_tfd": without(COUNTER, "orig_tfd"),
}


def random_edit(image, generator):
    by_id, _ = files(image)
    # Those of mappings and directories, too.
    some = [*by_id, 0, 2**32 - 1, generator.getrandbits(32)]
    for _ in range(generator.randint(1, 4)):
        all_targets = targets(image, generator.choice([OUTER, OUTER, INNER]))
        if not all_targets:
            continue
        what = generator.choice(all_targets)
        field = generator.choice(["orig_tfd", "file_id", "file_id", "events", "ready", "tfd", "copy", "drop"])
        if field == "file_id":
            what[field] = generator.choice(some)
        elif field in ("tfd", "orig_tfd"):
            what[field] = generator.choice([*range(20), 255, 1023, 2**20, 2**31, 2**32 - 1])
        elif field == "events":
            what[field] = generator.choice([0, IN, IN | ET, ONESHOT, ET, IN | EXCLUSIVE, generator.getrandbits(32)])
        elif field == "ready":
            what[field] = generator.choice([True, False])
        elif field == "copy":
            all_targets.append(copy.deepcopy(what))
        else:
            gone = generator.choice(["orig_tfd", "file_id", "ready"])
            what.pop(gone, None)


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


def cycle(what, count, generator):
    """Returns how many edits failed."""
    try:
        pid, image = dump()
        shown()
        print(f"ok crit shows the targets, {what}", flush=True)
    except Failure as failure:
        print(f"# {failure}\nnot ok crit shows the targets, {what}", flush=True)
        return 1
    edits = [(name, edit, True) for name, edit in REFUSED.items()]
    edits += [(name, edit, False) for name, edit in ACCEPTED.items()]
    for n in range(count):
        edits.append((f"random edit {n}", lambda image: random_edit(image, generator), None))
    failed = refused = 0
    for name, edit, must_refuse in edits:
        edited = copy.deepcopy(image)
        edit(edited)
        try:
            error = restore(pid, edited)
            if must_refuse is not None and must_refuse != (error is not None):
                raise Failure(error or "it is restored")
            refused += error is not None
            if must_refuse is not None:
                print(f"# {name}: {error or 'restored'}")
        except Failure as failure:
            failed += 1
            changed = [t for n in (OUTER, INNER) for t in targets(edited, n)]
            print(f"# {failure}\n# {changed}\nnot ok {name}, {what}", flush=True)
            if is_there(pid):
                end(pid)
    print(f"# {what}: {len(edits)} edits, {refused} refused")
    print(f"{'not ok' if failed else 'ok'} edited images, {what}", flush=True)
    return failed


def main(count=20, seed=None):
    # PR_SET_CHILD_SUBREAPER: what was restored becomes our child.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    seed = int(seed or random.getrandbits(32))
    generator = random.Random(seed)
    print(f"# seed {seed}")
    modprobe = ["modprobe", "epoll_cr"]
    failed = cycle("without the device", int(count), generator)
    if subprocess.run(modprobe, capture_output=True, check=False).returncode:
        print("# there is no module epoll_cr")
    else:
        failed += cycle("with the device", int(count), generator)
        subprocess.run(["modprobe", "-r", "epoll_cr"], check=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
