"""Rate limits at the doors: whose request it is, and what the answer says about it. With `RATE_LIMIT=off` each of these
is a look at a None."""

from __future__ import annotations

from flask import Response, g, request

from server.domain.license import Code
from server.services.limits import Kind
from server.services.seats import Verdict
from server.web.measured import VERDICT
from server.web.services import services

HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


def by_address() -> None:
    """Count a desktop app's request, before its body is read. Raises TooManyRequests."""
    ours = services()
    if ours.limits is not None:
        if "HTTP_X_FORWARDED_FOR" in request.environ and not ours.settings.trusted_proxies:
            ours.limits.saw_proxy(_client())
        g.visit = ours.limits.visit(_client())


def by_key(license_key: str, hardware_id: str | None = None) -> None:
    """Count it for its key. Raises TooManyRequests, before anything is looked up or bound."""
    if visit := g.get("visit"):
        visit.asks_for(license_key, hardware_id)


def by_verdict(verdict: Verdict) -> None:
    """Count a key that nobody holds. Raises TooManyRequests in place of that answer. Every verdict is measured here."""
    if verdict.code is Code.NOT_FOUND and (visit := g.get("visit")):
        visit.found_nothing()
    services().tallies.add(VERDICT, verdict.code)


def failed_proof(kind: Kind) -> None:
    """Count it. Raises TooManyRequests in place of its refusal."""
    if (limits := services().limits) is not None:
        limits.failed_proof(kind, _client())


def asks_for_letter(account: str) -> None:
    """Count a request for a letter to this account, whether it exists or not. Raises TooManyRequests."""
    if (limits := services().limits) is not None:
        limits.asks_for_letter(_client(), account)


def places_order(provider: str, phone: str | None) -> None:
    """Count an order. Raises TooManyRequests, before anything is written or anybody's phone rings."""
    ours = services()
    if ours.limits is not None:
        ours.limits.places_order(_client(), ours.desk.rings(provider, phone))


def tell(response: Response) -> Response:
    """The limit that is nearest to its end; a refusal has told its own. `Reset` is in seconds from now."""
    visit = g.get("visit")
    if visit and (allowance := visit.allowance) and response.status_code != 429:
        for name, value in zip(HEADERS, (allowance.limit, allowance.remaining, allowance.reset), strict=True):
            response.headers.add(name, str(value))
    return response


def _client() -> str:
    """The address that the server saw, or that the trusted proxies name: never what a client says of itself."""
    return request.remote_addr or ""
