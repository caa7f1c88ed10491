"""The purchase audit: figures, lists, exports, the story of a license, and what an inspection finds."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest

from server.domain.purchase import Entry, EventKind, Grant, Outcome
from server.errors import BadRequest, NotFound
from server.services.audit import PurchaseAuditLog
from server.services.spreadsheet import csv_lines, safe
from server.storage import grouping
from server.storage import log as storage_log
from server.storage.flatfile import FlatFileStore
from tests.conftest import SECRET, sale_ping, subscription_ping

DAY = datetime(2026, 3, 1, 10, tzinfo=UTC)


class Books:
    """A ledger written line by line, as whatever decided them would have."""

    def __init__(self, folder: Any) -> None:
        self.store = FlatFileStore(folder).open()
        self.audit = PurchaseAuditLog(self.store)

    def add(self, event: str, sale_id: str | None, **more: Any) -> None:
        said: dict[str, Any] = {
            "event_id": f"{sale_id}:{event}:{more.get('incident', '')}",
            "source": "gumroad",
            "product_id": "wave",
            "product_name": "Wave",
            "price": "10.00",
            "currency": "usd",
            "purchase_date": DAY,
            "outcome": "issued",
        }
        said |= more
        fields = dict.fromkeys(Entry.__struct_fields__[:30]) | {
            "seq": 0,
            "timestamp": DAY,
            "quantity": 1,
            "sale_id": sale_id,
        }
        fields |= dict.fromkeys(("is_recurring", "is_refunded", "is_disputed", "is_test"), False) | {"license_keys": ()}
        entry = Entry(**(fields | said | {"event": EventKind(event), "outcome": Outcome(said["outcome"])} | RAW))
        with self.store.transaction() as books:
            books.append([entry])

    def stats(self) -> dict[str, Any]:
        return self.audit.get_purchase_stats()


RAW = {"raw": msgspec.Raw(b'{"secret":"\\u20ac"}')}


@pytest.fixture
def books(tmp_path):
    return Books(tmp_path / "books")


def damage(path, line, change):
    """Change one physical line, counted from 1."""
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = change(lines[line - 1])
    path.write_bytes(b"\n".join(lines))


def findings(audit):
    return [(found.kind, found.where, found.detail) for found in audit.verify() if not found.is_note]


def notes(audit):
    return [(found.kind, found.where) for found in audit.verify() if found.is_note]


# ---------------------------------------------------------------------------------------------------- the figures
def test_an_empty_ledger_has_no_figures(books):
    told = books.stats()
    assert (told["total_purchases"], told["total_revenue"], told["by_source"], told["by_event"]) == (0, {}, {}, {})
    assert (told["top_products"], told["ledger_lines"], told["first"]) == ([], 0, None)


def test_revenue_is_per_currency_and_net_of_refunds(books):
    books.add("sale", "s1")
    books.add("sale", "s2", price="0.10", product_id="team", product_name="Team")
    books.add("sale", "s3", price="4900", currency="jpy", source="stripe")
    books.add("renewal", "s4", price="0.20")
    books.add("refund", "s2", outcome="revoked")
    told = books.stats()
    assert told["total_purchases"] == 4
    assert told["gross_revenue"] == {"jpy": "4900", "usd": "10.30"}
    assert told["refunded"] == {"jpy": "0", "usd": "0.10"}
    assert told["total_revenue"] == {"jpy": "4900", "usd": "10.20"}
    assert told["by_source"] == {"gumroad": 3, "stripe": 1}
    assert told["revenue_by_source"] == {"gumroad": {"usd": "10.20"}, "stripe": {"jpy": "4900"}}
    assert told["by_event"] == {"sale": 3, "renewal": 1, "refund": 1}
    assert told["refunded_purchases"] == 1
    assert told["top_products"][0] == {
        "product_id": "wave",
        "product_name": "Wave",
        "purchases": 3,
        "revenue": {"jpy": "4900", "usd": "10.20"},
    }


def test_an_order_of_several_products_is_none_of_theirs_alone(books):
    one, two = {"ids": ("wave",), "product_id": "wave"}, {"ids": ("prod_T",), "quantity": 2}
    books.add("sale", "s1")
    books.add("sale", "s2", price="50.00", items=(one, two))
    books.add("sale", "s3", price="20.00", items=(one, one))
    told = books.stats()
    assert [(x["product_id"], x["product_name"], x["purchases"], x["revenue"]) for x in told["top_products"]] == [
        ("wave", "Wave", 2, {"usd": "30.00"}),
        ("prod_T + wave", None, 1, {"usd": "50.00"}),
    ]
    assert told["total_revenue"] == {"usd": "80.00"}


def test_a_refund_may_stand_before_its_sale(books):
    books.add("refund", "s1", outcome="recorded")
    books.add("sale", "s1", outcome="revoked")
    assert books.stats()["total_revenue"] == {"usd": "0.00"}


def test_a_refund_of_another_platform_with_the_same_id_is_not_ours(books):
    books.add("sale", "s1")
    books.add("refund", "s1", source="stripe", outcome="recorded")
    assert books.stats()["total_revenue"] == {"usd": "10.00"}


def test_a_refund_may_name_its_charge_by_a_link(books):
    books.add("sale", "s1", source="stripe", links=("pi_1",))
    books.add("refund", "re_1", source="stripe", links=("pi_1",), outcome="revoked")
    assert books.stats()["total_revenue"] == {"usd": "0.00"}


def test_only_the_refund_that_failed_is_undone(books):
    for sale in ("s1", "s2"):
        books.add("sale", sale)
        books.add("refund", sale, outcome="revoked", incident=f"re_{sale}")
    books.add("refund_failed", "s1", outcome="reinstated", incident="re_s1")
    told = books.stats()
    assert (told["total_revenue"], told["refunded"]) == ({"usd": "10.00"}, {"usd": "10.00"})
    assert [row["sale_id"] for row in books.audit.get_refunded_purchases()] == ["s2"]


def test_a_lost_dispute_takes_the_charge_back_and_an_open_one_does_not(books):
    books.add("sale", "s1")
    books.add("sale", "s2")
    books.add("dispute", "s1", outcome="suspended")
    assert books.stats()["total_revenue"] == {"usd": "20.00"}
    books.add("dispute_lost", "s1", outcome="revoked")
    books.add("refund", "s1", outcome="recorded")
    assert books.stats()["total_revenue"] == {"usd": "10.00"}


def test_partial_refunds_are_only_recorded(books):
    books.add("sale", "s1")
    books.add("partial_refund", "s1", outcome="recorded")
    assert books.stats()["total_revenue"] == {"usd": "10.00"}
    assert books.audit.get_refunded_purchases() == []


def test_tests_count_in_no_revenue(books):
    books.add("sale", "s1", is_test=True)
    told = books.stats()
    assert (told["total_purchases"], told["total_revenue"], told["by_event"]) == (0, {}, {"sale": 1})
    assert told["test_lines"] == 1


def test_a_sale_counts_once_however_many_lines_complete_it(books):
    books.add("sale", "s1", outcome="unmapped", event_id="e1")
    assert (books.stats()["total_purchases"], books.stats()["unmapped"]) == (1, 1)
    books.add("owner_fulfil", "s1", event_id="e1", revision=1)
    assert (books.stats()["total_purchases"], books.stats()["unmapped"]) == (1, 0)
    assert books.stats()["total_revenue"] == {"usd": "10.00"}


def test_a_held_sale_counts_when_it_is_completed(books):
    books.add("pending", "s1", outcome="pending", event_id="e1")
    assert (books.stats()["total_purchases"], books.stats()["held"]) == (0, 1)
    books.add("owner_fulfil", "s1", event_id="e1", revision=1)
    assert (books.stats()["total_purchases"], books.stats()["held"]) == (1, 0)
    assert books.stats()["total_revenue"] == {"usd": "10.00"}


def test_a_renewal_waits_only_until_its_sale_is_there(books):
    books.add("renewal", "s2", outcome="pending", subscription_id="sub")
    assert books.stats()["held"] == 1
    books.add("sale", "s1", subscription_id="sub")
    assert (books.stats()["held"], books.stats()["total_purchases"]) == (0, 2)


def test_what_the_owner_issued_is_a_purchase_where_it_has_a_price(books):
    books.add("owner_issue", "o1", price=None, currency=None, source="owner")
    books.add("owner_import", "o2", source="import")
    told = books.stats()
    assert (told["total_purchases"], told["by_source"]) == (1, {"import": 1})


def test_a_free_sale_is_a_purchase_and_a_price_that_cannot_be_read_is_told(books):
    books.add("sale", "s1", price="0.00")
    books.add("sale", "s2", price="ten")
    told = books.stats()
    assert (told["total_purchases"], told["total_revenue"], told["unreadable_prices"]) == (2, {"usd": "0.00"}, 1)


def test_lines_that_are_missing_show_in_the_figures(books, tmp_path):
    for sale in ("s1", "s2", "s3"):
        books.add("sale", sale)
    damage(tmp_path / "books" / "purchases.jsonl", 2, lambda line: line[:40])
    assert (books.stats()["ledger_lines"], books.stats()["missing_lines"]) == (2, 1)


def test_revenue_over_time(books):
    books.add("sale", "s1", purchase_date=datetime(2026, 1, 31, 23, tzinfo=UTC))
    books.add("sale", "s2", purchase_date=datetime(2026, 3, 1, tzinfo=UTC))
    books.add("sale", "s3", purchase_date=datetime(2026, 3, 2, tzinfo=UTC))
    books.add("refund", "s3", purchase_date=datetime(2026, 3, 9, tzinfo=UTC), outcome="revoked")
    months = books.audit.get_revenue("month", 3, date(2026, 3, 15))
    told = [(period.start.isoformat(), period.purchases, period.net) for period in months]
    assert told == [("2026-01-01", 1, "10.00"), ("2026-02-01", 0, "0.00"), ("2026-03-01", 2, "10.00")]
    weeks = books.audit.get_revenue("week", 2, date(2026, 3, 8))
    assert [(p.start.isoformat(), p.gross, p.refunded) for p in weeks] == [
        ("2026-02-23", "10.00", "0.00"),
        ("2026-03-02", "10.00", "10.00"),
    ]
    assert [period.purchases for period in books.audit.get_revenue("day", 1, date(2026, 3, 2))] == [1]


# ---------------------------------------------------------------------------------------------------- lists
def test_rows_are_the_ledgers_fields_without_the_payload(shop):
    key = shop.sale("s1")
    row = shop.services.audit.get_purchases_by_source("gumroad")[0]
    assert "raw" not in row
    assert (row["license_key"], row["license_keys"], row["seq"], row["sale_id"]) == (key, [key], 1, "s1")
    assert (row["timestamp"], row["price"], row["event"]) == ("2026-11-20T12:00:00Z", "29.99", "sale")
    assert json.loads(json.dumps(row)) == row
    assert shop.services.audit.get_purchases_by_source("stripe") == []


def test_pages_are_newest_first(books):
    for number in range(1, 6):
        books.add("sale", f"s{number}")
    audit = books.audit
    rows, cursor = audit.page({}, limit=2)
    assert ([row["sale_id"] for row in rows], cursor) == (["s5", "s4"], 4)
    rows, cursor = audit.page({}, limit=2, below=cursor)
    assert ([row["sale_id"] for row in rows], cursor) == (["s3", "s2"], 2)
    rows, cursor = audit.page({}, limit=2, below=cursor)
    assert ([row["sale_id"] for row in rows], cursor) == (["s1"], None)
    assert len(audit.page({}, limit=0)[0]) == 5


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"source": "stripe"}, ["s2"]),
        ({"event": "refund"}, ["s1"]),
        ({"outcome": "revoked"}, ["s1"]),
        ({"email": " Ann@Example.com"}, ["s3"]),
        ({"product": "team"}, ["s2"]),
        ({"product": "child"}, ["s3"]),
        ({"license_key": "KEY-3"}, ["s3"]),
        ({"license_key": "key-3"}, []),
        ({"since": "2026-03-02"}, ["s3"]),
        ({"until": "2026-03-01"}, ["s1", "s2", "s1"]),
        ({"until": "2026-03-01T09:59:59Z"}, []),
        ({"since": DAY.replace(tzinfo=None), "until": "2026-03-01T12:00:00+02:00"}, ["s1", "s2", "s1"]),
        ({"is_test": True}, ["s3"]),
        ({"is_test": "false", "event": "sale"}, ["s2", "s1"]),
        ({"email": None}, ["s3", "s1", "s2", "s1"]),
    ],
)
def test_filters(books, filters, found):
    books.add("sale", "s1", email="bob@example.com")
    books.add("sale", "s2", source="stripe", product_id="team")
    books.add("refund", "s1", outcome="revoked")
    grant = Grant(product_id="child", license_key="KEY-3")
    later = {"purchase_date": DAY + timedelta(days=1), "license_keys": ("KEY-3",), "grants": (grant,)}
    books.add("sale", "s3", email="ANN@example.com", is_test=True, **later)
    assert [row["sale_id"] for row in books.audit.page(filters, limit=10)[0]] == found


@pytest.mark.parametrize("filters", [{"colour": "red"}, {"since": "yesterday"}, {"is_test": "perhaps"}])
def test_a_filter_that_makes_no_sense_is_named(books, filters):
    with pytest.raises(BadRequest, match=next(iter(filters))):
        books.audit.page(filters)


def test_find_looks_everywhere_and_forgives_keys_as_apps_do(shop):
    key = shop.sale("s1", "ann@example.com", full_name="Änn O'Neill")
    shop.sale("s2", "bob@example.com")
    audit, identity = shop.services.audit, shop.owner("GET", f"/licenses/{key}").json["id"]
    for text in ("änn o'", "ANN@", "s1", key, key.lower().replace("-", " "), identity):
        assert [row["sale_id"] for row in audit.find(text)] == ["s1"], text
    assert len(audit.find("wave")) == 2
    assert audit.find("nobody") == []


def test_scanning_backwards_finds_the_same_lines_at_every_boundary(books, tmp_path, monkeypatch):
    for number in range(12):
        books.add("sale", f"s{number}", email="x" * (number * 37))
    path = tmp_path / "books" / "purchases.jsonl"
    for tail in (b"", b'{"seq":13,"torn', b'{"torn\n'):
        whole = path.read_bytes()
        path.write_bytes(whole + tail)
        for size in (1, 7, 100, 700, 5000, 1 << 20):
            monkeypatch.setattr(storage_log, "SCAN", size)
            assert [entry.seq for entry in books.store.scan(Entry)] == list(range(1, 13))
            assert [entry.seq for entry in books.store.scan(Entry, newest_first=True)] == list(range(12, 0, -1))
        path.write_bytes(whole)


def test_the_configured_store_is_opened_where_none_is_given(shop, monkeypatch):
    shop.sale("s1")
    for name, value in {"SECRET_KEY": "k" * 20, "LICENSE_SECRET": "l" * 20, "DATA_DIR": str(shop.folder)}.items():
        monkeypatch.setenv(name, value)
    assert PurchaseAuditLog().get_purchase_stats()["total_purchases"] == 1


# ---------------------------------------------------------------------------------------------------- exports
def test_the_export_is_private_whole_and_safe_in_a_spreadsheet(shop, tmp_path):
    shop.sale("s1", "ann@example.com", full_name="=cmd|' /C calc'!A0")
    shop.sale("s2", "bob@example.com", full_name='Zoë, "the\nnew"')
    shop.sale("t1", test="true")
    path = tmp_path / "out.csv"
    assert shop.services.audit.export_to_csv(path, {"is_test": False}) == 2
    assert path.read_bytes()[:3] == b"\xef\xbb\xbf"
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["customer_name"] for row in rows] == ["'=cmd|' /C calc'!A0", 'Zoë, "the\nnew"']
    assert [row["is_test"] for row in rows] == ["false", "false"]
    assert rows[0]["license_key"] == shop.ledger()[0]["license_keys"][0]
    assert list(rows[0])[:4] == ["seq", "timestamp", "event", "outcome"]
    assert "raw" not in rows[0]
    assert os.listdir(tmp_path / "data") != []
    assert sorted(os.listdir(tmp_path)) == ["data", "out.csv"]


def test_an_export_that_fails_leaves_the_old_file(shop, tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises(BadRequest):
        shop.services.audit.export_to_csv(path, {"colour": "red"})
    assert path.read_text() == "old"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "-2e9", "\uff1d1", "-"])
def test_formulas_are_taken_for_text(text):
    assert safe(text) == "'" + text


@pytest.mark.parametrize("text", ["", "-1", "-12.50", "a=1", "1-1", "'=1"])
def test_everything_else_stays_as_it_is(text):
    assert safe(text) == text


def test_csv_quotes_and_joins():
    assert list(csv_lines([{"a": ["x", "y"], "b": None, "c": True, "d": 'say "1,2"'}], ["a", "b", "c", "d"])) == [
        "a,b,c,d\n",
        'x y,,true,"say ""1,2"""\n',
    ]


