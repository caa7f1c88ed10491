"""Licenses of other systems become ledger lines: as they were, once, without a letter, and a rebuild keeps them."""

from __future__ import annotations

import json

import pytest

from server.errors import BadRequest, StorageUnavailable
from server.services.importer import Importer
from server.services.legacy import read_old_books
from server.storage.flatfile import _FileTransaction
from tests.conftest import CATALOGUE, sale_ping

HEADING = (
    "license_key,email,customer_name,product_id,expiry_date,max_devices,hardware_id,device_name,created_date,"
    "purchase_source,purchase_id,is_active"
)


@pytest.fixture
def importing(shop, tmp_path):
    return Importing(shop, tmp_path / "old")


class Importing:
    """An old system's files, and their import into a shop."""

    def __init__(self, shop, folder):
        self.shop, self.folder = shop, folder
        folder.mkdir()
        services = shop.services
        self.importer = Importer(services.store, services.catalogue, services.fulfilment, services.clock)

    def csv(self, *rows, heading=HEADING):
        path = self.folder / "old.csv"
        path.write_text("\n".join([heading, *rows]), encoding="utf-8")
        return self.run(path)

    def two_files(self, licenses, purchases=()):
        (self.folder / "licenses.json").write_text(json.dumps(licenses))
        (self.folder / "purchases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in purchases))
        return self.run(self.folder)

    def run(self, path, product=None):
        self.plan = self.importer.plan(read_old_books(path), product)
        return self.importer.run(self.plan)

    @property
    def events(self):
        return [(line["event"], line["event_id"], line["outcome"]) for line in self.shop.ledger()]


def record(**more):
    """The eleven fields of the older licenses.json."""
    return {
        "email": "ann@example.com",
        "customer_name": "Ann",
        "created_date": "2024-01-05T10:00:00Z",
        "expiry_date": None,
        "is_active": True,
        "hardware_id": None,
        "device_name": None,
        "last_validation": None,
        "validation_count": 0,
        "purchase_source": "gumroad",
        "purchase_id": "G1",
    } | more


def sale(**more):
    return {
        "event": "sale",
        "source": "gumroad",
        "sale_id": "G1",
        "license_key": "OLD-1",
        "email": "ann@example.com",
        "price": 29.99,
        "currency": "USD",
        "product_name": "Wave",
        "timestamp": "2024-01-05T10:00:00",
    } | more


# ---------------------------------------------------------------------------------------------------- as they were
def test_a_csv_row_becomes_a_license_and_a_ledger_line(importing):
    assert importing.csv("OLD-1,ann@example.com,Ann,team,2027-01-05,3,hw1,Mac,2024-01-05,gumroad,G1,true") == 1
    shop = importing.shop
    assert shop.licenses()["OLD-1"] == {
        "email": "ann@example.com",
        "customer_name": "Ann",
        "created_date": "2024-01-05T00:00:00Z",
        "expiry_date": "2027-01-05T00:00:00Z",
        "is_active": True,
        "hardware_id": "hw1",
        "device_name": "Mac",
        "last_validation": None,
        "validation_count": 0,
        "purchase_source": "gumroad",
        "purchase_id": "G1",
        "product_id": "team",
        "max_devices": 3,
    }
    (line,) = shop.ledger()
    assert (line["event"], line["event_id"], line["source"], line["sale_id"]) == (
        "owner_import",
        "import:OLD-1",
        "gumroad",
        "G1",
    )
    assert (line["license_keys"], line["product_id"], line["tier"]) == (["OLD-1"], "team", "elite")
    assert line["purchase_date"] == "2024-01-05T00:00:00Z"
    assert shop.code("OLD-1", hardware_id="hw1") == "VALID"


def test_a_plain_record_keeps_its_eleven_fields_and_no_more(importing):
    old = record(hardware_id="hw1", device_name="Mac", validation_count=7, last_validation="2026-11-01T09:00:00Z")
    assert importing.two_files({"OLD-1": old}) == 1
    assert importing.shop.licenses() == {"OLD-1": old}
    assert importing.plan.warnings == ["1 license(s) name no product"]


@pytest.mark.parametrize("key", ["a", "MIXED case 0O1lI", "ключ-42", "x" * 128, '{"json": "\\u20ac"}', "=1+1", "lic_1"])
def test_keys_of_any_shape_stay_as_they_are(importing, key):
    importing.two_files({key: record()})
    assert list(importing.shop.licenses()) == [key]
    assert importing.shop.code(key) == "VALID"


def test_a_rebuild_keeps_licenses_devices_and_states(importing):
    importing.csv(
        "OLD-1,ann@example.com,Ann,team,2027-01-05,3,hw1,Mac,2024-01-05,gumroad,G1,true",
        "OLD-2,bob@example.com,Bob,wave,,1,hw2,PC,2024-01-05,gumroad,G2,false",
    )
    before = importing.shop.licenses()
    assert importing.shop.services.store.rebuild() == 2
    assert importing.shop.licenses() == before
    assert list(importing.shop.services.audit.verify()) == []


def test_a_product_gives_what_a_csv_leaves_open(importing):
    importing.csv("OLD-1,ann@example.com,Ann,team,,,,,,,,")
    made = importing.shop.licenses()["OLD-1"]
    assert (made["max_devices"], made["purchase_source"], made["created_date"], made["expiry_date"]) == (
        2,
        "import",
        "2026-11-20T12:00:00Z",
        None,
    )


def test_the_product_of_a_sale_is_found_by_name_by_platform_or_as_the_owner_says(importing):
    licenses = {f"OLD-{n}": record(purchase_id=f"G{n}") for n in (1, 2, 3)}
    purchases = [
        sale(),
        sale(sale_id="G2", license_key="OLD-2", product_name="Renamed", product_id="G-TEAM=="),
        sale(sale_id="G3", license_key="OLD-3", product_name="Renamed", product_id="gone"),
    ]
    (importing.folder / "licenses.json").write_text(json.dumps(licenses))
    (importing.folder / "purchases.jsonl").write_text("\n".join(map(json.dumps, purchases)))
    importing.run(importing.folder, product="solo")
    found = importing.shop.licenses()
    assert [found[key]["product_id"] for key in licenses] == ["wave", "team", "solo"]
    assert importing.plan.warnings == []


def test_our_own_view_of_another_server_can_be_imported(importing):
    old = record(product_id="team", max_devices=2, hardware_id="hw1", device_name="Mac")
    further = {"devices": [{"hardware_id": "hw2", "device_name": None, "bound_at": "2025-01-01T00:00:00Z"}]}
    importing.two_files({"format": 1, "licenses": {"OLD-1": old | further}, "books": {}})
    seats = importing.shop.licenses()["OLD-1"]
    assert (seats["hardware_id"], [device["hardware_id"] for device in seats["devices"]]) == ("hw1", ["hw2"])


# ---------------------------------------------------------------------------------------------------- the older ledger
def test_revenue_comes_with_the_older_ledger(importing):
    importing.two_files(
        {"OLD-1": record()},
        [
            sale(),
            sale(event="renewal", sale_id="G1b", price="10", timestamp="2025-01-05T10:00:00Z"),
            sale(event="renewal", sale_id="G1c", price=10, timestamp="2026-01-05T10:00:00Z", is_refunded=True),
            sale(sale_id="G9", license_key="SOLD-AND-GONE"),
            sale(event="password_reset"),
            sale(price="a lot"),
        ],
    )
    stats = importing.shop.services.audit.get_purchase_stats()
    assert (stats["total_purchases"], stats["gross_revenue"], stats["total_revenue"]) == (
        3,
        {"usd": "49.99"},
        {"usd": "39.99"},
    )
    assert importing.shop.licenses()["OLD-1"] == record(product_id="wave")
    assert importing.plan.warnings == [
        "purchases.jsonl: left out 1 line(s), the first is line 5: event: 'password_reset' says nothing about money",
        "purchases.jsonl: left out 1 line(s), the first is line 6: price: 'a lot' is no amount",
        "purchases.jsonl: left out 1 line(s) of sales whose license is not among these",
    ]


def test_a_purchase_of_two_keys_is_paid_once(importing):
    licenses = {"OLD-1": record(expiry_date="2027-01-01T00:00:00Z"), "OLD-2": record(max_devices=5)}
    importing.two_files(licenses, [sale(license_keys=["OLD-1", "OLD-2"])])
    assert importing.shop.services.audit.get_purchase_stats()["gross_revenue"] == {"usd": "29.99"}
    found = importing.shop.licenses()
    assert (found["OLD-1"]["expiry_date"], found["OLD-1"].get("max_devices", 1)) == ("2027-01-01T00:00:00Z", 1)
    assert (found["OLD-2"]["expiry_date"], found["OLD-2"]["max_devices"]) == (None, 5)
    assert (found["OLD-1"]["product_id"], found["OLD-2"]["product_id"]) == ("wave", "wave")


def test_an_older_charge_changes_neither_date_nor_sale_of_the_license(importing):
    old = record(created_date="2025-06-01T00:00:00Z", purchase_id="G5")
    importing.two_files({"OLD-1": old}, [sale(sale_id="G4"), sale(sale_id="G5", timestamp="2025-06-01T00:00:00Z")])
    assert importing.shop.licenses()["OLD-1"] == old | {"product_id": "wave"}
    assert importing.shop.services.audit.get_purchase_stats()["gross_revenue"] == {"usd": "59.98"}


def test_a_renewal_finds_an_imported_subscription(importing):
    old = record(expiry_date="2026-12-05T00:00:00Z", product_id="team")
    importing.two_files({"OLD-1": old}, [sale(subscription_id="sub-1")])
    renewal = {"is_recurring_charge": "true", "subscription_id": "sub-1", "recurrence": "monthly"}
    when = "2026-12-05T00:00:00Z"
    told = importing.shop.ping(sale_ping("G2", "ann@example.com", "G-TEAM==", sale_timestamp=when, **renewal))
    assert (told["outcome"], told["license_keys"]) == ("extended", ["OLD-1"])
    assert importing.shop.licenses()["OLD-1"]["expiry_date"] == "2027-01-05T00:00:00Z"


def test_later_webhooks_find_an_imported_purchase(importing):
    importing.two_files({"OLD-1": record()}, [sale()])
    shop = importing.shop
    assert shop.sale("G1") == "OLD-1"
    assert shop.refund("G1")["license_keys"] == ["OLD-1"]
    assert shop.code("OLD-1") == "SUSPENDED"


# ---------------------------------------------------------------------------------------------------- what is inactive
@pytest.mark.parametrize(
    ("reason", "event", "code"),
    [
        ("", "owner_suspend", "SUSPENDED"),
        ("suspended", "owner_suspend", "SUSPENDED"),
        ("disputed", "owner_suspend", "SUSPENDED"),
        ("revoked", "owner_revoke", "BANNED"),
        ("refunded", "refund", "SUSPENDED"),
        ("chargeback", "dispute_lost", "BANNED"),
        ("payment_failed", "payment_failed", "SUSPENDED"),
        ("ended", "subscription_ended", "EXPIRED"),
    ],
)
def test_an_inactive_license_stays_so_for_its_reason(importing, reason, event, code):
    row = f"OLD-1,ann@example.com,Ann,wave,,1,,,2024-01-05,gumroad,G1,false,{reason}"
    importing.csv(row, heading=HEADING + ",inactive_reason")
    shop = importing.shop
    kept = "suspended" if reason in ("", "disputed") else reason
    assert shop.licenses()["OLD-1"]["inactive_reason"] == kept
    assert sorted(line["event"] for line in shop.ledger()) == sorted(["owner_import", event])
    assert shop.code("OLD-1") == code
    shop.owner("POST", "/licenses/OLD-1/reinstate")
    assert shop.code("OLD-1") == "VALID"


def test_a_refund_of_the_older_ledger_is_the_reason(importing):
    importing.two_files({"OLD-1": record(is_active=False)}, [sale(), sale(event="refund")])
    shop = importing.shop
    assert shop.licenses()["OLD-1"]["inactive_reason"] == "refunded"
    assert [row["sale_id"] for row in shop.services.audit.get_refunded_purchases()] == ["G1"]
    assert shop.services.audit.get_purchase_stats()["total_revenue"] == {"usd": "0.00"}


def test_a_license_that_was_active_stays_active_whatever_was_refunded(importing):
    importing.two_files({"OLD-1": record()}, [sale(), sale(event="refund")])
    assert importing.shop.code("OLD-1") == "VALID"
    assert importing.shop.services.audit.get_purchase_stats()["total_revenue"] == {"usd": "0.00"}


def test_one_of_two_licenses_of_a_sale_may_be_inactive(importing):
    importing.two_files({"OLD-1": record(), "OLD-2": record(is_active=False)}, [sale(license_keys=["OLD-1", "OLD-2"])])
    assert (importing.shop.code("OLD-1"), importing.shop.code("OLD-2")) == ("VALID", "SUSPENDED")


@pytest.mark.parametrize("reason", ["refunded", "chargeback", "ended"])
def test_what_stopped_one_license_of_a_sale_does_not_stop_the_other(importing, reason):
    licenses = {"OLD-1": record(), "OLD-2": record(is_active=False, inactive_reason=reason)}
    importing.two_files(licenses)
    assert (importing.shop.code("OLD-1"), importing.shop.code("OLD-2")) == ("VALID", "SUSPENDED")


def test_an_import_owes_no_letter(importing):
    importing.two_files(
        {
            "OLD-1": record(is_active=False),
            "OLD-2": record(purchase_id="G2", is_active=False, inactive_reason="payment_failed"),
            "OLD-3": record(purchase_id="G3"),
        },
        [sale(), sale(event="refund"), sale(event="chargeback", sale_id="G3", license_key="OLD-3")],
    )
    outbox = importing.shop.services.outbox
    outbox.send_due()
    assert list(outbox.list()) == []


# ---------------------------------------------------------------------------------------------------- again and again
def test_a_second_import_writes_nothing(importing):
    files = (
        {
            "OLD-1": record(
                is_active=False, hardware_id="hw1", validation_count=3, last_validation="2026-01-01T00:00:00Z"
            ),
            "OLD-2": record(purchase_id="G2", is_active=False),
        },
        [sale(), sale(event="refund"), sale(event="renewal", sale_id="G1b")],
    )
    assert importing.two_files(*files) == 2
    before, lines = importing.shop.licenses(), importing.shop.ledger()
    activity = (importing.shop.folder / "activity.jsonl").read_bytes()
    importing.shop.clock.forward(days=3)
    assert importing.two_files(*files) == 0
    assert (importing.plan.new, importing.plan.known) == (0, 2)
    assert importing.shop.ledger() == lines
    assert importing.shop.licenses() == before
    assert (importing.shop.folder / "activity.jsonl").read_bytes() == activity
    assert len(lines) == 5


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
def test_an_import_that_was_cut_short_is_finished_by_the_next(importing, monkeypatch, fails_at):
    files = (
        {"OLD-1": record(is_active=False, hardware_id="hw1"), "OLD-2": record(purchase_id="G2", is_active=False)},
        [sale(), sale(event="refund")],
    )
    calls = []

    def failing(name):
        real = getattr(_FileTransaction, name)

        def verb(self, lines):
            calls.append(name)
            if len(calls) == fails_at:
                raise StorageUnavailable("the disk is full")
            real(self, lines)

        return verb

    with monkeypatch.context() as broken:
        for name in ("append", "append_devices"):
            broken.setattr(_FileTransaction, name, failing(name))
        with pytest.raises(StorageUnavailable):
            importing.two_files(*files)
    importing.two_files(*files)
    found = importing.shop.licenses()
    assert (found["OLD-1"]["inactive_reason"], found["OLD-1"]["hardware_id"]) == ("refunded", "hw1")
    assert found["OLD-2"]["inactive_reason"] == "suspended"
    events = importing.events
    assert len(events) == len({event_id for _, event_id, _ in events}) == 4


def test_a_purchase_that_came_by_a_webhook_meanwhile_is_left_alone(importing):
    key = importing.shop.sale("G1")
    assert importing.csv(f"{key},ann@example.com,Ann,wave,,1,,,2024-01-05,gumroad,G1,false") == 0
    assert (importing.plan.known, importing.plan.refused) == (1, [])
    assert importing.shop.code(key) == "VALID"


def test_a_key_of_another_purchase_is_refused_with_its_row(importing):
    key = importing.shop.sale("s1")
    importing.csv(
        "OLD-1,ann@example.com,Ann,wave,,1,,,2024-01-05,gumroad,G1,true",
        f"{key},eve@example.com,Eve,wave,,1,,,2024-01-05,gumroad,G2,true",
    )
    assert importing.plan.refused == [("row 3", "license_key: belongs to another purchase already (gumroad s1)")]
    assert importing.shop.licenses()[key]["email"] == "ann@example.com"


# ---------------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("row", "why"),
    [
        (",a@b.de,,,,,,,,,,", "license_key: is missing"),
        (f"{'x' * 129},a@b.de,,,,,,,,,,", "license_key: is longer than 128 characters"),
        ("K\x07,a@b.de,,,,,,,,,,", "license_key: holds characters that cannot be printed"),
        (
            "K,a@b.de,,,31.12.2026,,,,,,,",
            "expiry_date: '31.12.2026' is no date such as 2026-11-20 or 2026-11-20T12:00:00Z",
        ),
        ("K,a@b.de,,,,0,,,,,,", "max_devices: '0' is no whole number from 1 to 100000"),
        ("K,a@b.de,,,,many,,,,,,", "max_devices: 'many' is no whole number from 1 to 100000"),
        ("K,a@b.de,,,,,,,,,,maybe", "is_active: 'maybe' is neither true nor false"),
        ("K,a@b.de,,,,,,,,,,true,more", "has more cells than the heading"),
        (f"K,{'a' * 250}@b.de,,,,,,,,,,", "email: is longer than 254 characters"),
        ("GOOD,a@b.de,,,,,,,,,,", "license_key: stands in row 2 already"),
    ],
)
def test_bad_rows_are_told_with_their_number(importing, row, why):
    path = importing.folder / "old.csv"
    path.write_text(f"{HEADING}\nGOOD,a@b.de,,,,,,,,,,\n{row}\n")
    books = read_old_books(path)
    assert books.refused == [("row 3", why)]
    assert [license.license_key for license in books.licenses] == ["GOOD"]


