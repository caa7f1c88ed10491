"""Rate limits at the doors: whose request it is, and what the answer says about it. With `RATE_LIMIT=off` each of these
is a look at a None."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response, request

from server.domain.license import Code
from server.services.limits import Kind, Visit
from server.services.seats import Verdict
from server.web.measured import VERDICT
from server.web.services import services
from server.wiring import Services

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_VISIT = "keyledger.visit"  # in the environ


def visit(ours: Services, environ: WSGIEnvironment) -> Visit | None:
    """Count a desktop app's request, before its body is read; None without limits. Raises TooManyRequests."""
    if ours.limits is None:
        return None
    if "HTTP_X_FORWARDED_FOR" in environ and not ours.settings.trusted_proxies:
        ours.limits.saw_proxy(client_of(environ))
    environ[_VISIT] = made = ours.limits.visit(client_of(environ))
    return made


def by_address() -> None:
    """As `visit`. Raises TooManyRequests."""
    visit(services(), request.environ)


def by_key(environ: WSGIEnvironment, license_key: str, hardware_id: str | None = None) -> None:
    """Count it for its key. Raises TooManyRequests, before anything is looked up or bound."""
    if made := environ.get(_VISIT):
        made.asks_for(license_key, hardware_id)


def by_verdict(ours: Services, environ: WSGIEnvironment, verdict: Verdict) -> None:
    """Count a key that nobody holds. Raises TooManyRequests in place of that answer. Every verdict is measured here."""
    if verdict.code is Code.NOT_FOUND and (made := environ.get(_VISIT)):
        made.found_nothing()
    ours.tallies.add(VERDICT, verdict.code)


def failed_proof(ours: Services, environ: WSGIEnvironment, kind: Kind) -> None:
    """Count it. Raises TooManyRequests in place of its refusal."""
    if ours.limits is not None:
        ours.limits.failed_proof(kind, client_of(environ))


def asks_for_letter(account: str) -> None:
    """Count a request for a letter to this account, whether it exists or not. Raises TooManyRequests."""
    if (limits := services().limits) is not None:
        limits.asks_for_letter(client_of(request.environ), account)


def places_order(provider: str, phone: str | None) -> None:
    """Count an order. Raises TooManyRequests, before anything is written or anybody's phone rings."""
    ours = services()
    if ours.limits is not None:
        ours.limits.places_order(client_of(request.environ), ours.desk.rings(provider, phone))


def headers(environ: WSGIEnvironment) -> list[tuple[str, str]]:
    """The limit that is nearest to its end. `Reset` is in seconds from now."""
    made: Visit | None = environ.get(_VISIT)
    if made is None or (allowance := made.allowance) is None:
        return []
    told = map(str, (allowance.limit, allowance.remaining, allowance.reset))
    return list(zip(HEADERS, told, strict=True))


def tell(response: Response) -> Response:
    """As `headers`; a refusal has told its own."""
    if response.status_code != 429:
        for name, value in headers(request.environ):
            response.headers[name] = value
    return response


def client_of(environ: WSGIEnvironment) -> str:
    """The address that the server saw, or that the trusted proxies name: never what a client says of itself."""
    return environ.get("REMOTE_ADDR") or ""
