"""Gumroad's pings are unsigned: what its own API says of a sale, refund or dispute is what counts."""

from __future__ import annotations

import json
import logging
import math
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from server.platforms import web_client
from server.services import inquiries
from server.services.caretaker import Caretaker
from server.services.inquiries import Inquiries
from server.services.letters import DEAD_LETTER, INQUIRY, PLATFORM, SUSPICIOUS
from server.services.outbox import Outbox
from tests.conftest import NOW, Clock, Shop, sale_ping
from tests.services.mail_room import Pigeon
from tests.standins.gumroad_api import TOKEN, GumroadApi, sale
from tests.standins.http import Answer

ASKED = "/v2/sales/s1"
SUB = {"subscription_id": "sub", "recurrence": "monthly"}
RENEWAL = SUB | {"is_recurring_charge": "true", "sale_timestamp": "2026-12-05T19:38:56Z"}


class Careful(Shop):
    """A shop with an access token. What it mails is in `pigeon`."""

    def __init__(self, folder: Path, clock: Clock, api: GumroadApi, **settings: Any) -> None:
        super().__init__(folder, clock, gumroad_access_token=TOKEN, gumroad_api_base=api.url, **settings)
        ours, self.pigeon = self.services, Pigeon()
        asks = ours.inquiries, ours.settlement
        self.post_office = Outbox(ours.store, self.pigeon, ours.catalogue, *asks, ours.settings, clock)

    def mail(self) -> Any:
        return self.post_office.send_due()

    def later(self, **by: int) -> Any:
        self.clock.forward(**by)
        return self.mail()

    def kinds(self) -> list[str]:
        return [letter.kind for letter in self.pigeon.letters]

    def text(self, kind: str) -> str:
        """The newest letter of a kind; both of its forms say the same."""
        place = len(self.kinds()) - 1 - self.kinds()[::-1].index(kind)
        message = self.pigeon.messages[place]
        plain, html = (part.get_content() for part in message.iter_parts())
        assert "{{" not in plain + html
        assert "<p" in html
        return " ".join(f"{message['Subject']}\n{plain}".split())

    def inquiry(self) -> Any:
        """The one inquiry that is owed, as the outbox keeps it."""
        (found,) = (letter for letter in self.post_office.list() if letter.kind == INQUIRY)
        return found

    @property
    def record(self) -> dict[str, Any]:
        (found,) = self.licenses().values()
        return found


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Nobody but the test takes the outbox's turns."""
    monkeypatch.setattr(Caretaker, "poke", lambda self: None)


@pytest.fixture
def short_patience(monkeypatch):
    monkeypatch.setattr(web_client, "QUICK", (0.2, 0.2))


@pytest.fixture
def api():
    with GumroadApi() as standin:
        yield standin


@pytest.fixture
def shop(tmp_path, clock, api) -> Careful:
    return Careful(tmp_path / "data", clock, api)


def books(shop: Shop) -> list[tuple[str, str]]:
    return [(line["event"], line["outcome"]) for line in shop.ledger()]


# ---------------------------------------------------------------------------------------------------- while it answers
def test_a_sale_that_gumroad_knows_is_permanent_at_once(shop, api):
    api.add(sale("s1", "ann@example.com"))
    key = shop.sale("s1", "ann@example.com")
    assert shop.code(key) == "VALID"
    assert shop.record["expiry_date"] is None
    (line,) = shop.ledger()
    assert "inquiry" not in line
    assert api.asked == [ASKED]
    shop.mail()
    assert shop.kinds() == ["delivery"]
    assert "confirm" not in shop.text("delivery")


def test_an_id_is_asked_for_as_it_is(shop, api):
    api.add(sale("FO8TXN-dbxYaBdahG97Y-Q=="))
    shop.sale("FO8TXN-dbxYaBdahG97Y-Q==")
    assert api.asked == ["/v2/sales/FO8TXN-dbxYaBdahG97Y-Q%3D%3D"]


def test_repeats_ask_nothing(shop, api):
    api.add(sale("s1"))
    first = shop.ping(sale_ping("s1", "ann@example.com"))
    api.down()
    assert shop.ping(sale_ping("s1", "ann@example.com", retry_count=1)) == first
    assert api.asked == [ASKED]
    assert len(shop.ledger()) == 1


