"""Reconciliation: what it finds, what it does not, what it repairs, and what it must never do.

Sales come in by webhooks, the record by the stand-ins' APIs or from a file, as it would for an owner.
"""

from __future__ import annotations

import copy
import csv
import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from server.domain.purchase import PurchaseEvent
from server.errors import PlatformUnreachable
from server.platforms import PLATFORMS
from server.services import reconcile, record
from server.services.backlog import Backlog
from server.services.importer import Importer
from server.services.inquiries import Inquiries
from server.services.legacy import read_old_books
from server.services.letters import SUSPICIOUS
from server.services.reconcile import Drift, Kind, Reconciliation
from server.services.repair import Repair
from server.services.statement import Statement
from server.services.statement_file import read_statement_file
from tests.conftest import CATALOGUE, NOW, Clock, Shop, sale_ping, subscription_ping
from tests.standins.gumroad_api import TOKEN, WHEN, GumroadApi, sale
from tests.standins.http import Json
from tests.standins.stripe_api import StripeApi, charge, dispute, invoice, invoice_payment, line_item, refund, session
from tests.standins.stripe_objects import MONTH
from tests.standins.stripe_objects import WHEN as THEN
from tests.stripe_shop import StripeShop, first_invoice, later_invoice, lines, payment_of, team, wave
from tests.tills import JVZooTill, shop_of_three

SINCE = datetime(2026, 11, 1, tzinfo=UTC)
SUB = {"subscription_id": "sub", "recurrence": "monthly"}
RENEWED = SUB | {"is_recurring_charge": "true", "sale_timestamp": "2026-11-19T19:38:56Z"}
RENEWED_AT = datetime(2026, 11, 19, 19, 38, 56, tzinfo=UTC)

Found = list[tuple[Kind, str | None, str]]


class Owner:
    """Who reconciles a shop with a platform's record."""

    def __init__(self, shop: Shop, platform: str, since: datetime = SINCE) -> None:
        self.shop, self.platform, self.since = shop, platform, since
        ours, self.slept = shop.services, list[float]()
        self.books = Reconciliation(ours.store, ours.fulfilment, ours.inquiries, ours.clock, self.slept.append)

    def record(self) -> Sequence[PurchaseEvent]:
        ours = self.shop.services
        statement = Statement(ours.platforms[self.platform], self.shop.folder, ours.clock, self.slept.append)
        events = statement.read(self.since - timedelta(days=3))
        statement.forget()
        return events

    def compare(self) -> list[Drift]:
        return self.books.compare(self.platform, self.record(), self.since)

    def sees(self) -> Found:
        """What a dry run finds. It writes nothing."""
        before = self.shop.ledger()
        found = [(drift.kind, drift.sale_id, drift.field) for drift in self.compare()]
        assert self.shop.ledger() == before
        return found

    def mends(self) -> Found:
        """What is left after a repair, which a second one does not change."""
        self.books.repair(self.compare())
        once = self.shop.ledger()
        left = self.compare()
        self.books.repair(left)
        assert self.shop.ledger() == once
        self.shop.services.store.rebuild()
        return [(drift.kind, drift.sale_id, drift.field) for drift in left]


class FileOwner(Owner):
    def __init__(self, shop: Shop, platform: str, rows: list[Json], until: datetime | None = None) -> None:
        super().__init__(shop, platform)
        self.rows, self.until = rows, until

    def compare(self) -> list[Drift]:
        path = self.shop.folder.parent / "record.json"
        path.write_text(json.dumps(self.rows))
        read = read_statement_file(path, PLATFORMS[self.platform])
        silent = read.without_quantity
        return self.books.compare(self.platform, read.events, self.since, self.until, without_quantity=silent)


class Trusting(Shop):
    """It lost its token for the webhooks of a test, so that it believes what they say, and has it to reconcile."""

    def __init__(self, folder: Path, clock: Clock, api: GumroadApi, **more: Any) -> None:
        given: dict[str, Any] = {"gumroad_access_token": TOKEN, "gumroad_api_base": api.url}
        super().__init__(folder, clock, **(given | more))

    def post(self, fields: dict[str, Any], secret: str | None = None) -> Any:
        gumroad: Any = self.services.platforms["gumroad"]
        api, gumroad._api = gumroad._api, None
        try:
            return super().post(fields)
        finally:
            gumroad._api = api

    def letters(self) -> list[tuple[str, str]]:
        self.services.outbox.send_due()
        return [(letter.kind, letter.to) for letter in self.services.outbox.list("sent") if letter.kind != "inquiry"]

    @property
    def record(self) -> dict[str, Any]:
        (found,) = self.licenses().values()
        return found


@pytest.fixture
def api():
    with GumroadApi() as standin:
        yield standin


@pytest.fixture
def shop(tmp_path, clock, api) -> Trusting:
    return Trusting(tmp_path / "data", clock, api)


@pytest.fixture
def owner(shop) -> Owner:
    return Owner(shop, "gumroad")


def team_sale(id: str = "s1", **more: Any) -> Json:
    return sale(id, product_id="G-TEAM==", subscription_id="sub", **more)


# ---------------------------------------------------------------------------------------------------- paid, no license
def test_a_lost_sale_is_found_and_repaired_as_its_webhook_would_have_been(shop, api, owner, tmp_path, clock):
    api.add(sale("s1==", quantity=3))
    assert owner.sees() == [(Kind.NO_LICENSE, "s1==", "")]
    assert owner.mends() == []
    assert shop.letters() == [("delivery", "ann@example.com")]
    other = Shop(tmp_path / "other", clock)
    key = other.sale("s1==", "ann@example.com", quantity=3)
    assert shop.licenses() == other.licenses()
    assert shop.code(key) == "VALID"


def test_a_webhook_that_comes_late_is_a_duplicate(shop, api, owner):
    api.add(sale("s1", refunded=True), sale("s2", disputed=True, chargedback=True))
    owner.mends()
    once = shop.ledger()
    told = shop.ping(sale_ping("s1", "ann@example.com"))
    assert (told["outcome"], len(told["license_keys"])) == ("revoked", 1)
    shop.refund("s1")
    shop.sale("s2")
    shop.ping(sale_ping("s2", "ann@example.com", resource="dispute", disputed="true"))
    assert shop.ledger() == once


def test_a_webhook_that_came_between_looking_and_repairing_is_not_told_twice(shop, api, owner):
    api.add(sale("s1", refunded=True))
    drifts = owner.compare()
    shop.sale("s1")
    shop.refund("s1")
    once = shop.ledger()
    owner.books.repair(drifts)
    assert shop.ledger() == once


def test_a_sale_that_was_refunded_long_ago_gets_its_license_but_no_letter(shop, api, owner):
    api.add(sale("s1", refunded=True))
    assert owner.sees() == [(Kind.NO_LICENSE, "s1", ""), (Kind.UNRECORDED, "s1", "")]
    assert owner.mends() == []
    assert (shop.record["is_active"], shop.record["inactive_reason"]) == (False, "refunded")
    assert shop.letters() == []


def test_lost_renewals_are_found_and_extend_the_license(shop, api, owner):
    key = shop.sale("s1", product="G-TEAM==", **SUB)
    api.add(team_sale(), team_sale("s2", recurring_charge=True, created_at=RENEWED_AT))
    assert owner.sees() == [(Kind.UNRECORDED, "s2", "")]
    assert owner.mends() == []
    assert shop.licenses()[key]["expiry_date"] == "2026-12-19T19:38:56Z"


def test_a_whole_subscription_that_was_lost_is_one_license(shop, api, owner):
    api.add(team_sale(), team_sale("s2", recurring_charge=True, created_at=RENEWED_AT))
    assert owner.sees() == [(Kind.NO_LICENSE, "s1", ""), (Kind.UNRECORDED, "s2", "")]
    assert owner.mends() == []
    assert shop.record["expiry_date"] == "2026-12-19T19:38:56Z"
    assert shop.letters() == [("delivery", "ann@example.com"), ("renewal", "ann@example.com")]


