"""The figures of 30 days: what a worker that reads on from where it was tells is what one that reads all anew tells."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from msgspec.structs import replace

from server.domain.license import DeviceEvent
from server.domain.purchase import Entry, EventKind
from server.services.figures import DAYS, Figures
from server.services.revenue import Line, periods, waiting_lines
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


@pytest.mark.parametrize("seed", range(6))
def test_who_reads_on_or_takes_up_what_was_kept_knows_the_same_as_who_reads_all(room, figures, monkeypatch, seed):
    """And so does the audit, which adds up the whole ledger."""
    always_kept(monkeypatch)
    dice, file = random.Random(seed), room.folder / "figures.idx"
    keeping = Figures(room.store, lambda: room.now, file)
    for step in range(80):
        happens(room, dice, step)
        if dice.random() < 0.5:
            taken_up, fresh = Figures(room.store, lambda: room.now, file), Figures(room.store, lambda: room.now)
            assert figures.told() == taken_up.told() == fresh.told()
            assert by_day(figures) == by_audit(room)
            assert figures.waiting() == taken_up.waiting() == fresh.waiting() == waiting_lines(room.store)
            if dice.random() < 0.4:
                (keeping if dice.random() < 0.5 else taken_up).keep()
    assert file.exists()


def always_kept(monkeypatch) -> None:
    monkeypatch.setattr("server.services.kept_figures.BEHIND", 1)
    monkeypatch.setattr("server.services.figures._KEEP_EVERY", 0.0)


def happens(room: BackRoom, dice: random.Random, step: int) -> None:
    number = dice.randrange(12)
    said = {"sale_id": f"s{number}", "occurred_at": room.now, **SOLD}
    match dice.randrange(10):
        case 0:
            room.refund(dice.choice([f"s{number}", f"i{number}"]))
        case 1:
            room.hear(event(EventKind.DISPUTE, f"d{step}", **said))
        case 2:
            room.hear(event(EventKind.DISPUTE_LOST, f"l{step}", **said))
        case 3:
            parted = {"price": "5.00", "refunded_total": dice.choice(["5.00", "7.00"])}
            room.hear(event(EventKind.PARTIAL_REFUND, f"p{step}", **said | parted))
        case 4:
            room.hear(event(EventKind.REFUND_FAILED, f"f{step}", **said))
        case 5:
            room.now += timedelta(hours=dice.randrange(200))
        case 6:
            corrected(room, dice)
        case _:
            day = room.now - timedelta(days=dice.randrange(35))
            product = dice.choice(["G-WAVE", "G-TEAM", "G-UNKNOWN"])
            links = (f"i{number}",) if dice.random() < 0.3 else ()
            money = dice.choice([SOLD, {"price": "119.00", "currency": "pln"}])
            room.hear(sale(f"s{number}", product, **money, purchase_date=day, links=links))


def corrected(room: BackRoom, dice: random.Random) -> None:
    """A further line of an event that was told before, as when a sale that waits is completed, or that disowns it."""
    entry = next(iter(room.store.scan(Entry, newest_first=True)), None)
    if entry is None or entry.event != EventKind.SALE:
        return
    newest = room.store.find_event(entry.identity)
    assert newest is not None
    is_withdrawn = dice.random() < 0.5
    price = dice.choice(["29.99", "19.99"])
    told = replace(newest, revision=newest.revision + 1, price=price, is_withdrawn=is_withdrawn, timestamp=room.now)
    with room.store.transaction() as books:
        books.append([told])


def by_day(figures: Figures) -> dict[str, list[tuple[int, int]]]:
    """Of each currency what the days took, net, all platforms together."""
    return {
        one.code: [
            (
                sum(sums[n].purchases for sums in one.by_day.values()),
                sum(sums[n].net_minor for sums in one.by_day.values()),
            )
            for n in range(DAYS)
        ]
        for one in figures.told().currencies
    }


def by_audit(room: BackRoom) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for one in periods(room.store, "day", DAYS, room.now.date()):
        found.setdefault(one.currency, []).append((one.purchases, one.net_minor))
    return {code: days for code, days in found.items() if any(purchases for purchases, _ in days)}


@pytest.fixture
def kept(room, monkeypatch):
    """What a worker kept of two sales, and the ledger has one more since."""
    always_kept(monkeypatch)
    file = room.folder / "figures.idx"
    room.hear(sale("s1", **SOLD), sale("s2", "G-UNKNOWN", **SOLD))
    Figures(room.store, lambda: room.now, file).keep()
    room.hear(sale("s3", **SOLD))
    return file


def test_a_worker_reads_only_what_came_since_the_sums_were_kept(room, kept, monkeypatch):
    read = list[int]()
    worker, scan = Figures(room.store, lambda: room.now, kept), room.store.scan

    def watched(kind, *given, **more):
        for line in scan(kind, *given, **more):
            if kind is Line:
                read.append(line.seq)
            yield line

    monkeypatch.setattr(room.store, "scan", watched)
    assert told(worker)["usd", "gumroad"] == (3, "89.97", "0.00", "89.97")
    assert [line.sale_id for line in worker.waiting()] == ["s2"]
    assert 1 not in read
    room.refund("s1")
    assert told(worker)["usd", "gumroad"] == (3, "89.97", "29.99", "59.98")
    assert (1 not in read, kept.stat().st_mode & 0o777) == (True, 0o600)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}\n", b"\0" * 100, b'{"seq":2,"event_id":"s9","prev":null,"form":1}\n\x80', None],
    ids=["empty", "no place", "zeros", "another ledger", "cut"],
)
def test_sums_that_are_not_of_this_ledger_or_damaged_are_nothing(room, kept, content):
    kept.write_bytes(kept.read_bytes()[:-5] if content is None else content)
    worker = Figures(room.store, lambda: room.now, kept)
    assert told(worker)["usd", "gumroad"] == (3, "89.97", "0.00", "89.97")
    worker.keep()
    assert kept.read_bytes().startswith(b'{"seq":3,')


def test_sums_of_a_ledger_that_is_longer_than_this_one_are_nothing(room, kept, tmp_path_factory):
    other = BackRoom(tmp_path_factory.mktemp("other"))
    other.hear(sale("s1", **SOLD))
    assert told(Figures(other.store, lambda: room.now, kept))["usd", "gumroad"] == (1, "29.99", "0.00", "29.99")


def test_a_clock_that_is_set_back_reads_all_anew(room, figures, kept):
    room.now += timedelta(days=40)
    assert told(figures) == {}
    assert b"s1" in kept.read_bytes()
    Figures(room.store, lambda: room.now, kept).keep()
    assert b"s1" not in kept.read_bytes()
    room.now -= timedelta(days=40)
    for worker in (figures, Figures(room.store, lambda: room.now, kept)):
        assert told(worker)["usd", "gumroad"] == (3, "89.97", "0.00", "89.97")


def test_the_sums_are_those_of_the_audit(room, figures):
    from server.services.audit import PurchaseAuditLog

    for number in range(20):
        room.hear(sale(f"s{number}", **SOLD, purchase_date=NOW - timedelta(days=number)))
    for number in (3, 4, 11):
        room.refund(f"s{number}")
    periods = PurchaseAuditLog(room.store).get_revenue("day", DAYS, NOW.date())
    (usd,) = figures.told().currencies
    assert [(one.net, one.purchases) for one in periods] == [(one.net, one.purchases) for one in usd.by_day["gumroad"]]
