"""Signed answers: HTTP Message Signatures, https://www.rfc-editor.org/rfc/rfc9421, with the owner's Ed25519 key.

Covered are the status, the body by its digest, and the request's method and path. `Date` is not: servers and proxies
write their own. That the answer is to this very request is shown by the nonce in the body.
"""

from __future__ import annotations

import hashlib
from binascii import b2a_base64
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from server.services.signing import SigningKey

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

HEADERS = ("Content-Digest", "Signature-Input", "Signature")
COVERED = '("@status" "content-digest" "@method";req "@path";req)'


def signature_of(body: bytes, environ: WSGIEnvironment, key: SigningKey, now: datetime) -> list[tuple[str, str]]:
    """The headers that sign this answer, of status 200, to this request."""
    digest = f"sha-256=:{_base64(hashlib.sha256(body).digest())}:"
    parameters = f'{COVERED};created={int(now.timestamp())};keyid="{key.kid}";alg="ed25519"'
    signature = _base64(key.sign(_base(environ, digest, parameters).encode()))
    return list(zip(HEADERS, (digest, f"sig1={parameters}", f"sig1=:{signature}:"), strict=True))


def _base(environ: WSGIEnvironment, digest: str, parameters: str) -> str:
    """A line for each component, as section 2.5 writes it; none ends the last one."""
    method, raw = environ["REQUEST_METHOD"], environ.get("RAW_URI") or environ.get("REQUEST_URI")
    path = _path(raw) if raw else quote(environ.get("SCRIPT_NAME", "") + environ["PATH_INFO"], encoding="latin-1")
    return (
        f'"@status": 200\n"content-digest": {digest}\n"@method";req: {method}\n"@path";req: {path}\n'
        f'"@signature-params": {parameters}'
    )


def _path(target: str) -> str:
    """As the request wrote it: the signature is over what was sent, before it is decoded."""
    return target.partition("?")[0] if target.startswith("/") else urlsplit(target).path


def _base64(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()
