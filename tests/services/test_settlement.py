"""What platforms say of orders, and when they are asked: no hint of money is lost, and none makes us ask for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.services.settlement import HINTS
from tests.conftest import Clock
from tests.services.bazaar import PAISA, WHOLE, Bazaar, bazaar_in
from tests.standins.easypaisa import EasyPaisaApi


@pytest.fixture
def bazaar(tmp_path: Path, clock: Clock) -> Iterator[Bazaar]:
    with bazaar_in(tmp_path / "data", clock) as made:
        yield made


# ---------------------------------------------------------------------------------------------------- hints
def failed(bazaar: Bazaar) -> str:
    ref = bazaar.order("jazzcash")
    bazaar.jazz.know(ref, PAISA, "134")
    bazaar.jazz_returns(ref, "134")
    bazaar.live_on(60, 20)  # what was begun is asked about, and over
    assert bazaar.status(ref) == "failed"
    return ref


def test_who_failed_and_then_paid_gets_his_key_though_the_inquiry_says_nothing_at_first(bazaar):
    ref = failed(bazaar)
    bazaar.jazz.know(ref, PAISA)
    bazaar.jazz.errors = 3
    bazaar.jazz_tells(ref)
    assert bazaar.keys() == []
    bazaar.live_on(120)
    assert (bazaar.status(ref), bazaar.keys()) == ("paid", [True])


def test_a_hint_beside_another_one_is_not_lost(bazaar):
    ref = failed(bazaar)
    bazaar.jazz_returns(ref, "000")  # asked about at once: it is not so yet
    bazaar.jazz.know(ref, PAISA)
    bazaar.jazz_tells(ref)
    bazaar.live_on(5)
    assert (bazaar.status(ref), bazaar.keys()) == ("paid", [True])


def test_an_order_that_fails_for_good_is_not_asked_about_for_ever(bazaar):
    ref = failed(bazaar)
    bazaar.jazz_returns(ref, "000")
    bazaar.live_on(5)
    before = len(bazaar.jazz.asked)
    bazaar.live_on(60 * 48, 30)
    assert len(bazaar.jazz.asked) == before


def test_what_anybody_can_send_makes_us_ask_a_few_times_and_then_the_outbox(bazaar):
    ref = bazaar.order("easypaisa")
    for _ in range(50):
        bazaar.easy_tells(ref)
    assert len(bazaar.easy.asked) == HINTS
    bazaar.easy.know(ref, WHOLE)
    bazaar.easy_tells(ref)
    assert bazaar.keys() == []
    bazaar.live_on(1)
    assert (len(bazaar.easy.asked), bazaar.keys()) == (HINTS + 1, [True])


# ---------------------------------------------------------------------------------------------------- JazzCash's rest
def test_jazzcash_is_left_alone_for_ten_minutes_though_a_voucher_was_issued(bazaar):
    ref = bazaar.order("jazzcash")
    bazaar.jazz.know(ref, PAISA, "124")
    bazaar.jazz_returns(ref, "124")
    for _ in range(9):
        bazaar.live_on(1)
        assert bazaar.status(ref) == "processing"
    assert bazaar.jazz.asked == []
    bazaar.jazz.know(ref, PAISA)
    bazaar.live_on(1)
    assert bazaar.status(ref) == "paid"


def test_an_order_that_nobody_began_to_pay_is_not_on_its_way(bazaar):
    ref = bazaar.order("jazzcash")
    bazaar.live_on(60, 20)
    assert bazaar.jazz.asked != []
    assert bazaar.status(ref) == "pending"


# ---------------------------------------------------------------------------------------------------- whose account
def test_another_account_neither_takes_the_money_of_an_order_nor_tells_of_it(bazaar, tmp_path, clock):
    ref, old = bazaar.order("easypaisa"), bazaar.paid()
    with EasyPaisaApi(store="99999") as easy:
        moved = Bazaar(tmp_path / "data", clock, bazaar.jazz, easy, easypaisa_store_id="99999")
        assert moved.shop.client.get(f"/pay/{ref}").json["errors"][0]["code"] == "ORDER_LOST"
        easy.know(ref, WHOLE)
        moved.easy_tells(ref)
        moved.live_on(60, 20)
        assert (moved.status(ref), easy.asked) == ("processing", [])
        letters = [letter for letter in moved.shop.services.outbox.list() if letter.kind == "alert_platform"]
        assert [letter.text for letter in letters] == [
            "easypaisa is configured otherwise now: orders of account 70011 in live mode cannot be asked about"
        ]
        assert moved.refund(old, reference="R-1").json["status"] == "refunded"  # by the old one's portal
