"""JVZoo's notices: which of them are proven, and what they say in our words."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.domain.purchase import EventKind, PurchaseEvent, Standing
from server.errors import BadRequest, Unverified
from server.platforms import WebhookRequest, jvzoo
from server.platforms.jvzoo import JVZoo
from tests.conftest import settings_for
from tests.jvzoo_notices import KEY, TEAM, Notice, cverify, legacy, posted, signed, v1, v2

# Published with niteoweb.ipn.jvzoo.
PUBLISHED = (
    b"ccustname=JohnSmith&ccuststate=&ccustcc=&ccustemail=test@email.com&cproditem=1&cprodtitle=TestProduct"
    b"&cprodtype=STANDARD&ctransaction=SALE&ctransaffiliate=affiliate@email.com&ctransamount=1000"
    b"&ctranspaymentmethod=&ctransvendor=&ctransreceipt=1&cupsellreceipt=&caffitid=&cvendthru=&cverify=AACDD10E"
    b"&ctranstime=1350388651"
)
PHP = json.loads((Path(__file__).parent / "jvzoo_php_vectors.json").read_text())["vectors"]
HOOK = "hook-secret-of-the-tests"


def platform(**settings: Any) -> JVZoo:
    made = JVZoo.from_settings(settings_for(Path("unused"), **({"jvzoo_secret_key": KEY} | settings)))
    assert made is not None
    return made


def events(body: bytes, query: dict[str, str] | None = None, **settings: Any) -> list[PurchaseEvent]:
    return platform(**settings).events(WebhookRequest(body, query or {}, {}.get))


def event(notice: Notice, **settings: Any) -> PurchaseEvent:
    (found,) = events(signed(notice), **settings)
    return found


def refused(body: bytes, **settings: Any) -> bool:
    try:
        events(body, **settings)
    except Unverified:
        return True
    return False


def spoiled(body: bytes, cverify: bytes) -> bytes:
    return body.partition(b"&cverify=")[0] + cverify


# ---------------------------------------------------------------------------------------------------- proof, version 1
def test_the_published_example_is_proven_and_says_what_it_says():
    (sale,) = events(PUBLISHED, jvzoo_secret_key="secret")
    assert (sale.event, sale.event_id, sale.email) == (EventKind.SALE, "1:SALE", "test@email.com")
    assert sale.purchase_date == datetime(2012, 10, 16, 11, 57, 31, tzinfo=UTC)
    assert refused(PUBLISHED, jvzoo_secret_key="Secret")


@pytest.mark.parametrize("number", range(len(PHP)))
def test_we_sign_what_php_signs(number):
    made = PHP[number]
    body = made["body"].encode("latin-1") + b"&cverify=" + made["cverify"].encode()
    platform(jvzoo_secret_key=made["secret"]).verify(WebhookRequest(body, {}, {}.get))
    assert refused(body, jvzoo_secret_key="another")


def test_without_its_secret_key_the_platform_is_off():
    assert JVZoo.from_settings(settings_for(Path("unused"), jvzoo_webhook_secret=HOOK)) is None


@pytest.mark.parametrize("field", [name for name in v1("R1") if name != "cverify"])
def test_every_value_of_version_1_is_signed(field):
    notice = v1("R1") | {"cverify": cverify(v1("R1"))}
    assert not refused(posted(notice))
    assert refused(posted(notice | {field: f"{notice[field]}x"}))


@pytest.mark.parametrize("sent", [b"", b"&cverify=", b"&cverify=0", b"&cverify[]=x", b"&cverify=%FF%FE", b"&cverify"])
def test_a_notice_without_a_signature_is_refused(sent):
    assert refused(spoiled(signed(v1("R1")), sent))
    assert refused(spoiled(signed(v2("R1")), sent))


@pytest.mark.parametrize(
    "body", [b"", b"&&&", b"=", b"cverify=", b"\xff\xfe", b'{"ctransaction": "SALE"}', b"\0", b"%"]
)
def test_a_body_that_is_no_notice_is_refused(body):
    assert refused(body)


def test_a_signature_of_another_length_is_refused():
    right = cverify(v1("R1")).encode()
    for sent in (right[:7], right + b"0", right * 2, b" " + right, right + b"+", right[:4] + b"\xc3\x9f" + right[6:]):
        assert refused(spoiled(signed(v1("R1")), b"&cverify=" + sent))


def test_the_case_of_a_signature_does_not_matter():
    assert not refused(spoiled(signed(v1("R1")), b"&cverify=" + cverify(v1("R1")).lower().encode()))


def test_of_a_name_given_twice_the_last_value_is_signed_and_read():
    (sale,) = events(b"ctransreceipt=FIRST&ccustemail=thief%40example.com&" + signed(v1("R1")))
    assert (sale.sale_id, sale.email) == ("R1", "jane@example.com")
    assert refused(signed(v1("R1")) + b"&ccustemail=thief%40example.com")
    assert not refused(b"cverify=00000000&" + signed(v1("R1")))


def test_names_are_sorted_by_their_bytes_and_unknown_ones_take_part():
    notice = v1("R1", Submit="send", Zeta="", ümlaut="x")
    assert sorted(notice)[:2] == ["Submit", "Zeta"]
    assert not refused(signed(notice))
    assert refused(posted(notice | {"cverify": cverify(v1("R1"))}))


def test_bytes_that_are_no_utf8_are_signed_as_they_are():
    told = v1("R1", ccustname="Zo\udceb")
    body = signed(told)
    assert b"ccustname=Zo%EB&" in body
    for sent in (body, body.replace(b"%EB", b"\xeb")):
        assert events(sent)[0].customer_name == "Zo\ufffd"
    assert refused(posted(told | {"cverify": cverify(told | {"ccustname": "Zo?"})}))  # what PHP's sample makes of it


@pytest.mark.parametrize("name", ["ccustemail[]", "ctransreceipt[0]", "a[", "[]", "cverify[a]"])
def test_an_array_is_refused_even_with_a_signature_over_it(name):
    assert refused(signed(v1("R1") | {name: "x"}))


def test_more_fields_than_php_takes_are_refused():
    assert refused(signed(v1("R1") | {f"x{number}": "" for number in range(1000)}))
    assert not refused(signed(v1("R1") | {f"x{number}": "" for number in range(900)}))


def test_ctranstime_may_be_left_out_of_the_signature(caplog):
    told = v1("R1")
    left_out = cverify({name: value for name, value in told.items() if name != "ctranstime"})
    with caplog.at_level(logging.DEBUG, "server.platforms.jvzoo"):
        assert not refused(posted(told | {"cverify": left_out}))
        assert not refused(signed(told))
    assert [record.formula for record in caplog.records] == ["v1 without ctranstime", "v1"]


def test_the_signature_takes_no_part_of_the_query():
    assert events(signed(v1("R1")), query={"ctransreceipt": "R2", "cverify": "00000000"})[0].sale_id == "R1"


# ---------------------------------------------------------------------------------------------------- the URL's secret
def test_the_secret_in_the_url_is_asked_for_where_it_is_set():
    body = signed(v1("R1"))
    assert events(body, query={"secret": HOOK}, jvzoo_webhook_secret=HOOK)
    for query in ({}, {"secret": ""}, {"secret": HOOK + "x"}, {"secret": "é"}):
        with pytest.raises(Unverified) as error:
            events(body, query=query, jvzoo_webhook_secret=HOOK)
        assert error.value.code == "BAD_SECRET"
    with pytest.raises(Unverified):
        events(signed(v1("R1"), key="wrong"), query={"secret": HOOK}, jvzoo_webhook_secret=HOOK)


# ---------------------------------------------------------------------------------------------------- proof, version 2
@pytest.mark.parametrize("field", ["paykey", "customer_email", "product_name", "transaction_type", "date"])
def test_the_signed_values_of_version_2_are_checked(field):
    notice = v2("R1") | {"cverify": cverify(v2("R1"))}
    assert not refused(posted(notice))
    assert refused(posted(notice | {field: f"{notice[field]}x"}))
    assert refused(posted({name: value for name, value in notice.items() if name != field}))


def test_version_2_is_not_believed_by_the_formula_of_version_1():
    notice = v2("R1")
    values = {f"x{name}": value for name, value in notice.items()}  # the same values in the same order
    assert refused(posted(notice | {"cverify": cverify(values)}))


def test_a_notice_of_version_1_cannot_be_recut_as_one_of_version_2():
    """Both join values by `|`: the paykey could hold all that stands before the type, and then any product is free."""
    told = v1("R1")
    values = [str(told[name]) for name in sorted(told)]
    place = sorted(told).index("ctransaction")
    for date in (values[place + 1], "|".join(values[place + 1 :])):
        recut = {
            "paykey": values[0],
            "customer_email": values[1],
            "product_name": "|".join(values[2:place]),
            "transaction_type": "SALE",
            "date": date,
            "transaction_id": "FREE",
            "product_id": TEAM,
            "cverify": cverify(told),
        }
        assert refused(posted(recut))
    assert cverify(recut) == cverify(told)  # without the check it would be proven


# ---------------------------------------------------------------------------------------------------- proof, legacy
def test_the_older_formula_is_believed_only_where_the_owner_asks_for_it():
    digest = cverify(legacy("T1"))
    for sent in (digest, digest.upper(), digest[:8], digest[:8].upper()):
        body = posted(legacy("T1") | {"cverify": sent})
        assert refused(body)
        assert events(body, jvzoo_legacy_signature="on")[0].sale_id == "T1"
    for sent in ("", digest[:7], digest[:9], digest[:39], "0" * 40):
        assert refused(posted(legacy("T1") | {"cverify": sent}), jvzoo_legacy_signature="on")


def test_the_older_formula_opens_no_door_for_the_newer_shapes():
    for notice in (v1("T1"), v2("T1")):
        signed_old = cverify(legacy("T1", ctransaction=notice.get("ctransaction", "")))
        assert refused(posted(notice | {"cverify": signed_old}), jvzoo_legacy_signature="on")
    assert refused(posted(legacy("T1") | {"cverify": cverify({**legacy("T1"), "transaction_type": ""})}))


# ---------------------------------------------------------------------------------------------------- what is told
KINDS = [
    ("SALE", EventKind.SALE),
    ("TEST_SALE", EventKind.SALE),
    ("BILL", EventKind.RENEWAL),
    ("INSTAL", EventKind.RENEWAL),
    ("RFND", EventKind.REFUND),
    ("CGBK", EventKind.DISPUTE_LOST),
    ("INSF", EventKind.PAYMENT_FAILED),
    ("CANCEL-REBILL", EventKind.CANCELLATION),
    ("UNCANCEL-REBILL", EventKind.UNCANCELLATION),
    ("TEST", EventKind.IGNORED),
    ("CANCEL-TEST-REBILL", EventKind.IGNORED),
    ("MOON-LANDING", EventKind.IGNORED),
]
NOT_IN_BOTH = {"raw", "once", "country", "note"}


@pytest.mark.parametrize(("word", "kind"), KINDS)
def test_both_versions_become_the_same_event(word, kind):
    first, second = event(v1("R1", word)), event(v2("R1", word))
    assert (first.event, first.event_id) == (kind, f"R1:{word}")
    assert first.is_test == ("TEST" in word)
    for name in set(PurchaseEvent.__struct_fields__) - NOT_IN_BOTH:
        assert getattr(first, name) == getattr(second, name), name


@pytest.mark.parametrize(
    ("notice", "subscription_id"),
    [
        (v1("R1"), None),
        (v1("R1", "RFND"), None),
        (v1("R1", cprodtype="standard"), None),
        (v1("R1", product=TEAM), "R1"),
        (v1("R1", "RFND", TEAM), "R1"),
        (v1("R1", "CANCEL-REBILL"), "R1"),
        (v1("R1", "UNCANCEL-REBILL"), "R1"),
        (v1("R1-B002", "INSF"), "R1"),
        (v1("R1-B001", "BILL"), "R1"),
        (v1("R1-B001", "RFND"), "R1"),
        (v1("R1-B1000", "CGBK"), "R1"),
        (v1("R1-B01", "BILL"), "R1-B01"),
        (v1("R1-B001-X", "BILL"), "R1-B001-X"),
        (v1("R1-B001\n", "BILL"), "R1-B001\n"),
        (v1("R1-B\u0660\u0660\u0661", "BILL"), "R1-B\u0660\u0660\u0661"),  # Arabic digits
        (v2("R1-B001", "BILL"), "R1"),
        (v2("R1"), None),
        (v2("R1", product=TEAM), "R1"),
        (v1("R1", cprodtype=""), "R1"),  # not told, so a renewal may come
    ],
)
def test_what_a_receipt_belongs_to(notice, subscription_id):
    said = event(notice)
    assert said.subscription_id == subscription_id
    assert said.sale_id == notice.get("ctransreceipt", notice.get("transaction_id"))


def test_a_reversal_of_a_renewal_says_so():
    assert [event(v1(receipt, "CGBK", TEAM)).is_recurring for receipt in ("R1", "R1-B001")] == [False, True]
    assert event(v1("R1-B001", "BILL", TEAM)).is_recurring


def test_a_failed_renewal_is_tried_again():
    said = event(v1("R1-B002", "INSF", TEAM))
    assert (said.standing, said.occurred_at) == (Standing.GRACE, datetime(2026, 11, 5, 18, 58, 56, tzinfo=UTC))


@pytest.mark.parametrize("word", ["RFND", "CGBK"])
def test_a_reversal_has_no_date_since_version_2_tells_the_sales(word):
    for notice in (v1("R1", word), v2("R1", word)):
        assert (event(notice).occurred_at, event(notice).purchase_date) == (None, None)


@pytest.mark.parametrize(
    ("told", "moment"),
    [
        ("1793905136", datetime(2026, 11, 5, 18, 58, 56, tzinfo=UTC)),
        ("1293840000", datetime(2011, 1, 1, tzinfo=UTC)),
        *[
            (told, None)
            for told in (
                "",
                "0",
                "-5",
                "1793905136000",
                "9999999999",
                "9" * 5000,
                "soon",
                "1e9",
                "1793905136.5",
                "\uff17x",
            )
        ],
    ],
)
def test_a_strange_time_of_version_1_is_none_at_all(told, moment):
    assert event(v1("R1", ctranstime=told)).purchase_date == moment


@pytest.mark.parametrize(
    ("told", "moment"),
    [
        ("2026-11-05 13:58:56", datetime(2026, 11, 5, 18, 58, 56, tzinfo=UTC)),
        ("2026-07-05 13:58:56", datetime(2026, 7, 5, 17, 58, 56, tzinfo=UTC)),  # summer time
        ("2026-11-05 13:58", datetime(2026, 11, 5, 18, 58, tzinfo=UTC)),
        ("2026-11-05T13:58:56+00:00", datetime(2026, 11, 5, 13, 58, 56, tzinfo=UTC)),
        ("2026-11-05", datetime(2026, 11, 5, 5, tzinfo=UTC)),
        *[
            (told, None)
            for told in ("", "0000-00-00 00:00:00", "9999-12-31 23:59:59", "2250-01-01", "2026-02-30 10:00:00", "today")
        ],
    ],
)
def test_a_strange_time_of_version_2_is_none_at_all(told, moment):
    assert event(v2("R1", date=told)).purchase_date == moment


@pytest.mark.parametrize(
    ("unit", "told", "price"),
    [
        ("dollars", "47.00", "47.00"),
        ("dollars", "297", "297.00"),
        ("dollars", "1000", "1000.00"),
        ("dollars", "0.00", "0.00"),
        ("dollars", "-47.00", "-47.00"),
        ("cents", "4700", "47.00"),
        ("cents", "5", "0.05"),
        ("cents", "47.00", None),
        *[("dollars", told, None) for told in ("", "$47", "1,000.00", "NaN", "1e9", "47.005", "9" * 400)],
        *[("cents", told, None) for told in ("", "NaN", "٤٧", "9" * 400)],
    ],
)
def test_an_amount_is_told_and_never_asked_for(unit, told, price):
    sale = event(v1("R1", ctransamount=told), jvzoo_amounts=unit)
    assert (sale.price, sale.currency) == (price, "usd")


def test_the_total_of_version_2_is_dollars_whatever_the_setting():
    assert event(v2("R1"), jvzoo_amounts="cents").price == "47.00"


def test_the_payload_is_kept_without_its_signature():
    raw = msgspec.json.decode(event(v1("R1", ccuststate="")).raw)
    assert (raw["ctransreceipt"], raw["ccuststate"], "cverify" in raw) == ("R1", "", False)


def test_the_customer_and_the_parent_of_an_upsell():
    said = event(v1("R2", cupsellreceipt="R1"))
    assert (said.customer_name, said.country, said.note) == ("Jane Doe", "US", "an upsell of R1")
    said = event(v2("R2", customer_last_name=""))
    assert (said.customer_name, said.country, said.note) == ("Jane", "UNITED_STATES", None)


def test_a_paykey_is_the_mark_of_one_charge():
    told = [event(v2("R1", word)).once for word in ("SALE", "BILL", "RFND", "CGBK", "INSF", "TEST_SALE")]
    assert told == ["AP-R1", "AP-R1", "AP-R1", "AP-R1", "AP-R1", None]
    assert event(v1("R1")).once is None


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (v1, "ctransaction"),
        (v1, "ctransreceipt"),
        (v2, "transaction_id"),
        (v2, "paykey"),
        (v2, "transaction_type"),
    ],
)
def test_a_proven_notice_without_what_matters_names_the_field(make, field):
    """In version 1 names are not signed: who renames a field gets no license by it."""
    notice = make("R1", **{field: ""})
    with pytest.raises(BadRequest, match=f"{field}: is missing"):
        events(signed(notice))
    with pytest.raises(BadRequest, match=f"{field}: is longer"):
        events(signed(make("R1", **{field: "x" * 600})))


def test_a_test_may_lack_everything():
    first, again, other = (event({"ctransaction": "TEST", "x": x}) for x in ("1", "1", "2"))
    assert first.event is EventKind.IGNORED
    assert first.event_id == again.event_id != other.event_id


def test_the_older_shape_says_its_id_and_its_type_elsewhere():
    said = event(legacy("T1", "INSTAL"), jvzoo_legacy_signature="on")
    assert (said.event, said.event_id, said.subscription_id, said.price) == (
        EventKind.RENEWAL,
        "T1:INSTAL",
        "T1",
        "47.00",
    )
    assert event(legacy("T1"), jvzoo_legacy_signature="on").subscription_id == "T1"


# ---------------------------------------------------------------------------------------------------- recut notices
def renamed(notice: Notice, **names: str) -> bytes:
    """A genuine notice's values and signature, some of them under other names."""
    signature = cverify(notice)
    return posted({names.get(name, name): value for name, value in notice.items()} | {"cverify": signature})


