"""Webhooks on the dashboard: whether they come through, what each said and did, and handling one again."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from server.domain.purchase import Entry
from server.platforms import gumroad, jvzoo
from server.services.backlog import Backlog
from server.services.caretaker import Caretaker
from tests import jvzoo_notices
from tests.conftest import CATALOGUE, SECRET, Shop, form, sale_ping
from tests.dashboard import HASH, OwnerBrowser, forms_of, shop_with_dashboard
from tests.standins.gumroad_api import TOKEN, GumroadApi, sale
from tests.tills import WHSEC, shop_of_three
from tests.web.test_dashboard_books import ANN, BOB, lines_on, listed, text_of

MAPPED = CATALOGUE["products"] | {"new": {"name": "Brand new", "platform_ids": {"gumroad": ["G-NEW=="]}}}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Nobody but the test sends letters."""
    monkeypatch.setattr(Caretaker, "poke", lambda self: None)


@pytest.fixture
def shop(tmp_path, clock):
    return shop_with_dashboard(tmp_path / "data", clock)


@pytest.fixture
def owner(shop):
    return OwnerBrowser(shop)


def letters_on(shop: Shop) -> list[str]:
    return [letter.id for letter in shop.services.outbox.list() if letter.kind == "delivery"]


def again(owner: OwnerBrowser, seq: int) -> str:
    """Handle it again, past the page that says what will happen."""
    page = owner.get(f"/webhooks/{seq}/again")
    (form_,) = [one for one in forms_of(page) if one["action"] == f"/admin/webhooks/{seq}/again"]
    return owner.told(owner.client.post(form_["action"], data=form_["fields"]))


def books(shop: Shop) -> list[tuple[str, str]]:
    return [(line["event"], line["outcome"]) for line in shop.ledger()]


# ---------------------------------------------------------------------------------------------------- looking
def test_what_was_taken_is_listed_the_newest_first(shop, owner):
    shop.sale("s1", ANN)
    shop.sale("s2", BOB)
    shop.refund("s1")
    shop.owner("POST", "/licenses", {"email": ANN, "customer_name": "Ann", "product_id": "wave"})
    assert listed(owner, "webhooks") == [3, 2, 1]
    assert listed(owner, "webhooks", event="refund") == [3]
    assert listed(owner, "webhooks", source="gumroad", outcome="issued") == [2, 1]
    assert listed(owner, "webhooks", source="stripe") == []
    assert listed(owner, "webhooks", below="2") == [1]


def test_whether_webhooks_come_through_is_told_with_what_to_do(shop, owner, clock):
    told = text_of(owner.get("/webhooks"))
    assert "Gumroad nothing yet never never 0" in told
    for _ in range(2):
        shop.client.post(f"/api/v1/webhooks/gumroad?secret=wrong{SECRET}", data=form(sale_ping("s1", ANN)))
    told = text_of(owner.get("/webhooks"))
    assert "Gumroad failing never 2026-11-20 12:00 2" in told
    assert "Gumroad: 2 in a day refused, since the proof is missing or wrong." in told
    assert "paste the whole address again" in told
    assert "1,0" not in told
    clock.forward(minutes=1)
    shop.sale("s1", ANN)
    assert "Gumroad well 2026-11-20 12:01 2026-11-20 12:00 2" in text_of(owner.get("/webhooks"))
    assert SECRET not in owner.get("/webhooks")


def test_one_line_tells_what_was_sent_and_what_it_did(shop, owner):
    key = shop.sale("s1", ANN, full_name='Zoë <b> "x"\u202e', referrer="https://shop.example/?a=1&b=2")
    shop.services.outbox.send_due()
    page = owner.get("/webhooks/1")
    told = text_of(page)
    assert key in told
    assert "It gave wave, 1 seat, for life." in told
    assert f"Letter: delivery to {ANN} sent" in told
    assert "sale id s1" in told
    assert '"referrer": "https://shop.example/?a=1&b=2"' in told
    assert "Zoë &lt;b&gt; \\" in page
    assert "\\u202e" in page
    assert "Nothing will change: it is done" in told
    assert "/again" not in page
    shop.refund("s1")
    assert lines_on(owner.get("/webhooks/1")) == [2]
    for seq in ("99", "0"):
        owner.get(f"/webhooks/{seq}", status=404)