def test_buyer_day_tier_and_period_are_what_gumroad_says(shop, api):
    """Whoever forges a genuine sale's words gains nothing by those that are not compared."""
    told = {"variants": {"Tier": "Solo"}, "subscription_id": "sub", "full_name": "Ann Lee"}
    api.add(sale("s1", "ann@example.com", "G-TEAM==", **told))
    forged = {"recurrence": "yearly", "sale_timestamp": "2027-11-05T19:38:56Z", "variants[Tier]": "Studio"}
    shop.sale("s1", "thief@example.com", "G-TEAM==", **SUB | forged)
    record = shop.record
    assert (record["email"], record["customer_name"], record["product_id"]) == ("ann@example.com", "Ann Lee", "solo")
    assert (record["created_date"], record["expiry_date"]) == ("2026-11-05T19:38:56Z", "2026-12-05T19:38:56Z")


def test_a_gift_belongs_to_its_receiver(shop, api):
    account = {"email": "account@example.com"}  # to which the receiver's address belongs
    api.add(sale("s1", "gift@example.com", price=0, is_gift_receiver_purchase=True) | account)
    shop.sale("s1", "gift@example.com", price=0, is_gift_receiver_purchase="true")
    assert shop.record["email"] == "gift@example.com"


@pytest.mark.parametrize("status", [200, 404])
def test_a_sale_that_gumroad_does_not_know_mints_nothing(shop, api, status):
    api.unknown_status = status
    told = shop.ping(sale_ping("s1", "thief@example.com"))
    assert told == {"received": True, "outcome": "ignored", "license_keys": []}
    assert (shop.licenses(), books(shop)) == ({}, [("ignored", "ignored")])
    assert "knows no such sale" in shop.ledger()[0]["note"]
    shop.mail()
    assert shop.kinds() == [SUSPICIOUS]
    said = shop.text(SUSPICIOUS)
    assert said.startswith("A notice that was not believed: Wave")
    assert "Gumroad knows no such sale" in said
    assert "no license is issued or changed by it" in said
    assert "thief@example.com" in said


def test_it_counts_once_gumroad_knows_it(shop, api):
    shop.ping(sale_ping("s1", "ann@example.com"))
    assert shop.ping(sale_ping("s1", "ann@example.com"))["outcome"] == "ignored"
    assert len(shop.ledger()) == 1
    api.add(sale("s1"))
    assert shop.code(shop.sale("s1")) == "VALID"
    assert books(shop) == [("ignored", "ignored"), ("sale", "issued")]
    shop.mail()
    assert shop.kinds() == [SUSPICIOUS, "delivery"]


def test_while_the_api_is_down_a_sale_that_was_not_believed_stays_so(shop, api):
    shop.ping(sale_ping("s1", "thief@example.com"))
    api.down()
    assert shop.ping(sale_ping("s1", "thief@example.com"))["outcome"] == "ignored"
    assert shop.licenses() == {}


@pytest.mark.parametrize(
    ("real", "told", "field"),
    [
        ({}, {"product_id": "G-TEAM=="}, "product_id"),
        ({}, {"quantity": 50}, "quantity"),
        ({}, {"subscription_id": "sub"}, "subscription_id"),
        ({"subscription_id": "sub2"}, {"subscription_id": "sub"}, "subscription_id"),
        ({"subscription_id": "sub"}, {}, "subscription_id"),
        ({"subscription_id": "sub"}, SUB | {"is_recurring_charge": "true"}, "is_recurring_charge"),
        ({"subscription_id": "sub", "recurring_charge": True}, SUB, "is_recurring_charge"),
        ({"is_preorder_authorization": True}, {}, "is_preorder_authorization"),
    ],
)
def test_an_altered_sale_mints_nothing(shop, api, real, told, field):
    api.add(sale("s1", **real))
    assert shop.ping(sale_ping("s1", "ann@example.com", **told))["outcome"] == "ignored"
    assert shop.licenses() == {}
    assert field in shop.ledger()[0]["note"]
    shop.mail()
    assert shop.kinds() == [SUSPICIOUS]


def test_after_an_altered_notice_the_genuine_one_counts(shop, api):
    api.add(sale("s1", quantity=2))
    shop.ping(sale_ping("s1", "thief@example.com", quantity=50))
    shop.sale("s1", quantity=2)
    assert (shop.record["email"], shop.record["max_devices"]) == ("ann@example.com", 2)