def test_a_renewal_that_waits_for_its_lost_sale(shop, api, owner):
    shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", **RENEWED))
    api.add(team_sale(), team_sale("s2", recurring_charge=True, created_at=RENEWED_AT))
    assert owner.sees() == [(Kind.NO_LICENSE, "s1", "")]
    assert owner.mends() == []
    assert shop.record["expiry_date"] == "2026-12-19T19:38:56Z"
    assert [line["event_id"] for line in shop.ledger()] == ["s2:sale:false", "s1:sale:false"]


@pytest.mark.parametrize("is_heard_of", [True, False])
def test_a_renewal_whose_sale_is_older_is_only_told(shop, api, owner, is_heard_of):
    """To issue for it could be a second license: the first sale may have been another system's."""
    if is_heard_of:
        shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", **RENEWED))
    api.add(team_sale(created_at=WHEN - timedelta(days=60)))
    api.add(team_sale("s2", recurring_charge=True, created_at=RENEWED_AT))
    assert owner.sees() == owner.mends() == [(Kind.LONE, "s2", "")]
    assert shop.licenses() == {}
    owner.since -= timedelta(days=90)
    assert owner.mends() == []
    assert shop.record["is_active"]


def test_a_product_that_nobody_mapped_is_a_note(shop, api, owner):
    shop.ping(sale_ping("s1", "ann@example.com", "G-ELSE=="))
    later = WHEN + timedelta(hours=1)
    api.add(sale("s1", product_id="G-ELSE=="), sale("s2", product_id="G-ELSE==", refunded=True, created_at=later))
    assert owner.sees() == owner.mends() == [(Kind.UNMAPPED, "s1", ""), (Kind.UNMAPPED, "s2", "")]
    assert Kind.UNMAPPED in reconcile.NOTES
    catalogue = copy.deepcopy(CATALOGUE)
    catalogue["products"]["wave"]["platform_ids"]["gumroad"].append("G-ELSE==")
    shop.write_catalogue(catalogue)
    missing = [(Kind.NO_LICENSE, "s1", ""), (Kind.NO_LICENSE, "s2", ""), (Kind.UNRECORDED, "s2", "")]
    assert sorted(owner.sees()) == sorted(missing)
    assert owner.mends() == []
    assert sorted(record["is_active"] for record in shop.licenses().values()) == [False, True]
    assert [letter for letter in shop.letters() if letter[0] == "delivery"] == [("delivery", "ann@example.com")]


def test_a_product_may_be_mapped_by_its_permalink(shop, api, owner):
    """Of the names in a ping the API tells two."""
    catalogue = copy.deepcopy(CATALOGUE)
    catalogue["products"]["wave"]["platform_ids"]["gumroad"] = ["WAVE"]
    shop.write_catalogue(catalogue)
    api.add(sale("s1", product_permalink="WAVE"))
    assert owner.mends() == []
    assert shop.record["product_id"] == "wave"


def test_what_only_the_webhook_told_is_kept_when_a_sale_is_completed(shop, api, owner):
    """Its custom permalink stands in no list."""
    shop.ping(sale_ping("s1", "ann@example.com", "G-ELSE==", permalink="custom", full_name="Ann Lee", **SUB))
    catalogue = copy.deepcopy(CATALOGUE)
    catalogue["products"]["team"]["platform_ids"]["gumroad"] = ["custom"]
    shop.write_catalogue(catalogue)
    rows = [{"event": "sale", "sale_id": "s1", "product_id": "G-ELSE==", "email": "ann@example.com"}]
    assert FileOwner(shop, "gumroad", rows).mends() == []
    assert (shop.record["customer_name"], shop.record["expiry_date"]) == ("Ann Lee", "2026-12-05T19:38:56Z")


def test_a_sale_that_is_held_because_of_a_custom_field_is_issued_by_gumroads_word(shop, api, owner):
    shop.ping(sale_ping("s1", "thief@example.com", **{"custom_fields[email]": "thief@example.com"}))
    api.add(sale("s1", "ann@example.com"))
    assert owner.sees() == [(Kind.NO_LICENSE, "s1", "")]
    assert owner.mends() == []
    assert shop.record["email"] == "ann@example.com"


def test_before_the_first_day_only_what_is_known_is_compared(shop, api, owner):
    """A seller may have begun with Keyledger that day, with customers of an earlier system."""
    api.add(sale("old", created_at=SINCE - timedelta(hours=1), refunded=True), sale("s1", created_at=SINCE))
    assert owner.sees() == [(Kind.NO_LICENSE, "s1", "")]
    shop.sale("old", sale_timestamp="2026-10-31T23:00:00Z")
    assert owner.sees() == [(Kind.REFUNDED, "old", ""), (Kind.NO_LICENSE, "s1", "")]


# ---------------------------------------------------------------------------------------------------- read-back
def test_a_license_that_stayed_provisional_is_confirmed(shop, api, owner, clock):
    api.down()
    key = Shop.post(shop, sale_ping("s1", "ann@example.com")).json["license_keys"][0]
    clock.forward(days=2)
    assert shop.code(key) == "EXPIRED"
    api.up()
    api.add(sale("s1"))
    assert owner.sees() == [(Kind.PROVISIONAL, "s1", "")]
    assert owner.mends() == []
    assert (shop.code(key), shop.record["expiry_date"]) == ("VALID", None)


def test_what_is_provisional_and_altered_is_set_right(shop, api, owner, clock):
    api.down()
    Shop.post(shop, sale_ping("s1", "thief@example.com", quantity=500))
    clock.forward(hours=1)
    api.up()
    api.add(sale("s1"))
    owner.mends()
    assert (shop.record["email"], shop.record.get("max_devices", 1)) == ("ann@example.com", 1)
    assert (shop.record["is_active"], shop.record["expiry_date"]) == (True, None)


def test_a_renewal_that_stayed_provisional_because_its_sale_is_missing(tmp_path, clock, api):
    """Its sale is repaired and it is confirmed in one go; nothing is left for a second one."""
    api.down()
    shop = Shop(tmp_path / "data", clock, gumroad_access_token=TOKEN, gumroad_api_base=api.url)
    shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", **RENEWED))
    api.up()
    clock.forward(minutes=1)
    api.add(team_sale(), team_sale("s2", recurring_charge=True, created_at=RENEWED_AT))
    owner = Owner(shop, "gumroad")
    assert owner.sees() == [(Kind.NO_LICENSE, "s1", ""), (Kind.PROVISIONAL, "s2", "")]
    assert owner.mends() == []
    (record,) = shop.licenses().values()
    assert (record["is_active"], record["expiry_date"]) == (True, "2026-12-19T19:38:56Z")


def test_a_file_confirms_too_and_takes_no_seats(shop, api, clock):
    api.down()
    Shop.post(shop, sale_ping("s1", "ann@example.com", quantity=3))
    shop.services.platforms["gumroad"].confirms_sales = False
    rows = [{"event": "sale", "sale_id": "s1", "product_id": "G-WAVE=="}]
    assert FileOwner(shop, "gumroad", rows).mends() == []
    assert (shop.record["max_devices"], shop.record["expiry_date"]) == (3, None)


def test_a_sale_that_was_not_believed_is_when_it_is_in_the_record(shop, api, owner):
    Shop.post(shop, sale_ping("s1", "ann@example.com"))
    assert shop.licenses() == {}
    api.add(sale("s1"))
    assert owner.sees() == [(Kind.NO_LICENSE, "s1", "")]
    assert owner.mends() == []
    assert shop.record["is_active"]
    assert (SUSPICIOUS, "owner@shop.example") in shop.letters()


