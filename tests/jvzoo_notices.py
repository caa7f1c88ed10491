"""What JVZoo posts, as tests write it: invented values, and signatures made apart from the server's code."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from tests.conftest import CATALOGUE, Clock, Shop

KEY = "jvzoo-key-of-the-tests"
FORM = "application/x-www-form-urlencoded"
WAVE, TEAM, STUDIO = "406519", "427079", "406520"
SOLD_AT = 1793905136  # 2026-11-05T18:58:56Z

Notice = dict[str, Any]


def catalogue() -> dict[str, Any]:
    found = copy.deepcopy(CATALOGUE)
    for product, jvzoo_id in (("wave", WAVE), ("team", TEAM), ("studio", STUDIO)):
        found["products"][product]["platform_ids"]["jvzoo"] = [jvzoo_id]
    return found


def v1(receipt: str, kind: str = "SALE", product: str = WAVE, **more: Any) -> Notice:
    return {
        "ccustname": "Jane Doe",
        "ccuststate": "NY",
        "ccustcc": "US",
        "ccustemail": "jane@example.com",
        "cproditem": product,
        "cprodtitle": "Wave",
        "cprodtype": "RECURRING" if product == TEAM else "STANDARD",
        "ctransaction": kind,
        "ctransaffiliate": "0",
        "ctransamount": "47.00",
        "ctranspaymentmethod": "PYPL",
        "ctransvendor": "1140863",
        "ctransreceipt": receipt,
        "cupsellreceipt": "",
        "caffitid": "",
        "cvendthru": "c=TP-1",
        "ctranstime": SOLD_AT,
    } | more


def v2(receipt: str, kind: str = "SALE", product: str = WAVE, **more: Any) -> Notice:
    return {
        "paykey": f"AP-{receipt}",
        "prekey": "",
        "transaction_id": receipt,
        "transaction_type": kind,
        "total": "47.00",
        "tax_total": "0.00",
        "status": "Completed",
        "date": "2026-11-05 13:58:56",
        "payment_method": "PayPal",
        "product_id": product,
        "product_name": "Wave",
        "product_type": "RECURRING" if product == TEAM else "STANDARD",
        "sku": "W",
        "customer_first_name": "Jane",
        "customer_last_name": "Doe",
        "customer_email": "jane@example.com",
        "delivery_country": "UNITED_STATES",
        "vendor_id": "1140863",
        "affiliate_id": "0",
        "other_params": "vtid=abc&sid1=",
        "transactionPayouts": '[{"payee_amount": "43.59", "payout_type": "VENDOR"}]',
    } | more


def legacy(transaction: str, kind: str = "SALE", product: str = WAVE, **more: Any) -> Notice:
    return {
        "ctransaction": transaction,
        "ctransaction_type": kind,
        "ctransamount": "47.00",
        "cproditem": product,
        "ccustemail": "jane@example.com",
        "ccustname": "Jane Doe",
    } | more


def cverify(notice: Notice, key: str = KEY) -> str:
    if "transaction_type" in notice:
        names = ["paykey", "customer_email", "product_name", "transaction_type", "date"]
        return _sha1([*(notice.get(name, "") for name in names), key])[:8].upper()
    if "ctransaction_type" in notice:
        return _sha1([key, *(notice.get(name, "") for name in ("ctransaction", "ctransamount", "cproditem"))])
    return _sha1(
        [*(notice[name] for name in sorted(notice, key=lambda name: name.encode("utf-8", "surrogateescape"))), key]
    )[:8].upper()


def _sha1(parts: list[Any]) -> str:
    """Surrogates stand for bytes that are no UTF-8."""
    return hashlib.sha1("|".join(map(str, parts)).encode("utf-8", "surrogateescape")).hexdigest()


def posted(notice: Notice) -> bytes:
    return "&".join(f"{_quoted(name)}={_quoted(str(value))}" for name, value in notice.items()).encode()


def _quoted(text: str) -> str:
    return quote_plus(text, errors="surrogateescape")


def signed(notice: Notice, key: str = KEY) -> bytes:
    return posted(notice | {"cverify": cverify(notice, key)})


class JVZooShop(Shop):
    """A shop whose sales come from JVZoo."""

    def __init__(self, folder: Path, clock: Clock, **settings: Any) -> None:
        super().__init__(folder, clock, catalogue(), **({"jvzoo_secret_key": KEY} | settings))

    def send(self, body: bytes, door: str = "/api/v1/webhooks/jvzoo") -> Any:
        return self.client.post(door, data=body, content_type=FORM)

    def tell(self, notice: Notice) -> dict[str, Any]:
        answered = self.send(signed(notice))
        assert answered.status_code == 200, answered.text
        return dict(answered.json)

    def sells(self, notice: Notice) -> str:
        (key,) = self.tell(notice)["license_keys"]
        return str(key)
