"""Which letters a ledger line owes, and how they read: to whom, what for, and with nobody else's words in charge."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.domain.license import License
from server.domain.purchase import Entry, EventKind, Outcome
from server.services.letter_writing import Matter, clean, message_id, render
from server.services.letters import (
    DAMAGED,
    DEAD_LETTER,
    DELIVERY,
    DISPUTE,
    INQUIRY,
    LATE_SALE,
    PAYMENT_FAILED,
    REFUND,
    RENEWAL,
    UNMAPPED,
    BadAddress,
    letters_owed,
    mail_address,
    masked_address,
)
from server.storage.base import Letter
from tests.conftest import some_of
from tests.hostile_words import HOSTILE
from tests.services.mail_room import NOW, OWNER, Shop, settings_for

ANN, KEY = "ann@example.com", "1D4NK5-RZ16KD-VCNJ0Y-RKMEC1-DBHFX3"
E = EventKind


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "data")


# ---------------------------------------------------------------------------------------------------- what is owed
def test_a_sale_owes_one_letter_with_all_its_keys(shop: Shop) -> None:
    single = shop.sale("s1")
    assert [(x.id, x.kind, x.to) for x in letters_owed(single, OWNER)] == [("1:delivery", DELIVERY, ANN)]
    bundle = shop.sale("s2", product="G-STUDIO")
    assert shop.kinds_owed(bundle) == [(DELIVERY, ANN)]
    text = plain(shop.pigeon.messages[-1])
    assert len(bundle.license_keys) == 2
    assert all(key in text for key in bundle.license_keys)


def test_the_owner_s_verbs_owe_what_the_customer_needs(shop: Shop) -> None:
    issued = shop.licenses.issue(email="bob@example.com", customer_name="Bob", product_id="team")
    assert shop.kinds_owed(issued) == [(DELIVERY, "bob@example.com")]
    key = issued.license_keys[0]
    silent = [shop.licenses.extend(key, days=5), shop.licenses.suspend(key), shop.licenses.reinstate(key)]
    assert [shop.kinds_owed(entry) for entry in silent] == [[], [], []]
    reissued = shop.licenses.reissue(key)
    assert shop.kinds_owed(reissued) == [(DELIVERY, "bob@example.com")]
    moved = shop.licenses.transfer(reissued.license_keys[0], "eve@example.com", "Eve")
    assert shop.kinds_owed(moved) == [(DELIVERY, "eve@example.com")]
    assert shop.kinds_owed(shop.licenses.revoke(moved.license_keys[0])) == []


def test_an_import_owes_nothing(shop: Shop) -> None:
    imported = entry(event=E.OWNER_IMPORT, outcome=Outcome.ISSUED)
    assert letters_owed(imported, OWNER) == []


def test_a_membership_s_life_in_letters(shop: Shop) -> None:
    said = {"product": "G-TEAM", "subscription_id": "sub1"}
    shop.sale("s1", **said)
    shop.clock.forward(days=30)
    assert shop.kinds_owed(shop.says(E.RENEWAL, "s2", **said)) == [(RENEWAL, ANN)]
    shop.clock.forward(days=30)
    failed = shop.says(E.PAYMENT_FAILED, None, occurred_at=shop.clock(), purchase_date=None, **said)
    assert shop.kinds_owed(failed) == [(PAYMENT_FAILED, ANN)]
    ended = shop.says(E.SUBSCRIPTION_ENDED, None, occurred_at=shop.clock(), purchase_date=None, **said)
    assert shop.kinds_owed(ended) == []


def test_a_full_refund_is_told_and_a_partial_one_is_not(shop: Shop) -> None:
    shop.sale("s1")
    assert shop.kinds_owed(shop.says(E.PARTIAL_REFUND, "s1")) == []
    assert shop.kinds_owed(shop.refund("s1")) == [(REFUND, ANN)]


def test_a_sale_that_was_refunded_before_it_came_owes_no_key(shop: Shop) -> None:
    assert shop.kinds_owed(shop.refund("s1")) == []
    assert shop.kinds_owed(shop.sale("s1")) == []


def test_the_owner_hears_of_disputes_and_of_what_nobody_mapped(shop: Shop) -> None:
    shop.sale("s1")
    assert shop.kinds_owed(shop.says(E.DISPUTE, "s1")) == [(DISPUTE, OWNER)]
    assert shop.kinds_owed(shop.says(E.DISPUTE_WON, "s1")) == [("reinstated", "ann@example.com")]
    assert shop.kinds_owed(shop.says(E.DISPUTE, "s9")) == [(DISPUTE, OWNER)]
    assert shop.kinds_owed(shop.sale("s2", product="G-NEW")) == [(UNMAPPED, OWNER)]
    held = shop.says(E.PENDING, None, event_id="shadowed:1", note="your custom field hides it", email=None)
    assert shop.kinds_owed(held) == [(UNMAPPED, OWNER)]
    preorder = shop.says(E.PENDING, "s3", event_id="s3:preorder:false", note="the charge comes as another sale")
    assert shop.kinds_owed(preorder) == []


def test_a_renewal_of_nothing_is_told_once_its_sale_had_time_to_come(shop: Shop) -> None:
    lone = shop.says(E.RENEWAL, "s2", product="G-TEAM", subscription_id="sub1")
    assert lone.outcome is Outcome.PENDING
    assert letters_owed(lone, OWNER)[0].next_at == lone.timestamp + LATE_SALE
    assert shop.kinds_owed(lone) == []
    shop.clock.forward(seconds=LATE_SALE.total_seconds())
    assert shop.kinds_owed(lone) == [(UNMAPPED, OWNER)]
    assert "not in the ledger" in words(shop.pigeon.messages[-1])


def test_a_renewal_that_only_overtook_its_sale_alarms_nobody(shop: Shop) -> None:
    lone = shop.says(E.RENEWAL, "s2", product="G-TEAM", subscription_id="sub1")
    shop.outbox.send_due()
    shop.sale("s1", product="G-TEAM", subscription_id="sub1")
    shop.clock.forward(seconds=LATE_SALE.total_seconds())
    assert shop.kinds_owed(lone) == []
    assert shop.states()["1:alert_unmapped"] == "dropped"


def test_a_sale_without_an_address_is_told_to_the_owner(shop: Shop) -> None:
    homeless = shop.sale("s1", email=None)
    assert shop.kinds_owed(homeless) == [(UNMAPPED, OWNER)]
    assert list(shop.states()) == ["1:alert_unmapped"]
    text = words(shop.pigeon.messages[-1])
    assert "without an e-mail address" in text
    assert homeless.license_keys[0] not in text


def test_without_an_owner_s_address_there_are_no_alerts_but_no_letter_is_lost(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "data", owner_email=None)
    assert shop.kinds_owed(shop.sale("s1", product="G-NEW")) == []
    shop.sale("s2", email=None)
    shop.outbox.send_due()
    assert shop.letter("2:delivery").state == "dead"
    assert shop.letter("2:delivery").error == "there is no e-mail address"


def test_repeats_and_what_is_ignored_owe_nothing(shop: Shop) -> None:
    shop.sale("s1")
    shop.sale("s1")
    shop.says(E.IGNORED, None, event_id="test_ping", is_test=True)
    shop.outbox.send_due()
    shop.sale("s1")
    shop.outbox.send_due()
    assert shop.pigeon.sent == [(DELIVERY, ANN)]


def test_fulfilling_a_sale_delivers_it(shop: Shop) -> None:
    unmapped = shop.sale("s1", product="G-NEW")
    shop.outbox.send_due()
    done = shop.fulfilment.complete(unmapped, msgspec.structs.replace(unmapped.as_event(), source_product_id="G-WAVE"))
    assert done is not None
    assert shop.kinds_owed(done) == [(DELIVERY, ANN)]
    assert "Thank you for buying Wave" in plain(shop.pigeon.messages[-1])


# ---------------------------------------------------------------------------------------------------- how it reads
def test_a_delivery_says_what_it_is_what_for_and_what_to_do(shop: Shop) -> None:
    key = shop.sale("FO8TXN==").license_keys[0]
    shop.outbox.send_due()
    message = shop.pigeon.messages[0]
    assert message["Subject"] == "Your license key for Wave"
    for form in (plain(message), html(message)):
        assert "Hello Ann Example," in form
        assert key in form
        assert "valid for life" in form
        assert "on one device" in form
        assert "20 November 2026 through Gumroad" in form
        assert "FO8TXN==" in form
        assert "paste the key" in form
        assert "You receive this letter because" in form
    assert f"\n    {key}\n" in plain(message)
    assert max(map(len, plain(message).splitlines())) <= 76


def test_seats_and_end_are_told_in_plain_words(shop: Shop) -> None:
    shop.sale("s1", product="G-TEAM", quantity=3)
    shop.outbox.send_due()
    assert "paid through 20 December 2026 and works on up to 6 devices" in words(shop.pigeon.messages[0])


def test_a_test_sale_is_marked(shop: Shop) -> None:
    shop.sale("s1", is_test=True)
    shop.outbox.send_due()
    message = shop.pigeon.messages[0]
    assert message["Subject"].startswith("[Test] ")
    assert "test purchase" in plain(message)
    assert "paid through 27 November 2026" in plain(message)


def test_a_transfer_a_reissue_and_a_resend_say_why_they_come(shop: Shop) -> None:
    key = shop.sale("s1").license_keys[0]
    shop.outbox.send_due()
    new = shop.licenses.reissue(key).license_keys[0]
    shop.outbox.send_due()
    assert "was replaced" in plain(shop.pigeon.messages[-1])
    assert new in plain(shop.pigeon.messages[-1])
    assert key not in plain(shop.pigeon.messages[-1])
    shop.licenses.transfer(new, "bob@example.com", "Bob")
    shop.outbox.send_due()
    assert "was transferred to this e-mail address" in words(shop.pigeon.messages[-1])
    shop.outbox.resend(new)
    shop.outbox.send_due()
    assert "to be sent again" in words(shop.pigeon.messages[-1])
    assert all("Sale:        s1\n" in plain(message) for message in shop.pigeon.messages)


def test_a_renewal_after_a_transfer_does_not_name_the_new_owner(shop: Shop) -> None:
    said: dict[str, Any] = {"product": "G-TEAM", "subscription_id": "sub1", "customer_name": None}
    key = shop.sale("s1", **said).license_keys[0]
    shop.licenses.transfer(key, "eve@example.com", "Eve Secret")
    shop.clock.forward(days=30)
    shop.says(E.RENEWAL, "s2", **said)
    shop.outbox.send_due()
    renewal = shop.pigeon.messages[-1]
    assert renewal["To"] == ANN
    assert "Eve" not in plain(renewal)
    assert key not in plain(renewal)


def test_a_bundle_s_name_and_its_children_s_names(shop: Shop) -> None:
    shop.sale("s1", product="G-STUDIO")
    shop.outbox.send_due()
    text = plain(shop.pigeon.messages[0])
    assert "Your license keys for Studio" in shop.pigeon.messages[0]["Subject"]
    assert "Wave (valid for life, on one device):" in text
    assert "Team (paid through 20 December 2026, on up to 2 devices):" in text


def test_the_headers_of_a_letter(shop: Shop) -> None:
    shop.sale("s1")
    shop.outbox.send_due()
    message = reparsed(shop.pigeon.messages[0])
    assert message["From"] == "shop@shop.example"
    assert message["To"] == ANN
    assert message["Reply-To"] == OWNER
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime == NOW
    assert message["Message-ID"].endswith("@licenses.shop.example>")
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]


def test_message_ids_are_stable_their_own_and_tell_no_number_of_sales(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    first, second = (Letter(id=f"{seq}:delivery", kind=DELIVERY, to=ANN, seq=seq) for seq in (1, 2))
    assert message_id(first, settings) == message_id(first, settings)
    assert message_id(first, settings) != message_id(second, settings)
    assert message_id(first, settings) != message_id(
        first, settings_for(tmp_path, license_secret="another one, longer")
    )
    for host in ("http://127.0.0.1:8000", "http://[::1]:8000", "http://xn--a.example", f"https://{'a' * 60}.example"):
        wire = render(first, Matter(now=NOW), settings_for(tmp_path, app_url=host)).as_bytes()
        assert message_from_bytes(wire)["Message-ID"].startswith("<")


def test_letters_bring_no_outside_assets_and_no_links(tmp_path: Path) -> None:
    for kind in (DELIVERY, RENEWAL, REFUND, PAYMENT_FAILED, DISPUTE, UNMAPPED, DEAD_LETTER, DAMAGED):
        written = html(letter_of(kind, tmp_path, "Wave"))
        tags = seen_tags(written)
        assert not {name for tag, attributes in tags for name, _ in attributes} & {
            "src",
            "href",
            "background",
            "onclick",
        }
        assert not {tag for tag, _ in tags} & {"img", "script", "link", "iframe", "a", "form"}
        assert "url(" not in written
        assert "http" not in written.replace("https://licenses.shop.example", "")


def test_an_imported_key_stands_there_as_it_is(tmp_path: Path) -> None:
    odd = "OLD  key/with <odd> & long parts " + "x" * 80
    message = render(letter(DELIVERY), matter(licenses={odd: license()}), settings_for(tmp_path))
    assert f"\n    {odd}\n" in plain(message)
    assert odd in texts(html(message))


def test_names_come_from_the_catalogue_else_from_the_platform(shop: Shop, tmp_path: Path) -> None:
    known = Matter(
        now=NOW, catalogue=shop.catalogue.current(), entry=entry(product_id="wave", product_name="Wave (old)")
    )
    assert render(letter(REFUND), known, settings_for(tmp_path))["Subject"] == "Your refund for Wave"
    gone = Matter(now=NOW, entry=entry(product_id="gone", product_name="Wave (old)"))
    assert render(letter(REFUND), gone, settings_for(tmp_path))["Subject"] == "Your refund for Wave (old)"
    nameless = Matter(now=NOW, entry=entry(product_id=None, product_name=None))
    assert render(letter(REFUND), nameless, settings_for(tmp_path))["Subject"] == "Your refund for your purchase"


# ------------------------------------------------------------------------------------------------ other people's words
FIELDS = ("customer_name", "product_name", "sale_id", "note", "source_product_id", "price", "currency")
KINDS = (DELIVERY, RENEWAL, REFUND, PAYMENT_FAILED, DISPUTE, UNMAPPED, DEAD_LETTER, DAMAGED)


@pytest.mark.parametrize("share", some_of([4, 1], 1))
@pytest.mark.parametrize("kind", KINDS)
def test_no_word_from_outside_makes_a_tag_a_header_or_a_line(kind: str, share: int, tmp_path: Path) -> None:
    """Each word in two kinds of letters; all of them in each, where there is time."""
    harmless = letter_of(kind, tmp_path, "Ann")
    tags, headers = Counter(seen_tags(html(harmless))), sorted(harmless.keys())
    for text in HOSTILE[KINDS.index(kind) % share :: share]:
        message = letter_of(kind, tmp_path, text)
        assert Counter(seen_tags(html(message))) <= tags, text
        wire = message.as_bytes()
        read = message_from_bytes(wire, policy=SMTP)
        assert sorted(read.keys()) == headers == sorted(message_from_bytes(wire).keys()), text
        assert [address.addr_spec for address in read["To"].addresses] == [ANN], text
        assert len(read["Subject"]) <= 160
        assert "\n\nYou receive" not in plain(message).split("\n-- \n")[0], text


@pytest.mark.parametrize(
    "text", ["https://evil.example/win", "You won! evil.example", "www.evil.example", "a@evil.example"]
)
def test_a_name_that_reads_like_a_link_is_not_greeted(tmp_path: Path, text: str) -> None:
    assert plain(letter_of(RENEWAL, tmp_path, "J. R. Smith", product="Wave")).startswith("Hello J. R. Smith,")
    message = letter_of(RENEWAL, tmp_path, text, product="Wave")
    assert plain(message).startswith("Hello,")
    assert "evil" not in plain(message).split("\nProduct:")[0]


def test_cleaning_keeps_what_can_be_read() -> None:
    assert clean("Zoë  \t王小明 😀") == "Zoë 王小明 😀"
    assert clean("\ud800a\x00b\r\nc\u202ed") == "a b c d"
    assert clean("x" * 200, 10) == "xxxxxxxxx…"
    assert clean(None) == ""


GOOD = [
    "ann@example.com",
    "a@b",
    "o'brien+tag@mail.example.co.uk",
    "a..b@example.com",
    "jörg@example.com",
    "ann@bücher.example",
    "!#$%&'*+/=^_`{|}~-@example.com",
]
BAD = [
    "",
    "ann",
    "@example.com",
    "ann@",
    "ann@example..com",
    "ann@.example.com",
    "ann@-example.com",
    "ann@exa mple.com",
    "an n@example.com",
    "ann@example.com\r\nBcc: evil@example.com",
    "ann@example.com\n",
    "ann\r\n@example.com",
    "ann@example.com, evil@example.com",
    "ann@example.com;evil@example.com",
    "ann,evil@example.com",
    "Ann <ann@example.com>",
    "<ann@example.com>",
    '"ann evil"@example.com',
    "ann(comment)@example.com",
    "ann@[127.0.0.1]",
    "evil@evil.example@example.com",
    "undisclosed-recipients:;",
    "=?utf-8?q?evil=40evil.example=3E?=@example.com",
    "ann\x00@example.com",
    "ann\u2028@example.com",
    "ann@exam\u2028ple.com",
    "ann\ud800@example.com",
    "ann@exam\ud800ple.com",
    "ann\u202e@example.com",
    f"{'a' * 65}@example.com",
    f"ann@{'a' * 64}.com",
    f"ann@{'a.' * 120}com",
]


@pytest.mark.parametrize("text", GOOD)
def test_addresses_that_a_letter_reaches(tmp_path: Path, text: str) -> None:
    message = render(letter(RENEWAL, to=text), matter(), settings_for(tmp_path))
    local, _, domain = text.partition("@")
    expected = f"{local}@{domain.encode('idna').decode()}"
    wire = message.as_bytes(policy=SMTP.clone(utf8=not local.isascii()))
    assert f"\r\nTo: {expected}\r\n" in wire.decode()
    if local.isascii():
        assert [address.addr_spec for address in message_from_bytes(wire, policy=SMTP)["To"].addresses] == [expected]


@pytest.mark.parametrize("text", BAD)
def test_addresses_that_no_letter_is_sent_to(text: str) -> None:
    with pytest.raises(BadAddress):
        mail_address(text)


def test_a_masked_address_names_nobody() -> None:
    assert masked_address("ann.example@gmail.com") == "a…@g…"


# ---------------------------------------------------------------------------------------------------- by hand
def entry(**more: Any) -> Entry:
    known: dict[str, Any] = dict.fromkeys(Entry.__struct_fields__[: Entry.__struct_fields__.index("grants")])
    known |= {"seq": 7, "timestamp": NOW, "event": E.SALE, "event_id": "e", "source": "gumroad", "email": ANN}
    known |= {"quantity": 1, "license_keys": (KEY,), "outcome": Outcome.ISSUED, "raw": msgspec.Raw(b"{}")}
    known |= {"is_recurring": False, "is_refunded": False, "is_disputed": False, "is_test": False, "sale_id": "s1"}
    return Entry(**(known | more))


def license(**more: Any) -> License:
    known: dict[str, Any] = dict.fromkeys(("hardware_id", "device_name", "last_validation"))
    known |= {"email": ANN, "customer_name": "Ann", "created_date": NOW, "expiry_date": NOW + timedelta(days=30)}
    known |= {"is_active": True, "validation_count": 0, "purchase_source": "gumroad", "purchase_id": "s1"}
    return License(**(known | more))


def letter(kind: str, to: str = ANN, **more: Any) -> Letter:
    return Letter(id=f"7:{kind}", kind=kind, to=to, seq=7, **more)


def matter(**more: Any) -> Matter:
    known: dict[str, Any] = {"now": NOW, "entry": entry(), "licenses": {KEY: license()}}
    return Matter(**(known | more))


def letter_of(kind: str, folder: Path, text: str, product: str | None = None) -> EmailMessage:
    """A letter in which everything that comes from outside says `text`."""
    outcome = Outcome.UNMAPPED if kind == UNMAPPED else Outcome.SUSPENDED
    said = dict.fromkeys(FIELDS, text) | {"variants": (text,)} | ({"product_name": product} if product else {})
    dead = [letter(of, to=text, error=text, at=datetime(2026, 11, 20, tzinfo=UTC)) for of in (DELIVERY, INQUIRY)]
    told = matter(
        entry=entry(**said, outcome=outcome),
        licenses={KEY: license(customer_name=text, purchase_id=text)},
        dead=dead,
    )
    return render(letter(kind, text=text), told, settings_for(folder))


def plain(message: EmailMessage) -> str:
    return content(message, "plain")


def words(message: EmailMessage) -> str:
    """The plain text, wherever its lines break."""
    return " ".join(plain(message).split())


def html(message: EmailMessage) -> str:
    return content(message, "html")


def content(message: EmailMessage, form: str) -> str:
    part = message.get_body((form,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


def reparsed(message: EmailMessage) -> EmailMessage:
    return message_from_bytes(message.as_bytes(), policy=SMTP)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}", ()))

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment", ()))

    def handle_decl(self, decl: str) -> None:
        self.found.append((decl, ()))

    def unknown_decl(self, data: str) -> None:
        self.found.append(("unknown", ()))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def seen_tags(text: str) -> list[tuple[str, tuple[tuple[str, str | None], ...]]]:
    return _parsed(text).found


def texts(text: str) -> list[str]:
    return _parsed(text).text


def _parsed(text: str) -> _Tags:
    tags = _Tags()
    tags.feed(text)
    tags.close()
    return tags


def test_a_license_that_works_again_is_mailed_with_its_key(shop: Shop) -> None:
    """Its sale may have been disputed before it was told, and then nobody was sent the key."""
    shop.says(E.DISPUTE, "s1")
    key = shop.sale("s1").license_keys[0]
    shop.says(E.DISPUTE_WON, "s1")
    shop.outbox.send_due()
    letter = shop.pigeon.messages[-1]
    assert (letter["To"], letter["Subject"]) == ("ann@example.com", "Your license for Wave works again")
    for form in (plain(letter), html(letter)):
        assert key in form


def test_a_lost_dispute_is_told_to_the_owner(shop: Shop) -> None:
    shop.sale("s1")
    assert shop.kinds_owed(shop.says(E.DISPUTE_LOST, "s1")) == [(DISPUTE, OWNER)]
    shop.outbox.send_due()
    letter = shop.pigeon.messages[-1]
    assert letter["Subject"] == "A payment was charged back: Wave"
    assert "the license is banned" in words(letter)