def test_a_license_that_was_withdrawn_too_early_comes_back(shop, api, owner, clock):
    api.down()
    key = Shop.post(shop, sale_ping("s1", "ann@example.com")).json["license_keys"][0]
    api.up()
    clock.forward(minutes=1)
    shop.services.outbox.send_due()
    clock.forward(minutes=1)
    shop.services.outbox.send_due()
    assert shop.code(key) == "BANNED"
    api.add(sale("s1"))
    assert owner.sees() == [(Kind.NO_LICENSE, "s1", "")]
    assert owner.mends() == []
    assert shop.code(key) == "VALID"


# ---------------------------------------------------------------------------------------------------- money back
@pytest.mark.parametrize(
    ("state", "kind", "reason"),
    [
        ({"refunded": True}, Kind.REFUNDED, "refunded"),
        ({"disputed": True, "chargedback": True}, Kind.DISPUTED, "disputed"),
        ({"chargedback": True}, Kind.DISPUTED, "disputed"),
    ],
)
def test_what_went_back_is_found_and_its_license_ends(shop, api, owner, state, kind, reason):
    key, other = shop.sale("s1"), shop.sale("s2")
    api.add(sale("s1", **state), sale("s2"))
    assert owner.sees() == [(kind, "s1", "")]
    assert owner.compare()[0].license_keys == (key,)
    assert owner.mends() == []
    assert shop.licenses()[key]["inactive_reason"] == reason
    assert shop.code(other) == "VALID"


def test_a_partial_refund_is_written_down_and_takes_nothing(shop, api, owner):
    key = shop.sale("s1")
    api.add(sale("s1", partially_refunded=True))
    assert owner.sees() == [(Kind.UNRECORDED, "s1", "")]
    assert owner.mends() == []
    assert shop.code(key) == "VALID"


def test_a_win_that_was_lost_gives_the_license_back(shop, api, owner):
    key = shop.sale("s1")
    shop.ping(sale_ping("s1", "ann@example.com", resource="dispute", disputed="true"))
    api.add(sale("s1", disputed=True, dispute_won=True))
    assert owner.sees() == [(Kind.UNRECORDED, "s1", "")]
    assert owner.mends() == []
    assert shop.code(key) == "VALID"


def test_the_refund_of_a_lost_renewal_takes_back_that_period_alone(shop, api, owner):
    key = shop.sale("s1", product="G-TEAM==", **SUB)
    api.add(team_sale(), team_sale("s2", recurring_charge=True, created_at=RENEWED_AT, refunded=True))
    assert owner.mends() == []
    assert (shop.code(key), shop.licenses()[key]["expiry_date"]) == ("VALID", "2026-12-05T19:38:56Z")


# ---------------------------------------------------------------------------------------------------- license, no money
def test_a_license_that_nobody_paid_for_is_only_told(shop, api, owner):
    key = shop.sale("forged")
    (found,) = owner.compare()
    assert (found.kind, found.sale_id, found.license_keys) == (Kind.UNPAID, "forged", (key,))
    assert found.ours == "sale 29.99 usd"
    assert owner.mends() == [(Kind.UNPAID, "forged", "")]
    assert shop.code(key) == "VALID"


def test_what_is_not_listed_but_known_is_paid(shop, api, owner):
    shop.sale("gift", price=0, is_gift_receiver_purchase="true")
    shop.sale("told otherwise", quantity=2)
    api.add(sale("gift", price=0, is_gift_receiver_purchase=True))
    api.add(sale("told otherwise", is_gift_receiver_purchase=True))
    assert owner.sees() == []
    assert len([path for path in api.asked if path.startswith("/v2/sales/")]) == 2


def test_a_gift_that_was_refunded_is_found_by_asking_for_it(shop, api, owner):
    """Gumroad neither lists what a receiver got nor tells of the giver's refund."""
    key = shop.sale("gift", price=0, is_gift_receiver_purchase="true")
    api.add(sale("gift", price=0, is_gift_receiver_purchase=True, refunded=True))
    assert owner.sees() == [(Kind.REFUNDED, "gift", "")]
    assert owner.mends() == []
    assert shop.licenses()[key]["inactive_reason"] == "refunded"
    once = shop.ledger()
    shop.refund("gift")
    assert shop.ledger() == once


def test_what_cannot_be_asked_for_is_not_accused(shop, api, owner, monkeypatch):
    shop.sale("gift")
    record = owner.record()
    api.down()
    assert owner.books.compare("gumroad", record, SINCE) == []
    assert owner.books.unchecked == 1
    assert owner.slept == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_rate_limit_while_asking_for_one_is_waited_for(shop, api, owner):
    shop.sale("forged")
    record = owner.record()
    api.fail_next(429, retry_after=3)
    assert [drift.kind for drift in owner.books.compare("gumroad", record, SINCE)] == [Kind.UNPAID]
    assert (owner.slept, owner.books.unchecked) == ([3.0], 0)


@pytest.mark.parametrize(
    "said",
    [
        {"sale_timestamp": "2026-10-31T23:59:59Z"},  # before the record begins
        {"sale_timestamp": "2026-11-20T11:00:01Z"},  # too young to be missed
        {"test": "true"},
        {"refunded": "true"},
        {"disputed": "true"},
    ],
)
def test_what_is_no_license_without_payment(shop, owner, said):
    shop.sale("s1", **said)
    assert owner.sees() == []


def test_what_the_owner_issued_himself_needs_no_payment(shop, owner):
    friend = {"product_id": "wave", "email": "friend@example.com", "customer_name": "Bo", "duration_days": -1}
    assert shop.owner("POST", "/licenses", friend).status_code == 201
    assert owner.sees() == []


def test_what_came_since_the_record_was_read_is_not_missed_in_it(shop, api, owner, clock):
    record = owner.record()
    clock.forward(hours=9)
    shop.sale("s1", sale_timestamp="2026-11-20T15:00:00Z")
    assert [drift.kind for drift in owner.books.compare("gumroad", record, SINCE)] == [Kind.UNPAID]
    assert owner.books.compare("gumroad", record, SINCE, as_of=NOW) == []


# ---------------------------------------------------------------------------------------------------- told differently
@pytest.mark.parametrize(
    ("told", "field", "change"),
    [
        ({"email": "ann@new.example"}, "email", {"email": "ann@new.example"}),
        ({"price": 1999}, "amount", {}),
        ({"quantity": 4}, "quantity", {"max_devices": 8}),
        ({"quantity": 1}, "quantity", {"max_devices": 2}),
        ({"product_id": "G-WAVE=="}, "product", {"product_id": "wave", "max_devices": 3, "expiry_date": None}),
    ],
)
def test_what_is_told_differently_is_corrected_and_nothing_else(shop, api, owner, told, field, change):
    key = shop.sale("s1", product="G-TEAM==", quantity=3)
    shop.ask("activate", license_key=key, hardware_id="hw1")
    before = shop.record
    given: dict[str, Any] = {"product_id": "G-TEAM==", "quantity": 3}
    email = told.pop("email", "ann@example.com")
    api.add(sale("s1", email, **(given | told)))
    assert owner.sees() == [(Kind.MISMATCH, "s1", field)]
    assert owner.mends() == []
    assert list(shop.licenses()) == [key]
    assert {name: value for name, value in shop.record.items() if value != before.get(name)} == change
    assert shop.letters() == [("delivery", "ann@example.com")]
    assert len(shop.ledger()) == 2


def test_several_fields_of_one_sale_are_one_correction(shop, api, owner):
    shop.sale("s1", quantity=3)
    api.add(sale("s1", "ann@new.example", quantity=1, price=999))
    assert sorted(field for _, _, field in owner.sees()) == ["amount", "email", "quantity"]
    assert owner.mends() == []
    assert len(shop.ledger()) == 2
    assert shop.services.audit.get_purchase_stats()["total_revenue"] == {"usd": "9.99"}


