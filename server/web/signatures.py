"""Signed answers: HTTP Message Signatures, https://www.rfc-editor.org/rfc/rfc9421, with the owner's Ed25519 key.

Covered are the status, the body by its digest, and the request's method and path. `Date` is not: servers and proxies
write their own. That the answer is to this very request is shown by the nonce in the body.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from urllib.parse import quote, urlsplit

from flask import Response, request

from server.web.services import services

HEADERS = ("Content-Digest", "Signature-Input", "Signature")
COVERED = '("@status" "content-digest" "@method";req "@path";req)'


def signed(response: Response) -> Response:
    """With its signature; as it is where the owner has set no key."""
    if (key := services().signing.find_key()) is None:
        return response
    digest = f"sha-256=:{_base64(hashlib.sha256(response.get_data()).digest())}:"
    parameters = f'{COVERED};created={int(services().clock().timestamp())};keyid="{key.kid}";alg="ed25519"'
    signature = _base64(key.sign(_base(response.status_code, digest, parameters).encode()))
    values = (digest, f"sig1={parameters}", f"sig1=:{signature}:")
    for name, value in zip(HEADERS, values, strict=True):
        response.headers.add(name, value)
    return response


def _base(status: int, digest: str, parameters: str) -> str:
    """A line for each component, as section 2.5 writes it; none ends the last one."""
    return (
        f'"@status": {status}\n"content-digest": {digest}\n"@method";req: {request.method}\n"@path";req: {_path()}\n'
        f'"@signature-params": {parameters}'
    )


def _path() -> str:
    """As the request wrote it: the signature is over what was sent, before it is decoded."""
    raw = request.environ.get("RAW_URI") or request.environ.get("REQUEST_URI")
    return urlsplit(raw).path if raw else quote(request.root_path + request.path)


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
