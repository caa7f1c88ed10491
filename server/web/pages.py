"""Pages for people: made here, whole without a script, with nothing from elsewhere, in no cache and in no frame."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from pathlib import Path
from urllib.parse import urlsplit

from flask import Blueprint, Response, make_response, redirect, render_template
from werkzeug.exceptions import HTTPException

from server.errors import KeyledgerError
from server.web.responses import status_of, with_headers_of
from server.web.services import services

STYLE = (Path(__file__).with_name("templates") / "pages.css").read_text()
_STYLE_HASH = b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_PRIVATE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}  # an address may hold a link to sign in


def page(template: str, status: int = 200, forms_to: str = "'self'", **words: object) -> Response:
    """A template of `templates/`, which extends `page.html`. `forms_to` is where its forms may lead."""
    address = urlsplit(services().settings.app_url)
    known = {"style": STYLE, "base": address.path, "host": address.netloc, "csrf_token": None} | words
    response = make_response(render_template(template, **known), status)
    response.headers |= _PRIVATE | {"Content-Security-Policy": _policy(forms_to)}
    return response


def _policy(forms_to: str) -> str:
    return (
        f"default-src 'none'; base-uri 'none'; form-action {forms_to}; frame-ancestors 'none'; "
        f"style-src 'sha256-{_STYLE_HASH}'"
    )


def see_other(path: str) -> Response:
    """To another page of ours, by its path alone: never to a host that a request names."""
    response = make_response(redirect(urlsplit(services().settings.app_url).path + path, 303))
    response.headers |= _PRIVATE
    return response


def tell_errors_as_pages(blueprint: Blueprint) -> None:
    @blueprint.errorhandler(KeyledgerError)
    def told(error: KeyledgerError) -> Response:
        status, title = status_of(error)
        return with_headers_of(error, message(status, title, error.detail))

    @blueprint.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        return message(error.code or 500, error.name, error.description or error.name)


def message(status: int, title: str, detail: str) -> Response:
    response = page("message.html", status, title=title, detail=detail)
    if status in (429, 503):
        response.headers["Retry-After"] = "30"
    return response
