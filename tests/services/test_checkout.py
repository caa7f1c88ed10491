"""Placing orders: only what the platform can take, and never what it would take otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Clock
from tests.services.bazaar import Bazaar, bazaar_in


@pytest.fixture
def bazaar(tmp_path: Path, clock: Clock) -> Iterator[Bazaar]:
    with bazaar_in(tmp_path / "data", clock) as made:
        yield made


@pytest.mark.parametrize("provider", ["jazzcash", "easypaisa"])
def test_a_price_in_dollars_is_never_asked_for_in_rupees(bazaar, provider):
    answered = bazaar.initiate(provider, "abroad")
    assert answered.status_code == 422
    assert (answered.json["errors"][0]["code"], "abroad" in answered.text) == ("NO_PRICE", True)
    assert not (bazaar.shop.folder / "orders.jsonl").exists()
