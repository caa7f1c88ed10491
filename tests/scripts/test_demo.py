"""The demo tells the whole story, quickly, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.scripts.conftest import ROOT


def test_the_demo_tells_the_story(tmp_path):
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "scripts/demo.py"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "SMTP_HOST": "mail.example.invalid"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 10
    story = [
        "== Ann buys ImageWave on Gumroad",
        '"outcome": "issued"',
        "Subject: Your license key for ImageWave Converter",
        "laptop A            VALID              the license is valid; 1 of 1 seats takes the seat",
        "laptop A            VALID              the license is valid; 1 of 1 seats",
        "laptop B            TOO_MANY_MACHINES",
        "laptop A signs off",
        "laptop B            VALID              the license is valid; 1 of 1 seats takes the seat",
        '"outcome": "revoked"',
        "laptop B            SUSPENDED",
        "letter: Your refund for ImageWave Converter",
        "== Bea buys it through a Stripe payment link, Cem on JVZoo",
        '"outcome": "issued"',
        '"outcome": "issued"',
        "letters: bea@example.com, cem@example.com",
        "29.99 usd  (gross 59.98, refunded 29.99)",
        "stripe: 1  29.99 eur",
        "this license is suspended (SUSPENDED)",
        "the books are sound",
    ]
    at = 0
    for line in story:
        at = done.stdout.index(line, at) + 1
    assert len(set(re.findall(r"(?:[0-9A-Z]{6}-){4}[0-9A-Z]{6}", done.stdout))) == 3
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in _running()


def _running() -> str:
    """The command lines and settings of all processes."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.append((process / "environ").read_bytes().decode("utf-8", "replace"))
        except OSError:
            continue
    return "\n".join(found)