# ---------------------------------------------------------------------------------------------------- the story
def test_the_story_of_a_refunded_license(shop, clock):
    key = shop.sale("s1")
    clock.forward(days=1)
    shop.code(key, hardware_id="hw1", device_name="Laptop A")
    clock.forward(days=1)
    shop.refund("s1")
    story = shop.services.audit.explain(key, clock.now)
    assert [(step.log, step.seq, step.event) for step in story.steps] == [
        ("ledger", 1, "sale"),
        ("devices", 1, "activation"),
        ("ledger", 2, "refund"),
    ]
    assert story.steps[0].said == "a sale for 29.99 usd; product: Wave"
    assert story.steps[0].did == (f"issued {key} to ann@example.com: wave, 1 seat", "for life")
    assert (story.steps[1].said, story.steps[1].did) == ("Laptop A (hw1) was activated", ("1 device bound",))
    assert story.steps[2].did == ("inactive: refunded",)
    assert (story.code, story.status, story.because_of) == ("SUSPENDED", "suspended", ("s1:refund:true",))


def test_the_story_as_of_a_moment_knows_nothing_later(shop, clock):
    key = shop.sale("s1")
    sold = clock.now
    clock.forward(days=2)
    shop.code(key, hardware_id="hw1")
    shop.refund("s1")
    audit = shop.services.audit
    before = audit.explain(key, sold + timedelta(days=1))
    assert (before.code, len(before.steps), before.because_of, before.devices) == ("VALID", 1, (), ())
    assert audit.explain(key, clock.now).code == "SUSPENDED"
    unborn = audit.explain(key, sold - timedelta(seconds=1))
    assert (unborn.code, unborn.license, unborn.steps) == ("NOT_FOUND", None, ())


