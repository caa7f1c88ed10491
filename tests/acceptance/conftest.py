"""A real Chromium for tests: the system's own, driven by Playwright, which brings none.

Who asks for the fixture `browser` is marked `system` by that (`tests/conftest.py`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = [  # nothing that a browser asks of the world by itself
    "--no-sandbox",  # which root has not
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str:
    """Where it can be installed it must be: `.ci/run` sees to that, and says so by BROWSER_TESTS."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None and os.environ.get("BROWSER_TESTS") == "required":
        pytest.fail("there is no Chromium, and BROWSER_TESTS=required")
    if found is None:
        pytest.skip("there is no Chromium here (Debian: apt install chromium)")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_chromium()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield running
        running.close()
