"""JVZoo's further doors: the older webhook address, and the key-generation URL that shows the buyer his key at once."""

from __future__ import annotations

from flask import Blueprint, Response

from server.domain.purchase import CHARGES, Entry, Outcome
from server.errors import PlatformOff
from server.web.services import services
from server.web.webhooks import take

blueprint = Blueprint("jvzoo_doors", __name__)

FOLLOWS = "Your license key follows by e-mail."
_TAKEN_BACK = frozenset({Outcome.REVOKED, Outcome.SUSPENDED})


@blueprint.post("/ipn")
def ipn() -> Response:
    take("jvzoo")
    return _plain("OK")


@blueprint.post("/api/v1/webhooks/jvzoo/keygen")
def keygen() -> Response:
    """JVZoo documents the setting, not the request: taken to be a notice, whose answer is shown as the key."""
    if services().settings.jvzoo_keygen != "on":
        raise PlatformOff("JVZoo's key generation is not configured here")
    return _plain(shown_keys(take("jvzoo")[0]))


def shown_keys(entry: Entry) -> str:
    """The keys, one a line; nothing for what is no purchase, since all of this text is shown as the key."""
    if entry.event not in CHARGES or entry.outcome in _TAKEN_BACK:
        return ""
    return "\n".join(entry.license_keys) or FOLLOWS


def _plain(text: str) -> Response:
    return Response(text, mimetype="text/plain")