def test_forged_refunds_and_disputes_take_nothing(shop, api):
    api.add(sale("s1"))
    key = shop.sale("s1")
    assert shop.refund("s1")["outcome"] == "ignored"
    assert shop.ping(sale_ping("s1", "a@b.example", resource="refund", refunded="false"))["outcome"] == "ignored"
    assert shop.ping(sale_ping("s1", "a@b.example", resource="dispute", disputed="true"))["outcome"] == "ignored"
    assert shop.code(key) == "VALID"
    shop.mail()
    assert shop.kinds() == ["delivery", SUSPICIOUS, SUSPICIOUS, SUSPICIOUS]
    assert "tells of no dispute" in shop.text(SUSPICIOUS)


def test_a_forged_win_does_not_end_a_dispute(shop, api):
    api.add(sale("s1", disputed=True, chargedback=True))
    key = shop.sale("s1")
    won = sale_ping("s1", "ann@example.com", resource="dispute_won", disputed="true", dispute_won="true")
    assert shop.ping(won)["outcome"] == "ignored"
    assert shop.code(key) == "SUSPENDED"
    api.add(sale("s1", disputed=True, dispute_won=True))
    assert shop.ping(won)["outcome"] == "reinstated"
    assert shop.code(key) == "VALID"


def test_genuine_refunds_and_disputes_count(shop, api):
    api.add(sale("s1"), sale("s2"))
    first, second = shop.sale("s1"), shop.sale("s2")
    api.add(sale("s1", refunded=True), sale("s2", disputed=True, chargedback=True))
    assert shop.refund("s1")["outcome"] == "revoked"
    shop.ping(sale_ping("s2", "ann@example.com", resource="dispute", disputed="true"))
    assert (shop.code(first), shop.code(second)) == ("SUSPENDED", "SUSPENDED")


def test_a_refund_of_another_sale_is_not_believed(shop, api):
    """Both sales are real; the notice mixes them up."""
    api.add(sale("s1"), sale("s2", product_id="G-TEAM==", refunded=True))
    key = shop.sale("s1")
    assert shop.ping(sale_ping("s2", "ann@example.com", "G-WAVE==", "refund", refunded="true"))["outcome"] == "ignored"
    assert shop.code(key) == "VALID"


@pytest.mark.parametrize(
    ("state", "reason", "letters"),
    [
        ({"refunded": True}, "refunded", ["refund"]),
        ({"disputed": True, "chargedback": True}, "disputed", ["delivery", "alert_dispute"]),  # it may be won
    ],
)
def test_an_old_notice_of_a_sale_that_went_back_since_gives_no_license(shop, api, state, reason, letters):
    api.add(sale("s1", **state))
    key = shop.sale("s1")
    assert (shop.code(key), shop.record["inactive_reason"]) == ("SUSPENDED", reason)
    assert len(shop.ledger()) == 2
    shop.mail()
    assert shop.kinds() == letters


def test_a_dispute_that_was_won_is_none(shop, api):
    api.add(sale("s1", disputed=True, dispute_won=True))
    assert shop.code(shop.sale("s1", disputed="true", dispute_won="true")) == "VALID"


def test_a_renewal_is_read_back_too(shop, api):
    api.add(sale("s1", product_id="G-TEAM==", subscription_id="sub"))
    key = shop.sale("s1", product="G-TEAM==", **SUB)
    told = shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", **RENEWAL))
    assert (told["outcome"], shop.record["expiry_date"]) == ("ignored", "2026-12-05T19:38:56Z")
    api.add(sale("s2", product_id="G-TEAM==", subscription_id="sub", recurring_charge=True, created_at=NOW))
    assert shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", **RENEWAL))["license_keys"] == [key]
    assert shop.record["expiry_date"] == "2026-12-20T12:00:00Z"


# ---------------------------------------------------------------------------------------------------- while it does not
def nonsense(body: Any, status: int = 200) -> Any:
    def answer(asked: Any) -> Answer:
        return Answer(status, body)

    return answer