def test_a_correction_does_not_shorten_what_was_sold(shop, api, owner):
    """Since the sale the product went from life to a month, and the buyer had paid for a year."""
    forever = shop.sale("s1")
    yearly = shop.sale("s2", product="G-TEAM==", subscription_id="sub", recurrence="yearly")
    catalogue = copy.deepcopy(CATALOGUE)
    catalogue["products"]["wave"] |= {"duration_days": 30, "max_devices": 5}
    shop.write_catalogue(catalogue)
    rows = [
        {"event": "sale", "sale_id": "s1", "product_id": "G-WAVE==", "email": "new@example.com", "quantity": 2},
        {"event": "sale", "sale_id": "s2", "product_id": "G-TEAM==", "email": "new@example.com", "quantity": 1},
    ]
    assert FileOwner(shop, "gumroad", rows).mends() == []
    licenses = shop.licenses()
    assert (licenses[forever]["expiry_date"], licenses[forever]["max_devices"]) == (None, 2)
    assert (licenses[yearly]["expiry_date"], licenses[yearly]["email"]) == ("2027-11-05T19:38:56Z", "new@example.com")


@pytest.mark.parametrize(
    "row",
    [
        {"product_id": "wave"},  # a permalink
        {"product_id": "WAVE"},  # its other name
        {"product_id": "Wave"},  # in a column that holds names
        {"product_id": "another system's number"},
        {"product_id": "Wave", "email": " ANN@example.com "},
        {"price": "29.990", "currency": "USD"},
        {"quantity": None},
    ],
)
def test_a_file_may_say_it_in_other_words(shop, row):
    shop.sale("s1", quantity=3)
    said = {"event": "sale", "sale_id": "s1", "quantity": 3, "price": "29.99"} | row
    assert FileOwner(shop, "gumroad", [said]).sees() == []


def test_a_default_product_is_none_that_a_file_names(shop):
    """It takes what nobody mapped; no license becomes one of it because a file calls its product by another name."""
    shop.write_catalogue(CATALOGUE | {"default_product": "team"})
    shop.sale("s1")
    assert FileOwner(shop, "gumroad", [{"event": "sale", "sale_id": "s1", "product_id": "Wave, standard"}]).sees() == []


def test_without_a_currency_column_it_is_the_ledgers(shop):
    shop.sale("s1")
    row = {"event": "sale", "sale_id": "s1", "price": "19.99"}
    assert FileOwner(shop, "gumroad", [row]).sees() == [(Kind.MISMATCH, "s1", "amount")]


def test_another_currency_is_no_other_amount(shop):
    shop.sale("s1")
    row = {"event": "sale", "sale_id": "s1", "price": "26.50", "currency": "eur"}
    owner = FileOwner(shop, "gumroad", [row])
    assert owner.sees() == [(Kind.MISMATCH, "s1", "currency")]
    assert owner.mends() == []
    assert shop.services.audit.get_purchase_stats()["total_revenue"] == {"eur": "26.50"}


def test_a_correction_by_which_a_license_would_be_lost_is_left_to_the_owner(shop, api, owner):
    first, second = shop.ping(sale_ping("s1", "ann@example.com", "G-STUDIO=="))["license_keys"]
    api.add(sale("s1", product_id="G-WAVE=="))
    assert owner.mends() == [(Kind.MISMATCH, "s1", "product")]
    assert (shop.code(first), shop.code(second)) == ("VALID", "VALID")


def test_what_the_owner_mended_is_not_corrected(shop, api, owner):
    shop.ping(sale_ping("s1", "typo@example", "G-ELSE=="))
    catalogue = copy.deepcopy(CATALOGUE)
    catalogue["products"]["wave"]["platform_ids"]["gumroad"].append("G-ELSE==")
    shop.write_catalogue(catalogue)
    ours = shop.services
    Backlog(ours.store, ours.catalogue, ours.fulfilment).complete("s1", email="ann@example.com")
    api.add(sale("s1", "typo@example", "G-ELSE==", price=1, quantity=9))
    assert owner.sees() == []
    assert shop.record["email"] == "ann@example.com"


def test_what_the_owner_fulfilled_under_another_name_is_not_sold_twice(shop, api, owner):
    """A sale that was held because a custom field hid its address."""
    shop.ping(sale_ping("s1", "x", **{"custom_fields[email]": "x"}))
    ours = shop.services
    Backlog(ours.store, ours.catalogue, ours.fulfilment).complete("s1", email="ann@example.com")
    api.add(sale("s1"))
    assert owner.sees() == []
    assert len(shop.licenses()) == 1


# ---------------------------------------------------------------------------------------------------- what agrees
def test_what_agrees_is_no_finding(shop, api, owner, clock):
    """Everything that a shop may go through, told by webhooks, and the record that Gumroad has of it."""
    shop.sale("plain")
    shop.sale("free", price=0)
    shop.sale("gift", "gift@example.com", price=0, is_gift_receiver_purchase="true")
    shop.sale("test", test="true")
    shop.sale("seats", product="G-TEAM==", quantity=5)
    shop.sale("tier", product="G-TEAM==", **{"variants[Tier]": "Solo"})
    shop.ping(sale_ping("bundle", "ann@example.com", "G-STUDIO=="))
    shop.sale("s1", product="G-TEAM==", **SUB)
    shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", **RENEWED))
    shop.sale("refunded")
    shop.refund("refunded")
    shop.sale("told late", refunded="true")
    shop.sale("partly")
    shop.ping(sale_ping("partly", "ann@example.com", resource="refund", refunded="false"))
    for name in ("disputed", "won"):
        shop.sale(name)
        shop.ping(sale_ping(name, "ann@example.com", resource="dispute", disputed="true"))
    shop.ping(sale_ping("won", "ann@example.com", resource="dispute_won", disputed="true", dispute_won="true"))
    shop.sale("cancelled", product="G-TEAM==", subscription_id="sub3", recurrence="monthly")
    shop.ping(subscription_ping("cancellation", "sub3", cancelled_at="2026-12-05T19:38:56Z", cancelled_by_buyer="true"))
    for name, verb, body in (
        ("moved", "transfer", {"email": "bob@example.com"}),
        ("stopped", "suspend", {}),
        ("revoked", "revoke", {}),
        ("anew", "reissue", {}),
        ("longer", "extend", {"days": 9}),
    ):
        key = shop.sale(name, product="G-TEAM==")
        assert shop.owner("POST", f"/licenses/{key}/{verb}", body).status_code == 200
    kind = shop.sale("kind")
    shop.refund("kind")
    assert shop.owner("POST", f"/licenses/{kind}/reinstate", {}).status_code == 200

    api.add(sale("plain"), sale("free", price=0), sale("test"), sale("seats", product_id="G-TEAM==", quantity=5))
    api.tests.add("test")
    api.add(sale("gift", "gift@example.com", price=0, is_gift_receiver_purchase=True))
    api.add(sale("giver", is_gift_sender_purchase=True), sale("order", is_preorder_authorization=True))
    api.add(sale("tier", product_id="G-TEAM==", variants={"Tier": "Solo"}), sale("bundle", product_id="G-STUDIO=="))
    api.add(team_sale(), team_sale("s2", recurring_charge=True, created_at=RENEWED_AT))
    api.add(sale("refunded", refunded=True), sale("told late", refunded=True), sale("partly", partially_refunded=True))
    api.add(sale("disputed", disputed=True, chargedback=True), sale("won", disputed=True, dispute_won=True))
    api.add(sale("cancelled", product_id="G-TEAM==", subscription_id="sub3", cancelled=True))
    api.add(*(sale(name, product_id="G-TEAM==") for name in ("moved", "stopped", "revoked", "anew", "longer")))
    api.add(sale("kind", refunded=True))
    api.add(sale("never heard of its dispute", disputed=True, dispute_won=True))
    shop.sale("never heard of its dispute")
    before = shop.licenses()
    assert owner.sees() == owner.mends() == []
    assert shop.licenses() == before


