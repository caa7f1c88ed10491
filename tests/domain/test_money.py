"""Money is exact, and each currency has its own smallest unit."""

from __future__ import annotations

import pytest

from server.domain import money
from server.errors import BadRequest


@pytest.mark.parametrize(
    ("minor", "currency", "told"),
    [(4900, "usd", "49.00"), (5, "usd", "0.05"), (-150, "usd", "-1.50"), (4900, "jpy", "4900"), (1234, "kwd", "1.234")],
)
def test_minor_units_are_told_and_read_back(minor, currency, told):
    assert money.told(minor, currency) == told
    assert money.minor_units(told, currency) == minor


@pytest.mark.parametrize("amount", ["", "1,00", "1e3", "NaN", "0.001", "1.", "\uff19", "1" * 20, " 1"])
def test_what_is_no_amount_is_refused_by_name(amount):
    with pytest.raises(BadRequest, match="price"):
        money.minor_units(amount, "usd")


def test_an_amount_may_be_written_shorter():
    assert money.minor_units("49", "usd") == money.minor_units("49.0", "usd") == 4900
