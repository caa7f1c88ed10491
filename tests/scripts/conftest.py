"""The owner at his terminal: the scripts as real processes on the folder of a shop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import OWNER_KEY, SECRET

ROOT = Path(__file__).resolve().parents[2]


class Owner:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
        done = subprocess.run(
            [sys.executable, f"scripts/{script}.py", *arguments],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]} | self.settings | settings,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, script, *arguments, **more):
        return json.loads(self.run(script, *arguments, "--json", **more).stdout)


@pytest.fixture
def owner(shop) -> Owner:
    return Owner(shop.folder)