def test_imported_licenses_are_paid_for(shop, api, owner, tmp_path):
    """An import tells its sales under ids of its own."""
    old = {"email": "ann@example.com", "customer_name": "Ann", "created_date": "2026-11-05T19:38:56Z"}
    old |= {"is_active": True, "purchase_source": "gumroad", "purchase_id": "s1", "product_id": "wave"}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "licenses.json").write_text(json.dumps({"KEY-1": old}))
    ours = shop.services
    importer = Importer(ours.store, ours.catalogue, ours.fulfilment, ours.clock)
    assert importer.run(importer.plan(read_old_books(tmp_path / "old"))) == 1
    api.add(sale("s1"))
    assert owner.sees() == []
    assert list(shop.licenses()) == ["KEY-1"]


# ---------------------------------------------------------------------------------------------------- Stripe
@pytest.fixture
def stripe():
    with StripeApi() as standin:
        yield standin


@pytest.fixture
def till(tmp_path, clock, stripe) -> StripeShop:
    return StripeShop(tmp_path / "data", clock, stripe)


@pytest.fixture
def clerk(till) -> Owner:
    return Owner(till, "stripe")


def sells_wave(till: StripeShop, stripe: StripeApi, number: int = 1, **more: Any) -> str:
    key = till.sells(wave(f"cs_live_{number}", f"pi_{number}", **more))
    lists_wave(stripe, number, **more)
    return key


def lists_wave(stripe: StripeApi, number: int = 1, quantity: int = 1, **more: Any) -> None:
    """The API's record of a checkout and its charge."""
    stripe.add(wave(f"cs_live_{number}", f"pi_{number}", **more), charge(f"ch_{number}", f"pi_{number}"))
    lines(stripe, f"cs_live_{number}", line_item("li", "prod_wave", quantity))


def lists_team(stripe: StripeApi, periods: int = 2) -> None:
    stripe.add(team(), first_invoice(), payment_of(1), charge("ch_1", "pi_1", 2500))
    lines(stripe, "cs_live_1", line_item("li", "prod_team", 1, 2500, interval="month"))
    for number in range(2, periods + 1):
        stripe.add(later_invoice(number), payment_of(number), charge(f"ch_{number}", f"pi_{number}", 2500))


def refunds(stripe: StripeApi, number: int = 1, amount: int = 4900, whole: int = 4900, **more: Any) -> Json:
    back = charge(f"ch_{number}", f"pi_{number}", whole, amount_refunded=amount)
    stripe.add(back, refund(f"re_{number}", f"ch_{number}", f"pi_{number}", amount, created=THEN + 86400, **more))
    return back


def test_stripe_a_lost_checkout(till, stripe, clerk):
    lists_wave(stripe, quantity=2)
    assert clerk.sees() == [(Kind.NO_LICENSE, "cs_live_1", "")]
    assert clerk.mends() == []
    assert till.record["max_devices"] == 2
    once = till.ledger()
    assert till.sells(wave()) in till.licenses()
    assert till.ledger() == once


def test_stripe_one_charge_told_by_checkout_and_invoice_is_no_finding(till, stripe, clerk):
    till.subscribes()
    till.tell("invoice_payment.paid", payment_of(1))
    till.tell("invoice.paid", later_invoice())
    till.tell("invoice_payment.paid", payment_of())
    lists_team(stripe)
    assert clerk.sees() == []


def pays_in_parts(till: StripeShop, stripe: StripeApi) -> str:
    """The first invoice of a subscription by two payments."""
    key = till.subscribes()
    lists_team(stripe, 1)
    parts = [payment_of(1) | {"amount_paid": 1000}, invoice_payment("inpay_1b", "in_1", "pi_1b", 1500)]
    stripe.add(*parts, charge("ch_1", "pi_1", 1000), charge("ch_1b", "pi_1b", 1500))
    for part in parts:
        till.tell("invoice_payment.paid", part)
    return key


def test_stripe_an_invoice_that_was_paid_in_parts_is_no_finding(till, stripe, clerk):
    pays_in_parts(till, stripe)
    assert clerk.sees() == []


def test_stripe_the_refund_of_one_part_takes_nothing(till, stripe, clerk):
    key = pays_in_parts(till, stripe)
    till.tell("charge.refunded", charge("ch_1b", "pi_1b", 1500, amount_refunded=1500), created=THEN + 86400)
    assert till.code(key) == "VALID"


def test_stripe_the_refund_of_the_other_part_is_found(till, stripe, clerk):
    key = pays_in_parts(till, stripe)
    till.tell("charge.refunded", charge("ch_1", "pi_1", 1000, amount_refunded=1000), created=THEN + 86400)
    stripe.add(charge("ch_1", "pi_1", 1000, amount_refunded=1000), refund("re_1", "ch_1", "pi_1", 1000))
    assert (till.code(key), clerk.sees()) == ("VALID", [])
    stripe.add(charge("ch_1b", "pi_1b", 1500, amount_refunded=1500), refund("re_1b", "ch_1b", "pi_1b", 1500))
    assert clerk.sees() == [(Kind.REFUNDED, "pi_1b", "")]
    assert clerk.mends() == []
    assert till.code(key) == "SUSPENDED"


@pytest.mark.parametrize(
    ("told", "missing"),
    [
        ([], [(Kind.NO_LICENSE, "cs_live_1", ""), (Kind.UNRECORDED, "in_1", ""), (Kind.UNRECORDED, "in_2", "")]),
        (["session"], [(Kind.UNRECORDED, "in_1", ""), (Kind.UNRECORDED, "in_2", "")]),
        (["in_1"], [(Kind.UNRECORDED, "cs_live_1", ""), (Kind.UNRECORDED, "in_2", "")]),
        (["in_2"], [(Kind.UNRECORDED, "cs_live_1", ""), (Kind.UNRECORDED, "in_1", "")]),
        (["session", "in_1"], [(Kind.UNRECORDED, "in_2", "")]),
    ],
)
def test_stripe_a_subscription_of_which_anything_is_lost(till, stripe, clerk, tmp_path, clock, told, missing):
    said = {
        "session": ("checkout.session.completed", team()),
        "in_1": ("invoice.paid", first_invoice()),
        "in_2": ("invoice.paid", later_invoice()),
    }
    lists_team(stripe)
    for name in told:
        till.tell(*said[name])
    assert sorted(clerk.sees()) == sorted(missing)
    assert clerk.mends() == []
    other = StripeShop(tmp_path / "other", clock, stripe)
    for name in said:
        other.tell(*said[name])
    assert till.licenses() == other.licenses()
    assert till.revenue() == other.revenue() == {"usd": "50.00"}


def test_stripe_a_refund_under_another_event_id_is_known(till, stripe, clerk):
    """A webhook is dated by its event, the list by the refund."""
    key = sells_wave(till, stripe)
    till.tell("charge.refunded", refunds(stripe), created=THEN + 86403)
    assert till.code(key) == "SUSPENDED"
    assert clerk.sees() == []


def test_stripe_a_lost_refund_and_its_late_webhook(till, stripe, clerk):
    key, other = sells_wave(till, stripe), sells_wave(till, stripe, 2)
    back = refunds(stripe)
    assert clerk.sees() == [(Kind.REFUNDED, "pi_1", "")]
    assert clerk.mends() == []
    assert (till.code(key), till.code(other)) == ("SUSPENDED", "VALID")
    till.tell("charge.refunded", back, created=THEN + 86403)
    assert till.licenses()[key]["inactive_reason"] == "refunded"
    assert till.revenue() == {"usd": "49.00"}
    assert clerk.sees() == []