# ---------------------------------------------------------------------------------------------------- unmapped
def test_an_unmapped_sale_is_issued_after_it_was_mapped(shop, owner):
    shop.ping(sale_ping("s1", ANN, "G-NEW=="))
    page = owner.get("/webhooks/1")
    assert "Nothing will change before its product is mapped" in text_of(page)
    assert '"platform_ids": {"gumroad": ["G-NEW=="]}' in text_of(page)
    assert owner.told(owner.client.get("/admin/webhooks/1/again")).startswith("Not done. Nothing will change before")
    shop.write_catalogue(CATALOGUE | {"products": MAPPED})
    asked = text_of(owner.get("/webhooks/1/again"))
    assert f"A license of Brand new will be issued, and its key sent to {ANN}." in asked
    assert again(owner, 1) == "Done. It is issued now, by line 2 of the ledger, 1 license."
    assert books(shop) == [("sale", "unmapped"), ("owner_fulfil", "issued")]
    assert "Line 2 says something newer" in text_of(owner.get("/webhooks/1"))
    shop.services.outbox.send_due()
    assert letters_on(shop) == ["2:delivery"]


def test_a_double_click_mints_once(shop, owner, monkeypatch):
    """All four have judged that the sale waits before the first one writes."""
    gate, waits = threading.Barrier(4, timeout=60), Backlog.waits

    def together(backlog: Backlog, entry: Entry) -> bool:
        if found := waits(backlog, entry):
            gate.wait()
        return found

    shop.ping(sale_ping("s1", ANN, "G-NEW=="))
    shop.write_catalogue(CATALOGUE | {"products": MAPPED})
    browsers = [owner, *(OwnerBrowser(shop) for _ in range(3))]
    fields = {"csrf_token": owner.token}

    def click(number: int) -> int:
        browser = browsers[number]
        told = fields if browser is owner else {"csrf_token": browser.token}
        return int(browser.client.post("/admin/webhooks/1/again", data=told).status_code)

    monkeypatch.setattr(Backlog, "waits", together)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(click, range(4))) == {303}
    assert owner.client.post("/admin/webhooks/1/again", data=fields).status_code == 303
    assert books(shop) == [("sale", "unmapped"), ("owner_fulfil", "issued")]
    assert len(shop.licenses()) == 1
    shop.services.outbox.send_due()
    assert letters_on(shop) == ["2:delivery"]


def test_a_sale_without_an_address_waits_for_one(shop, owner):
    shop.ping(sale_ping("s1", "", "G-NEW=="))
    shop.write_catalogue(CATALOGUE | {"products": MAPPED})
    assert "the sale names no e-mail address" in text_of(owner.get("/webhooks/1"))


def test_a_sale_that_is_held_says_so_before_it_is_issued(shop, owner):
    shop.ping(sale_ping("s1", ANN, is_preorder_authorization="true"))
    told = text_of(owner.get("/webhooks/1/again"))
    assert "It is held: the card is authorised; the charge comes as another sale. If you go on all the same" in told
    assert again(owner, 1).startswith("Done. It is issued now")


# ---------------------------------------------------------------------------------------------------- done already
def test_what_is_done_changes_nothing_however_often_it_is_asked_for(shop, owner):
    shop.sale("s1", ANN)
    shop.refund("s1")
    key = shop.sale("s2", BOB)
    shop.owner("POST", f"/licenses/{key}/suspend")
    before = shop.ledger()
    for seq in range(1, 5):
        for _ in range(2):
            told = owner.told(owner.send(f"/webhooks/{seq}/again"))
            assert re.match(r"Done\. (Nothing will change|This is a decision of your own)", told), told
    assert shop.ledger() == before


# ---------------------------------------------------------------------------------------------------- ignored
def test_what_an_earlier_version_did_not_know_is_read_with_today_s_words(shop, owner, monkeypatch):
    shop.sale("s1", ANN)
    with monkeypatch.context() as patch:
        patch.delitem(gumroad.KINDS, "refund")
        shop.refund("s1")
    assert books(shop)[-1] == ("ignored", "ignored")
    assert "Read today, it says: refund." in text_of(owner.get("/webhooks/2/again"))
    assert again(owner, 2) == "Done. It is revoked now, by line 3 of the ledger, 1 license."
    assert books(shop) == [("sale", "issued"), ("ignored", "ignored"), ("refund", "revoked")]
    told = owner.told(owner.send("/webhooks/2/again"))
    assert told == "Done. Nothing will change: read today, it says the same as before."
    assert len(shop.ledger()) == 3


def test_what_comes_under_the_same_name_is_a_newer_line_of_it(tmp_path, clock, monkeypatch):
    shop = shop_of_three(tmp_path / "data", clock, admin_password_hash=HASH)
    owner = OwnerBrowser(shop)

    def post(told: dict[str, Any]) -> None:
        assert shop.client.post("/ipn", data=jvzoo_notices.signed(told)).text == "OK"

    post(jvzoo_notices.v1("R1"))
    with monkeypatch.context() as patch:
        patch.delitem(jvzoo.KINDS, "RFND")
        post(jvzoo_notices.v1("R1", ctransaction="RFND"))
    assert books(shop)[-1] == ("ignored", "ignored")
    assert again(owner, 2) == "Done. It is revoked now, by line 3 of the ledger, 1 license."
    assert shop.ledger()[2]["revision"] == 1
    assert [license["inactive_reason"] for license in shop.licenses().values()] == ["refunded"]
    post(jvzoo_notices.v1("R1", ctransaction="RFND"))
    assert len(shop.ledger()) == 3


