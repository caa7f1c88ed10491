"""A JVZoo shop seen from outside: what each notice does to a license."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.platforms.jvzoo import KINDS, JVZoo
from tests.conftest import Clock
from tests.jvzoo_notices import (
    KEY,
    SOLD_AT,
    STUDIO,
    TEAM,
    JVZooShop,
    Notice,
    cverify,
    legacy,
    posted,
    signed,
    v1,
    v2,
)

DAY = 86_400
MONTH = 30 * DAY  # what the team product is sold for
HOOK = "hook-secret-of-the-tests"
KEYGEN = "/api/v1/webhooks/jvzoo/keygen"


@pytest.fixture
def shop(tmp_path, clock) -> JVZooShop:
    return JVZooShop(tmp_path / "data", clock)


def record(shop: JVZooShop) -> dict[str, Any]:
    (found,) = shop.licenses().values()
    return found


def team(receipt: str, kind: str = "SALE", after: int = 0, **more: Any) -> Notice:
    return v1(receipt, kind, TEAM, ctranstime=SOLD_AT + after, **more)


def day(after: int) -> str:
    return f"{datetime.fromtimestamp(SOLD_AT + after, UTC):%Y-%m-%dT%H:%M:%SZ}"


# ---------------------------------------------------------------------------------------------------- sales
def test_a_sale_becomes_a_license_that_validates(shop):
    key = shop.sells(v1("R1"))
    assert shop.code(key) == "VALID"
    assert record(shop) == {
        "email": "jane@example.com",
        "customer_name": "Jane Doe",
        "created_date": "2026-11-05T18:58:56Z",
        "expiry_date": None,
        "is_active": True,
        "hardware_id": None,
        "device_name": None,
        "last_validation": "2026-11-20T12:00:00Z",
        "validation_count": 1,
        "purchase_source": "jvzoo",
        "purchase_id": "R1",
        "product_id": "wave",
    }


def test_the_ledger_line_says_what_was_sold(shop):
    shop.sells(v1("R1", ccustname="Zoë 李 😀"))
    (line,) = shop.ledger()
    told = {"event": "sale", "event_id": "R1:SALE", "outcome": "issued", "sale_id": "R1", "subscription_id": None}
    told |= {"price": "47.00", "currency": "usd", "source_product_id": "406519", "customer_name": "Zoë 李 😀"}
    assert {name: line[name] for name in told} == told
    assert "cverify" not in line["raw"]
    assert KEY not in str(line)


@pytest.mark.parametrize("product", ["406519", TEAM, STUDIO])
def test_both_versions_of_one_order_are_one_sale(tmp_path, clock, product):
    for number, notices in enumerate([[v1, v2], [v2, v1]]):
        shop = JVZooShop(tmp_path / str(number), clock)
        first, again = (shop.tell(make("R1", product=product)) for make in notices)
        assert first == again
        assert first["outcome"] == "issued"
        assert [line["event"] for line in shop.ledger() if line["event"] != "ignored"] == ["sale"]


def test_a_paykey_that_came_with_the_second_version_is_good_for_no_other_sale(shop):
    key = shop.sells(v1("R1"))
    for _ in range(2):
        assert shop.tell(v2("R1"))["license_keys"] == [key]
    assert len(shop.ledger()) == 2  # the sale, and the mark that its other version had
    replayed = shop.tell(v2("R2", product=TEAM, paykey="AP-R1"))
    assert (replayed["outcome"], replayed["license_keys"]) == ("ignored", [])
    assert list(shop.licenses()) == [key]


def test_the_same_notice_sent_again_every_hour_changes_nothing(shop, clock):
    first = shop.tell(v1("R1"))
    for _ in range(3):
        clock.forward(hours=1)
        assert shop.tell(v1("R1")) == first
    assert len(shop.ledger()) == 1


def test_an_unmapped_product_is_kept_for_the_owner(shop):
    assert shop.tell(v1("R1", product="1"))["outcome"] == "unmapped"
    assert shop.licenses() == {}


def test_a_bundle_is_one_license_a_child(shop):
    assert len(shop.tell(v1("R1", product=STUDIO))["license_keys"]) == 2


def test_an_amount_that_cannot_be_read_is_no_reason_to_refuse(shop):
    for number, amount in enumerate(["0.00", "1000", "", "$47", "NaN", "1e9999", "-1"]):
        assert shop.tell(v1(f"R{number}", ctransamount=amount))["outcome"] == "issued"
    assert [line["price"] for line in shop.ledger()] == ["0.00", "1000.00", None, None, None, None, "-1.00"]


def test_amounts_may_be_told_in_cents(tmp_path, clock):
    shop = JVZooShop(tmp_path / "cents", clock, jvzoo_amounts="cents")
    shop.tell(v1("R1", ctransamount="4700"))
    shop.tell(v2("R2"))
    assert [line["price"] for line in shop.ledger()] == ["47.00", "47.00"]


def test_a_strange_time_is_no_reason_to_refuse(shop):
    for number, moment in enumerate(["", "0", "soon", "9" * 5000, "-1"]):
        assert shop.tell(team(f"R{number}") | {"ctranstime": moment})["outcome"] == "issued"
    assert {line["purchase_date"] for line in shop.ledger()} == {None}
    assert {found["expiry_date"] for found in shop.licenses().values()} == {"2026-12-20T12:00:00Z"}


# ---------------------------------------------------------------------------------------------------- reversals
def test_a_refund_revokes_its_own_receipt_and_no_other(shop):
    first, second = shop.sells(v1("R1")), shop.sells(v1("R2"))
    assert shop.tell(v1("R1", "RFND")) == {"received": True, "outcome": "revoked", "license_keys": [first]}
    assert (shop.code(first), shop.code(second)) == ("SUSPENDED", "VALID")
    assert shop.licenses()[first]["inactive_reason"] == "refunded"


def test_a_refund_told_by_both_versions_is_one_refund(shop):
    key = shop.sells(v2("R1"))
    assert shop.tell(v2("R1", "RFND")) == shop.tell(v1("R1", "RFND"))
    assert (shop.code(key), len(shop.ledger())) == ("SUSPENDED", 2)


def test_a_sale_whose_refund_came_first_gets_an_inactive_license(shop):
    assert shop.tell(v1("R1", "RFND")) == {"received": True, "outcome": "recorded", "license_keys": []}
    assert shop.tell(v1("R1"))["outcome"] == "revoked"
    assert record(shop)["inactive_reason"] == "refunded"


def test_a_chargeback_bans(shop):
    key, other = shop.sells(v1("R1")), shop.sells(v1("R2"))
    assert shop.tell(v1("R1", "CGBK"))["outcome"] == "revoked"
    assert (shop.code(key), shop.code(other)) == ("BANNED", "VALID")
    assert shop.licenses()[key]["inactive_reason"] == "chargeback"


def test_a_refund_of_the_parent_leaves_its_upsell_alone(shop):
    parent, upsell = shop.sells(v1("R1")), shop.sells(v1("R2", product=TEAM, cupsellreceipt="R1"))
    shop.tell(v1("R1", "RFND"))
    assert (shop.code(parent), shop.code(upsell)) == ("SUSPENDED", "VALID")
    shop.tell(v1("R2", "CGBK", TEAM, cupsellreceipt="R1"))
    assert (shop.code(parent), shop.code(upsell)) == ("SUSPENDED", "BANNED")


# ---------------------------------------------------------------------------------------------------- subscriptions
def test_a_renewal_extends_the_same_license(shop):
    key = shop.sells(team("R1"))
    assert record(shop)["expiry_date"] == day(MONTH)
    assert shop.tell(team("R1-B001", "BILL", MONTH)) == {
        "received": True,
        "outcome": "extended",
        "license_keys": [key],
    }
    assert record(shop)["expiry_date"] == day(2 * MONTH)
    assert shop.ledger()[-1]["is_recurring"] is True


def test_a_renewal_without_its_sale_is_held_until_the_sale_comes(shop):
    assert shop.tell(team("R1-B001", "BILL", MONTH))["outcome"] == "pending"
    assert shop.licenses() == {}
    key = shop.sells(team("R1"))
    assert shop.code(key) == "VALID"
    assert record(shop)["expiry_date"] == day(2 * MONTH)


@pytest.mark.parametrize("kind", ["RFND", "CGBK"])
def test_a_renewal_that_is_reversed_takes_back_its_period_alone(shop, kind):
    key = shop.sells(team("R1"))
    shop.tell(team("R1-B001", "BILL", MONTH))
    shop.tell(team("R1-B002", "BILL", 2 * MONTH))
    shop.tell(team("R1-B002", kind, 2 * MONTH + DAY))
    assert (record(shop)["is_active"], record(shop)["expiry_date"]) == (True, day(2 * MONTH))
    shop.tell(team("R1", kind, 2 * MONTH + DAY))
    assert record(shop)["is_active"] is False
    assert shop.code(key) == {"RFND": "SUSPENDED", "CGBK": "BANNED"}[kind]


def test_a_failed_renewal_leaves_what_is_paid_and_the_next_one_cures_it(shop, clock):
    key = shop.sells(team("R1"))
    assert shop.tell(team("R1-B001", "INSF", MONTH))["outcome"] == "recorded"
    assert record(shop)["is_active"] is True
    clock.forward(days=17)  # within the days of grace
    assert shop.code(key) == "VALID"
    clock.forward(days=3)
    assert shop.code(key) == "EXPIRED"
    shop.tell(team("R1-B001", "BILL", MONTH + 2 * DAY))
    assert shop.code(key) == "VALID"


def test_a_cancelled_subscription_is_valid_as_long_as_it_is_paid(shop, clock):
    key = shop.sells(team("R1"))
    assert shop.tell(team("R1", "CANCEL-REBILL", DAY))["outcome"] == "recorded"
    assert (shop.code(key), record(shop)["expiry_date"]) == ("VALID", day(MONTH))
    assert shop.tell(team("R1", "UNCANCEL-REBILL", 2 * DAY))["outcome"] == "recorded"
    assert shop.tell(team("R1-B001", "BILL", MONTH))["license_keys"] == [key]
    shop.tell(team("R1-B001", "CANCEL-REBILL", MONTH + DAY))
    clock.forward(days=80)
    assert shop.code(key) == "EXPIRED"


# ---------------------------------------------------------------------------------------------------- tests
def test_a_test_sale_is_marked_and_ends_after_a_week(shop, clock):
    key = shop.sells(v1("T1", "TEST_SALE"))
    assert (record(shop)["is_test"], record(shop)["expiry_date"]) == (True, "2026-11-27T12:00:00Z")
    assert shop.code(key) == "VALID"
    clock.forward(days=11)
    assert shop.code(key) == "EXPIRED"
    assert shop.owner("GET", "/stats").json["total_purchases"] == 0


@pytest.mark.parametrize("kind", ["TEST", "CANCEL-TEST-REBILL", "MOON-LANDING"])
@pytest.mark.parametrize("make", [v1, v2])
def test_what_is_no_purchase_is_recorded_and_touches_nothing(shop, make, kind):
    key = shop.sells(v1("R1"))
    before = record(shop)
    assert shop.tell(make("R1", kind)) == {"received": True, "outcome": "ignored", "license_keys": []}
    assert (record(shop), shop.ledger()[-1]["event"], shop.code(key)) == (before, "ignored", "VALID")
    assert shop.ledger()[-1]["note"]


# ---------------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize("notice", [v1("R1"), v2("R1"), legacy("R1"), v1("R1", "RFND")])
def test_a_notice_that_is_not_proven_is_refused_and_changes_nothing(shop, notice):
    shop.sells(v1("R0"))
    for body in (posted(notice), signed(notice, "wrong"), posted(notice | {"cverify": "DEADBEEF"})):
        answered = shop.send(body)
        assert (answered.status_code, answered.json["errors"][0]["code"]) == (403, "UNVERIFIED")
    assert len(shop.ledger()) == 1


@pytest.mark.parametrize("notice", [v1("R1"), v2("R1"), legacy("R1")])
def test_without_the_check_a_forged_notice_would_be_believed(tmp_path, clock, monkeypatch, notice):
    """That the refusals above are the signature's doing."""
    monkeypatch.setattr(JVZoo, "verify", lambda self, request: None)
    shop = JVZooShop(tmp_path / "mutant", clock)
    assert shop.send(signed(notice, "wrong")).json["outcome"] == "issued"