TROUBLE = {
    "refused": lambda api: api.down(),
    "closed": lambda api: api.down(refuse=False),
    "silent": lambda api: setattr(api, "hang", math.inf),
    "500": lambda api: api.fail_next(500, times=99),
    "503": lambda api: api.fail_next(503, times=99),
    "429": lambda api: api.fail_next(429, times=99),
    "redirect": lambda api: setattr(api, "answer", nonsense({}, 302)),
    "page": lambda api: setattr(api, "answer", nonsense(b"<!DOCTYPE html>")),
    "page of a 404": lambda api: setattr(api, "answer", nonsense(b"<!DOCTYPE html>", 404)),
    "nothing": lambda api: setattr(api, "answer", nonsense({})),
    "a list": lambda api: setattr(api, "answer", nonsense([])),
    "no sale": lambda api: setattr(api, "answer", nonsense({"success": True})),
    "another sale": lambda api: setattr(api, "answer", nonsense({"success": True, "sale": sale("s9")})),
    "a sale of another kind": lambda api: setattr(api, "answer", nonsense({"success": True, "sale": 3})),
    "a number": lambda api: setattr(api, "answer", nonsense({"success": "maybe"})),
    "a price in words": lambda api: setattr(
        api, "answer", nonsense({"success": True, "sale": sale("s1") | {"price": "much"}})
    ),
    "the token": lambda api: setattr(api, "token", "another"),
    "the scope": lambda api: setattr(api, "is_forbidden", True),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_while_gumroad_cannot_be_asked_the_license_is_good_for_a_day(shop, api, clock, trouble, monkeypatch):
    if trouble == "silent":
        monkeypatch.setattr(web_client, "QUICK", (0.2, 0.2))
    TROUBLE[trouble](api)
    told = shop.ping(sale_ping("s1", "ann@example.com"))
    assert told["outcome"] == "issued"
    (key,) = told["license_keys"]
    assert shop.code(key) == "VALID"
    assert shop.record["expiry_date"] == "2026-11-21T12:00:00Z"
    clock.forward(hours=24)
    assert shop.code(key) == "VALID"
    clock.forward(seconds=1)
    assert shop.code(key) == "EXPIRED"  # without days of grace


def test_the_letter_says_that_the_license_is_provisional(shop, api):
    api.down()
    key = shop.sale("s1")
    shop.mail()
    said = shop.text("delivery")
    assert key in said
    assert "paid through" not in said
    assert "Gumroad is still to confirm the payment to us" in said
    assert "24 hours" in said


def test_a_letter_that_goes_out_after_the_confirmation_says_nothing_of_it(shop, api):
    api.down()
    shop.sale("s1")
    api.up()
    api.add(sale("s1"))
    shop.ping(sale_ping("s1", "ann@example.com"))
    shop.clock.forward(seconds=31)
    shop.ping(sale_ping("s1", "ann@example.com"))
    shop.mail()
    assert shop.kinds() == ["delivery"]
    assert "confirm" not in shop.text("delivery")
    assert "valid for life" in shop.text("delivery")


def test_the_outbox_confirms_it_later(shop, api):
    api.down()
    key = shop.sale("s1", "typo@example.com")
    shop.mail()
    api.up()
    api.add(sale("s1", "ann@example.com"))
    report = shop.later(minutes=1)
    assert (report.answered, report.failed) == (1, 0)
    assert (shop.record["expiry_date"], shop.record["email"]) == (None, "ann@example.com")
    assert books(shop) == [("sale", "issued"), ("sale", "extended")]
    asked = list(api.asked)
    shop.later(days=3)
    assert shop.code(key) == "VALID"
    assert (api.asked, shop.kinds()) == (asked, ["delivery"])
    assert shop.services.audit.get_purchase_stats()["total_revenue"] == {"usd": "29.99"}


def test_the_next_webhook_of_the_sale_confirms_it(shop, api, clock):
    api.down()
    key = shop.sale("s1")
    api.up()
    api.add(sale("s1"))
    clock.forward(seconds=31)
    told = shop.ping(sale_ping("s1", "ann@example.com", retry_count=1))
    assert told["license_keys"] == [key]
    assert shop.record["expiry_date"] is None
    shop.later(minutes=1)
    assert api.asked == [ASKED]  # settled already


def test_it_is_withdrawn_when_gumroad_disowns_it(shop, api):
    api.down()
    key = shop.sale("s1", "thief@example.com")
    shop.mail()
    api.up()
    shop.later(minutes=1)
    assert shop.code(key) == "BANNED"
    record = shop.record
    assert (record["is_active"], record["inactive_reason"]) == (False, "revoked")
    assert books(shop) == [("sale", "issued"), ("sale", "revoked")]
    assert shop.services.audit.get_purchase_stats()["total_revenue"] == {}
    shop.mail()
    assert shop.kinds() == ["delivery", SUSPICIOUS]
    assert "is withdrawn" in shop.text(SUSPICIOUS)
    asked = len(api.asked)
    shop.later(days=2)
    shop.later(days=2)
    assert len(api.asked) == asked + 1  # it might have been too young


def test_a_withdrawn_license_whose_letter_waits_is_not_mailed(shop, api):
    api.down()
    shop.sale("s1", "thief@example.com")
    api.up()
    shop.later(minutes=1)
    shop.mail()
    assert shop.kinds() == [SUSPICIOUS]


def test_a_withdrawn_sale_counts_when_it_comes_again_and_is_confirmed(shop, api):
    api.down()
    key = shop.sale("s1")
    api.up()
    shop.later(minutes=1)
    api.add(sale("s1"))
    assert shop.sale("s1") == key
    assert (shop.code(key), shop.record["expiry_date"]) == ("VALID", None)


def test_it_is_asked_again_with_longer_and_longer_pauses(shop, api, clock):
    """Every hour at the latest: a license rests on the answer."""
    api.fail_next(500, times=999)
    shop.sale("s1")
    begun, asked = clock.now, {}
    while clock.now < begun.replace(day=begun.day + 1):
        before = len(api.asked)
        shop.later(seconds=30)
        if len(api.asked) > before:
            asked[int((clock.now - begun).total_seconds() // 60)] = len(api.asked) - before
    assert list(asked) == [0, 1, 2, 7, 22, *range(82, 24 * 60, 60)]
    assert set(asked.values()) == {1}


def test_a_license_that_ran_out_comes_back_within_the_hour(shop, api):
    api.down()
    key = shop.sale("s1")
    for _ in range(23 * 12):
        shop.later(minutes=5)
    api.up()
    api.add(sale("s1"))
    for _ in range(2 * 12):
        shop.later(minutes=5)
    assert shop.code(key) == "VALID"


def test_after_a_week_the_owner_is_told_and_can_have_it_asked_again(shop, api):
    api.down()
    key = shop.sale("s1")
    for _ in range(9):
        shop.later(days=1)
    assert shop.inquiry().state == "dead"
    assert DEAD_LETTER in shop.kinds()
    assert "1:inquiry" in shop.text(DEAD_LETTER)
    assert "does not answer" in shop.text(DEAD_LETTER)
    api.up()
    api.add(sale("s1"))
    shop.later(days=30)
    assert (shop.code(key), api.asked) == ("EXPIRED", [])
    shop.post_office.retry()
    shop.mail()
    assert (shop.code(key), shop.inquiry().state) == ("VALID", "sent")


def test_a_platform_that_hangs_delays_the_first_webhook_alone(shop, api, clock, short_patience):
    api.hang = math.inf
    begun = time.monotonic()
    shop.sale("s1")
    assert time.monotonic() - begun >= 0.2
    for number in range(2, 7):
        assert shop.code(shop.sale(f"s{number}")) == "VALID"
    assert len(api.asked) == 1
    clock.forward(seconds=30)
    shop.sale("s12")
    assert len(api.asked) == 2


def test_a_platform_that_asks_for_a_rest_gets_it(shop, api, clock):
    api.fail_next(429, retry_after=300)
    shop.sale("s1")
    clock.forward(seconds=290)
    shop.sale("s2")
    assert len(api.asked) == 1
    clock.forward(seconds=11)
    shop.ping(sale_ping("s3", "ann@example.com"))
    assert len(api.asked) == 2


@pytest.mark.parametrize("what", ["token", "scope"])
def test_a_refused_token_is_told_to_the_owner_once_a_day(shop, api, what):
    api.token, api.is_forbidden = ("another", False) if what == "token" else (TOKEN, True)
    shop.sale("s1")
    shop.mail()
    for _ in range(11):
        shop.later(hours=1)
    assert shop.kinds().count(PLATFORM) == 1
    said = shop.text(PLATFORM)
    assert "refuses GUMROAD_ACCESS_TOKEN" in said
    assert TOKEN not in said
    for _ in range(72):
        shop.later(hours=1)
    assert shop.kinds().count(PLATFORM) == 4


def test_a_refusal_is_told_though_webhooks_find_it_out_all_the_time(shop, api, clock):
    """They let Gumroad rest, so that the outbox never asks itself."""
    api.is_forbidden = True
    shop.sale("s1")
    clock.forward(seconds=59)
    shop.sale("s2")
    asked = len(api.asked)
    shop.later(seconds=1)
    shop.mail()
    assert len(api.asked) == asked
    assert PLATFORM in shop.kinds()


def test_a_refund_while_gumroad_cannot_be_asked_counts_until_it_is_denied(shop, api):
    """Who forged it gains nothing: the license comes back by itself."""
    api.add(sale("s1"))
    key = shop.sale("s1")
    api.down()
    assert shop.refund("s1")["outcome"] == "revoked"
    assert shop.code(key) == "SUSPENDED"
    api.up()
    shop.later(minutes=1)
    assert shop.code(key) == "VALID"
    shop.mail()
    assert SUSPICIOUS in shop.kinds()


def test_a_renewal_that_is_not_confirmed_yet_gives_a_day(shop, api, clock):
    api.add(sale("s1", product_id="G-TEAM==", subscription_id="sub"))
    key = shop.sale("s1", product="G-TEAM==", **SUB)
    clock.forward(days=16)  # a day after the first period
    api.down()
    assert shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", **RENEWAL))["license_keys"] == [key]
    assert shop.record["expiry_date"] == "2026-12-07T12:00:00Z"
    api.up()
    shop.later(minutes=1)
    assert shop.record["expiry_date"] == "2026-12-05T19:38:56Z"
    assert shop.record["is_active"]


def test_a_renewal_is_mailed_once_with_the_day_that_was_paid(shop, api, clock):
    api.add(sale("s1", product_id="G-TEAM==", subscription_id="sub"))
    shop.sale("s1", product="G-TEAM==", **SUB)
    shop.mail()
    clock.forward(days=16)
    api.down()
    shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", **RENEWAL))
    shop.mail()
    api.up()
    api.add(sale("s2", product_id="G-TEAM==", subscription_id="sub", recurring_charge=True, created_at=clock.now))
    shop.later(minutes=1)
    shop.mail()
    assert shop.kinds() == ["delivery", "renewal"]
    assert "paid through 6 January 2027" in shop.text("renewal")


def test_a_forged_renewal_leaves_no_seats_behind(shop, api):
    api.add(sale("s1", product_id="G-TEAM==", subscription_id="sub"))
    key = shop.sale("s1", product="G-TEAM==", **SUB)
    api.down()
    shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", quantity=500, **RENEWAL))
    api.up()
    shop.later(minutes=1)
    assert (shop.code(key), shop.record["max_devices"]) == ("VALID", 2)


def test_an_altered_repeat_does_not_take_a_genuine_license(shop, api, clock):
    api.down()
    key = shop.sale("s1")
    api.up()
    api.add(sale("s1"))
    clock.forward(seconds=31)
    told = shop.ping(sale_ping("s1", "thief@example.com", quantity=500))
    assert told["license_keys"] == [key]
    assert (shop.code(key), shop.record.get("max_devices", 1)) == ("VALID", 1)
    assert (shop.record["email"], shop.record["expiry_date"]) == ("ann@example.com", None)


def test_a_genuine_repeat_takes_the_place_of_an_altered_notice(shop, api, clock):
    api.down()
    key = shop.sale("s1", "thief@example.com", quantity=500)
    api.up()
    api.add(sale("s1"))
    clock.forward(seconds=31)
    shop.sale("s1")
    assert (shop.record["email"], shop.record.get("max_devices", 1)) == ("ann@example.com", 1)
    assert (shop.record["expiry_date"], shop.code(key)) == (None, "VALID")


def test_a_forged_sale_of_somebody_elses_subscription_does_not_end_it(shop, api):
    """It claims to be older than the real one, so that the license would rest on it."""
    api.add(sale("s1", product_id="G-TEAM==", subscription_id="sub"))
    key = shop.sale("s1", product="G-TEAM==", **SUB)
    api.down()
    forged = SUB | {"sale_timestamp": "2020-01-01T00:00:00Z"}
    shop.ping(sale_ping("s0", "thief@example.com", "G-TEAM==", **forged))
    api.up()
    shop.later(minutes=1)
    record = shop.licenses()[key]
    assert (shop.code(key), record["email"], record["expiry_date"]) == (
        "VALID",
        "ann@example.com",
        "2026-12-05T19:38:56Z",
    )


@pytest.mark.files
def test_the_token_is_written_nowhere(shop, api, caplog, tmp_path, short_patience):
    caplog.set_level(logging.INFO)
    for trouble in ("silent", "refused"):
        TROUBLE[trouble](api)
        shop.sale(trouble)
        shop.later(minutes=1)
    api.hang = 0
    api.up()
    api.token = "another"
    shop.sale("s1")
    shop.later(minutes=1)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"refuses GUMROAD_ACCESS_TOKEN" in written
    assert TOKEN.encode() not in written
    assert TOKEN not in caplog.text + json.dumps([str(record.__dict__) for record in caplog.records])


def test_without_a_token_nothing_is_asked(tmp_path, clock, api):
    shop = Shop(tmp_path / "data", clock, gumroad_api_base=api.url)
    assert shop.code(shop.sale("s1")) == "VALID"
    assert api.asked == []


# ---------------------------------------------------------------------------------------------------- mutants
def is_red(test: Any, *given: Any) -> bool:
    try:
        test(*given)
    except AssertionError:
        return True
    return False


def test_mutant_no_read_back_is_caught(shop, api, monkeypatch):
    monkeypatch.setattr(Inquiries, "_answer", lambda self, event: event)
    assert is_red(test_a_sale_that_gumroad_does_not_know_mints_nothing, shop, api, 200)


def test_mutant_a_platform_that_is_never_left_alone_is_caught(shop, api, clock, short_patience, monkeypatch):
    monkeypatch.setattr(inquiries, "RESTS", (timedelta(0),))
    assert is_red(test_a_platform_that_hangs_delays_the_first_webhook_alone, shop, api, clock, short_patience)


def test_mutant_judging_a_license_by_a_forged_repeat_is_caught(shop, api, clock, monkeypatch):
    def careless(self: Any, event: Any, seen: Any, why: str) -> Any:
        return [inquiries.disowned(event, why, stays=False)]

    monkeypatch.setattr(Inquiries, "_not_believed", careless)
    assert is_red(test_an_altered_repeat_does_not_take_a_genuine_license, shop, api, clock)


def test_mutant_withdrawing_a_license_that_others_rest_on_is_caught(shop, api, monkeypatch):
    monkeypatch.setattr(Inquiries, "_is_license_of", lambda self, entry: entry.grants != ())
    assert is_red(test_a_forged_sale_of_somebody_elses_subscription_does_not_end_it, shop, api)


def test_who_runs_the_outbox_by_hand_has_open_questions_asked_at_once(shop, api):
    api.down()
    key = shop.sale("s1")
    api.up()
    api.add(sale("s1"))
    assert shop.post_office.send_due(by_hand=True).answered == 1
    assert (shop.code(key), shop.record["expiry_date"]) == ("VALID", None)


# ---------------------------------------------------------------------------------------------------- too young to know
def test_a_sale_that_gumroad_knows_only_a_moment_later_is_issued_after_all(shop, api):
    told = shop.ping(sale_ping("s1", "ann@example.com"))
    assert (told["outcome"], told["license_keys"], shop.ledger()[0]["told_as"]) == ("ignored", [], "sale")
    api.add(sale("s1", "ann@example.com"))
    shop.later(minutes=10)
    assert shop.licenses() == {}
    shop.later(minutes=6)
    assert (shop.record["is_active"], shop.record["expiry_date"]) == (True, None)
    shop.later(minutes=1)
    assert "delivery" in shop.kinds()


def test_a_provisional_sale_that_was_withdrawn_too_early_is_confirmed_after_all(shop, api):
    api.down()
    key = shop.sale("s1")
    api.up()
    shop.later(minutes=2)
    assert shop.code(key) == "BANNED"
    api.add(sale("s1", "ann@example.com"))
    shop.later(minutes=16)
    assert (shop.code(key), shop.record["expiry_date"]) == ("VALID", None)


def test_a_forged_sale_is_asked_about_once_more_and_never_issued(shop, api):
    shop.ping(sale_ping("s1", "ann@example.com"))
    for _ in range(50):
        shop.later(hours=3)
    assert (shop.licenses(), api.asked.count(ASKED)) == ({}, 2)


def test_a_sale_that_gumroad_tells_otherwise_is_not_asked_about_again(shop, api):
    api.add(sale("s1", "ann@example.com", product_id="G-TEAM=="))
    shop.ping(sale_ping("s1", "ann@example.com"))
    for _ in range(5):
        shop.later(hours=3)
    assert (shop.licenses(), api.asked.count(ASKED)) == ({}, 1)
