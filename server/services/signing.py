"""The owner's Ed25519 keys: what they sign can be checked by anybody who has the public half, and made by nobody else.

SIGNING_KEY may be several: the first one signs, the public halves of all are told. So a new key can be told before it
is used, and an old one as long as something that it signed is still in use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property

import msgspec

from server.errors import SigningOff


class SigningKey(msgspec.Struct, frozen=True):
    """`kid` is the beginning of the SHA-256 of the public half, so that nobody has to keep a list of names."""

    kid: str
    public_key: bytes
    pem: str
    sign: Callable[[bytes], bytes]


class Signing:
    """The keys are made when the first one is needed: scripts that sign nothing need not load `cryptography`."""

    def __init__(self, seeds: Sequence[bytes]) -> None:
        self._seeds = tuple(dict.fromkeys(seeds))

    @cached_property
    def keys(self) -> tuple[SigningKey, ...]:
        return tuple(map(_key, self._seeds))

    def find_key(self) -> SigningKey | None:
        """The one that signs; None where the owner has set none."""
        return self.keys[0] if self._seeds else None

    def get_key(self) -> SigningKey:
        """Raises SigningOff."""
        if (key := self.find_key()) is None:
            raise SigningOff("SIGNING_KEY is not set here, so there are no license files")
        return key


def _key(seed: bytes) -> SigningKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key()
    raw = public.public_bytes_raw()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return SigningKey(hashlib.sha256(raw).hexdigest()[:16], raw, pem, private.sign)
