"""License keys: derived, never stored twice, forgiving to read.

`[prefix-]XXXXXX-XXXXXX-XXXXXX-XXXXXX-XXXXXX` holds 30 symbols of Crockford's base32: one version symbol, 26 symbols
(130 bits) of an HMAC, three check symbols of a Reed-Solomon code over GF(32) with distance 4, so that any one, two or
three wrong symbols are noticed. Alphabet and reading rules: https://www.crockford.com/base32.html
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from functools import lru_cache

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
VERSION = 1
GROUP = 6
SYMBOLS = 30
CHECKS = 3

_SHIFTS = range(5 * (SYMBOLS - CHECKS - 1), -1, -5)
_VALUE = {symbol: value for value, symbol in enumerate(ALPHABET)}
_FORGIVE = str.maketrans("OIL", "011", " -\t\u2010\u2011\u2012\u2013\u2014")


def derive(secret: str, source: str, order: str, product_id: str, reissue: int = 0, prefix: str = "") -> str:
    """The key of one license: the same sale always gives the same key, and nobody without the secret can guess it.

    `order` is the sale id, or for subscriptions the id that all their charges share; `reissue` counts replaced keys.
    """
    mac = _keyed(secret).copy()
    mac.update("\0".join((source, order, product_id, str(reissue))).encode())
    bits = VERSION << 130 | int.from_bytes(mac.digest(), "big") >> (256 - 130)
    values = [bits >> shift & 31 for shift in _SHIFTS]
    return grouped("".join([ALPHABET[value] for value in values + _checks(values)]), prefix)


@lru_cache(4)
def _keyed(secret: str) -> hmac.HMAC:
    """Setting up OpenSSL's HMAC costs more than all that a key's derivation needs of it."""
    return hmac.new(secret.encode(), digestmod="sha256")


def grouped(body: str, prefix: str = "") -> str:
    groups = "-".join(body[at : at + GROUP] for at in range(0, SYMBOLS, GROUP))
    return f"{prefix}-{groups}" if prefix else groups


def readings(typed: str, prefixes: Iterable[str] = ()) -> Iterator[str]:
    """The keys that a typed text may mean, the text itself first: an imported key of any shape stays valid as it is.

    Case, spaces and hyphens are forgiven, O is read as 0, I and L as 1; a forgotten prefix is tried with each of ours.
    """
    yield typed
    plain = _plain(typed)
    body, head = plain[-SYMBOLS:], plain[:-SYMBOLS]
    if not is_sound(body):
        return
    for prefix in dict.fromkeys(["", *prefixes]):
        key = grouped(body, prefix)
        if head in ("", _plain(prefix)) and key != typed:
            yield key


def one_spelling(typed: str) -> str:
    """The same text for all spellings of a key, with its prefix or without; perhaps for two imported keys as well."""
    return _plain(typed)[-SYMBOLS:]


def is_sound(body: str) -> bool:
    """Whether 30 symbols are a key of ours, as far as its check symbols tell."""
    if len(body) != SYMBOLS or any(symbol not in _VALUE for symbol in body):
        return False
    values = [_VALUE[symbol] for symbol in body]
    return _checks(values[:-CHECKS]) == values[-CHECKS:]


def license_id(key: str) -> str:
    """The public name of a license: safe in logs and links, since the key cannot be found from it."""
    return "lic_" + hashlib.sha256(key.encode()).hexdigest()[:20]


def masked(key: str) -> str:
    """For logs and screens: enough to recognise a key, too little to use it."""
    return f"{key[:4]}…{key[-4:]}" if len(key) > 12 else "…"


def _plain(text: str) -> str:
    return text.upper().translate(_FORGIVE)


# ------------------------------------------------------------------ Reed-Solomon over GF(32), x^5 + x^2 + 1
def _powers() -> list[int]:
    found, value = [], 1
    for _ in range(31):
        found.append(value)
        value <<= 1
        if value & 32:
            value ^= 0b100101
    return found


_EXP = _powers()
_LOG = {value: power for power, value in enumerate(_EXP)}


def _times(a: int, b: int) -> int:
    return _EXP[(_LOG[a] + _LOG[b]) % 31] if a and b else 0


def _generator() -> list[int]:
    """(x - a)(x - a^2)(x - a^3), the highest power first: three roots in a row make the distance 4."""
    poly = [1]
    for power in (1, 2, 3):
        shifted = [*poly, 0]
        for place, value in enumerate(poly):
            shifted[place + 1] ^= _times(value, _EXP[power])
        poly = shifted
    return poly


_GENERATOR = _generator()


_MULTIPLES = [[_times(value, factor) for value in _GENERATOR[1:]] for factor in range(32)]


def _checks(data: list[int]) -> list[int]:
    """The remainder of the data by the generator: a shift register of three symbols."""
    first = second = third = 0
    for value in data:
        by = _MULTIPLES[value ^ first]
        first, second, third = second ^ by[0], third ^ by[1], by[2]
    return [first, second, third]