def test_the_urls_secret_is_asked_for_where_it_is_set(tmp_path, clock):
    shop = JVZooShop(tmp_path / "hook", clock, jvzoo_webhook_secret=HOOK, jvzoo_keygen="on")
    body = signed(v1("R1"))
    for door in ("/api/v1/webhooks/jvzoo", "/ipn", KEYGEN):
        for query in ("", "?secret=", f"?secret={HOOK}x"):
            answered = shop.send(body, door + query)
            assert (answered.status_code, answered.json["errors"][0]["code"]) == (403, "BAD_SECRET")
        assert shop.send(body, f"{door}?secret={HOOK}").status_code == 200
    assert len(shop.ledger()) == 1


@pytest.mark.parametrize("door", ["/api/v1/webhooks/jvzoo", "/ipn", KEYGEN])
def test_without_its_secret_key_every_door_is_shut(tmp_path, clock, door):
    shop = JVZooShop(tmp_path / "off", clock, jvzoo_secret_key=None, jvzoo_keygen="on")
    for body in (signed(v1("R1"), ""), b"a=b"):
        answered = shop.send(body, door)
        assert (answered.status_code, answered.json["errors"][0]["code"]) == (404, "PLATFORM_NOT_CONFIGURED")


@pytest.mark.parametrize("notice", [v1(""), v1("R1", ""), v2(""), v2("R1", paykey="")])
def test_a_proven_notice_without_what_matters_is_a_400(shop, notice):
    answered = shop.send(signed(notice))
    assert (answered.status_code, "is missing" in answered.json["errors"][0]["detail"]) == (400, True)
    assert shop.ledger() == []


