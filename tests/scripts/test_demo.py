"""The demo tells the whole story, within its time, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.scripts.conftest import ROOT


def test_the_demo_tells_the_story(tmp_path):
    done = subprocess.run(
        [sys.executable, "scripts/demo.py"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "SMTP_HOST": "mail.example.invalid"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    story = [
        "== Dorota orders the Studio bundle at your own store front",
        "199.00 pln, pending",
        "PayU's notice: answered 200",
        "which shows 2 license keys",
        ": paid",
        "To: dorota@example.com",
        "Subject: Your license keys for Studio bundle",
        "ImageWave Converter (valid for life, on one device):",
        "GrainLab (valid for life, on one device):",
        "/portal/sign-in/",
        "Paid:        199.00 PLN",
        "== She follows the link",
        ": paid",
        "grainlab            VALID              the license is valid; 1 of 1 seats takes the seat",
        "imagewave           VALID              the license is valid; 1 of 1 seats takes the seat",
        "== PayU tells it again",
        "PayU's notice: answered 200",
        "grainlab            VALID",
        "imagewave           VALID",
        "49.00 pln: accepted; the order is still paid",
        "PayU's confirmation: answered 200",
        "partially_refunded, 49.00 given back",
        "grainlab            VALID",
        "imagewave           VALID",
        "150.00 pln: accepted; the order is still partially_refunded",
        "PayU's confirmation: answered 200",
        ": refunded, 199.00 given back",
        "grainlab            SUSPENDED",
        "imagewave           SUSPENDED",
        "letter: Your refund for Studio bundle",
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
        "0.00 pln  (gross 199.00, refunded 199.00)",
        "29.99 usd  (gross 59.98, refunded 29.99)",
        "stripe: 1  29.99 eur",
        "this license is suspended (SUSPENDED)",
        "the books are sound",
    ]
    at = 0
    for line in story:
        at = done.stdout.index(line, at) + 1
    assert len(set(re.findall(r"(?:[0-9A-Z]{6}-){4}[0-9A-Z]{6}", done.stdout))) == 5
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
