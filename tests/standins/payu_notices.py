"""PayU's notifications: a plain hash of the raw body and the second key, by the algorithm that the header names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from tests.standins.http import Json

SECOND_KEY = "5a1c0f3d9b7e42868d20e1f4c6ab9370"
HASHES = {"MD5": "md5", "SHA": "sha256", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512"}


@dataclass(frozen=True)
class Notice:
    """A notification as it is sent."""

    body: bytes
    headers: dict[str, str]


def signed(told: Json | bytes, key: str = SECOND_KEY, algorithm: str = "MD5") -> Notice:
    body = told if isinstance(told, bytes) else json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    digest = hashlib.new(HASHES[algorithm], body + key.encode()).hexdigest()
    value = f"sender=checkout;signature={digest};algorithm={algorithm};content=DOCUMENT"
    kind = "application/json;charset=UTF-8"
    return Notice(body, {"Content-Type": kind, "OpenPayu-Signature": value, "X-OpenPayU-Signature": value})


def posted(url: str, notice: Notice) -> int:
    """How it is answered; 0 where nobody answers."""
    request = Request(url, notice.body, notice.headers)
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=10) as answered:
            return int(answered.status)
    except HTTPError as refused:
        with refused:
            return refused.code
    except OSError:
        return 0