def test_the_story_judges_at_the_moment(shop, clock):
    key = shop.sale("s1", product="G-TEAM==", sale_timestamp="2026-11-20T12:00:00Z")
    audit = shop.services.audit
    assert audit.explain(key, clock.now + timedelta(days=32)).code == "VALID"
    assert audit.explain(key, clock.now + timedelta(days=34)).code == "EXPIRED"


def test_the_story_knows_what_takes_effect_later(shop, clock):
    key = shop.sale("s1", product="G-TEAM==", subscription_id="sub", variants="", recurrence="monthly")
    plan = {"effective_as_of": "2026-11-25T00:00:00Z", "type": "downgrade", "new_plan[tier][name]": "Solo"}
    shop.ping(subscription_ping("subscription_updated", "sub", **plan))
    audit = shop.services.audit
    story = audit.explain(key, clock.now)
    assert story.steps[1].did == ("from 2026-11-25 00:00 UTC: solo, 1 seat",)
    assert story.license.product_id == "team"
    assert audit.explain(key, clock.now + timedelta(days=6)).license.product_id == "solo"


def test_the_story_follows_a_reissued_key(shop, clock):
    old = shop.sale("s1")
    clock.forward(hours=1)
    new = shop.owner("POST", f"/licenses/{old}/reissue").json["license_key"]
    audit = shop.services.audit
    assert (audit.explain(old, clock.now).code, audit.explain(old, clock.now).replaced_by) == ("BANNED", new)
    story = audit.explain(new, clock.now)
    assert (story.code, story.steps[-1].did) == ("VALID", (f"{new} took the place of {old}",))
    assert audit.explain(old, clock.now - timedelta(minutes=1)).code == "VALID"


