"""How the letters about an order of the store front read: by the names that a buyer and an owner know it by."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from server.domain.order import Order
from server.domain.purchase import EventKind
from server.errors import PlatformUnreachable
from server.services.letters import DELIVERY, ORDER_INQUIRY
from server.services.mailer import MailError
from server.storage.base import Letter
from tests.conftest import Clock
from tests.customers import ANN, Counter, without_caretakers
from tests.scripts.conftest import Owner
from tests.storage.counter import ordered, paid

OWNER = "owner@shop.example"


@pytest.fixture
def shop(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Counter:
    without_caretakers(monkeypatch)
    return Counter(tmp_path / "data", clock, owner_email=OWNER)


def said(message: Any, form: str = "plain") -> str:
    """Wherever its lines break."""
    return " ".join(str(message.get_body((form,)).get_content()).split())


def post(shop: Counter, to: str = ANN) -> Any:
    (message,) = [one for one in shop.post_round() if one["To"] == to]
    return message


# ---------------------------------------------------------------------------------------------------- to the buyer
def test_the_refund_of_a_bundle_names_what_was_bought_and_all_that_ended(shop: Counter) -> None:
    order, keys = shop.buy("studio")
    assert len(keys) == 2
    post(shop)
    shop.tell(order, EventKind.REFUND, event_id="r1")
    message = post(shop)
    assert message["Subject"] == "Your refund for Studio"
    text = said(message)
    assert "its licenses for Studio have ended and their keys no longer work" in text
    assert f"Order: {order.number} Paid: 119.00 PLN" in text
    for form in (text, said(message, "html")):
        assert order.number in form
        assert order.order_id not in form


def test_the_refund_of_one_license_speaks_of_one(shop: Counter) -> None:
    order, _ = shop.buy("wave")
    post(shop)
    shop.tell(order, EventKind.REFUND, event_id="r1")
    assert "its license for Wave has ended and the license key no longer works" in said(post(shop))


def test_a_refund_in_parts_is_told_when_the_last_one_came(shop: Counter) -> None:
    order, _ = shop.buy("studio")
    post(shop)
    shop.tell(order, EventKind.PARTIAL_REFUND, event_id="r1", incident="r1", price="19.00")
    assert shop.post_round() == []
    shop.tell(order, EventKind.PARTIAL_REFUND, event_id="r2", incident="r2", price="100.00")
    message = post(shop)
    assert message["Subject"] == "Your refund for Studio"
    assert "The purchase below was refunded in full" in said(message)


def test_a_program_is_started_by_its_own_name(shop: Counter) -> None:
    """A bundle of one, or an order of which one license is left: the order's name is that of no program."""
    catalogue = json.loads((shop.folder / "products.json").read_text())
    catalogue["products"]["studio"]["bundle"] = ["wave"]
    (shop.folder / "products.json").write_text(json.dumps(catalogue))
    shop.buy("studio")
    text = said(post(shop))
    assert "Thank you for buying Studio." in text
    assert "start Wave on your computer" in text


def test_keys_of_a_test_order_are_several(shop: Counter) -> None:
    shop.tell(shop.place("studio", is_test=True), is_test=True)
    text = said(post(shop))
    assert "nothing was charged, and the keys work for a few days only" in text
    assert "keep this letter in case you need a key again" in text


def test_the_way_into_the_account_is_told_step_by_step(shop: Counter) -> None:
    shop.buy("wave")
    text = said(post(shop))
    assert "the link below opens a page with one button, and the button signs you in" in text
    assert "after that its page sends you a new one" in text
    shop.buy("team")
    text = said(post(shop))
    assert "give the e-mail address that this letter was sent to, and you are sent a link that signs you in" in text


# ---------------------------------------------------------------------------------------------------- to the owner
def test_money_for_an_order_that_nobody_knows_is_told_as_that_and_can_be_fulfilled(shop: Counter) -> None:
    order = ordered()
    shop.services.settlement.hear([paid(order)])
    message = post(shop, OWNER)
    assert message["Subject"].startswith("A payment came for an order that is not known here")
    assert f"run scripts/licenses.py fulfil {order.order_id} with --email and --product" in said(message)
    assert "platform_ids" not in said(message)
    Owner(shop.folder).run("licenses", "fulfil", order.order_id, "--email", ANN, "--product", "wave")
    assert post(shop)["Subject"] == "Your license key for Wave"


@pytest.mark.parametrize("packages", [("gone",), ("wave", "gone")])
def test_a_package_that_left_the_catalogue_is_to_be_put_back(shop: Counter, packages: tuple[str, ...]) -> None:
    order, _ = shop.buy(*packages)
    message = post(shop, OWNER)
    assert message["Subject"] == "A sale waits for its product: Gone"
    text = said(message)
    assert "products.json no longer has Gone" in text
    assert f"Order: {order.number} " in text
    assert "Product id: gone " in text
    assert "platform_ids" not in text


@pytest.fixture
def silent(shop: Counter, monkeypatch: pytest.MonkeyPatch) -> Counter:
    def ask(order_id: str) -> None:
        raise PlatformUnreachable("payu does not answer")

    monkeypatch.setattr(shop.services.settlement, "ask", ask)
    return shop


def given_up(shop: Counter, *letters: Letter) -> Any:
    """The alert, once the last attempt at each of these has failed."""
    shop.services.store.letterbox.enqueue(list(letters))
    assert shop.post_round() == []
    return post(shop, OWNER)


def overdue(shop: Counter, name: str, kind: str, **more: Any) -> Letter:
    """One that was first tried weeks ago."""
    return Letter(id=name, kind=kind, at=shop.clock(), first_at=shop.clock() - timedelta(days=8), **more)


def refuse_ann(letter: Letter) -> None:
    if letter.to == ANN:
        raise MailError("550 no such mailbox", permanent=True)


def question_about(shop: Counter, order: Order) -> Letter:
    return overdue(shop, f"order:{order.order_id}", ORDER_INQUIRY, about=order.order_id)


def test_a_question_about_an_order_that_had_no_answer_is_no_letter(silent: Counter) -> None:
    order = silent.place("wave")
    message = given_up(silent, question_about(silent, order))
    assert message["Subject"] == "A question to a payment platform had no answer"
    text = said(message)
    asked = f"Question: order:{order.order_id} Order: {order.number} Asked of: PayU Reason: payu does not answer"
    assert asked in text
    assert "an order is not paid" in text
    assert "mail server" not in text
    assert order.number in said(message, "html")


def test_letters_and_questions_are_told_apart(silent: Counter) -> None:
    key = silent.sale()
    silent.post_round()
    silent.pigeon.trouble = refuse_ann
    order = silent.place("wave")
    letter = overdue(silent, "resend:1", DELIVERY, to=ANN, license_key=key)
    message = given_up(silent, question_about(silent, order), letter)
    assert message["Subject"] == "A letter could not be delivered, and a question to a payment platform had no answer"
    text = said(message)
    assert text.index("Letter: resend:1 To: ann@example.com") < text.index(f"Question: order:{order.order_id}")
    assert (text.count("Letter:"), text.count("Question:")) == (1, 1)
