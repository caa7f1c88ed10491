"""Our own orders held against PayU, JazzCash and EasyPaisa on their stand-ins, and by the script for the owner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from server.domain.order import Order, OrderLine, OrderState, Step
from server.services.order_record import record_of
from server.services.reconcile import Kind, Reconciliation
from server.services.statement import Statement
from tests.conftest import NOW, Clock, Shop
from tests.platforms.test_easypaisa import KEYS as EASYPAISA
from tests.platforms.test_jazzcash import KEYS as JAZZCASH
from tests.platforms.test_payu import SETTINGS as PAYU
from tests.scripts.conftest import Desk, Owner
from tests.standins.easypaisa import STORE, EasyPaisaApi
from tests.standins.http import StandIn
from tests.standins.jazzcash import MERCHANT, JazzCashApi
from tests.standins.payu import POS, PayuApi
from tests.storage.counter import ordered

SINCE = NOW - timedelta(days=1)


class Front(NamedTuple):
    """A platform's stand-in, how it comes to know an order (paid or not), and the merchant and currency of orders."""

    name: str
    api: StandIn
    knows: Callable[[Order, bool], str | None]
    said: dict[str, Any]
    settings: dict[str, Any]


@contextmanager
def payu() -> Iterator[Front]:
    with PayuApi() as api:

        def knows(order: Order, is_paid: bool) -> str:
            name = f"{order.order_id[:6]}GUEST"
            told = {"orderId": name, "extOrderId": order.order_id, "status": "COMPLETED" if is_paid else "PENDING"}
            amount = {"totalAmount": str(order.amount), "currencyCode": order.currency.upper()}
            api.orders[name] = told | amount | {"merchantPosId": POS, "orderCreateDate": f"{order.placed_at:%FT%TZ}"}
            return name

        yield Front("payu", api, knows, {"merchant": POS}, PAYU | {"payu_api_url": api.url})


@contextmanager
def jazzcash() -> Iterator[Front]:
    with JazzCashApi() as api:

        def knows(order: Order, is_paid: bool) -> None:
            api.know(order.order_id, order.amount, "121" if is_paid else "157")

        said = {"merchant": MERCHANT, "currency": "pkr"}
        yield Front("jazzcash", api, knows, said, JAZZCASH | {"jazzcash_api_url": f"{api.url}/payment-orchestrator"})


@contextmanager
def easypaisa() -> Iterator[Front]:
    with EasyPaisaApi() as api:

        def knows(order: Order, is_paid: bool) -> None:
            api.know(order.order_id, order.price, "PAID" if is_paid else "PENDING")

        said = {"merchant": STORE, "currency": "pkr"}
        yield Front("easypaisa", api, knows, said, EASYPAISA | {"easypaisa_api_url": api.url})


def placed(shop: Shop, front: Front, is_paid: bool, now: datetime = NOW) -> Order:
    """An order that was begun, and that the platform knows."""
    orders = shop.services.store.orders
    order = orders.place(ordered(source=front.name, placed_at=now - timedelta(hours=1), **front.said), now)
    reference = front.knows(order, is_paid)
    orders.note(OrderLine(timestamp=now, order_id=order.order_id, step=Step.BEGUN, reference=reference))
    return order


@pytest.mark.parametrize("platform", [payu, jazzcash, easypaisa])
def test_payments_of_which_nobody_told_us_are_found_and_completed(
    tmp_path: Path, clock: Clock, platform: Callable[[], Any]
) -> None:
    with platform() as front:
        shop = Shop(tmp_path / "data", clock, **front.settings)
        ours, orders = shop.services, [placed(shop, front, is_paid) for is_paid in (True, False, True)]
        record = record_of(ours.platforms[front.name], ours.store, ours.settlement)
        statement = Statement(record, tmp_path, clock, lambda seconds: None)
        front.api.rate_limit(3)
        events = statement.read(SINCE)
        assert [event.order_id for event in events] == [orders[0].order_id, orders[2].order_id]
        books = Reconciliation(ours.store, ours.fulfilment, ours.inquiries, clock, lambda seconds: None)
        found = books.compare(front.name, events, SINCE)
        assert [drift.kind for drift in found] == [Kind.NO_LICENSE] * 2
        books.repair(found)
        assert books.compare(front.name, events, SINCE) == []
        files = [ours.store.orders.find(order.order_id) for order in orders]
        states = [ours.settlement.state(file) for file in files if file]
        assert states == [OrderState.PAID, OrderState.PENDING, OrderState.PAID]
        assert len(shop.licenses()) == 2


def test_the_script_finds_lost_payments_and_refunds_and_repairs_them(tmp_path: Path, clock: Clock, desk: Desk) -> None:
    with payu() as front:
        now = clock.now = datetime.now(UTC).replace(microsecond=0)
        shop = Shop(tmp_path / "data", clock, **front.settings)
        orders = [placed(shop, front, is_paid, now) for is_paid in (True, True, False)]
        shop.services.settlement.look_again(shop.services.desk.get(orders[0].order_id))
        assert [license["is_active"] for license in shop.licenses().values()] == [True]
        refund = {"refundId": "912128", "amount": "5000", "currencyCode": "PLN", "status": "FINALIZED"}
        front.api.refunds[f"{orders[0].order_id[:6]}GUEST"] = [refund | {"statusDateTime": f"{now:%FT%TZ}"}]
        owner = Owner(shop.folder, desk)
        settings = {name.upper(): str(value) for name, value in front.settings.items()}
        asked = ("reconcile", "payu", "--since", f"{now - timedelta(days=2):%F}")
        done = owner.run(*asked, code=1, **settings)
        _, _, *rows, verdict = [" ".join(line.split()) for line in done.stdout.splitlines()]
        assert sorted(rows) == sorted(
            [
                f"refunded but active {orders[0].order_id} refund 50.00 pln by --apply",
                f"paid without a license {orders[1].order_id} ann@example.com sale 50.00 pln by --apply",
            ]
        )
        assert "2 charges and 1 other event compared" in verdict
        done = owner.run(*asked, "--apply", **settings)
        assert "2 repaired; the ledger agrees now" in " ".join(done.stdout.split())
        assert [license["is_active"] for license in Shop(shop.folder, clock).licenses().values()].count(True) == 1
        assert not list(shop.folder.glob("reconcile-*.jsonl"))