def test_stripe_partial_refunds(till, stripe, clerk):
    key = sells_wave(till, stripe)
    refunds(stripe, amount=1000)
    assert clerk.sees() == [(Kind.UNRECORDED, "pi_1", "")]
    assert clerk.mends() == []
    assert till.revenue() == {"usd": "39.00"}
    refunds(stripe, amount=2000)
    assert clerk.sees() == [(Kind.UNRECORDED, "pi_1", "")]
    assert clerk.mends() == []
    assert (till.code(key), till.revenue()) == ("VALID", {"usd": "29.00"})
    refunds(stripe, amount=4900)
    assert clerk.sees() == [(Kind.REFUNDED, "pi_1", "")]
    assert clerk.mends() == []
    assert (till.code(key), till.revenue()) == ("SUSPENDED", {"usd": "0.00"})


def test_stripe_the_refund_of_a_renewal_finds_its_invoice_by_the_record(till, stripe, clerk):
    """A refund names its payment alone, and nobody was told which invoice that paid."""
    key = till.subscribes()
    till.tell("invoice.paid", later_invoice())
    lists_team(stripe)
    refunds(stripe, 2, 2500, 2500)
    assert clerk.sees() == [(Kind.REFUNDED, "pi_2", "")]
    asked = len(stripe.asked)
    clerk.books.repair(clerk.compare())
    assert len(stripe.asked) == asked + 5  # the record's own lists
    assert clerk.mends() == []
    assert till.code(key) == "VALID"
    first = datetime.fromtimestamp(THEN + 30 + MONTH, UTC)
    assert till.licenses()[key]["expiry_date"] == f"{first:%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize("told_at", [86400, 86403], ids=["under the same event id", "under another"])
def test_stripe_a_refund_that_the_ledger_cannot_join_to_its_charge_is_found(tmp_path, clock, stripe, told_at):
    """Told while the shop could not ask whose payment it was: it lies in the ledger, and takes nothing."""
    deaf = StripeShop(tmp_path / "data", clock)
    key = deaf.subscribes()
    back = charge("ch_1", "pi_1", 2500, amount_refunded=2500)
    deaf.tell("charge.refunded", back, created=THEN + told_at)
    assert deaf.code(key) == "VALID"
    till = StripeShop(tmp_path / "data", clock, stripe)
    clerk = Owner(till, "stripe")
    lists_team(stripe, 1)
    refunds(stripe, 1, 2500, 2500)
    assert clerk.sees() == [(Kind.REFUNDED, "pi_1", "")]
    assert clerk.mends() == []
    assert (till.code(key), till.record["inactive_reason"], till.revenue()) == (
        "SUSPENDED",
        "refunded",
        {"usd": "0.00"},
    )


def refunded_of_long_ago(tmp_path: Path, clock: Clock, stripe: StripeApi) -> tuple[StripeShop, Owner, str]:
    """A charge of before the time that is compared, refunded in it, and no line says which payment paid it."""
    key = StripeShop(tmp_path / "data", clock).subscribes()
    till = StripeShop(tmp_path / "data", clock, stripe)
    lists_team(stripe, 1)
    stripe.add(charge("ch_1", "pi_1", 2500, amount_refunded=2500))
    stripe.add(refund("re_1", "ch_1", "pi_1", 2500, created=THEN + 12 * 86400))
    return till, Owner(till, "stripe", datetime.fromtimestamp(THEN + 10 * 86400, UTC)), key


def test_stripe_the_refund_of_a_charge_of_long_ago_is_traced_to_it(tmp_path, clock, stripe):
    till, clerk, key = refunded_of_long_ago(tmp_path, clock, stripe)
    assert clerk.sees() == [(Kind.REFUNDED, "pi_1", "")]
    assert clerk.mends() == []
    assert till.code(key) == "SUSPENDED"


def test_stripe_what_could_not_be_traced_is_counted(tmp_path, clock, stripe, monkeypatch):
    _, clerk, _ = refunded_of_long_ago(tmp_path, clock, stripe)

    def refuse(self: Any, event: PurchaseEvent) -> PurchaseEvent:
        raise PlatformUnreachable("it does not answer", is_refused=True)

    record = clerk.record()
    monkeypatch.setattr(Inquiries, "trace", refuse)
    assert (clerk.books.compare("stripe", record, clerk.since), clerk.books.unchecked) == ([], 1)


def test_stripe_money_back_of_other_business_is_asked_about_and_left_alone(till, stripe, clerk):
    stripe.add(charge("ch_9", "pi_9", amount_refunded=4900), refund("re_9", "ch_9", "pi_9", created=THEN + 86400))
    assert clerk.sees() == []
    assert sum("invoice_payments" in asked for asked in stripe.asked) == 1


def failed(stripe: StripeApi) -> Json:
    """The refund bounced, and the charge stands again as if it had not been."""
    bounced = refund(
        "re_1", "ch_1", "pi_1", status="failed", created=THEN + 86400, failure_reason="lost_or_stolen_card"
    )
    stripe.add(charge("ch_1", "pi_1"), bounced)
    return bounced


def test_stripe_a_refund_that_failed_unheard_of_is_no_finding(till, stripe, clerk):
    key = sells_wave(till, stripe)
    failed(stripe)
    assert clerk.sees() == []
    till.tell("charge.refunded", charge("ch_1", "pi_1", amount_refunded=4900), created=THEN + 86401)
    till.tell("refund.failed", failed(stripe), created=THEN + 3 * 86400)
    assert till.code(key) == "VALID"
    assert clerk.sees() == []


@pytest.mark.parametrize("told", list(itertools.product([False, True], repeat=3)), ids=lambda told: f"{told}")
@pytest.mark.parametrize(("stays", "fails"), [((1, 1000), (2, 3900)), ((2, 3900), (1, 1000))], ids=["second", "first"])
def test_stripe_of_two_refunds_one_failed_whatever_was_told(till, stripe, clerk, told, stays, fails):
    key = sells_wave(till, stripe)
    number, amount = fails
    failed_at = {"status": "failed", "created": THEN + number * 86400, "failure_reason": "lost_or_stolen_card"}
    bounced = refund(f"re_{number}", "ch_1", "pi_1", amount, **failed_at)
    number, amount = stays
    left = charge("ch_1", "pi_1", amount_refunded=amount)
    stripe.add(left, bounced, refund(f"re_{number}", "ch_1", "pi_1", amount, created=THEN + number * 86400))
    said = [
        ("charge.refunded", charge("ch_1", "pi_1", amount_refunded=1000), 86401),
        ("charge.refunded", charge("ch_1", "pi_1", amount_refunded=4900), 2 * 86400 + 1),
        ("refund.failed", bounced, 4 * 86400),
    ]
    for is_told, (word, about, at) in zip(told, said, strict=True):
        if is_told:
            till.tell(word, about, created=THEN + at)
    assert clerk.mends() == []
    assert till.code(key) == "VALID"


def test_stripe_a_failure_that_was_lost_gives_the_license_back(till, stripe, clerk):
    """Else a customer whose money stayed would stay without a license."""
    key = sells_wave(till, stripe)
    till.tell("charge.refunded", charge("ch_1", "pi_1", amount_refunded=4900), created=THEN + 86405)
    bounced = failed(stripe)
    assert till.code(key) == "SUSPENDED"
    assert clerk.sees() == [(Kind.UNRECORDED, "pi_1", "")]
    assert clerk.mends() == []
    assert till.code(key) == "VALID"
    once = till.ledger()
    till.tell("refund.failed", bounced, created=THEN + 3 * 86400)
    assert till.ledger() == once