# ---------------------------------------------------------------------------------------------------- replays
@pytest.mark.parametrize("other", [{"transaction_id": "R2"}, {"product_id": TEAM}, {"total": "0.01"}])
def test_a_paykey_is_good_for_one_license(shop, other):
    """Receipt, product and total are not signed in version 2."""
    first = shop.tell(v2("R1"))
    replayed = v2("R1") | other | ({"transaction_id": "R2"} if "product_id" in other else {})
    assert cverify(replayed) == cverify(v2("R1"))
    told = shop.tell(replayed)
    assert told["license_keys"] in ([], first["license_keys"])
    assert len(shop.licenses()) == 1
    assert shop.sells(v2("R3")) not in first["license_keys"]


def test_a_paykey_is_good_for_one_period(shop):
    shop.tell(v2("R1", product=TEAM))
    bill = v2("R1-B001", "BILL", TEAM, date="2026-12-05 13:58:56")
    assert shop.tell(bill)["outcome"] == "extended"
    assert shop.tell(bill | {"transaction_id": "R1-B002"})["outcome"] == "ignored"
    assert record(shop)["expiry_date"] == day(2 * MONTH)


# ---------------------------------------------------------------------------------------------------- the older formula
def test_the_older_formula_is_off_until_the_owner_turns_it_on(tmp_path, clock):
    assert JVZooShop(tmp_path / "off", clock).send(signed(legacy("T1"))).status_code == 403
    shop = JVZooShop(tmp_path / "on", clock, jvzoo_legacy_signature="on")
    key = shop.sells(legacy("T1", product=TEAM))
    assert shop.tell(legacy("T1-B001", "INSTAL", TEAM))["outcome"] == "extended"
    shop.tell(legacy("T1", "RFND", TEAM))
    assert shop.code(key) == "SUSPENDED"
    assert shop.tell(v1("R1"))["outcome"] == "issued"


