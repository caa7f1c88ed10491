"""Keyledger: a license server for people who sell desktop software."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from server.settings import Settings

__version__ = "0.5.0"


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application with everything opened. Raises StartRefused with one line that says what to do."""
    from server.web.app import make_app
    from server.wiring import open_services

    return make_app(open_services(settings))
