"""The owner at his terminal: the scripts, each in a process, on the folder of a shop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import OWNER_KEY, SECRET

ROOT = Path(__file__).resolve().parents[2]


class Desk:
    """Runs the scripts, each command in a process of its own (`desk.py`)."""

    def __init__(self, folder: Path) -> None:
        self._out, self._err = folder / "out", folder / "err"
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(Path(__file__).with_name("desk.py"))],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, script, arguments, env):
        told = {"script": script, "arguments": arguments, "env": env, "out": str(self._out), "err": str(self._err)}
        for path in (self._out, self._err):
            path.write_bytes(b"")
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        said = (path.read_text(encoding="utf-8") for path in (self._out, self._err))
        return subprocess.CompletedProcess([script, *arguments], code, *said)

    def close(self) -> None:
        self._process.communicate(timeout=60)


class Owner:
    """Without a desk a command is started as he types it, which takes half a second."""

    def __init__(self, folder: Path, desk: Desk | None = None) -> None:
        self.folder, self.desk = folder, desk
        self.settings = {
            "SECRET_KEY": "secret-key-of-the-tests",
            "LICENSE_SECRET": "license-secret-of-the-tests",
            "ENV_FILE": os.devnull,
            "GUMROAD_WEBHOOK_SECRET": SECRET,
            "ADMIN_API_KEY": OWNER_KEY,
            "DATA_DIR": str(folder),
            "EMAIL_BACKEND": "console",
            "PYTHONWARNINGS": "error",
            "PYTHONIOENCODING": "utf-8",
        }

    def run(self, script, *arguments, code=0, **settings):
        env = {"PATH": os.environ["PATH"]} | self.settings | settings
        done = self.desk.ask(script, arguments, env) if self.desk else started(script, arguments, env)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, script, *arguments, **more):
        return json.loads(self.run(script, *arguments, "--json", **more).stdout)


def started(script, arguments, env):
    return subprocess.run(
        [sys.executable, f"scripts/{script}.py", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )


@pytest.fixture(scope="session")
def desk(tmp_path_factory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    yield desk
    desk.close()


@pytest.fixture
def owner(shop, desk) -> Owner:
    return Owner(shop.folder, desk)
