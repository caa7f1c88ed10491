"""CSV that is safe to open in a spreadsheet: no cell of a customer's making is taken for a formula.

https://owasp.org/www-community/attacks/CSV_Injection
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"  # by which Excel knows that a file is UTF-8

_FORMULA = tuple("=+-@\t\r\n\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\uff20")
_INNER = re.compile(r"((?:[;|]|(?<!^)\t)\s*)([=+\-@\uff1d\uff0b\uff0d\uff20])")
_NUMBER = re.compile(r"-\d{1,15}(\.\d{1,6})?", re.ASCII)


def csv_lines(rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> Iterator[str]:
    """A heading, then a line for each row; lists are joined by spaces."""
    yield _line(columns)
    for row in rows:
        yield _line([_cell(row.get(column)) for column in columns])


def csv_file(rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> Iterator[bytes]:
    """A whole file for spreadsheets: UTF-8 with the mark without which Excel spoils every name that is not ASCII. In
    pieces of many lines, so that a large one is few writes."""
    lines = csv_lines(rows, columns)
    yield BOM.encode()
    while piece := "".join(islice(lines, 1000)):
        yield piece.encode("utf-8", "replace")


def safe(text: str) -> str:
    """An apostrophe before what a spreadsheet would take for a formula, be it behind what separates cells in some
    countries; plain negative numbers stay."""
    text = _INNER.sub(r"\1'\2", text)
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def _line(cells: Sequence[str]) -> str:
    """Python before 3.13 quotes no more than the characters of the line's own end: after a carriage return that is not
    among them the rest of a cell would be a row of its own, and maybe a formula."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue().removesuffix("\r\n") + "\n"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return safe(" ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