def test_a_json_file_of_something_else_is_refused(importing):
    path = importing.folder / "licenses.json"
    path.write_text('{"debug": true, "users": {"ann": 1}}')
    assert read_old_books(path).refused == [
        ("license 1", "email: is missing"),
        ("license 2", "email: is missing"),
    ]


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff\xfe", b'{"a": ' * 100_000])
def test_a_file_that_cannot_be_read_is_refused_as_a_whole(importing, content):
    path = importing.folder / "licenses.json"
    path.write_bytes(content)
    with pytest.raises(BadRequest, match=r"licenses\.json"):
        read_old_books(path)


def test_a_csv_needs_its_heading(importing):
    with pytest.raises(BadRequest, match="license_key"):
        importing.csv("OLD-1,ann@example.com", heading="key,mail")


def test_semicolons_a_byte_order_mark_and_unknown_columns(importing):
    path = importing.folder / "excel.csv"
    path.write_text("\ufefflicense_key;email;Colour\r\nOLD-1;ann@example.com;red\r\n", encoding="utf-8")
    books = read_old_books(path)
    assert [license.license_key for license in books.licenses] == ["OLD-1"]
    assert books.warnings == ["excel.csv: the columns Colour were not understood and are left out"]


def test_a_default_product_does_not_stand_in_for_the_one_that_is_named(shop, tmp_path):
    shop.write_catalogue(CATALOGUE | {"default_product": "solo"})
    importing = Importing(shop, tmp_path / "old")
    importing.csv("OLD-1,a@b.de,A,team,,,,,,,,", "OLD-2,a@b.de,A,,,,,,,,,")
    assert [line["product_id"] for line in shop.ledger()] == ["team", "solo"]
    assert shop.licenses()["OLD-1"]["product_id"] == "team"


def test_a_held_up_import_lets_sales_through(importing, monkeypatch):
    """The folder is locked for one batch at a time."""
    monkeypatch.setattr("server.services.importer.BATCH", 2)
    rows = [f"OLD-{n},a@b.de,A,wave,,1,,,2024-01-05,gumroad,G{n},true" for n in range(5)]
    sold = []

    def sell(done, total):
        sold.append((done, total, importing.shop.ping(sale_ping(f"s{done}", "ann@example.com"))["outcome"]))

    path = importing.folder / "old.csv"
    path.write_text("\n".join([HEADING, *rows]))
    importing.importer.run(importing.importer.plan(read_old_books(path)), sell)
    assert sold == [(2, 5, "issued"), (4, 5, "issued"), (5, 5, "issued")]