def test_a_mark_that_was_used_for_another_sale_is_good_for_no_second_one(tmp_path, clock):
    shop = shop_of_three(tmp_path / "data", clock, admin_password_hash=HASH)
    owner = OwnerBrowser(shop)
    for receipt in ("R1", "R2"):
        told = jvzoo_notices.signed(jvzoo_notices.v2(receipt, paykey="PAY-1"))
        assert shop.client.post("/ipn", data=told).text == "OK"
    assert books(shop) == [("sale", "issued"), ("ignored", "ignored")]
    assert "Nothing will change: read today" in text_of(owner.get("/webhooks/2"))
    owner.send("/webhooks/2/again")
    assert len(shop.ledger()) == 2


def test_a_test_ping_stays_one(shop, owner):
    shop.sale("s1", ANN)
    shop.ping(sale_ping("s1", ANN, resource=None, test="true"))
    assert "Nothing will change: read today, it says the same as before." in text_of(owner.get("/webhooks/2"))
    owner.send("/webhooks/2/again")
    assert len(shop.ledger()) == 2


@pytest.mark.files
def test_a_row_of_a_list_is_no_notice(tmp_path, clock):
    shop = shop_of_three(tmp_path / "data", clock, admin_password_hash=HASH)
    event = jvzoo_notices.v1("R1", ctransaction="TEST")
    assert shop.client.post("/ipn", data=jvzoo_notices.signed(event)).text == "OK"
    path = shop.folder / "purchases.jsonl"
    (line,) = shop.ledger()
    path.write_text(json.dumps(line | {"raw": {"event": "sale"}}) + "\n")
    assert "cannot be read as a notice" in text_of(OwnerBrowser(shop).get("/webhooks/1"))


# ---------------------------------------------------------------------------------------------------- asking
def test_a_platform_is_asked_again(tmp_path, clock):
    with GumroadApi() as api:
        more = {"gumroad_access_token": TOKEN, "gumroad_api_base": api.url}
        shop = shop_with_dashboard(tmp_path / "data", clock, **more)
        owner = OwnerBrowser(shop)
        api.down()
        shop.sale("s1", ANN)
        assert "inquiry" in shop.ledger()[0]
        assert "Gumroad will be asked about it now." in text_of(owner.get("/webhooks/1/again"))
        answered = owner.send("/webhooks/1/again")
        assert answered.status_code == 503
        assert len(shop.ledger()) == 1
        api.up()
        api.add(sale("s1", ANN))
        assert again(owner, 1).startswith("Done. It is ")
        assert "inquiry" not in shop.ledger()[1]
        assert [license["expiry_date"] for license in shop.licenses().values()] == [None]
        assert "Nothing will change" in owner.told(owner.send("/webhooks/1/again"))
        assert len(shop.ledger()) == 2


def test_what_was_not_believed_is_asked_about_and_not_believed_again(tmp_path, clock):
    with GumroadApi() as api:
        more = {"gumroad_access_token": TOKEN, "gumroad_api_base": api.url}
        shop = shop_with_dashboard(tmp_path / "data", clock, **more)
        owner = OwnerBrowser(shop)
        shop.ping(sale_ping("forged", ANN))
        assert books(shop) == [("ignored", "ignored")]
        assert "Gumroad will be asked" in text_of(owner.get("/webhooks/1/again"))
        told = again(owner, 1)
        assert told == "Done. It was looked at again: it says nothing new."
        assert shop.licenses() == {}
        api.add(sale("forged", ANN))
        assert again(owner, 1) == "Done. It is issued now, by line 2 of the ledger, 1 license."


def test_every_platform_s_own_notices_can_be_read_again(tmp_path, clock):
    """What is kept of a notice is enough to read it: it says the same, under the same name."""
    shop = shop_of_three(tmp_path / "data", clock, admin_password_hash=HASH, stripe_webhook_secret=(WHSEC,))
    from tests.tills import GumroadTill, JVZooTill, StripeTill

    for till in (GumroadTill(shop), StripeTill(shop), JVZooTill(shop)):
        till.sale("s1")
        till.refund("s1")
    for seq in range(1, len(shop.ledger()) + 1):
        entry = shop.services.audit.get(seq)
        events = shop.services.platforms[entry.source].read_again(bytes(entry.raw))
        assert entry.identity in [event.identity for event in events]
        assert entry.event in [event.event for event in events]
