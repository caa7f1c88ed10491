"""What keeps people out of a page, as axe-core sees it: https://github.com/dequelabs/axe-core

It is npm's, and is installed by `npm ci --ignore-scripts` in `tests/browser`, as `.ci/run` does.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

AXE = Path(__file__).parents[1] / "browser" / "node_modules" / "axe-core" / "axe.min.js"
_RUN = """async (options) => (await axe.run(document, options)).violations
  .filter(found => ["serious", "critical"].includes(found.impact))
  .flatMap(found => found.nodes.map(node => `${found.id}: ${found.help}: ${node.html.slice(0, 200)}`))"""


@cache
def _source() -> str:
    return AXE.read_text()


def need_axe() -> None:
    """Where it can be installed it must be: `.ci/run` sees to that, and says so by AXE_TESTS."""
    if AXE.exists():
        return
    if os.environ.get("AXE_TESTS") == "required":
        pytest.fail("there is no axe-core, and AXE_TESTS=required")
    pytest.skip("there is no axe-core here (npm ci --ignore-scripts in tests/browser)")


def serious_findings(page: Page) -> list[str]:
    """Every serious or critical finding on the page as it is now, in the light and in the dark. Skips the test where
    axe-core is not installed. The page must let scripts run."""
    need_axe()
    page.evaluate(_source())
    found: list[str] = []
    for scheme, options in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # colours that still change are nobody's
        told: Any = page.evaluate(_RUN, options)
        found += [f"{scheme}: {one}" for one in told]
    page.emulate_media(color_scheme="null", reduced_motion="null")
    return found
