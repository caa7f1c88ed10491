"""The figures of 30 days: what a worker that reads on from where it was tells is what one that reads all anew tells."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from server.domain.license import DeviceEvent
from server.domain.purchase import EventKind
from server.services.figures import DAYS, Figures
from server.services.revenue import waiting_lines
from tests.storage.backroom import NOW, BackRoom, device_line, event, sale

SOLD = {"price": "29.99", "currency": "usd"}


@pytest.fixture
def room(tmp_path):
    return BackRoom(tmp_path)


@pytest.fixture
def figures(room):
    return Figures(room.store, lambda: room.now)


def told(figures: Figures, last: int = DAYS) -> dict[tuple[str, str], tuple[int, str, str, str]]:
    """The sums of so many days by currency and platform: charges, gross, taken back, net."""
    return {
        (one.code, source): (sum_.purchases, sum_.gross, sum_.back, sum_.net)
        for one in figures.told().currencies
        for source, sum_ in one.by_window[last].items()
    }


def counts(figures: Figures) -> dict[str, list[int]]:
    return {name: list(found.values()) for name, found in figures.told().counts.items()}


def test_an_empty_shop_has_no_figures(figures):
    assert told(figures) == {}
    none = [0, 0, 0]
    assert counts(figures) == dict.fromkeys(("sales", "renewals", "refunds", "disputes", "activations"), none)


def test_money_is_told_by_currency_and_platform_and_never_added_up(room, figures):
    room.hear(sale("s1", **SOLD), sale("s2", **SOLD), sale("s3", price="119.00", currency="pln"))
    room.hear(sale("s4", price="100", currency="usd", source="payu"))
    assert told(figures) == {
        ("pln", "gumroad"): (1, "119.00", "0.00", "119.00"),
        ("usd", "gumroad"): (2, "59.98", "0.00", "59.98"),
        ("usd", "payu"): (1, "100.00", "0.00", "100.00"),
    }
    (pln, usd) = figures.told().currencies
    assert (pln.together[1].net, usd.together[1].net) == ("119.00", "159.98")


def test_windows_are_whole_days(room, figures):
    for ago in (0, 1, 6, 7, 29, 30, 400):
        room.hear(sale(f"s{ago}", **SOLD, purchase_date=NOW - timedelta(days=ago)))
    found = figures.told()
    assert {last: one.purchases for last, one in found.currencies[0].together.items()} == {1: 1, 7: 3, 30: 5}
    assert found.counts["sales"] == {1: 1, 7: 3, 30: 5}
    assert [one.purchases for one in found.currencies[0].by_day["gumroad"]] == [1, *[0] * 21, 1, 1, *[0] * 4, 1, 1]


def test_what_went_back_is_taken_off_the_day_of_its_charge(room, figures):
    room.hear(sale("s1", **SOLD, purchase_date=NOW - timedelta(days=10)), sale("s2", **SOLD))
    assert told(figures)["usd", "gumroad"] == (2, "59.98", "0.00", "59.98")
    room.refund("s1")
    assert told(figures)["usd", "gumroad"] == (2, "59.98", "29.99", "29.99")
    assert told(figures, 7)["usd", "gumroad"] == (1, "29.99", "0.00", "29.99")
    assert counts(figures)["refunds"] == [1, 1, 1]


def test_a_refund_that_comes_before_its_sale_counts_as_well(room, figures):
    room.refund("s1")
    assert told(figures) == {}
    room.hear(sale("s1", **SOLD))
    assert told(figures)["usd", "gumroad"] == (1, "29.99", "29.99", "0.00")


def test_tests_count_in_nothing(room, figures):
    room.hear(sale("s1", **SOLD, is_test=True), event(EventKind.DISPUTE, "d1", sale_id="s1", is_test=True))
    assert told(figures) == {}
    assert counts(figures)["sales"] == counts(figures)["disputes"] == [0, 0, 0]


def test_disputes_and_activations_are_counted(room, figures):
    key = room.sell("s1")
    room.code(key, "a")
    room.hear(event(EventKind.DISPUTE, "d1", sale_id="s1"))
    with room.store.transaction() as books:
        books.append_devices([device_line(key, "a", DeviceEvent.DEACTIVATION), device_line(key, "b")])
    assert (counts(figures)["disputes"], counts(figures)["activations"]) == ([1, 1, 1], [2, 2, 2])
    room.now += timedelta(days=1)
    assert (counts(figures)["disputes"], counts(figures)["activations"]) == ([0, 1, 1], [0, 2, 2])
    room.now += timedelta(days=30)
    assert (counts(figures)["disputes"], counts(figures)["activations"]) == ([0, 0, 0], [0, 0, 0])


def test_sales_that_wait_are_known_without_reading_the_ledger_again(room, figures):
    assert figures.waiting() == []
    room.sell("s1")
    room.hear(sale("s2", "G-UNKNOWN", **SOLD))
    assert [line.sale_id for line in figures.waiting()] == ["s2"]
    room.sell("s3")
    assert figures.waiting() == waiting_lines(room.store)


@pytest.mark.parametrize("seed", range(4))
def test_who_reads_on_knows_the_same_as_who_reads_all(room, figures, seed):
    dice = random.Random(seed)
    for step in range(60):
        number = dice.randrange(12)
        said = {"sale_id": f"s{number}", "occurred_at": room.now, **SOLD}
        match dice.randrange(8):
            case 0:
                room.refund(f"s{number}")
            case 1:
                room.hear(event(EventKind.DISPUTE, f"d{step}", **said))
            case 2:
                room.hear(event(EventKind.DISPUTE_LOST, f"l{step}", **said))
            case 3:
                parted = {"price": "5.00", "refunded_total": "5.00"}
                room.hear(event(EventKind.PARTIAL_REFUND, f"p{step}", **said | parted))
            case 4:
                room.hear(event(EventKind.REFUND_FAILED, f"f{step}", **said))
            case 5:
                room.now += timedelta(hours=dice.randrange(200))
            case _:
                day = room.now - timedelta(days=dice.randrange(35))
                product = dice.choice(["G-WAVE", "G-TEAM", "G-UNKNOWN"])
                links = (f"i{number}",) if dice.random() < 0.3 else ()
                room.hear(sale(f"s{number}", product, **SOLD, purchase_date=day, links=links))
        if dice.random() < 0.5:
            fresh = Figures(room.store, lambda: room.now)
            assert figures.told() == fresh.told()
            assert figures.waiting() == fresh.waiting() == waiting_lines(room.store)


def test_the_sums_are_those_of_the_audit(room, figures):
    from server.services.audit import PurchaseAuditLog

    for number in range(20):
        room.hear(sale(f"s{number}", **SOLD, purchase_date=NOW - timedelta(days=number)))
    for number in (3, 4, 11):
        room.refund(f"s{number}")
    periods = PurchaseAuditLog(room.store).get_revenue("day", DAYS, NOW.date())
    (usd,) = figures.told().currencies
    assert [(one.net, one.purchases) for one in periods] == [(one.net, one.purchases) for one in usd.by_day["gumroad"]]