def test_the_story_leaves_out_what_the_owner_decided_about_other_licenses_of_the_sale(shop, clock):
    wave, team = shop.ping(sale_ping("s1", "ann@example.com", "G-STUDIO=="))["license_keys"]
    shop.owner("POST", f"/licenses/{team}/suspend")
    audit = shop.services.audit
    assert [step.event for step in audit.explain(wave, clock.now).steps] == ["sale"]
    assert [step.event for step in audit.explain(team, clock.now).steps] == ["sale", "owner_suspend"]


def test_the_story_tells_extensions_transfers_and_plans(shop, clock):
    key = shop.sale("s1", product="G-TEAM==", sale_timestamp="2026-11-20T12:00:00Z")
    for verb, body in (("extend", {"days": 5}), ("transfer", {"email": "eve@example.com", "customer_name": "Eve"})):
        clock.forward(hours=1)
        shop.owner("POST", f"/licenses/{key}/{verb}", body)
    steps = shop.services.audit.explain(key, clock.now).steps
    assert steps[0].did[1] == "paid through 2026-12-20 12:00 UTC"
    assert steps[1].did == ("paid through 2026-12-25 12:00 UTC",)
    assert steps[2].did == ("belongs to Eve <eve@example.com> now",)
    assert steps[3].said == "all devices were released"


