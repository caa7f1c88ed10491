"""Sealed words: what we hand out and believe again when it comes back, such as a link in a letter or a cookie.

SECRET_KEY may be several: the first one seals, all of them are believed. What was sealed for one purpose is nothing for
another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec
from itsdangerous import BadData, Signer
from itsdangerous.encoding import base64_decode, base64_encode

T = TypeVar("T", bound=msgspec.Struct)


class Seal(Generic[T]):
    def __init__(self, secret_keys: Sequence[str], purpose: str, kind: type[T]) -> None:
        newest_last = list(reversed(secret_keys))  # as itsdangerous wants them
        self._signer = Signer(newest_last, salt=purpose, key_derivation="hmac", digest_method=hashlib.sha256)
        self._kind = kind

    def close(self, thing: T) -> str:
        """Readable by anyone, changed by nobody; fits into a path and a cookie."""
        return self._signer.sign(base64_encode(msgspec.json.encode(thing))).decode()

    def open(self, text: str) -> T | None:
        """What was sealed; None where it was not, or not by us."""
        try:
            signature = text.rpartition(".")[2]
            if base64_encode(base64_decode(signature)).decode() != signature:
                return None  # the last letter has bits to spare: four of them would be read alike
            return msgspec.json.decode(base64_decode(self._signer.unsign(text)), type=self._kind)
        except (BadData, msgspec.MsgspecError, UnicodeError):
            return None
