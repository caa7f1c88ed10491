"""An order's whole story, step by step, and what has to hold of it whatever happened in between.

The platform is on the other side of the street: what it was told stands in a file of its own, which no kill of ours
touches. It does a refund as often as it is asked for it, so that asking twice is found out.
"""

from __future__ import annotations

import json
from collections import Counter as Count
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from server.domain.order import SETTLED, Order, OrderFile, OrderState, Step, open_refunds
from server.domain.purchase import PurchaseEvent
from server.errors import StorageUnavailable, Unprocessable
from server.platforms.base import Refunds, RefundState, RefundWord
from server.services.checkout import Desk
from server.services.order_refunds import OrderRefunds
from server.services.packages import Packages
from server.storage.base import no_progress
from server.storage.inspection import inspect_folder
from tests.conftest import settings_for
from tests.storage.backroom import NOW, chain, from_logs, records
from tests.storage.counter import Counter, Till, back, ordered, paid
from tests.torture.processes import Tell

ORDER = ordered(order_id="T0123456789ABCDEFGHJ", number="ORD-20261120-AB12")
PART, REST = "20.00", "30.00"


class Bank(Till, Refunds):
    """A platform whose account outlives the shop's processes; `tell` hears of each line of it."""

    def __init__(self, book: Path, tell: Tell) -> None:
        super().__init__()
        self._book, self._tell = book, tell

    def receive(self) -> None:
        self._write({"paid": True})

    def refund(self, order: Order, names: Sequence[str], amount: int, refund_id: str) -> RefundWord:
        self._write({"refund": refund_id, "amount": amount})
        return RefundWord(RefundState.ACCEPTED, str(len(self.refunds())))

    def find_refund(self, order: Order, names: Sequence[str], refund_id: str) -> RefundWord | None:
        known = [number for number, one in enumerate(self.refunds(), 1) if one["refund"] == refund_id]
        return RefundWord(RefundState.DONE, str(known[0])) if known else None

    def ask(self, order: Order, reference: str | None) -> list[PurchaseEvent]:
        return [paid(order), *self.notices(order)] if any("paid" in line for line in self._lines()) else []

    def notices(self, order: Order) -> list[PurchaseEvent]:
        """What it tells of its refunds."""
        told = enumerate(self.refunds(), 1)
        return [back(order, f"{one['amount'] / 100:.2f}", number, at=8 + number) for number, one in told]

    def refunds(self) -> list[dict[str, Any]]:
        return [line for line in self._lines() if "refund" in line]

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._book.read_text().splitlines()] if self._book.exists() else []

    def _write(self, line: dict[str, Any]) -> None:
        with open(self._book, "a") as book:
            book.write(json.dumps(line) + "\n")
        self._tell(["done", "bank", line])


class Front(Counter):
    """The shop on the folder `data` beside the bank's own book."""

    def __init__(self, room: Path, tell: Tell = lambda said: None) -> None:
        (room / "data").mkdir(exist_ok=True)
        super().__init__(room / "data")
        self.bank = Bank(room / "bank.jsonl", tell)
        self.platforms["payu"] = self.bank
        clock, settings = lambda: self.now, settings_for(self.folder)
        self.desk = Desk(self.store, Packages(self.catalogue), self.platforms, settings, clock, threads=False)
        self.refunds = OrderRefunds(self.store, self.platforms, self.inquiries, self.settlement, 90, clock)

    def known(self) -> OrderFile | None:
        return self.store.orders.find(ORDER.order_id)

    def found(self) -> OrderFile:
        return self.file(ORDER)


Deed = Callable[[Front], Any]


def place(front: Front) -> str:
    if front.known() is None:
        front.store.orders.place(ORDER, NOW)
    return front.found().order.number


def begin(front: Front) -> str | None:
    return front.desk.begin(front.found(), "127.0.0.1").payment_url


def pay(front: Front) -> list[str]:
    if not front.bank.ask(ORDER, None):
        front.bank.receive()
    return hear_payment(front)


def hear_payment(front: Front) -> list[str]:
    (told,) = front.tell([paid(ORDER)])
    return list(told.license_keys)