def test_stripe_a_refund_that_was_made_again_stands(till, stripe, clerk):
    key = sells_wave(till, stripe)
    till.tell("charge.refunded", charge("ch_1", "pi_1", amount_refunded=4900), created=THEN + 86401)
    till.tell("refund.failed", failed(stripe), created=THEN + 2 * 86400)
    again = charge("ch_1", "pi_1", amount_refunded=4900)
    stripe.add(again, refund("re_9", "ch_1", "pi_1", created=THEN + 3 * 86400))
    assert clerk.sees() == [(Kind.REFUNDED, "pi_1", "")]
    assert clerk.mends() == []
    assert till.licenses()[key]["inactive_reason"] == "refunded"


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        ("needs_response", Kind.DISPUTED, "disputed"),
        ("under_review", Kind.DISPUTED, "disputed"),
        ("lost", Kind.REFUNDED, "chargeback"),
        ("won", None, None),
        ("warning_needs_response", None, None),
        ("warning_closed", None, None),
    ],
)
def test_stripe_disputes_that_nobody_told_of(till, stripe, clerk, status, kind, reason):
    key = sells_wave(till, stripe)
    stripe.add(dispute("du_1", status=status))
    assert clerk.sees() == ([(kind, "pi_1", "")] if kind else [])
    assert clerk.mends() == []
    assert till.licenses()[key].get("inactive_reason") == reason


@pytest.mark.parametrize(
    ("status", "code", "left"), [("won", "VALID", []), ("lost", "BANNED", []), ("needs_response", "SUSPENDED", [])]
)
def test_stripe_the_end_of_a_dispute_that_was_lost_on_the_way(till, stripe, clerk, status, code, left):
    key = sells_wave(till, stripe)
    till.tell("charge.dispute.created", dispute("du_1"))
    stripe.add(dispute("du_1", status=status))
    assert len(clerk.sees()) == (status != "needs_response")
    assert clerk.mends() == left
    assert till.code(key) == code
    assert clerk.sees() == []


@pytest.mark.parametrize(("back", "code"), [(0, "VALID"), (4900, "SUSPENDED")])
def test_stripe_a_dispute_that_ended_in_another_way_is_asked_about(till, stripe, clerk, back, code):
    key = sells_wave(till, stripe)
    till.tell("charge.dispute.created", dispute("du_1"))
    stripe.add(dispute("du_1", status="prevented"), charge("ch_1", "pi_1", amount_refunded=back))
    assert clerk.sees() != []
    assert clerk.mends() == []
    assert till.code(key) == code


def test_stripe_two_disputes_of_one_charge_are_told_apart(till, stripe, clerk):
    key = sells_wave(till, stripe)
    till.tell("charge.dispute.created", dispute("du_1"))
    till.tell("charge.dispute.closed", dispute("du_1", status="won"), created=THEN + 9)
    stripe.add(dispute("du_1", status="won"), dispute("du_2", created=THEN + 99))
    assert clerk.sees() == [(Kind.DISPUTED, "pi_1", "")]
    assert clerk.mends() == []
    assert till.licenses()[key]["inactive_reason"] == "disputed"


def test_stripe_other_business_of_the_account_is_none_of_ours(till, stripe, clerk):
    sells_wave(till, stripe)
    stripe.add(charge("ch_8", "pi_8", amount_refunded=4900), refund("re_8", "ch_8", "pi_8"))
    stripe.add(dispute("du_8", "ch_8", "pi_8"))
    stripe.add(charge("ch_7", None, amount_refunded=4900), refund("re_7", "ch_7", None), dispute("du_7", "ch_7", None))
    stripe.add(session("cs_live_9", payment_intent="pi_9", payment_link="plink_else"))
    lines(stripe, "cs_live_9", line_item("li", "prod_else"))
    stripe.add(charge("ch_9", "pi_9", amount_refunded=4900), refund("re_9", "ch_9", "pi_9"))
    stripe.add(invoice("in_9", "sub_9", product="prod_else", payment_intent="pi_6", charge="ch_6"))
    stripe.add(invoice_payment("inpay_9", "in_9", "pi_6"), charge("ch_6", "pi_6", amount_refunded=2500))
    assert [found for found in clerk.sees() if found[0] is not Kind.UNMAPPED] == []
    assert [drift.sale_id for drift in clerk.compare()] == ["cs_live_9", "in_9"]
    before = till.ledger()
    clerk.mends()
    assert till.ledger() == before


def test_stripe_checkouts_that_sold_nothing_are_none(till, stripe, clerk):
    unpaid = {"payment_status": "unpaid", "payment_intent": None}
    stripe.add(wave("cs_live_1", **unpaid), wave("cs_live_2", **unpaid | {"status": "expired"}))
    stripe.add(session("cs_live_3", mode="setup"), wave("cs_test_1", livemode=False))
    assert clerk.sees() == []


def test_stripe_a_payment_that_arrived_unheard_of(till, stripe, clerk):
    """It was on its way when the period began that is compared now, and is known to the ledger."""
    began = int((SINCE - timedelta(days=2)).timestamp())
    waiting = wave(created=began, payment_status="unpaid")
    assert till.tell("checkout.session.completed", waiting)["outcome"] == "pending"
    lists_wave(stripe, created=began)
    assert clerk.sees() == [(Kind.NO_LICENSE, "cs_live_1", "")]
    assert clerk.mends() == []
    assert till.record["is_active"]


def test_stripe_a_checkout_that_was_taken_for_over_and_was_paid(till, stripe, clerk):
    till.tell("checkout.session.expired", wave(payment_status="unpaid", status="expired"))
    lists_wave(stripe)
    assert clerk.mends() == []
    assert till.record["is_active"]


def test_stripe_an_invoice_that_was_paid_late_is_not_missed(till, stripe, clerk):
    """It was made before the record that is read begins, and paid within its time."""
    made = int((SINCE - timedelta(days=40)).timestamp())
    till.subscribes()
    late = later_invoice(2, created=made)
    late["status_transitions"] |= {"paid_at": THEN + 86400, "finalized_at": made + 3600}
    till.tell("invoice.paid", late)
    lists_team(stripe, 1)
    stripe.add(late)
    assert clerk.sees() == []


def test_stripe_an_invoice_that_was_paid_late_and_unheard_of_is_found(till, stripe, clerk):
    """The record is read from earlier than what is compared, as the script does it for Stripe."""
    made = int((SINCE - timedelta(days=2)).timestamp())
    till.subscribes()
    late = later_invoice(2, created=made)
    late["status_transitions"] |= {"paid_at": THEN + 86400, "finalized_at": made + 3600}
    lists_team(stripe, 1)
    stripe.add(late, wave("cs_live_old", "pi_old", created=made))  # and a checkout from before the first day
    lines(stripe, "cs_live_old", line_item("li", "prod_wave"))
    assert clerk.sees() == [(Kind.UNRECORDED, "in_2", "")]
    assert clerk.mends() == []


def test_stripe_free_checkouts(till, stripe, clerk):
    free = {"amount": 0, "payment_status": "no_payment_required", "payment_intent": None}
    till.sells(wave("cs_live_1", **free))
    stripe.add(wave("cs_live_1", **free), wave("cs_live_2", **free))
    assert clerk.sees() == [(Kind.NO_LICENSE, "cs_live_2", "")]
    assert clerk.mends() == []
    assert len(till.licenses()) == 2


def test_stripe_a_license_that_stripe_does_not_know_is_only_told(till, stripe, clerk):
    key = till.sells(wave())
    assert clerk.sees() == clerk.mends() == [(Kind.UNPAID, "cs_live_1", "")]
    assert till.code(key) == "VALID"


@pytest.mark.parametrize(
    ("real", "field"), [({"amount": 900}, "amount"), ({"currency": "eur"}, "currency"), ({"email": "b@c.io"}, "email")]
)
def test_stripe_what_is_told_differently(till, stripe, clerk, real, field):
    till.sells(wave())
    email = real.pop("email", "ann@example.com")
    stripe.add(wave(email=email, **real))
    lines(stripe, "cs_live_1", line_item("li", "prod_wave"))
    assert clerk.sees() == [(Kind.MISMATCH, "cs_live_1", field)]
    assert clerk.mends() == []


