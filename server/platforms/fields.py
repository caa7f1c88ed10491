"""Reading a platform's form or JSON body: flat names, text values, errors that name the field."""

from __future__ import annotations

import re
from binascii import a2b_qp
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import parse_qsl, unquote_plus

import msgspec

from server.domain.license import EARLIEST, LATEST
from server.errors import BadRequest

T = TypeVar("T")
MOST_FIELDS, DEEPEST = 1000, 100
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FLAGS = {"true": True, "1": True, "false": False, "0": False, "": False}


class Fields:
    """The fields of one body by their flat names (`card[visual]`); of a name given twice the last one counts."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._values = dict(pairs)
        self.unreadable: list[str] = []  # the names of what was left out
        self._names = "\n".join(self._values)
        if "\0" in self._names or "\0" in "\n".join(self._values.values()):
            named = next(name for name, value in pairs if "\0" in name + value)
            raise BadRequest(f"{named[:80]!r}: holds a NUL character")

    @classmethod
    def from_form(cls, body: bytes) -> Fields:
        try:
            text = body.decode("utf-8", "replace")
            return cls(_form_pairs(text))
        except ValueError as error:
            raise BadRequest(f"body: {error}") from None

    @classmethod
    def from_json(cls, body: bytes) -> Fields:
        try:
            found = msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise BadRequest(f"body: not JSON ({str(error)[:120]})") from None
        if not isinstance(found, dict):
            raise BadRequest("body: not a JSON object")
        pairs = [pair for name, value in found.items() for pair in _flattened(_escaped(str(name)), value)]
        if len(pairs) > MOST_FIELDS:
            raise BadRequest(f"body: more than {MOST_FIELDS} fields")
        return cls(pairs)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    @property
    def values(self) -> Mapping[str, str]:
        return self._values

    def text(self, name: str) -> str | None:
        """None for a missing and for an empty field: forms cannot tell them apart."""
        return self._values.get(name) or None

    def required(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise BadRequest(f"{name}: is missing")
        if len(value) > 512:
            raise BadRequest(f"{name}: is longer than 512 characters")
        return value

    def number(self, name: str, default: int, low: int = 0, high: int = 10**12) -> int:
        value = self.text(name)
        if value is None:
            return default
        value = value.removesuffix(".0")  # JSON of some senders
        if not (value.isascii() and value.removeprefix("-").isdigit() and len(value) < 19):
            raise BadRequest(f"{name}: {value[:40]!r} is no whole number")
        if not low <= int(value) <= high:
            raise BadRequest(f"{name}: {value} is not between {low} and {high}")
        return int(value)

    def lenient(self, read: Callable[[str], T], name: str, default: T) -> T:
        """What decides nothing must not hold up what does: a value that cannot be read is left out."""
        try:
            return read(name)
        except BadRequest:
            self.unreadable.append(name)
            return default

    def flag(self, name: str) -> bool:
        value = (self.text(name) or "").lower()
        if value not in _FLAGS:
            raise BadRequest(f"{name}: {value[:40]!r} is neither true nor false")
        return _FLAGS[value]

    def moment(self, name: str) -> datetime | None:
        """RFC 3339; without an offset it is UTC."""
        value = self.text(name)
        if value is None:
            return None
        try:
            found = datetime.fromisoformat(value)
            moment = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            raise BadRequest(f"{name}: {value[:40]!r} is no date and time") from None
        if not EARLIEST <= moment <= LATEST:
            raise BadRequest(f"{name}: {value[:40]!r} is not between {EARLIEST:%Y} and {LATEST:%Y}")
        return moment

    def group(self, name: str) -> dict[str, str]:
        """The members of `name[...]`."""
        start = f"{name}["
        if start not in self._names:
            return {}
        return {key[len(start) : -1]: value for key, value in self._values.items() if key.startswith(start)}

    def without(self, names: Iterable[str]) -> Fields:
        return Fields([(name, value) for name, value in self._values.items() if name not in set(names)])

    def as_json(self) -> msgspec.Raw:
        return msgspec.Raw(msgspec.json.encode(self._values))


def _form_pairs(text: str) -> list[tuple[str, str]]:
    """What `parse_qsl` gives, at half its cost: all names and values are decoded in one go, parted by NULs."""
    if "\0" in text or "%00" in text or text.count("&") >= MOST_FIELDS:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    pairs = [pair.partition("=") for pair in text.split("&") if pair]
    flat = _unquoted("\0".join([f"{name}\0{value}" for name, _, value in pairs])).split("\0")
    return list(zip(flat[::2], flat[1::2], strict=False))


def _escaped(name: str) -> str:
    """A name that a buyer's custom field has must not look like a part of another field; forms escape it too."""
    return name.replace("[", "%5B").replace("]", "%5D")


def _unquoted(text: str) -> str:
    """As `unquote_plus`. Percent signs that all stand before two hex digits are equal signs of quoted-printable, which
    the standard library decodes in C."""
    if not text.isascii() or _STRAY_PERCENT.search(text):
        return unquote_plus(text)
    return a2b_qp(text.replace("+", " ").replace("=", "%3D").replace("%", "=")).decode("utf-8", "replace")


def _flattened(name: str, value: object, depth: int = 0) -> Iterator[tuple[str, str]]:
    if depth > DEEPEST:
        raise BadRequest(f"{name[:40]}: is nested too deeply")
    if isinstance(value, dict):
        for inner, deeper in value.items():
            yield from _flattened(f"{name}[{inner}]", deeper, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _flattened(f"{name}[]", item, depth + 1)
    elif isinstance(value, bool):
        yield name, "true" if value else "false"
    else:
        yield name, "" if value is None else str(value)
