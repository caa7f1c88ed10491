"""Webhooks that were not taken: counted for the owner with what to do, answered as ever, and no word of theirs kept."""

from __future__ import annotations

import pytest

from server.errors import StorageUnavailable
from server.services.deliveries import Reason, SenderHealth
from tests.conftest import SECRET, Shop, form, sale_ping
from tests.tills import WHSEC

STRIPE = {"stripe_webhook_secret": (WHSEC,)}


def sender(shop: Shop, platform: str = "gumroad") -> SenderHealth:
    return next(one for one in shop.services.deliveries.health() if one.platform == platform)


def told(shop: Shop, platform: str = "gumroad") -> list[tuple[str, int]]:
    return [(trouble.reason, trouble.total) for trouble in sender(shop, platform).troubles]


def failing(shop: Shop) -> list[str]:
    return [one.platform for one in shop.services.deliveries.failing()]


def test_what_is_taken_is_a_success(shop, clock):
    assert (sender(shop).last_success, sender(shop).lately) == (None, 0)
    shop.sale()
    clock.forward(hours=1)
    shop.sale()  # a repeat is one, too
    assert sender(shop).last_success == clock()
    assert failing(shop) == []


def test_a_wrong_secret_is_counted_and_says_what_to_do(shop, clock):
    for secret in (None, "wrong", ""):
        assert shop.post(sale_ping("s1", "ann@example.com"), secret=secret).status_code == 403
    (trouble,) = sender(shop).troubles
    assert (trouble.reason, trouble.lately, trouble.last) == (Reason.PROOF, 3, clock())
    assert trouble.words == "refused, since the proof is missing or wrong"
    assert "paste the whole address again" in trouble.todo
    assert trouble.newest[0].detail == "the webhook's secret is missing or wrong: copy the whole URL, with ?secret="
    assert failing(shop) == ["gumroad"]


def test_a_success_since_then_tells_that_it_was_a_stranger(shop, clock):
    shop.post(sale_ping("s1", "ann@example.com"), secret="wrong")
    clock.forward(minutes=1)
    shop.sale()
    assert failing(shop) == []
    assert told(shop) == [("proof", 1)]


def test_a_day_later_it_is_no_alarm_any_more(shop, clock):
    shop.post(sale_ping("s1", "ann@example.com"), secret="wrong")
    clock.forward(hours=24)
    assert failing(shop) == []
    assert sender(shop).lately == 0
    assert told(shop) == [("proof", 1)]


def test_a_bad_signature_of_stripe(tmp_path, clock):
    shop = Shop(tmp_path / "data", clock, **STRIPE)
    for door in ("/api/v1/webhooks/stripe", "/webhooks/stripe"):
        assert shop.client.post(door, data=b"{}", headers={"Stripe-Signature": "t=1,v1=00"}).status_code == 400
    assert told(shop, "stripe") == [("proof", 2)]
    assert sender(shop, "stripe").troubles[0].todo.startswith("STRIPE_WEBHOOK_SECRET is another endpoint's")
    assert failing(shop) == ["stripe"]


def test_what_is_limited_is_counted_as_what_it_was(tmp_path, clock):
    shop = Shop(tmp_path / "data", clock, rate_limit="1/hour")
    answers = [shop.post(sale_ping("s1", "ann@example.com"), secret="wrong").status_code for _ in range(3)]
    assert answers == [403, 429, 429]
    assert told(shop) == [("proof", 3)]


def test_proven_and_not_understood(shop):
    assert shop.post({"resource_name": "sale", "price": 1}).status_code == 400
    (trouble,) = sender(shop).troubles
    assert (trouble.reason, trouble.newest[0].detail) == (Reason.CONTENT, "sale_id: is missing")
    assert failing(shop) == ["gumroad"]


def test_unproven_and_not_understood_is_kept_apart(tmp_path, clock):
    shop = Shop(tmp_path / "data", clock, jazzcash_merchant_id="MC1", jazzcash_password="p" * 10,
                jazzcash_integrity_salt="s" * 10, jazzcash_api_url="http://127.0.0.1:9")  # fmt: skip
    assert shop.client.post("/api/v1/webhooks/jazzcash", data=b'{"ann@example.com": ').status_code == 400
    assert told(shop, "jazzcash") == [("unreadable", 1)]
    assert [one.detail for one in sender(shop, "jazzcash").troubles[0].newest] == ["body: not JSON"]
    assert failing(shop) == []


