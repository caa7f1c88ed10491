"""A shop of fixed sales at a fixed hour, whose answers and files are the vectors: the server's own code made them."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server.domain.license import Claim
from server.services.signing import Signing
from tests.conftest import CATALOGUE, NOW, Clock, Shop
from tests.signed_answers import OTHER_SEED, SEED

_BOARD_AND_CARD = "ba4a16b7141f83028.{}.n74864ae018c8f5de"
HARDWARE = "kl1.m6dd3f7a6db0390ce." + _BOARD_AND_CARD.format("d07c314fc355c8f7e")
UPGRADED = "kl1.m6dd3f7a6db0390ce." + _BOARD_AND_CARD.format("d1a214ef0c88470ad")  # the same with another disk
OTHER_HARDWARE = "kl1.m990c5ae787ba88c8.d2f6bd8f1a7c3e905.n9d7545d24f06e1c4"
ROUTE = "/api/v1/licenses/"
TOLD = ("Content-Type", "Content-Digest", "Signature-Input", "Signature")
OURS, OTHERS = Signing([SEED]).get_key(), Signing([OTHER_SEED]).get_key()
KEYS = {OURS.kid: base64.b64encode(OURS.public_key).decode()}
Header = tuple[str, str]


@dataclass(frozen=True)
class Answered:
    """A request as an app sent it, and the answer to it as it came."""

    path: str
    license_key: str
    nonce: str
    status: int
    headers: tuple[Header, ...]
    body: str
    method: str = "POST"
    hardware_id: str | None = HARDWARE
    product: str | None = "wave"

    def header(self, name: str) -> str:
        (value,) = (value for given, value in self.headers if given == name)
        return value

    def told(self, name: str, *values: str) -> Answered:
        """With these in the place of that header, or without it."""
        kept = [pair for pair in self.headers if pair[0] != name]
        return replace(self, headers=(*kept, *((name, value) for value in values)))

    def changed(self, name: str, old: str, new: str) -> Answered:
        assert old in self.header(name)
        return self.told(name, self.header(name).replace(old, new))


@dataclass
class Till:
    shop: Shop
    keys: dict[str, str] = field(default_factory=dict)

    def ask(self, route: str, sold: str, nonce: str, root: str = "", raw: str | None = None, **body: Any) -> Answered:
        """As the app asks; `root` is the folder below which the server stands, `raw` the path as a server tells it."""
        key = self.keys.get(sold, sold)
        sent = {"license_key": key, "hardware_id": HARDWARE, "product": "wave", "nonce": nonce} | body
        if route == "deactivate":
            del sent["product"]
        under = {"SCRIPT_NAME": root, "RAW_URI": raw or "", "REQUEST_URI": ""}
        told = self.shop.client.post(ROUTE + route, json=sent, environ_overrides=under)
        assert told.status_code == 200, told.text
        headers = tuple((name, told.headers[name]) for name in TOLD if name in told.headers)
        path = raw or root + ROUTE + route
        asked = {name: sent.get(name) for name in ("hardware_id", "product")}
        return Answered(path.partition("?")[0], key, nonce, 200, headers, told.text, **asked)

    def file(self, sold: str, hardware_id: str = HARDWARE, **body: Any) -> str:
        return str(self.shop.ask("file", license_key=self.keys[sold], hardware_id=hardware_id, **body)["license_file"])

    def for_ever(self, sold: str, *, any_device: bool) -> str:
        """As `licenses.py sunset` signs them."""
        services, key = self.shop.services, self.keys[sold]
        verdict = services.licenses.validate(key, Claim(hardware_id=HARDWARE))
        assert verdict.license is not None
        return services.files.for_ever(key, verdict.license, None if any_device else verdict.device, NOW)


@contextmanager
def opened() -> Iterator[Till]:
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        clock.now = NOW
        shop = Shop(Path(folder) / "data", clock, CATALOGUE, signing_key=(SEED,))
        till = Till(shop)
        for sold in ("live", "refunded", "revoked", "full"):
            till.keys[sold] = shop.sale(f"sale-{sold}")
        till.keys["team"] = shop.sale("sale-team", product="G-TEAM==", subscription_id="sub-team")
        till.keys["ended"] = shop.sale(
            "sale-ended", product="G-TEAM==", subscription_id="sub-ended", sale_timestamp="2026-08-05T19:38:56Z"
        )
        shop.refund("sale-refunded")
        revoked = shop.owner("POST", f"/licenses/{till.keys['revoked']}/revoke", {"note": "a test"})
        assert revoked.status_code == 200, revoked.text
        shop.ask("activate", license_key=till.keys["full"], hardware_id=OTHER_HARDWARE)
        yield till


def nonce_of(name: str) -> str:
    """Sixteen bytes as text, the same each time: what an app must never do."""
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()[:16]).decode().rstrip("=")


def rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
