"""What the storage needs of a disk, tried out with a second process: locks, fsync, renames, appends seen by others.

Each trial gets an empty folder on that disk and says in words what it saw. Raises OSError where the disk cannot do it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from server.storage import durable

LOCK = """
import fcntl, sys
try:
    fcntl.flock(open(sys.argv[1], "a"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("held")
else:
    print("free")
"""
READ = "import sys; print(open(sys.argv[1]).read())"
WATCH = """
import sys
print("watching", flush=True)
for _ in range(1000000):
    with open(sys.argv[1]) as file:
        text = file.read()
    if text == "end":
        sys.exit("whole")
    if len(text) != 4096 or len(set(text)) != 1:
        sys.exit("half a file")
"""
_PATIENCE = 20  # seconds for a child to start and be done
_REPLACEMENTS = 50


def locks(room: Path) -> str:
    lock = durable.FolderLock(room / "lock", 0)
    try:
        with lock.held():
            during = _child(LOCK, room / "lock")
        after = _child(LOCK, room / "lock")
    finally:
        lock.close()
    if (during, after) != ("held", "free"):
        raise OSError(f"flock does not keep two processes apart: it was {during} while held, and {after} afterwards")
    return "keep two processes apart"


def fsync(room: Path) -> str:
    descriptor, began = durable.open_for_append(room / "synced"), time.perf_counter()
    try:
        durable.append(descriptor, bytes(4096))
    finally:
        os.close(descriptor)
    return f"works; one took {(time.perf_counter() - began) * 1000:.1f} ms"


def append(room: Path) -> str:
    """Twice, over a descriptor that stays open, as a worker has it."""
    descriptor = durable.open_for_append(room / "appended")
    try:
        for text, expected in (("a", "a"), ("b", "ab")):
            durable.append(descriptor, text.encode())
            if (seen := _child(READ, room / "appended")) != expected:
                raise OSError(f"what one process appends another does not see: {seen!r} instead of {expected!r}")
    finally:
        os.close(descriptor)
    return "what one process appends another one sees"


def rename(room: Path) -> str:
    path = room / "replaced"
    durable.replace(path, [b"a" * 4096])
    command = [sys.executable, "-I", "-c", WATCH, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        for at in range(_REPLACEMENTS):
            durable.replace(path, [b"ba"[at % 2 : at % 2 + 1] * 4096])
        durable.replace(path, [b"end"])
        try:
            _, told = watcher.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            watcher.kill()
            raise OSError("a file that one process replaces another does not see") from None
    if told.strip() != "whole":
        raise OSError(f"a file that is replaced is not always whole to others: {told.strip()[-200:]}")
    return f"{_REPLACEMENTS} times, and another process saw the old file or the new one"


TRIALS = (locks, fsync, append, rename)


def _child(program: str, path: Path) -> str:
    command = [sys.executable, "-I", "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip().rpartition("\n")[2])
    return done.stdout.strip()
