"""Money: integer minor units with their currency, told as a decimal string; no floats, no sums over currencies.

Units per currency: https://docs.stripe.com/currencies#zero-decimal (ISO 4217's, with the exceptions listed there).
"""

from __future__ import annotations

import re
from functools import lru_cache

from server.errors import BadRequest

ZERO_DECIMAL = frozenset("bif clp djf gnf jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf".split())
THREE_DECIMAL = frozenset("bhd jod kwd omr tnd".split())
LARGEST = 10**15

_DECIMAL = re.compile(r"(-?)(\d{1,15})(?:\.(\d{1,6}))?", re.ASCII)
_CURRENCY = re.compile(r"[a-z]{3}")


def decimals(currency: str) -> int:
    if currency in ZERO_DECIMAL:
        return 0
    return 3 if currency in THREE_DECIMAL else 2


def told(minor: int, currency: str) -> str:
    """4900 usd -> "49.00"; 4900 jpy -> "4900"."""
    places = decimals(currency)
    digits = f"{abs(minor):0{places + 1}d}"
    sign = "-" if minor < 0 else ""
    return f"{sign}{digits[:-places]}.{digits[-places:]}" if places else f"{sign}{digits}"


def minor_units(amount: str, currency: str, field: str = "price") -> int:
    """ "49.9" usd -> 4990. Raises BadRequest, naming the field, for anything that is not an exact amount."""
    found = _DECIMAL.fullmatch(amount)
    places = decimals(currency)
    if found is None or len((found[3] or "").rstrip("0")) > places:
        raise BadRequest(f"{field}: {amount[:40]!r} is no amount in {currency}")
    fraction = (found[3] or "")[:places].ljust(places, "0")
    return int(f"{found[1]}{found[2]}{fraction}")


def currency_code(text: str, field: str = "currency") -> str:
    code = text.strip().lower()
    if not _CURRENCY.fullmatch(code):
        raise BadRequest(f"{field}: {text[:20]!r} is no currency code of three letters")
    return code


@lru_cache(4096)
def amount(price: str | None, currency: str | None) -> tuple[str, int] | None:
    """Currency and minor units of a ledger line's sum; None where it names none, or none that can be read."""
    if price is None or currency is None:
        return None
    try:
        code = currency_code(currency)
        return code, minor_units(price, code)
    except BadRequest:
        return None
