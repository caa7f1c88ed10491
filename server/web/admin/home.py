"""The first page: how the shop does, and what needs a look."""

from __future__ import annotations

from flask import Response

from server.web.admin import frame

blueprint = frame.room("home")


@blueprint.get("")
def home() -> Response:
    return frame.show("home.html")
