"""JVZoo's notices in any order, any number of times, by either version: the same books."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from server.domain.license import License
from server.platforms import WebhookRequest
from server.platforms.jvzoo import JVZoo
from server.services.catalogue_file import CatalogueFile
from server.services.fulfilment import Fulfilment
from server.storage.flatfile import FlatFileStore
from tests.conftest import NOW, settings_for, some_of
from tests.jvzoo_notices import KEY, SOLD_AT, STUDIO, TEAM, WAVE, Notice, catalogue, posted, v1, v2

DAY = 86_400
MONTH = 30 * DAY


def team(receipt: str, kind: str = "SALE", after: int = 0, product: str = TEAM) -> Notice:
    return v1(receipt, kind, product, ctranstime=SOLD_AT + after)


def team2(receipt: str, kind: str = "SALE", after: int = 0, product: str = TEAM) -> Notice:
    """The same by version 2; its reversals tell the sale's date."""
    moment = NOW.replace(day=5, hour=13, minute=58, second=56)  # SOLD_AT in New York
    if kind not in ("RFND", "CGBK"):
        moment += timedelta(seconds=after)
    return v2(receipt, kind, product, date=f"{moment:%Y-%m-%d %H:%M:%S}")


STORIES = {
    "both versions, refunded": [v1("R1"), v2("R1"), v1("R1", "RFND"), v2("R1", "RFND"), v1("R2")],
    "refunded and charged back": [v1("R1"), v1("R1", "RFND"), v1("R1", "CGBK"), v2("R1", "RFND"), v1("R1", "TEST")],
    "a renewal refunded": [
        team("R1"),
        team("R1-B001", "BILL", MONTH),
        team("R1-B001", "RFND", MONTH + DAY),
        team("R1-B002", "BILL", 2 * MONTH),
        team("R1", "CANCEL-REBILL", 2 * MONTH + DAY),
    ],
    "a renewal charged back, by both versions": [
        team("R1"),
        team2("R1-B001", "BILL", MONTH),
        team("R1-B001", "BILL", MONTH),
        team("R1-B001", "CGBK", MONTH + DAY),
        team2("R1-B001", "RFND", MONTH + DAY),
    ],
    "failed, then paid": [
        team("R1"),
        team("R1-B001", "INSF", MONTH),
        team("R1-B001", "BILL", MONTH + 2 * DAY),
        team("R1-B002", "INSF", 2 * MONTH),
        team2("R1-B002", "BILL", 2 * MONTH + DAY),
    ],
    "cancelled, taken back, renewed": [
        team("R1"),
        team("R1", "CANCEL-REBILL", DAY),
        team2("R1", "UNCANCEL-REBILL", 2 * DAY),
        team("R1-B001", "BILL", MONTH),
        team("R1-B002", "INSF", 2 * MONTH),
    ],
    "all of it refunded": [
        team("R1"),
        team("R1-B001", "BILL", MONTH),
        team("R1", "RFND", MONTH + DAY),
        team("R1-B001", "RFND", MONTH + DAY),
        team("R1", "CANCEL-REBILL", MONTH + 2 * DAY),
    ],
    "an upsell, its parent refunded": [
        v1("R1"),
        v1("R2", product=TEAM, cupsellreceipt="R1"),
        v1("R1", "RFND"),
        v1("R2-B001", "BILL", TEAM, ctranstime=SOLD_AT + MONTH),
        v1("R2", "CGBK", TEAM, cupsellreceipt="R1"),
    ],
    "a bundle": [
        v1("R1", product=STUDIO),
        v2("R1", product=STUDIO),
        v1("R1", "CGBK", STUDIO),
        v1("R2"),
        v2("R2", "RFND"),
    ],
    "renewals without their sale": [
        team("R1-B001", "BILL", MONTH),
        team("R1-B002", "BILL", 2 * MONTH),
        team("R1-B001", "INSF", MONTH),
        team("R1", "CANCEL-REBILL", 3 * MONTH),
        v1("R2"),
    ],
}


def office(folder: Path) -> tuple[FlatFileStore, Fulfilment]:
    """Its clock goes on with every look, so that what rests on the time of arrival shows."""
    folder.mkdir()
    ticks = itertools.count()
    (folder / "products.json").write_text(json.dumps(catalogue()))
    store = FlatFileStore(folder)
    catalogue_file = CatalogueFile(folder / "products.json")
    return store, Fulfilment(store, catalogue_file, "license-secret", lambda: NOW + timedelta(minutes=next(ticks)))


def books(folder: Path, notices: Iterable[Notice]) -> dict[str, License]:
    """The licenses after these notices in this order, by key."""
    store, fulfilment = office(folder)
    platform = JVZoo.from_settings(settings_for(folder, jvzoo_secret_key=KEY))
    assert platform is not None
    for notice in notices:
        fulfilment.record(platform.parse(WebhookRequest(posted(notice), {}, {}.get)))
    found = dict(store.licenses())
    store.close()
    return found


@pytest.mark.parametrize("story", STORIES)
def test_every_order_ends_in_the_same_books(tmp_path, story):
    notices = STORIES[story]
    expected = books(tmp_path / "straight", notices)
    assert expected
    for number, order in enumerate(itertools.permutations(notices)):
        again = [*order, random.Random(number).choice(order)]
        assert books(tmp_path / str(number), again) == expected, [told(notice) for notice in order]


def told(notice: Notice) -> Any:
    return notice.get("transaction_type", notice.get("ctransaction")), notice.get(
        "ctransreceipt", notice.get("transaction_id")
    )


# ---------------------------------------------------------------------------------------------------- longer ones
def life(chance: random.Random, receipt: str) -> list[Notice]:
    """What may be told of one order: its sale, renewals, failures and reversals, by either version or by both."""
    product = chance.choice([WAVE, TEAM, TEAM, TEAM, STUDIO])
    periods = chance.randint(0, 4) if product == TEAM else 0
    events = [(receipt, "SALE", 0)] * (chance.random() < 0.9)
    for number in range(1, periods + 1):
        renewal, due = f"{receipt}-B{number:03d}", number * MONTH
        events += [(renewal, "INSF", due), (renewal, "BILL", due + DAY)][chance.randint(0, 1) :]
        events += [(renewal, chance.choice(["RFND", "CGBK"]), due + 2 * DAY)] * (chance.random() < 0.3)
    if product == TEAM:
        events += [(receipt, "CANCEL-REBILL", 9 * DAY), (receipt, "UNCANCEL-REBILL", 12 * DAY)][: chance.randint(0, 2)]
    events += [(receipt, chance.choice(["RFND", "CGBK", "TEST", "MOON"]), 5 * DAY)] * (chance.random() < 0.4)
    makers = [[team], [team2], [team, team2]]
    return [make(name, kind, after, product) for name, kind, after in events for make in chance.choice(makers)]


@pytest.mark.parametrize("seed", some_of(range(14), 2))
def test_long_histories_in_any_order_end_in_the_same_books(tmp_path, seed):
    """Many orders of one shop at a time, each in an order of its own and with repeats, and one among the others."""
    chance = random.Random(seed)
    notices = [notice for number in range(48) for notice in life(chance, f"R{seed}X{number}")]
    expected = books(tmp_path / "straight", notices)
    for number in range(4):
        shuffled = notices + chance.choices(notices, k=len(notices) // 3)
        chance.shuffle(shuffled)
        found = books(tmp_path / str(number), shuffled)
        assert found.keys() == expected.keys()
        assert [key for key, record in found.items() if record != expected[key]] == []
    assert len({record.inactive_reason for record in expected.values()}) == 3  # none, refunded, chargeback
