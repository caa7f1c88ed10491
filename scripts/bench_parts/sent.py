"""What is sent: Gumroad's pings of new sales, and validations, as the bytes of whole HTTP requests."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from urllib.parse import urlencode

SECRET, SELLER, PRODUCT = "bench-secret-bench-secret", "kL0psVL2admJSYRNs-OCMg==", "32-nPAicqbLj8B_WswVlMw=="
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
VALID, ISSUED, UNKNOWN = b'"valid":true', b'"issued"', b'"NOT_FOUND"'
SEED = base64.b64encode(hashlib.sha256(SECRET.encode()).digest()).decode()
VALIDATE = "/api/v1/licenses/validate"

_numbers = itertools.count()


def new_sale() -> dict[str, str]:
    """A sale that was never heard of, with what Gumroad tells of it (about 900 bytes as a form)."""
    number = next(_numbers)
    sale_id = base64.urlsafe_b64encode(hashlib.sha256(str(number).encode()).digest()[:16]).decode()
    return {
        "seller_id": SELLER,
        "product_id": PRODUCT,
        "product_name": "Wave",
        "permalink": "wave",
        "product_permalink": "https://acme.gumroad.com/l/wave",
        "short_product_id": "QMGY",
        "email": f"customer{number}@mail.example.com",
        "price": "2999",
        "gumroad_fee": "330",
        "currency": "usd",
        "quantity": "1",
        "discover_fee_charged": "false",
        "can_contact": "true",
        "referrer": "direct",
        "card[visual]": "**** **** **** 4242",
        "card[type]": "visa",
        "order_number": str(524_459_935 + number),
        "sale_id": sale_id,
        "sale_timestamp": "2026-11-05T19:38:56Z",
        "full_name": "Jane Maria Doe",
        "purchaser_id": str(5_550_321_502_811 + number),
        "license_key": "85DB562A-C11D4B06-A2335A6B-8C079166",
        "ip_country": "United States",
        "is_gift_receiver_purchase": "false",
        "refunded": "false",
        "resource_name": "sale",
        "disputed": "false",
        "dispute_won": "false",
    }


def sale_requests(number: int) -> list[bytes]:
    path = f"/api/v1/webhooks/gumroad?secret={SECRET}"
    return [http(path, urlencode(new_sale()).encode(), FORM) for _ in range(number)]


def hardware_id(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def validation(key: str, known: bool, path: str = VALIDATE, nonce: str | None = None) -> bytes:
    asked = {"license_key": key} | ({"hardware_id": hardware_id(key)} if known else {})
    return http(path, json.dumps(asked | ({"nonce": nonce} if nonce else {})).encode())


def http(path: str, body: bytes, kind: str = JSON) -> bytes:
    """One request of a connection of its own: some peers would keep it open."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench/1\r\nAccept: */*\r\n"
    head += f"Connection: close\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
