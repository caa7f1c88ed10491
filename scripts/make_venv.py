"""Makes .venv and installs the hashed locks that are named as arguments; does nothing where that is done already.

Run by venv.sh with the Python that .venv is to have, which may be .venv's own. Standard library only.
A stamp, written last, says what .venv was made from: without one it is the rest of an interrupted installation and is
made anew, as it is for another Python or when the checkout was moved (its scripts hold their absolute path).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "keyledger.json"
PLACE = {"root": str(ROOT), "python": f"{sys.version_info.major}.{sys.version_info.minor}"}


def main(names: list[str]) -> None:
    wanted = {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in names}
    if missing(wanted):
        with alone() as turn:
            if missing(wanted):  # nobody else did it while this one waited
                install(wanted, turn)


def missing(wanted: dict[str, str]) -> list[str]:
    """The locks that are not installed, or not as they are now."""
    installed = read_stamp().get("locks", {})
    return [name for name in wanted if installed.get(name) != wanted[name]]


def read_stamp() -> dict[str, Any]:
    """Empty unless .venv was finished, here, with this Python."""
    try:
        stamp = json.loads(STAMP.read_bytes())
    except (OSError, ValueError):
        return {}
    return stamp if stamp.get("place") == PLACE and (VENV / "bin/python").exists() else {}


def alone() -> IO[bytes]:
    """Waits until no other start is installing. Locks a file that every checkout has; .venv itself may be remade."""
    turn = (ROOT / "requirements.lock").open("r+b")  # opened to write, because NFS wants that
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another start to finish its installation")
        fcntl.flock(turn, fcntl.LOCK_EX)
    return turn


def install(wanted: dict[str, str], turn: IO[bytes]) -> None:
    installed = read_stamp().get("locks")
    if installed is None:
        say("making .venv")
        run([os.path.realpath(sys.executable), "-m", "venv", "--clear", str(VENV)], turn)
        installed = {}
    STAMP.unlink(missing_ok=True)
    for name in wanted:
        if installed.get(name) != wanted[name]:
            say(f"installing {name} (this once)")
            pip = [str(VENV / "bin/python"), "-I", "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
            run([*pip, "install", "--require-hashes", "-r", name], turn)
    temporary = STAMP.with_suffix(".new")
    temporary.write_text(json.dumps({"place": PLACE, "locks": {**installed, **wanted}}))
    temporary.replace(STAMP)


def run(command: list[str], turn: IO[bytes]) -> None:
    """The child holds the lock too: should this process be killed, the next one still waits for pip to end."""
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr, pass_fds=[turn.fileno()])


def say(text: str) -> None:
    print(f"keyledger: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.CalledProcessError as error:
        say(f"`{' '.join(error.cmd)}` failed; what it said stands above")
        sys.exit(1)
    except OSError as error:
        say(str(error))
        sys.exit(1)
