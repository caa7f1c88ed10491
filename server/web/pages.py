"""Pages for people: made here, whole without a script, with nothing from elsewhere, in no cache and in no frame."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from email.utils import parseaddr
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from flask import Blueprint, Response, make_response, redirect, render_template, request
from werkzeug.exceptions import HTTPException

from server.errors import BadRequest, KeyledgerError
from server.web.responses import once_each, raw_body, status_of, with_headers_of
from server.web.services import services

_TEMPLATES = Path(__file__).with_name("templates")
STYLE = (_TEMPLATES / "pages.css").read_text()
_PRIVATE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}  # an address may hold a link to sign in
_MOST_FIELDS = 50


_BOOKS = "Our books cannot be read or written just now. Nothing is lost. Please try again in a few minutes."
_TO_PEOPLE = {  # what says otherwise how a program does it, or what is wrong with the server
    "STORAGE_UNAVAILABLE": _BOOKS,
    "DAMAGED_FILE": _BOOKS,
    "NOT_SIGNED_IN": "You are not signed in any more: sign in, then do it once more.",
    "CSRF": "This page was from before you signed in: go back, load it anew, and press the button once more.",
}


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE_HASH = _hash(STYLE)


def script(name: str) -> str:
    """A script of `templates/`, which a page holds in itself."""
    return (_TEMPLATES / name).read_text()


def page(template: str, status: int = 200, forms_to: str = "'self'", script: str = "", **words: object) -> Response:
    """A template of `templates/`, which extends `page.html`. `forms_to` is where its forms may lead, `script` the only
    one that runs."""
    address = urlsplit(services().settings.app_url)
    frame = {"style": STYLE, "base": address.path, "host": address.netloc, "csrf_token": None, "script": script}
    frame["seller"] = parseaddr(services().settings.owner_email or "")[1]
    response = make_response(render_template(template, **(frame | words)), status)
    response.headers |= _PRIVATE | {"Content-Security-Policy": _policy(forms_to, script)}
    return response


def _policy(forms_to: str, script: str) -> str:
    return (
        f"default-src 'none'; base-uri 'none'; form-action {forms_to}; frame-ancestors 'none'; "
        f"style-src {_STYLE_HASH}" + (f"; script-src {_hash(script)}" if script else "")
    )


def see_other(path: str) -> Response:
    """To another page of ours, by its path alone: never to a host that a request names."""
    response = make_response(redirect(urlsplit(services().settings.app_url).path + path, 303))
    response.headers |= _PRIVATE
    return response


def form_fields() -> dict[str, str]:
    """What a page's form sent, as it was typed. Raises BadRequest for what no form sends."""
    try:
        pairs = parse_qsl(raw_body().decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except (ValueError, UnicodeError):
        raise BadRequest("body: this is no form") from None
    return once_each(pairs)


def wants_page() -> bool:
    """Whether a person asks: browsers say so, programs do not."""
    return "text/html" in request.headers.get("Accept", "")


def tell_errors_as_pages(blueprint: Blueprint) -> None:
    @blueprint.errorhandler(KeyledgerError)
    def told(error: KeyledgerError) -> Response:
        status, title = status_of(error)
        return with_headers_of(error, message(status, title, _TO_PEOPLE.get(error.code, error.detail)))

    @blueprint.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        return message(error.code or 500, error.name, error.description or error.name)


def message(status: int, title: str, detail: str) -> Response:
    response = page("message.html", status, title=title, detail=detail)
    if status in (429, 503):
        response.headers["Retry-After"] = "30"
    return response
