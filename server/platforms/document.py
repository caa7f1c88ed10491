"""Reading a platform's nested JSON: optional unless asked for, checked by type, errors that name the whole path."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from server.domain.license import EARLIEST, LATEST
from server.errors import BadRequest

LONGEST = 512


class Document:
    """One object of a JSON body. What is missing, null or empty reads as None."""

    def __init__(self, values: dict[str, Any], path: str = "") -> None:
        self.values, self._path = values, path

    @classmethod
    def from_json(cls, body: bytes) -> Document:
        try:
            found = msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise BadRequest(f"body: not JSON ({str(error)[:120]})") from None
        if not isinstance(found, dict):
            raise BadRequest("body: not a JSON object")
        return cls(found)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self._wrong(name, "no text")
        if "\0" in value:
            raise self._wrong(name, "text with a NUL character")
        return value

    def required(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise BadRequest(f"{self._path}{name}: is missing")
        if len(value) > LONGEST:
            raise BadRequest(f"{self._path}{name}: is longer than {LONGEST} characters")
        return value

    def number(self, name: str, low: int = 0, high: int = 10**12) -> int | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(name, "no whole number")
        if not low <= value <= high:
            raise BadRequest(f"{self._path}{name}: {value} is not between {low} and {high}")
        return value

    def flag(self, name: str) -> bool:
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, "neither true nor false")
        return bool(value)

    def moment(self, name: str) -> datetime | None:
        """Seconds since 1970."""
        seconds = self.number(name, low=-(10**12))
        if seconds is None:
            return None
        if not EARLIEST.timestamp() <= seconds <= LATEST.timestamp():
            raise BadRequest(f"{self._path}{name}: {seconds} is not between {EARLIEST:%Y} and {LATEST:%Y}")
        return datetime.fromtimestamp(seconds, UTC)

    def part(self, name: str) -> Document:
        """The object of this name; an empty one where there is none."""
        value = self.values.get(name)
        if value is None:
            return Document({}, f"{self._path}{name}.")
        if not isinstance(value, dict):
            raise self._wrong(name, "no object")
        return Document(value, f"{self._path}{name}.")

    def parts(self, name: str) -> Iterator[Document]:
        """The objects of a list, plain or in the `data` of a list object."""
        value = self.values.get(name)
        if isinstance(value, dict):
            value = value.get("data")
        if value is not None and not isinstance(value, list):
            raise self._wrong(name, "no list")
        for place, one in enumerate(value or ()):
            if not isinstance(one, dict):
                raise BadRequest(f"{self._path}{name}[{place}]: is no object")
            yield Document(one, f"{self._path}{name}[{place}].")

    def reference(self, name: str) -> str | None:
        """The id of another object, which may stand there itself in the id's place."""
        value = self.values.get(name)
        return self.part(name).text("id") if isinstance(value, dict) else self.text(name)

    def as_json(self, without: frozenset[str] = frozenset()) -> msgspec.Raw:
        try:
            return msgspec.Raw(msgspec.json.encode(_stripped(self.values, without)))
        except RecursionError:
            raise BadRequest("body: nested too deeply") from None

    def _wrong(self, name: str, what: str) -> BadRequest:
        return BadRequest(f"{self._path}{name}: is {what}")


def _stripped(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {name: _stripped(inner, names) for name, inner in value.items() if name not in names}
    return [_stripped(inner, names) for inner in value] if isinstance(value, list) else value
