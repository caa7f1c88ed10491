"""How PayU signs a notification: a plain hash of the raw body and the POS's second key, and no HMAC.

https://developers.payu.com/europe/docs/payment-flows/lifecycle#notifications
"""

from __future__ import annotations

import hashlib
import hmac

ALGORITHMS = {  # MD5 is what PayU uses today
    "MD5": "md5",
    "SHA": "sha256",
    "SHA-1": "sha1",
    "SHA1": "sha1",
    "SHA-256": "sha256",
    "SHA256": "sha256",
    "SHA-384": "sha384",
    "SHA384": "sha384",
    "SHA-512": "sha512",
    "SHA512": "sha512",
}
_TRIMMED = b" \t\n\r\0\x0b"  # what PHP's trim() takes off


def is_signed(body: bytes, header: str, key: bytes) -> bool:
    """PayU's own library trims a body before it is checked; what was sent is tried first."""
    signed = read_signature(header)
    algorithm, given = ALGORITHMS.get(signed.get("algorithm", "").upper()), signed.get("signature", "").lower()
    if algorithm is None or not given or not key:
        return False
    candidates = dict.fromkeys((body, body.strip(_TRIMMED)))
    theirs = given.encode("utf-8", "replace")
    return any(hmac.compare_digest(sign(one, key, algorithm).encode(), theirs) for one in candidates)


def read_signature(header: str) -> dict[str, str]:
    """`sender=checkout;signature=…;algorithm=MD5;content=DOCUMENT` in any order; only two of them matter."""
    parts = (part.partition("=") for part in header.strip().rstrip(";").split(";"))
    return {name.strip().lower(): value.strip() for name, _, value in parts}


def sign(body: bytes, key: bytes, algorithm: str = "md5") -> str:
    return hashlib.new(algorithm, body + key, usedforsecurity=False).hexdigest()