# ---------------------------------------------------------------------------------------------------- the other doors
def test_the_older_door_answers_in_plain_text(shop):
    answered = shop.send(signed(v1("R1")), "/ipn")
    assert (answered.status_code, answered.text, answered.mimetype) == (200, "OK", "text/plain")
    assert shop.send(signed(v1("R1"))).json["outcome"] == "issued"
    assert shop.send(signed(v2("R1", "MOON-LANDING")), "/ipn").text == "OK"
    assert len(shop.ledger()) == 2
    assert shop.send(posted(v1("R2")), "/ipn").status_code == 403


@pytest.fixture
def keygen_shop(tmp_path, clock) -> JVZooShop:
    return JVZooShop(tmp_path / "keygen", clock, jvzoo_keygen="on")


def test_the_keygen_url_is_off_by_default(shop):
    answered = shop.send(signed(v1("R1")), KEYGEN)
    assert (answered.status_code, answered.json["errors"][0]["code"]) == (404, "PLATFORM_NOT_CONFIGURED")
    assert shop.ledger() == []


def test_the_keygen_url_answers_with_the_key_alone(keygen_shop):
    answered = keygen_shop.send(signed(v1("R1")), KEYGEN)
    assert (answered.status_code, answered.mimetype) == (200, "text/plain")
    assert keygen_shop.code(answered.text) == "VALID"
    assert keygen_shop.send(signed(v1("R1")), KEYGEN).text == answered.text
    assert keygen_shop.sells(v2("R1")) == answered.text
    assert len(keygen_shop.licenses()) == 1


