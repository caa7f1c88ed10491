"""The services of the application that answers the current request."""

from __future__ import annotations

from typing import cast

from flask import current_app

from server.wiring import Services


def services() -> Services:
    return cast(Services, current_app.extensions["keyledger"])
