"""What an app does with a signed answer, written from RFC 9421 and RFC 9530 alone: nothing of it is the server's.

All that it knows of the server is a public key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SEED, OTHER_SEED = bytes(range(32)), bytes(range(1, 33))
NONCE = "q83vEjRWeJCrze8SNFZ4kA"
NEEDED = ('"@status"', '"content-digest"', '"@method";req', '"@path";req')
_INPUT = re.compile(
    r'(?P<label>[a-z][a-z0-9]*)=(?P<params>\((?P<covered>[^)]*)\)(?P<more>(?:;[a-z]+=(?:"[^"]*"|\d+))+))'
)


class Forged(Exception):
    """The answer is not to be believed; says why."""


@dataclass(frozen=True)
class Exchange:
    """A request as it was sent, and the answer to it as it came."""

    method: str
    path: str
    nonce: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def with_header(self, name: str, old: str, new: str) -> Exchange:
        assert old in self.headers[name]
        return replace(self, headers={**self.headers, name: self.headers[name].replace(old, new)})


def signature_base(covered: list[str], values: Mapping[str, str], params: str) -> str:
    """Section 2.5: a line for each component in the order in which they are named, the parameters last."""
    return "\n".join([*(f"{name}: {values[name]}" for name in covered), f'"@signature-params": {params}'])


def verify(public_key: bytes, text: str, signature: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, text.encode())
    except InvalidSignature:
        raise Forged("the signature does not fit") from None


def believe(public_keys: Mapping[str, bytes], seen: Exchange) -> dict[str, Any]:
    """The body, once it is shown to be this server's answer to this request. Raises Forged."""
    told = {name.lower(): value for name, value in seen.headers.items()}
    found = _INPUT.fullmatch(told.get("signature-input", ""))
    if not found or found["label"] != "sig1":
        raise Forged("there is no signature that can be read")
    covered = found["covered"].split(" ")
    more = dict(re.findall(r';([a-z]+)=("[^"]*"|\d+)', found["more"]))
    if not set(NEEDED) <= set(covered) or more.get("alg") != '"ed25519"' or not more.get("created", "").isdigit():
        raise Forged("not all is signed")
    if (key := public_keys.get(more.get("keyid", "").strip('"'))) is None:
        raise Forged("not a key of ours")
    if told.get("content-digest") != f"sha-256=:{_base64(hashlib.sha256(seen.body).digest())}:":
        raise Forged("the body is another one")
    values = dict(zip(NEEDED, (str(seen.status), told["content-digest"], seen.method, seen.path), strict=True))
    signature = re.fullmatch(r"sig1=:([A-Za-z0-9+/]{86}==):", told.get("signature", ""))
    if not signature:
        raise Forged("there is no signature that can be read")
    verify(key, signature_base(covered, values, found["params"]), base64.b64decode(signature[1]))
    body = json.loads(seen.body)
    if body["nonce"] != seen.nonce:
        raise Forged("an answer to another request")
    return dict(body)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def public_keys(answered: Any) -> dict[str, bytes]:
    return {key["kid"]: base64.b64decode(key["public_key"]) for key in answered["keys"]}
