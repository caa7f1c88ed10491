"""Style and script of the dashboard, which the browser keeps: another version of them stands at another address."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import urlsplit

from flask import Blueprint, Response

from server.errors import NotFound
from server.web.services import services

_FOLDER = Path(__file__).with_name("static")
_KINDS = {".css": "text/css", ".js": "text/javascript"}
_FILES = {path.name: path.read_bytes() for path in sorted(_FOLDER.iterdir()) if path.suffix in _KINDS}
_VERSION = hashlib.sha256(b"".join(_FILES.values())).hexdigest()[:12]

blueprint = Blueprint("static", __name__, url_prefix="/static")


def address(name: str) -> str:
    """Where a browser finds this file."""
    assert name in _FILES, name
    return f"{urlsplit(services().settings.app_url).path}/static/{_VERSION}/{name}"


@blueprint.get("/<version>/<file>")
def serve(version: str, file: str) -> Response:
    if file not in _FILES:
        raise NotFound("there is no such file")
    response = Response(_FILES[file], mimetype=_KINDS[Path(file).suffix])
    kept = "public, max-age=31536000, immutable" if version == _VERSION else "no-store"
    response.headers |= {"Cache-Control": kept, "Content-Security-Policy": "default-src 'none'"}
    return response