def test_the_keygen_url_gives_a_bundles_keys_a_line_each(keygen_shop):
    keys = keygen_shop.send(signed(v1("R1", product=STUDIO)), KEYGEN).text.split("\n")
    assert [keygen_shop.code(key) for key in keys] == ["VALID", "VALID"]


@pytest.mark.parametrize(
    ("notice", "text"),
    [
        (v1("R2", product="1"), "Your license key follows by e-mail."),
        (v1("R2-B001", "BILL", TEAM), "Your license key follows by e-mail."),
        (v1("R1", "RFND"), ""),
        (v1("R1", "CGBK"), ""),
        (v1("R3"), ""),  # refunded before it was told
        (v1("R1", "TEST"), ""),
    ],
)
def test_the_keygen_url_gives_no_key_where_none_was_bought(keygen_shop, notice, text):
    keygen_shop.sells(v1("R1"))
    keygen_shop.tell(v1("R3", "RFND"))
    answered = keygen_shop.send(signed(notice), KEYGEN)
    assert (answered.status_code, answered.mimetype, answered.text) == (200, "text/plain", text)


def test_the_keygen_url_asks_for_the_same_proof(keygen_shop):
    assert keygen_shop.send(posted(v1("R1")), KEYGEN).status_code == 403
    assert keygen_shop.ledger() == []


# ---------------------------------------------------------------------------------------------------- odd input
NAMES = sorted({*v1(""), *v2(""), *legacy("")})
VALUES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "0", "-1", "1e9", "9" * 400, "\0", "\udcff", "R1", "R1-B001", "a|b", "x" * 600, TEAM, "NaN"]),
    st.integers(-(10**20), 10**20).map(str),
)
NOTICES = st.builds(
    lambda make, receipt, kind, odd: make(receipt, kind) | odd,
    st.sampled_from([v1, v2, legacy]),
    st.sampled_from(["R1", "R1-B001", "R2", ""]) | VALUES,
    st.sampled_from([*KINDS, "TEST", "", "sale"]) | VALUES,
    st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), VALUES, max_size=5),
)


