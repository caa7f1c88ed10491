"""The owner's bearer token."""

from __future__ import annotations

import hmac

from flask import request

from server.errors import NotFound, Unauthorized
from server.services.limits import Kind
from server.web import limits
from server.web.services import services


def require_owner() -> None:
    """Raises NotFound where no ADMIN_API_KEY is set: then there is no such door; Unauthorized for a wrong token."""
    if request.method == "OPTIONS":
        return  # a browser asks first, without the token; flask-cors answers
    key = services().settings.admin_api_key
    if key is None:
        raise NotFound("the owner's API is off: set ADMIN_API_KEY")
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), key.encode()):
        limits.failed_proof(services(), request.environ, Kind.TOKEN)
        raise Unauthorized("a bearer token is needed: Authorization: Bearer <ADMIN_API_KEY>")
