"""Rate limits at the doors: whose request it is, and what the answer says about it. With `RATE_LIMIT=off` each of these
is a look at a None."""

from __future__ import annotations

from flask import Response, g, request

from server.domain.license import Code
from server.domain.rate import Allowance
from server.services.seats import Verdict
from server.web.services import services

HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


def by_address() -> None:
    """Count a desktop app's request, before its body is read. Raises TooManyRequests."""
    limits = services().limits
    if limits is None or request.method == "OPTIONS":
        return  # a browser asks first; that is no request of an app
    if "HTTP_X_FORWARDED_FOR" in request.environ and not services().settings.trusted_proxies:
        limits.saw_proxy(_client())
    g.allowance = limits.of_address(_client())


def by_key(license_key: str, hardware_id: str | None = None) -> None:
    """Count it for its key. Raises TooManyRequests, before anything is looked up or bound."""
    if (limits := services().limits) is not None:
        _tell_tighter(limits.of_key(license_key, _client(), hardware_id))


def by_verdict(verdict: Verdict) -> None:
    """Count a key that nobody holds. Raises TooManyRequests in place of that answer."""
    if verdict.code is Code.NOT_FOUND and (limits := services().limits) is not None:
        _tell_tighter(limits.of_failure("unknown", _client()))


def failed(what: str) -> None:
    """Count a failed proof. Raises TooManyRequests in place of its refusal."""
    if (limits := services().limits) is not None:
        limits.of_failure(what, _client())


def tell(response: Response) -> Response:
    """The limit that is nearest to its end; a refusal has told its own. `Reset` is in seconds from now."""
    allowance: Allowance | None = g.get("allowance")
    if allowance is not None and HEADERS[0] not in response.headers:
        for name, value in zip(HEADERS, (allowance.limit, allowance.remaining, allowance.reset), strict=True):
            response.headers[name] = str(value)
    return response


def _tell_tighter(allowance: Allowance | None) -> None:
    told = g.get("allowance")
    if allowance is not None and (told is None or allowance.remaining < told.remaining):
        g.allowance = allowance


def _client() -> str:
    """The address that the server saw, or that the trusted proxies name: never what a client says of itself."""
    return request.remote_addr or ""