def test_stripe_an_open_question_is_answered_by_the_record(till, stripe, clerk):
    """The checkout came while Stripe's API was down: nobody knew what was sold, or how many."""
    stripe.down()
    told = till.tell("checkout.session.completed", session("cs_live_1", payment_link=None))
    assert told["outcome"] == "pending"
    stripe.up()
    stripe.add(session("cs_live_1", payment_link=None), charge())
    lines(stripe, "cs_live_1", line_item("li", "prod_wave", 3, 14700))
    assert clerk.sees() == [(Kind.NO_LICENSE, "cs_live_1", "")]
    assert clerk.mends() == []
    assert till.record["max_devices"] == 3


# ---------------------------------------------------------------------------------------------------- files
def test_a_file_in_both_directions(shop):
    paid, back, nobody = shop.sale("s1"), shop.sale("s2"), shop.sale("s4")
    rows = [
        {"event": "sale", "sale_id": "s1", "price": "29.99", "currency": "usd", "product_id": "G-WAVE=="},
        {"event": "sale", "sale_id": "s2", "product_id": "G-WAVE=="},
        {"event": "refund", "sale_id": "s2"},
        {"event": "sale", "sale_id": "s3", "product_id": "G-WAVE==", "email": "bob@example.com", "quantity": 2},
        {"event": "dispute", "sale_id": "s9"},
    ]
    shop.services.platforms["gumroad"].confirms_sales = False  # without a token nobody can be asked
    owner = FileOwner(shop, "gumroad", rows)
    unpaid = (Kind.UNPAID, "s4", "")
    assert sorted(owner.sees()) == sorted([(Kind.REFUNDED, "s2", ""), (Kind.NO_LICENSE, "s3", ""), unpaid])
    assert owner.mends() == [unpaid]
    assert [shop.code(key) for key in (paid, back, nobody)] == ["VALID", "SUSPENDED", "VALID"]
    assert ("delivery", "bob@example.com") in shop.letters()


def test_a_file_that_ends_earlier(shop):
    shop.services.platforms["gumroad"].confirms_sales = False
    shop.sale("s1", sale_timestamp="2026-11-10T12:00:00Z")
    rows = [{"event": "sale", "sale_id": "s2", "product_id": "G-WAVE==", "date": "2026-11-11"}]
    assert FileOwner(shop, "gumroad", rows, until=datetime(2026, 11, 9, tzinfo=UTC)).sees() == []


def test_what_was_free_is_not_missed_in_a_file_of_payments(shop):
    shop.services.platforms["gumroad"].confirms_sales = False
    shop.sale("s1", price=0)
    assert FileOwner(shop, "gumroad", []).sees() == []


def test_a_dispute_that_a_file_tells_from_beginning_to_end(shop):
    key = shop.sale("s1")
    rows = [{"event": word, "sale_id": "s1"} for word in ("sale", "dispute", "dispute_won")]
    assert FileOwner(shop, "gumroad", rows).sees() == []
    rows = [{"event": word, "sale_id": "s1"} for word in ("sale", "dispute", "dispute_lost")]
    owner = FileOwner(shop, "gumroad", rows)
    assert owner.mends() == []
    assert shop.code(key) == "BANNED"


def test_the_same_row_twice_is_one(shop):
    rows = [{"event": "sale", "sale_id": "s1", "product_id": "G-WAVE==", "email": "ann@example.com"}] * 2
    owner = FileOwner(shop, "gumroad", rows)
    assert owner.sees() == [(Kind.NO_LICENSE, "s1", "")]
    assert owner.mends() == []
    assert len(shop.ledger()) == 1


def test_jvzoos_export(tmp_path, clock):
    shop = shop_of_three(tmp_path / "data", clock)
    till = JVZooTill(shop)
    kept, gone = till.sale("kept"), till.sale("gone")
    path = tmp_path / "export.csv"
    told = [("KEPT", "SALE"), ("GONE", "SALE"), ("GONE", "RFND"), ("LOST", "SALE"), ("LOST-B001", "BILL")]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Transaction ID", "Transaction Type", "Product ID", "Customer Email", "Amount", "Date"])
        for receipt, word in told:
            product = "427079" if receipt.startswith("LOST") else "406519"
            writer.writerow([receipt, word, product, "ann@example.com", "47.00", "2026-11-05 13:58:56"])
    read = read_statement_file(path, PLATFORMS["jvzoo"])
    ours = shop.services
    books = Reconciliation(ours.store, ours.fulfilment, ours.inquiries, ours.clock)

    def compare() -> list[Drift]:
        return books.compare("jvzoo", read.events, SINCE, without_quantity=read.without_quantity)

    assert sorted((drift.kind, drift.sale_id) for drift in compare()) == [
        (Kind.UNRECORDED, "LOST-B001"),
        (Kind.NO_LICENSE, "LOST"),
        (Kind.REFUNDED, "GONE"),
    ]
    books.repair(compare())
    assert compare() == []
    assert (shop.code(kept), shop.code(gone), len(shop.licenses())) == ("VALID", "SUSPENDED", 3)


def test_it_tells_how_far_it_is(shop, api, owner):
    api.add(sale("s1"), sale("s2", refunded=True))
    ticks: list[tuple[int, int]] = []
    tick = lambda done, total: ticks.append((done, total))  # noqa: E731
    drifts = owner.books.compare("gumroad", owner.record(), SINCE, progress=tick)
    owner.books.repair(drifts, tick)
    assert ticks == [(1, 3), (2, 3), (3, 3)] * 2


# ---------------------------------------------------------------------------------------------------- mutants
def is_red(test: Any, *given: Any, **more: Any) -> bool:
    try:
        test(*given, **more)
    except AssertionError:
        return True
    return False


def test_mutant_correcting_what_the_whole_row_says_is_caught(shop, api, owner, monkeypatch):
    def careless(self: Repair, event: Any, entry: Any, wrong: Any) -> Any:
        return self._fulfilment.decide(event, revision=entry.revision + 1)

    monkeypatch.setattr(Repair, "_decided", careless)
    assert is_red(test_a_correction_does_not_shorten_what_was_sold, shop, api, owner)


def test_mutant_taking_silence_for_one_seat_is_caught(shop, monkeypatch):
    monkeypatch.setattr("server.services.record.Record.tells_quantity", lambda self, event: True)
    assert is_red(test_a_file_may_say_it_in_other_words, shop, {"quantity": None})


def test_mutant_charges_before_what_took_them_back_are_caught(shop, api, owner, monkeypatch):
    monkeypatch.setattr(reconcile, "_is_charge", lambda drift: drift.kind is not Kind.NO_LICENSE)
    assert is_red(test_a_sale_that_was_refunded_long_ago_gets_its_license_but_no_letter, shop, api, owner)


def test_mutant_a_record_without_its_links_is_caught(till, stripe, clerk, monkeypatch):
    monkeypatch.setattr("server.services.record.Record.linked", lambda self, event: event)
    assert is_red(test_stripe_the_refund_of_a_renewal_finds_its_invoice_by_the_record, till, stripe, clerk)


def test_mutant_repairing_without_another_look_is_caught(shop, api, owner, monkeypatch):
    monkeypatch.setattr(Repair, "_is_told_by_now", lambda self, event: False)
    assert is_red(test_a_webhook_that_came_between_looking_and_repairing_is_not_told_twice, shop, api, owner)


def test_mutant_a_refund_that_only_the_record_joins_to_its_charge_is_caught(tmp_path, clock, stripe, monkeypatch):
    monkeypatch.setattr(record, "is_joined", lambda about, history: True)
    test = test_stripe_a_refund_that_the_ledger_cannot_join_to_its_charge_is_found
    assert is_red(test, tmp_path, clock, stripe, 86403)