def test_the_story_of_an_unknown_key(shop):
    with pytest.raises(NotFound):
        shop.services.audit.explain("nonsense")


# ---------------------------------------------------------------------------------------------------- the inspection
@pytest.fixture
def kept(shop):
    """Five sales, one device each, everything written."""
    for number in range(1, 6):
        key = shop.sale(f"s{number}")
        shop.code(key, hardware_id=f"hw{number}")
    shop.services.store.tidy(force=True)
    return shop


def audit_of(shop):
    """As a script sees it: from the files alone."""
    return PurchaseAuditLog(FlatFileStore(shop.folder))


def edited(line):
    return line.replace(b"29.99", b"99.99")


def test_sound_books_have_no_findings(kept):
    before = {path.name: path.read_bytes() for path in kept.folder.iterdir()}
    assert list(audit_of(kept).verify()) == []
    assert {path.name: path.read_bytes() for path in kept.folder.iterdir()} == before


@pytest.mark.parametrize("line", [1, 2, 3, 4])
def test_a_changed_line_is_named(kept, line):
    damage(kept.folder / "purchases.jsonl", line, edited)
    where, detail = f"purchases.jsonl line {line}", "was changed: the line after it names another hash"
    assert findings(audit_of(kept)) == [("ledger", where, detail)]