def ask_for(amount: str | None, key: str) -> Deed:
    def ask(front: Front) -> str:
        for more in ("", " again"):
            try:
                return front.refunds.refund(front.found(), amount, key + more).standing
            except Unprocessable as refused:
                if refused.code != "REFUND_REFUSED":
                    raise
        raise AssertionError("refused twice")

    return ask


def hear_refunds(front: Front) -> int:
    front.tell(front.bank.notices(ORDER))
    return front.settlement.account(front.found()).refunded


STORY: list[tuple[str, Deed]] = [
    ("place", place),
    ("begin", begin),
    ("paid", pay),
    ("paid again", hear_payment),
    ("ask for a part", ask_for(PART, "part")),
    ("a part is back", hear_refunds),
    ("ask for the rest", ask_for(None, "rest")),
    ("all is back", hear_refunds),
]


def live(front: Front, tell: Tell) -> None:
    for name, deed in STORY:
        tell(["begin", name, None])
        tell(["done", name, deed(front)])


def try_to_live(front: Front) -> list[Any]:
    """The same on a disk that fails; who was refused goes away, and comes back later."""
    told: list[Any] = []
    for name, deed in STORY:
        told.append(["begin", name, None])
        try:
            told.append(["done", name, deed(front)])
        except (StorageUnavailable, AssertionError):
            break
    return told


# ---------------------------------------------------------------------------------------------------- what has to hold
def check(room: Path, told: Sequence[Any]) -> None:
    kept(Front(room), {name: result for stage, name, result in told if stage == "done"})
    come_back(Front(room))


def kept(front: Front, done: dict[str, Any]) -> None:
    """All that was promised is so, and the ledger, the order and the license agree as far as they got."""
    file = front.known()
    assert file is not None or "place" not in done, "an order was promised and is gone"
    if file is None:
        assert records(front.store) == {}
        return
    if "begin" in done:
        assert file.payment_url == done["begin"]
    state, licenses = front.state(ORDER), records(front.store)
    assert ("paid" not in done) or state in SETTLED, "paid, and not so in the books"
    assert (state in SETTLED) == bool(licenses), "the order and the license disagree"
    if "paid" in done:
        assert list(licenses) == done["paid"]
    assert all(one["is_active"] == (state is not OrderState.REFUNDED) for one in licenses.values())
    account = front.settlement.account(file)
    assert account.refunded >= max([0, *(done[name] for name in ("a part is back", "all is back") if name in done)])
    assert account.refunded <= sum(one["amount"] for one in front.bank.refunds()), "told, and never done"
    asked = {line.refund_id for line in file.of(Step.REFUND_ASKED)}
    assert {one["refund"] for one in front.bank.refunds()} <= asked, "asked for without a line of it"


def come_back(front: Front) -> None:
    """An hour later the outbox asks, the platform tells all once more, and buyer and owner do what they did again."""
    front.now = NOW + timedelta(hours=1)
    if front.known() is not None:
        front.settlement.ask(ORDER.order_id)
        account = front.settlement.account(front.found())
        if account.sale is not None:
            assert account.refunded == sum(one["amount"] for one in front.bank.refunds())
            assert open_refunds(front.found(), front.store.history([ORDER.ledger_name])) == []
    for _, deed in STORY:
        deed(front)
    all_agree(front)
    all_agree(Front(front.folder.parent))


def all_agree(front: Front) -> None:
    back_again = front.bank.refunds()
    assert max(Count(one["refund"] for one in back_again).values()) == 1, "refunded twice"
    assert sum(one["amount"] for one in back_again) == ORDER.amount, "too much or too little went back"
    assert front.state(ORDER) is OrderState.REFUNDED
    ((_, license),) = records(front.store).items()
    assert (license["is_active"], license["inactive_reason"]) == (False, "refunded")
    events = Count(line["event_id"] for line in chain(front.folder / "purchases.jsonl"))
    assert events == dict.fromkeys([f"{ORDER.order_id}:{name}" for name in ("sale", "refund:1", "refund:2")], 1)
    steps = [(line["step"], line.get("refund_id")) for line in chain(front.folder / "orders.jsonl")]
    assert max(Count(steps).values()) == 1, "the same was written twice"
    assert from_logs(front.folder) == records(front.store)
    front.store.tidy(force=True)
    assert [finding for finding in inspect_folder(front.folder, no_progress) if not finding.is_note] == []
    assert list(front.folder.glob(".*.tmp")) == []