@pytest.mark.parametrize(
    ("genuine", "names"),
    [
        (v1("R1"), {"ctransreceipt": "ctransr0", "ctranstime": "ctransreceipt"}),
        (v1("R1"), {"ctransreceipt": "ctransr0", "ctranstime": "ctransr1", "ctransvendor": "ctransreceipt"}),
        (v1("R1", ccuststate="427079"), {"cproditem": "cprodj", "ccuststate": "cproditem"}),
        (
            v1("R1", "RFND", cupsellreceipt="P1"),
            {
                "ctransreceipt": "ctransr0",
                "ctranstime": "ctransr1",
                "ctransvendor": "ctransr2",
                "cupsellreceipt": "ctransreceipt",
            },
        ),
    ],
    ids=["the time as receipt", "the vendor as receipt", "another product", "the parent's refund"],
)
def test_a_genuine_notice_under_other_names_is_refused(genuine, names):
    assert not refused(signed(genuine))
    assert sorted(names.get(name, name) for name in sorted(genuine)) == [
        names.get(name, name) for name in sorted(genuine)
    ]  # the values keep their order, so the signature is right
    assert refused(renamed(genuine, **names))


def test_a_notice_that_is_cut_elsewhere_is_refused():
    """A buyer who types a `|` parts one value into two."""
    cut = v1("R1", ctransaffiliate="0|47.00", ctransamount="PYPL", ctranspaymentmethod="R1", ctransreceipt="1793905136")
    cut |= {"ctranstime": "1140863", "ctransvendor": "", "cupsellreceipt": "x", "cvendthru": "y"}
    genuine = v1("R1", cvendthru="x|y")
    assert cverify(cut) == cverify(genuine)
    assert not refused(signed(genuine))
    assert refused(signed(cut))


