"""Lists as files for a spreadsheet, narrowed as their pages are, and sent while they are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flask import Response, stream_with_context

from server.services.spreadsheet import csv_file
from server.web.services import services


def spreadsheet(name: str, rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> Response:
    """A download; `name` is the list's."""
    response = Response(stream_with_context(csv_file(rows, columns)), mimetype="text/csv")
    response.headers |= {
        "Content-Disposition": f'attachment; filename="{name}-{services().clock():%Y-%m-%d}.csv"',
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'",
    }
    return response
