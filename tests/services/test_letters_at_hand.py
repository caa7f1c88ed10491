"""What the owner can do with a letter: find it, read it before it goes out, have it sent once more."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.domain.purchase import EventKind
from server.errors import Conflict, NotFound
from server.services.letters import DELIVERY, REFUND
from tests.services.mail_room import Shop
from tests.services.test_outbox import ANN


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "data")


def text_of(shop: Shop, letter_id: str) -> str:
    message = shop.outbox.reading(shop.outbox.get(letter_id))
    assert message is not None
    part = message.get_body(("plain",))
    assert part is not None
    return str(part.get_content())


def test_a_letter_is_read_before_it_goes_out_and_is_not_sent_by_it(shop: Shop) -> None:
    key = shop.sale("s1").license_keys[0]
    shop.outbox._enrol()
    assert key in text_of(shop, "1:delivery")
    assert shop.pigeon.sent == []
    assert shop.states() == {"1:delivery": "queued"}


def test_a_link_that_signs_in_is_not_shown(shop: Shop) -> None:
    shop.sale("s1")
    letter = shop.outbox.sign_in(ANN)
    told = text_of(shop, letter.id)
    assert "/portal/sign-in/[made when the letter goes out]" in told
    assert told.count("/portal/sign-in/") == 1


def test_a_letter_without_an_address_and_a_question_have_no_text(shop: Shop) -> None:
    shop.sale("s1", "not an address")
    shop.outbox._enrol()
    assert shop.outbox.reading(shop.outbox.get("1:delivery")) is None


def test_a_letter_that_was_sent_is_sent_once_more_as_it_reads_now(shop: Shop) -> None:
    shop.sale("s1")
    shop.outbox.send_due()
    again = shop.outbox.again("1:delivery", "form-1")
    assert shop.outbox.again("1:delivery", "form-1") == again
    shop.outbox.send_due()
    shop.outbox.again("1:delivery", "form-1")
    shop.outbox.send_due()
    assert shop.pigeon.sent == [(DELIVERY, ANN), (DELIVERY, ANN)]
    shop.outbox.again("1:delivery", "form-2")
    shop.outbox.send_due()
    assert len(shop.pigeon.sent) == 3


def test_a_refund_s_letter_is_the_same_the_second_time(shop: Shop) -> None:
    shop.sale("s1")
    shop.refund("s1")
    shop.outbox.send_due()
    first = text_of(shop, "2:refund")
    again = shop.outbox.again("2:refund", "form-1")
    assert text_of(shop, again.id) == first
    shop.outbox.send_due()
    assert [kind for kind, _ in shop.pigeon.sent].count(REFUND) == 2


def test_what_is_not_sent_once_more_says_why(shop: Shop) -> None:
    shop.sale("s1")
    shop.outbox._enrol()
    with pytest.raises(Conflict, match="still to be sent"):
        shop.outbox.again("1:delivery", "f")
    shop.outbox.send_due()
    shop.refund("s1")
    with pytest.raises(Conflict, match="the license is inactive"):
        shop.outbox.again("1:delivery", "f")
    shop.says(EventKind.SALE, "s2", "G-NOBODY")
    shop.outbox.send_due()
    alert = next(letter for letter in shop.outbox.list() if letter.kind == "alert_unmapped")
    with pytest.raises(Conflict, match="no letter to a customer"):
        shop.outbox.again(alert.id, "f")
    shop.outbox.sign_in(ANN)
    shop.outbox.send_due()
    link = next(letter for letter in shop.outbox.list() if letter.kind == "sign_in")
    with pytest.raises(Conflict, match="who asks for it"):
        shop.outbox.again(link.id, "f")
    with pytest.raises(NotFound):
        shop.outbox.again("nothing", "f")


def test_pages_of_letters_by_state_the_newest_first(shop: Shop) -> None:
    for number in range(1, 6):
        shop.sale(f"s{number}", f"buyer{number}@example.com")
    shop.outbox.send_due()
    shop.sale("s6", "bad address")
    shop.outbox.send_due()
    page, more = shop.outbox.page(limit=4)
    assert [letter.kind for letter in page] == ["alert_dead_letter", DELIVERY, DELIVERY, DELIVERY]
    assert ([letter.id for letter in page][1:3], more) == (["6:delivery", "5:delivery"], True)
    page, more = shop.outbox.page("sent", skip=2, limit=10)
    assert ([letter.id for letter in page], more) == (["3:delivery", "2:delivery", "1:delivery"], False)
    assert [letter.id for letter in shop.outbox.page("dead")[0]] == ["6:delivery"]
    assert [letter.kind for letter in shop.outbox.page("queued")[0]] == ["alert_dead_letter"]
    assert shop.outbox.page("failed") == ([], False)


def test_the_letters_of_a_line(shop: Shop) -> None:
    entry = shop.sale("s1")
    refund = shop.refund("s1")
    shop.outbox.send_due()
    assert [letter.id for letter in shop.outbox.of_line(entry)] == ["1:delivery"]
    assert [letter.id for letter in shop.outbox.of_line(refund)] == ["2:refund"]