@pytest.fixture(scope="module")
def odd_shop(tmp_path_factory) -> JVZooShop:
    return JVZooShop(tmp_path_factory.mktemp("odd") / "data", Clock(), jvzoo_legacy_signature="on", jvzoo_keygen="on")


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(notice=NOTICES, door=st.sampled_from(["/api/v1/webhooks/jvzoo", "/ipn", KEYGEN]))
def test_odd_notices_that_are_proven_are_never_a_500_and_never_half_done(odd_shop, notice, door):
    notice.pop("cverify", None)
    ledger = odd_shop.folder / "purchases.jsonl"
    before = ledger.stat().st_size if ledger.exists() else 0
    status = odd_shop.send(signed(notice), door).status_code
    assert status == 200 or (status in (400, 403) and (ledger.stat().st_size if ledger.exists() else 0) == before)


@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=st.binary(max_size=200) | st.text(alphabet="cverify=&%[]+|\0é", max_size=60).map(str.encode))
def test_odd_bodies_are_refused(odd_shop, body):
    assert odd_shop.send(body).status_code == 403


@pytest.mark.parametrize("sale_first", [True, False])
def test_a_renewal_of_a_sale_that_was_told_as_standard_finds_it(shop, sale_first):
    notices = [v1("R1"), v1("R1-B001", "BILL", ctranstime=SOLD_AT + MONTH)]
    for notice in notices if sale_first else notices[::-1]:
        shop.tell(notice)
    (found,) = shop.licenses().values()
    assert (found["is_active"], found["expiry_date"], shop.ledger()[-1]["outcome"]) == (
        True,
        None,
        "extended" if sale_first else "issued",
    )


@pytest.mark.parametrize("word", ["RFND", "CGBK", "INSF", "CANCEL-REBILL"])
def test_who_changes_the_receipt_of_a_genuine_notice_takes_nothing_from_another_order(shop, word):
    """The receipt is not signed in version 2, and the paykey is."""
    mine, other = shop.sells(v2("R1")), shop.sells(v2("R2"))
    before = shop.licenses()
    assert shop.tell(v2("R2", word, paykey="AP-R1"))["outcome"] == "ignored"
    assert shop.licenses() == before
    shop.tell(v2("R1", "RFND"))
    assert (shop.code(mine), shop.code(other)) == ("SUSPENDED", "VALID")


def test_a_first_renewal_may_come_with_the_sales_paykey_and_the_next_one_with_its_own(shop):
    shop.sells(v2("R1", product=TEAM))
    outcomes = [
        shop.tell(v2(receipt, "BILL", TEAM, paykey=paykey))["outcome"]
        for receipt, paykey in [("R1-B001", "AP-R1"), ("R1-B002", "AP-R1"), ("R1-B003", "AP-3"), ("R1-B004", "AP-3")]
    ]
    assert outcomes == ["extended", "ignored", "extended", "ignored"]


def test_failures_may_come_with_the_paykey_of_the_last_charge(shop):
    shop.sells(v2("R1", product=TEAM))
    for receipt in ("R1-B001", "R1-B002"):
        assert shop.tell(v2(receipt, "INSF", TEAM, paykey="AP-R1"))["outcome"] == "recorded"


@pytest.mark.parametrize("make", [v1, v2])
def test_a_sale_of_a_product_that_is_not_named_waits_and_its_refund_counts(shop, make):
    assert shop.tell(make("R1", product=""))["outcome"] == "unmapped"
    shop.sells(make("R2"))
    assert shop.tell(make("R2", "RFND", product=""))["outcome"] == "revoked"