def test_a_changed_last_line_is_known_by_the_view(kept):
    damage(kept.folder / "purchases.jsonl", 5, edited)
    (found,) = findings(audit_of(kept))
    assert found[:2] == ("ledger", "purchases.jsonl")
    assert found[2].startswith("number 5 is not the line that licenses.json was made from")


@pytest.mark.parametrize("line", [2, 3, 4])
def test_a_line_whose_link_was_changed_is_named(kept, line):
    damage(kept.folder / "purchases.jsonl", line, lambda text: text.replace(b'"prev":"', b'"prev":"00', 1))
    assert [found[1] for found in findings(audit_of(kept))] == [f"purchases.jsonl line {line}"]


@pytest.mark.parametrize("line", [1, 2, 4])
def test_a_line_of_garbage_is_named(kept, line):
    damage(kept.folder / "purchases.jsonl", line, lambda text: text[:60] + b"\x00\xff" + text[62:])
    where, detail = f"purchases.jsonl line {line}", "cannot be read: it was damaged or changed"
    assert findings(audit_of(kept)) == [("ledger", where, detail)]


def test_every_damaged_line_is_named(kept):
    for line in (2, 4):
        damage(kept.folder / "purchases.jsonl", line, lambda text: text[:-5])
    damage(kept.folder / "activity.jsonl", 3, lambda text: text.replace(b"hw3", b"hwX"))
    assert [found[:2] for found in findings(audit_of(kept))] == [
        ("ledger", "purchases.jsonl line 2"),
        ("ledger", "purchases.jsonl line 4"),
        ("devices", "activity.jsonl line 3"),
    ]


