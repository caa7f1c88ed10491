"""Asking the running service over HTTP, for scheduled tasks that may run on another machine than it, and so must not
touch its files. Needs no more of the settings than ADMIN_API_KEY."""

from __future__ import annotations

import json
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from server.errors import KeyledgerError, SettingsError
from server.settings import load_settings

PATIENCE = 120.0  # seconds: the service answers when it is done


class _NoRedirects(HTTPRedirectHandler):
    """The key is for the address that the owner gave, and for no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def ask_service(url: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the owner's API at this address answers to a POST. Raises KeyledgerError."""
    settings, parts = load_settings(), urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"--url is {url!r}: a web address such as https://licenses.example.com is needed")
    if settings.admin_api_key is None:
        raise SettingsError("ADMIN_API_KEY is missing: the service lets nobody in without it")
    headers = {"Authorization": f"Bearer {settings.admin_api_key}", "Content-Type": "application/json"}
    raw = b"" if body is None else json.dumps(body).encode()
    request = Request(f"{url.rstrip('/')}/api/v1{path}", raw, headers, method="POST")  # noqa: S310 (checked)
    try:
        with build_opener(_NoRedirects).open(request, timeout=PATIENCE) as answer:
            return dict(json.load(answer))
    except HTTPError as error:
        raise KeyledgerError(f"{url} answers {error.code} {error.reason}{_detail(error)}") from None
    except (URLError, OSError, ValueError) as error:
        raise KeyledgerError(f"{url} cannot be asked: {getattr(error, 'reason', error)}") from None


def _detail(error: HTTPError) -> str:
    """What our own service says of it, if it is our own."""
    try:
        return f": {json.load(error)['errors'][0]['detail']}"
    except (ValueError, LookupError, TypeError, OSError):
        return ""
