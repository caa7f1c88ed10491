"""Placing orders: only what the platform can take, and never what it would take otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from server.domain.order import OrderFile
from server.services.checkout import Desk
from tests.conftest import Clock
from tests.services.bazaar import PAISA, WHOLE, Bazaar, bazaar_in
from tests.standins.easypaisa import EasyPaisaApi
from tests.standins.http import Answer
from tests.standins.jazzcash import JazzCashApi


@pytest.fixture
def bazaar(tmp_path: Path, clock: Clock) -> Iterator[Bazaar]:
    with bazaar_in(tmp_path / "data", clock) as made:
        yield made


@pytest.mark.parametrize("provider", ["jazzcash", "easypaisa"])
def test_a_price_in_dollars_is_never_asked_for_in_rupees(bazaar, provider):
    answered = bazaar.initiate(provider, "abroad")
    assert answered.status_code == 422
    assert (answered.json["errors"][0]["code"], "abroad" in answered.text) == ("NO_PRICE", True)
    assert not (bazaar.shop.folder / "orders.jsonl").exists()


# ---------------------------------------------------------------------------------------------------- begun once
class Killed(BaseException):
    """The process is gone; nothing of it is tidied up."""


@pytest.fixture
def wallet(tmp_path: Path, clock: Clock) -> Iterator[Bazaar]:
    """Where buyers are asked on their phones."""
    with JazzCashApi() as jazz, EasyPaisaApi() as easy:
        flows = {"jazzcash_flow": "wallet", "easypaisa_flow": "mobile", "easypaisa_hash_key": None}
        made = Bazaar(tmp_path / "data", clock, jazz, easy, **flows)
        made.shop.services.desk._threads = False  # what is asked of a buyer is over when the request is
        yield made


def placed(bazaar: Bazaar, provider: str) -> str:
    """An order whose request was killed as soon as it was on disk."""
    with patch.object(Desk, "begin", side_effect=Killed), pytest.raises(Killed):
        bazaar.initiate(provider, phone="03001234567")
    (line,) = (bazaar.shop.folder / "orders.jsonl").read_text().splitlines()
    return str(json.loads(line)["order_id"])


def begin(bazaar: Bazaar, file: OrderFile) -> None:
    bazaar.shop.services.desk.begin(file, "127.0.0.1")


@pytest.mark.parametrize("provider", ["jazzcash", "easypaisa"])
def test_a_buyer_is_asked_once_by_two_requests_that_know_nothing_of_each_other(wallet, provider):
    ref = placed(wallet, provider)
    file = wallet.shop.services.desk.get(ref)
    begin(wallet, file)
    begin(wallet, file)  # as it was read before the first one began
    stand_in = wallet.jazz if provider == "jazzcash" else wallet.easy
    assert len(stand_in.asked) == 1


def test_a_buyer_who_cannot_be_asked_may_try_again_at_once(wallet, monkeypatch):
    monkeypatch.setattr(wallet.easy, "_initiate", lambda asked: Answer(200, {"responseCode": "0002"}))
    answered = wallet.initiate("easypaisa", phone="03001234567")
    assert wallet.status(answered.json["order_id"]) == "failed"


@pytest.mark.parametrize("provider", ["jazzcash", "easypaisa"])
def test_an_order_that_was_begun_is_watched_wherever_the_process_was_killed(bazaar, provider):
    ref = placed(bazaar, provider)
    with patch("server.services.checkout.watch", side_effect=Killed), pytest.raises(Killed):
        begin(bazaar, bazaar.shop.services.desk.get(ref))
    assert bazaar.shop.client.get(f"/pay/{ref}").status_code == 200
    bazaar.easy.know(ref, WHOLE)
    bazaar.jazz.know(ref, PAISA)  # and no notice ever comes
    bazaar.live_on(60)
    assert bazaar.keys() == [True]