def test_a_line_that_was_taken_out_is_missed(kept):
    path = kept.folder / "purchases.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    (found,) = findings(audit_of(kept))
    assert found[1:] == ("purchases.jsonl line 3", "1 before it missing: it is number 4, after number 2")


def test_lines_in_another_order_are_noticed(kept):
    path = kept.folder / "purchases.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))
    assert "purchases.jsonl line 2" in [found[1] for found in findings(audit_of(kept))]


def test_a_number_that_was_left_out_is_missed_even_where_the_hashes_fit(kept):
    path = kept.folder / "purchases.jsonl"
    last = path.read_bytes().splitlines()[-1]
    forged = json.loads(last) | {"seq": 9, "prev": hashlib.sha256(last).hexdigest(), "event_id": "e9"}
    path.write_bytes(path.read_bytes() + json.dumps(forged, separators=(",", ":")).encode() + b"\n")
    (found,) = findings(audit_of(kept))
    assert found[1:] == ("purchases.jsonl line 6", "3 before it missing: it is number 9, after number 5")


def test_an_end_that_was_cut_off_is_missed(kept):
    path = kept.folder / "purchases.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    detail = "ends with number 3, but licenses.json was made from 5: its end was cut off"
    assert findings(audit_of(kept)) == [("ledger", "purchases.jsonl", detail)]


def test_a_damaged_last_line_is_no_torn_one(kept):
    damage(kept.folder / "purchases.jsonl", 5, lambda text: text[:50] + b"\xff" + text[51:])
    assert ("ledger", "purchases.jsonl line 5") in [found[:2] for found in findings(audit_of(kept))]


def test_torn_tails_are_told_as_sealed_and_not_as_damage(kept):
    path = kept.folder / "purchases.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"seq":6,"timest')
    assert findings(audit_of(kept)) == []
    assert notes(audit_of(kept)) == [("ledger", "purchases.jsonl line 6")]
    kept.sale("s6")
    (note,) = (found for found in audit_of(kept).verify() if found.is_note)
    assert note.detail == "an unfinished line of a writer that was killed; it is sealed and counts nothing"
    assert findings(audit_of(kept)) == []


def test_a_line_that_lacked_only_its_newline_is_sealed_as_well(shop):
    """Nobody was promised it, so its event may come again: it must never count, and never read as damage."""
    shop.sale("s1")
    shop.sale("s2")
    path = shop.folder / "purchases.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    (shop.folder / "licenses.json").unlink()
    again = type(shop)(shop.folder, shop.clock)
    again.sale("s2")
    again.sale("s3")
    assert len(again.licenses()) == 3
    assert findings(audit_of(shop)) == []
    assert notes(audit_of(shop)) == [("ledger", "purchases.jsonl line 2")]


def test_a_record_that_was_changed_by_hand_is_named(kept):
    path = kept.folder / "licenses.json"
    key = kept.ledger()[2]["license_keys"][0]
    lines = path.read_text().split("\n")
    place = next(number for number, line in enumerate(lines) if key in line)
    lines[place] = lines[place].replace('"ann@example.com"', '"eve@example.com"').replace('"hw3"', "null")
    path.write_text("\n".join(lines))
    first, second = findings(audit_of(kept))
    assert first == ("view", "licenses.json", "its checksum does not match: it was damaged, or changed by hand")
    assert second == (
        "view",
        f"licenses.json {key}",
        'email is "eve@example.com", the logs say "ann@example.com"; hardware_id is null, the logs say "hw3"',
    )