def test_what_people_write_may_hold_a_bar():
    assert not refused(signed(v1("R1", ccustname="Jane | Doe", cprodtitle="Wave | for ever", cvendthru="a|b")))


def test_a_notice_with_a_field_more_is_believed_and_with_a_bar_as_well_is_not():
    assert not refused(signed(v1("R1", Submit="1", ctransnew="2")))
    assert refused(signed(v1("R1", ctransnew="2", ccustname="Jane | Doe")))


def test_a_version_1_notice_that_is_recut_as_version_2_is_refused():
    genuine = v1("R1", cvendthru="x|SALE|2026-11-05 10:00:00", caffitid="AP-1")
    values = [str(genuine[name]) for name in sorted(genuine)]
    *start, word, moment = "|".join(values).split("|")
    recut = v2("EVIL", paykey=start[0], customer_email=start[1], product_name="|".join(start[2:]))
    recut |= {"transaction_type": word, "date": moment}
    assert posted(recut | {"cverify": cverify(genuine)}) != b""
    assert refused(posted(recut | {"cverify": cverify(genuine)}))


def test_mutant_believing_any_names_is_caught(monkeypatch):
    monkeypatch.setattr(jvzoo, "require_uncut", lambda form: None)
    with pytest.raises(AssertionError):
        test_a_genuine_notice_under_other_names_is_refused(
            v1("R1"), {"ctransreceipt": "ctransr0", "ctranstime": "ctransreceipt"}
        )
    with pytest.raises(AssertionError):
        test_a_notice_that_is_cut_elsewhere_is_refused()


def test_mutant_a_product_name_of_any_length_is_caught(monkeypatch):
    monkeypatch.setattr(jvzoo, "_MOST_BARS", 1000)
    with pytest.raises(AssertionError):
        test_a_version_1_notice_that_is_recut_as_version_2_is_refused()
