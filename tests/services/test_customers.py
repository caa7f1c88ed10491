"""Accounts out of the books, the letters that lead to them, and what holds when many do the same at once."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from server.domain.keys import license_id
from server.domain.license import DeviceEvent, DeviceLine, recent_releases
from server.domain.order import Step
from server.domain.purchase import EventKind
from server.errors import Conflict
from server.services.accounts import Accounts, account_of, is_plainly
from server.services.mailer import MailError, ServerUnreachable
from server.services.seals import Seal
from server.services.sign_in import Link, Session
from server.storage.base import Letter
from tests.conftest import NOW, Clock
from tests.customers import ANN, BOB, Browser, Counter, link_in, without_caretakers

E = EventKind


@pytest.fixture
def shop(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Counter:
    without_caretakers(monkeypatch)
    return Counter(tmp_path / "data", clock)


def plain(message) -> str:
    return str(message.get_body(("plain",)).get_content()).replace("\r\n", "\n")


def html(message) -> str:
    return str(message.get_body(("html",)).get_content())


# ---------------------------------------------------------------------------------------------------- accounts
def test_an_account_is_an_address_with_a_license_or_a_paid_order(shop: Counter) -> None:
    accounts = Accounts(shop.services.store)
    assert not accounts.is_known(ANN)
    order = shop.place("wave")
    assert not accounts.is_known(ANN)
    shop.tell(order)
    assert accounts.is_known(" ANN@example.com ")
    shop.tell(order, E.REFUND)
    assert accounts.is_known(ANN)
    assert not accounts.is_known("")
    assert not accounts.is_known("ann")


def test_who_gets_a_license_from_another_has_an_account_by_it(shop: Counter) -> None:
    key = shop.sale(email=ANN)
    shop.owner("POST", f"/licenses/{key}/transfer", {"email": BOB})
    accounts = Accounts(shop.services.store)
    assert (accounts.is_known(ANN), accounts.is_known(BOB)) == (False, True)


@pytest.mark.parametrize(
    ("email", "plain"),
    [(ANN, True), (" Ann@EXAMPLE.com", True), ("j\u00f6rg@example.com", True), ("\u212aim@example.com", False)],
)
def test_a_spelling_is_plainly_an_account_s_or_not(email: str, plain: bool) -> None:
    assert is_plainly(email) is plain
    assert account_of(email) == email.strip().lower()


# ---------------------------------------------------------------------------------------------------- the letters
def test_the_first_order_of_a_customer_brings_a_link_to_the_account(shop: Counter) -> None:
    order, (key,) = shop.buy("wave")
    (message,) = shop.post_round()
    assert message["Subject"] == "Your license key for Wave"
    text = plain(message)
    for word in (key, order.number, "119.00 PLN", "through PayU", "In your account you see"):
        assert word in text
    assert link_in(message) in html(message)
    browser = Browser(shop)
    assert browser.client.post(link_in(message)).status_code == 303
    assert browser.get("/me")["email"] == ANN


def test_a_later_one_is_a_purchase_confirmation_without_a_link_that_signs_in(shop: Counter, clock: Clock) -> None:
    shop.buy("wave")
    shop.post_round()
    clock.forward(days=1)
    order, keys = shop.buy("team", "solo", email="ANN@example.com")
    (message,) = shop.post_round()
    assert message["Subject"] == "Your purchase of Team and Solo"
    for form in (plain(message), html(message)):
        assert "/portal/sign-in/" not in form
        assert "http://127.0.0.1:8000/portal" in form
        assert all(key in form for key in keys)
    assert order.number in plain(message)


def test_who_bought_elsewhere_before_is_known(shop: Counter) -> None:
    shop.sale(email=ANN)
    shop.post_round()
    shop.buy("team")
    (message,) = shop.post_round()
    assert message["Subject"] == "Your purchase of Team"


def test_the_first_order_is_the_first_even_when_its_letter_is_late(shop: Counter) -> None:
    shop.buy("wave")
    shop.buy("team")
    first, second = shop.post_round()
    assert ("/portal/sign-in/" in plain(first), "/portal/sign-in/" in plain(second)) == (True, False)


def test_a_sale_of_a_platform_without_orders_brings_no_link(shop: Counter) -> None:
    shop.sale(email=ANN)
    (message,) = shop.post_round()
    assert message["Subject"] == "Your license key for Wave"
    assert "portal" not in plain(message) + html(message)


def test_a_damaged_book_of_orders_holds_up_no_letter(shop: Counter) -> None:
    _, (key,) = shop.buy("wave")
    (shop.folder / "orders.jsonl").write_bytes(b"garbage\n" * 9)
    (message,) = shop.post_round()
    assert key in plain(message)
    shop.services.outbox.sign_in(ANN)
    assert len(shop.post_round()) == 1


def test_a_letter_that_is_sent_twice_brings_two_links_that_each_work_once(shop: Counter) -> None:
    shop.buy("wave")
    (first,) = shop.post_round()
    sent = shop.pigeon.letters[-1]
    second = shop.services.outbox._sender.compose(sent)
    assert first["Message-ID"] == second["Message-ID"]
    paths = [link_in(first), link_in(second)]
    assert paths[0] != paths[1]
    assert [shop.client.post(path).status_code for path in [*paths, *paths]] == [303, 303, 410, 410]


def test_what_goes_wrong_with_a_link_is_no_dead_letter_of_the_owner_s(shop: Counter, clock: Clock) -> None:
    shop.sale(email=ANN)
    shop.post_round()

    def refuse(letter: Letter) -> None:
        raise MailError("550 no such mailbox", permanent=True)

    def silence(letter: Letter) -> None:
        raise ServerUnreachable("no answer in time")

    shop.pigeon.trouble = refuse
    shop.services.outbox.sign_in(ANN)
    shop.post_round()
    shop.pigeon.trouble = silence
    shop.services.outbox.sign_in(ANN)
    shop.post_round()
    assert shop.states() == ["dropped", "failed"]
    clock.forward(minutes=59)
    shop.post_round()
    assert shop.states() == ["dropped", "failed"]
    clock.forward(minutes=2)
    shop.pigeon.trouble = None
    assert shop.post_round() == []
    assert shop.states() == ["dropped", "dropped"]
    assert shop.services.outbox.summary()["dead"] == 0


def test_the_letter_of_a_link_says_what_it_is(shop: Counter) -> None:
    shop.sale(email=ANN)
    shop.post_round()
    shop.services.outbox.sign_in(ANN)
    (message,) = shop.post_round()
    words = " ".join(plain(message).split())
    for said in ("works once, and for one hour", "If it was not you", "please do not pass it on"):
        assert said in words
    assert plain(message).count("http://127.0.0.1:8000/portal/sign-in/") == 1
    assert html(message).count("<a ") == 1


# ---------------------------------------------------------------------------------------------------- seals
def test_a_seal_is_for_one_purpose_and_for_our_keys_alone() -> None:
    link = Link(ANN, NOW, "n")
    ours, other = Seal(("new", "old"), "link", Link), Seal(("new", "old"), "session", Session)
    assert ours.open(ours.close(link)) == link
    assert Seal(("new",), "link", Link).open(ours.close(link)) == link
    assert ours.open(Seal(("old",), "link", Link).close(link)) == link
    assert Seal(("old",), "link", Link).open(ours.close(link)) is None
    assert other.open(ours.close(link)) is None
    assert Seal(("new",), "other", Link).open(ours.close(link)) is None


@pytest.mark.parametrize("text", ["", ".", "a.b", "x" * 5000, "\ud800", "\x00", "é.é", "e30.AAAA"])
def test_what_is_no_seal_of_ours_opens_to_nothing(text: str) -> None:
    assert Seal(("key",), "link", Link).open(text) is None


def test_every_change_of_a_seal_breaks_it() -> None:
    seal = Seal(("key",), "link", Link)
    sealed = seal.close(Link(ANN, NOW, "nonce"))
    last = set()
    for at, letter in enumerate(sealed):
        changed = sealed[:at] + ("A" if letter != "A" else "B") + sealed[at + 1 :]
        found = seal.open(changed)
        last |= {found} if found else set()
    assert last <= {Link(ANN, NOW, "nonce")}  # the last letter of base64 has bits that say nothing


# ---------------------------------------------------------------------------------------------------- releases
def test_releases_are_told_apart_and_counted_as_moves_are() -> None:
    def line(days: int, **more: object) -> DeviceLine:
        known = {"event": DeviceEvent.DEACTIVATION, "license_key": "K", "hardware_id": "pc"}
        return DeviceLine(**({"timestamp": NOW + timedelta(days=days)} | known | more))

    lines = [line(-91, by_customer=True), line(-5), line(-3, by_customer=True), line(400, by_customer=True)]
    assert recent_releases(lines, NOW) == [NOW - timedelta(days=3)]
    assert recent_releases([*lines, line(-1, event=DeviceEvent.RESET)], NOW) == []
    assert b"by_customer" not in msgspec.json.encode(line(0))


def test_of_many_releases_at_once_not_one_too_many_counts(shop: Counter, clock: Clock) -> None:
    """Twelve at two workers; five may go: of one for each of twelve seats seven are used."""
    key = shop.services.licenses.issue(email=ANN, customer_name="Ann", product_id="wave", max_devices=12).license_keys[
        0
    ]
    workers = [Counter(shop.folder, clock, device_releases=1).services.customers for _ in range(2)]
    for number in range(19):
        if number >= 12:
            workers[0].release(ANN, license_id(key), 1)
        assert shop.code(key, hardware_id=f"hw{number}") == "VALID"
    done: list[str] = []

    def release(number: int) -> None:
        try:
            workers[number % 2].release(ANN, license_id(key), 1)
            done.append("released")
        except Conflict:
            done.append("refused")

    threads = [threading.Thread(target=release, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(done) == ["refused"] * 7 + ["released"] * 5
    lines = shop.services.store.device_lines(key)
    assert sum(line.by_customer for line in lines) == 7 + 5


def test_one_link_that_many_press_at_once_signs_one_in(shop: Counter, clock: Clock) -> None:
    shop.sale(email=ANN)
    path = shop.link()
    workers = [shop, Counter(shop.folder, clock)]
    told: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: told.append(workers[n % 2].app.test_client().post(path).status_code))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(told) == [303] + [410] * 7


def test_an_order_that_was_given_up_is_shown_as_such(shop: Counter, clock: Clock) -> None:
    shop.sale(email=ANN)
    order = shop.place("wave")
    customers = shop.services.customers
    assert customers.order(ANN, order.number).state == "pending"
    clock.forward(hours=24)
    assert customers.order(ANN, order.number).state == "cancelled"
    shop.tell(order)
    assert customers.order(ANN, order.number).state == "paid"
    shop.tell(order, E.PARTIAL_REFUND, price="19.00", incident="r1")
    assert customers.order(ANN, order.number).state == "partially_refunded"
    assert order.order_id == customers.orders(ANN)[0].order.order_id
    assert Step.PLACED in {line.step for line in shop.services.store.orders.find(order.order_id).lines}
