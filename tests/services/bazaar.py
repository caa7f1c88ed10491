"""A shop that sells in Pakistan: over HTTP, on the stand-ins of JazzCash and EasyPaisa, with a clock of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import Clock, Shop
from tests.platforms import test_easypaisa, test_jazzcash
from tests.standins.easypaisa import EasyPaisaApi
from tests.standins.jazzcash import FORM, JSON, JazzCashApi

CATALOGUE: dict[str, Any] = {
    "products": {
        "wave": {"name": "Wave", "published": True, "price": {"pkr": "8500.00"}},
        "abroad": {"name": "Abroad", "published": True, "price": {"usd": "49.00"}},
    }
}
WHOLE = "8500.0"  # as EasyPaisa tells it
PAISA = 850_000


class Bazaar:
    def __init__(self, folder: Path, clock: Clock, jazz: JazzCashApi, easy: EasyPaisaApi, **settings: Any) -> None:
        self.clock, self.jazz, self.easy = clock, jazz, easy
        urls = {"jazzcash_api_url": jazz.url, "easypaisa_api_url": easy.url}
        self.shop = Shop(folder, clock, CATALOGUE, **(test_jazzcash.KEYS | test_easypaisa.KEYS | urls | settings))

    def initiate(self, provider: str, *packages: str, **more: Any) -> Any:
        said = {"package_ids": packages or ("wave",), "email": "ann@example.com", "name": "Ann"}
        return self.shop.client.post("/api/v1/checkout/initiate", json=said | {"payment_provider": provider} | more)

    def order(self, provider: str) -> str:
        answered = self.initiate(provider)
        assert answered.status_code == 201, answered.text
        return str(answered.json["order_id"])

    def paid(self, provider: str = "easypaisa") -> str:
        ref = self.order(provider)
        self.easy.know(ref, WHOLE)
        assert self.status(ref) == "paid"
        return ref

    def status(self, ref: str) -> str:
        return str(self.shop.client.get(f"/api/v1/checkout/order/{ref}").json["status"])

    def keys(self) -> list[bool]:
        return [license["is_active"] for license in self.shop.licenses().values()]

    def jazz_returns(self, ref: str, code: str) -> None:
        _, body = self.jazz.return_of(ref, code)
        assert self.shop.client.post("/api/v1/webhooks/jazzcash", data=body, content_type=FORM).status_code == 303

    def jazz_tells(self, ref: str) -> None:
        told = self.shop.client.post("/api/v1/webhooks/jazzcash", data=self.jazz.ipn_of(ref), content_type=JSON)
        assert told.status_code == 200

    def easy_tells(self, ref: str) -> None:
        assert self.shop.client.get(f"/api/v1/webhooks/easypaisa?{self.easy.ipn_of(ref)}").status_code == 200

    def refund(self, ref: str, **body: Any) -> Any:
        return self.shop.owner("POST", f"/orders/{ref}/refund", body)

    def live_on(self, minutes: int, every: int = 1) -> None:
        """With the outbox at work."""
        for _ in range(minutes // every):
            self.clock.forward(minutes=every)
            self.shop.services.outbox.send_due()


@contextmanager
def bazaar_in(folder: Path, clock: Clock) -> Iterator[Bazaar]:
    with JazzCashApi() as jazz, EasyPaisaApi() as easy:
        yield Bazaar(folder, clock, jazz, easy)