def test_records_too_many_and_too_few_are_named(kept):
    path = kept.folder / "licenses.json"
    keys = [line["license_keys"][0] for line in kept.ledger()]
    path.write_text(path.read_text().replace(keys[0], "STOLEN-KEY"))
    told = findings(audit_of(kept))
    assert ("view", f"licenses.json {keys[0]}", "is missing, though the ledger issued it") in told
    assert ("unknown", "licenses.json STOLEN-KEY", "no line of the ledger issued this key") in told


@pytest.mark.parametrize("text", ["", "{", '{"format": 1}', "[]"])
def test_a_view_that_is_none_is_a_finding(kept, text):
    (kept.folder / "licenses.json").write_text(text)
    assert ("view", "licenses.json") in [found[:2] for found in findings(audit_of(kept))]


def test_a_missing_view_is_only_a_note(kept):
    (kept.folder / "licenses.json").unlink()
    assert findings(audit_of(kept)) == []
    assert notes(audit_of(kept)) == [("view", "licenses.json")]


def test_a_view_that_lags_behind_is_compared_with_what_it_has_seen(kept):
    kept.refund("s1")
    kept.sale("s9")
    kept.ask("deactivate", license_key=kept.ledger()[1]["license_keys"][0], hardware_id="hw2")
    assert findings(audit_of(kept)) == []


def test_a_purchase_whose_lines_were_apart_at_first_is_folded_whole(shop, clock):
    """The refund and the renewal came before the sale that links them."""
    more = {"product": "G-TEAM==", "recurrence": "monthly"}
    shop.refund("s1")
    renewal = {"is_recurring_charge": "true", "sale_timestamp": "2026-12-05T19:38:56Z"}
    shop.ping(sale_ping("s2", "ann@example.com", subscription_id="sub", **more, **renewal))
    shop.sale("s1", subscription_id="sub", **more)
    assert [record["inactive_reason"] for record in shop.licenses().values()] == ["refunded"]
    assert list(audit_of(shop).verify()) == []


def test_usage_is_no_matter_for_the_books(kept):
    kept.code(kept.ledger()[0]["license_keys"][0])
    kept.services.store.tidy(force=True)
    assert findings(audit_of(kept)) == []


def test_large_books_are_folded_in_parts(kept, monkeypatch):
    monkeypatch.setattr(grouping, "_PART", 2)
    assert list(audit_of(kept).verify()) == []
    kept.sale("s6")
    kept.services.store.tidy(force=True)
    path = kept.folder / "licenses.json"
    path.write_text(path.read_text().replace('"hw2"', '"hwX"').replace('"hw4"', '"hwX"'))
    assert [found[0] for found in findings(audit_of(kept))] == ["view", "view", "view"]


def test_two_licenses_for_one_sale_are_found(books):
    for number, key in enumerate(("KEY-1", "KEY-2")):
        grant = Grant(product_id="wave", license_key=key)
        books.add("sale", "s1", event_id=f"e{number}", grants=(grant,), license_keys=(key,))
    (found,) = findings(books.audit)
    assert found == (
        "double",
        "purchases.jsonl number 2 (gumroad s1)",
        "2 licenses of wave for one sale: KEY-1, KEY-2",
    )


def test_sales_that_wait_are_notes(shop):
    shop.ping(sale_ping("u1", "ann@example.com", "UNKNOWN"))
    assert findings(audit_of(shop)) == []
    assert ("unmapped", "purchases.jsonl number 1 (gumroad u1)") in notes(audit_of(shop))


def test_progress_reaches_its_end(kept):
    told = []
    PurchaseAuditLog(FlatFileStore(kept.folder)).verify(lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    assert SECRET not in str(told)