def test_too_large_is_kept_apart(shop):
    query = f"?secret={SECRET}"
    assert shop.client.post(f"/api/v1/webhooks/gumroad{query}", data=b"x" * 300_000).status_code == 413
    assert told(shop) == [("unreadable", 1)]
    assert sender(shop).troubles[0].newest[0].size == 300_000


def test_what_cannot_be_written_is_told(shop, monkeypatch):
    def full(*_: object) -> None:
        raise StorageUnavailable("purchases.jsonl cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shop.services.fulfilment, "record", full)
        assert shop.post(sale_ping("s1", "ann@example.com")).status_code == 503
    assert told(shop) == [("storage", 1)]
    assert failing(shop) == ["gumroad"]
    shop.clock.forward(minutes=1)
    shop.sale()
    assert failing(shop) == []


def test_an_error_of_ours_is_told(shop, monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("ann@example.com")

    monkeypatch.setattr(shop.services.fulfilment, "record", broken)
    assert shop.post(sale_ping("s1", "ann@example.com")).status_code == 500
    (trouble,) = sender(shop).troubles
    assert (trouble.reason, trouble.newest[0].detail) == (Reason.ERROR, "ZeroDivisionError")


def test_platforms_that_are_not_set_up_and_names_that_nobody_has(shop):
    assert shop.client.post("/api/v1/webhooks/stripe", data=b"{}").status_code == 404
    for name in ("shopify", "x" * 500, "ann@example.com"):
        assert shop.client.post(f"/api/v1/webhooks/{name}", data=b"{}").status_code == 404
    assert told(shop, "stripe") == [("off", 1)]
    assert "Set STRIPE_WEBHOOK_SECRET" in sender(shop, "stripe").troubles[0].todo
    assert told(shop, "") == [("off", 3)]
    assert failing(shop) == []


def test_looking_at_the_address_in_a_browser_is_no_failure(shop):
    assert shop.client.get("/api/v1/webhooks/gumroad").status_code == 405
    assert told(shop) == []


def test_the_check_up_s_knock_is_no_failure(tmp_path, clock):
    shop = Shop(tmp_path / "data", clock, **STRIPE)
    for name, platform in shop.services.platforms.items():
        trial = platform.trial()
        answered = shop.client.post(
            f"/api/v1/webhooks/{name}", data=trial.body, query_string=trial.query, headers=trial.headers
        )
        assert answered.status_code == 400
    assert [(one.platform, one.troubles) for one in shop.services.deliveries.health()] == [
        ("gumroad", ()),
        ("stripe", ()),
    ]


def test_the_older_doors_are_counted_too(tmp_path, clock):
    shop = Shop(tmp_path / "data", clock, jvzoo_secret_key="key-of-jvzoo-1234")
    assert shop.client.post("/ipn", data=b"ctransaction=SALE&cverify=00").status_code == 403
    assert told(shop, "jvzoo") == [("proof", 1)]


def test_no_address_no_secret_and_no_body_is_kept(shop):
    private = {"email": "ann@example.com", "full_name": "Jane Doe", "sale_id": "sale-id-of-jane"}
    shop.post(private | {"resource_name": "sale", "is_recurring_charge": "bob@example.com"})
    shop.post(private, secret="a-wrong-secret-of-somebody")
    shop.client.post(f"/api/v1/webhooks/gumroad?secret={SECRET}", data=b"\0" + form(private))
    kept = (shop.folder / "webhooks.table").read_bytes()
    assert len(told(shop)) == 2
    for word in (*private.values(), "bob@example.com", SECRET, "a-wrong-secret-of-somebody"):
        assert word.encode() not in kept


@pytest.mark.parametrize("spoil", ["folder", "rest"])
def test_where_it_cannot_be_written_webhooks_go_on(shop, caplog, spoil):
    table = shop.folder / "webhooks.table"
    if spoil == "folder":
        table.mkdir()
    else:
        table.write_bytes(b"garbage" * 1000)
    assert shop.sale().count("-") == 4
    assert shop.post(sale_ping("s1", "ann@example.com"), secret="wrong").status_code == 403
    assert shop.services.deliveries.health()[0].platform == "gumroad"
    assert ("deliveries are not counted" in caplog.text) == (spoil == "folder")


def test_every_worker_tells_of_every_other_s(tmp_path, clock):
    one, other = Shop(tmp_path / "data", clock), Shop(tmp_path / "data", clock)
    one.post(sale_ping("s1", "ann@example.com"), secret="wrong")
    assert failing(other) == ["gumroad"]
    clock.forward(minutes=1)
    other.sale()
    assert failing(one) == []
