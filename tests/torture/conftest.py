"""Every test of this room runs twice: quickly with all others, and in full under `-m slow`."""

from __future__ import annotations

import faulthandler

import pytest

from tests.torture.account import Torture


@pytest.fixture(autouse=True, params=["quick", pytest.param("full", marks=pytest.mark.slow)])
def torture(request: pytest.FixtureRequest) -> Torture:
    is_full = request.param == "full"
    if is_full:
        faulthandler.cancel_dump_traceback_later()  # it is long, and does not hang
    return Torture(request, is_full)
