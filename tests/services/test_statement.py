"""A platform's own record: read page by page with patience, kept where it is interrupted, or read from a file."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from server.domain.purchase import PurchaseEvent
from server.errors import BadRequest, Conflict, PlatformUnreachable
from server.platforms import PLATFORMS, Platform, web_client
from server.platforms.base import Page
from server.platforms.gumroad import Gumroad
from server.platforms.gumroad_api import GumroadApi as OurGumroadApi
from server.platforms.stripe import Stripe
from server.platforms.stripe_api import StripeApi as OurStripeApi
from server.platforms.web_client import RateLimited
from server.services import statement as statement_module
from server.services.statement import KEPT_FOR, TRIES, Statement, patiently
from server.services.statement_file import StatementFile, read_statement_file
from tests.services.mail_room import NOW, Clock
from tests.standins.gumroad_api import TOKEN, WHEN, GumroadApi, sale
from tests.standins.stripe_api import KEY, StripeApi, charge, dispute, invoice, invoice_payment, refund, session

SINCE = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api():
    """25 sales, of which every fifth is refunded: three pages."""
    many = [sale(f"s{n}==", created_at=WHEN + timedelta(minutes=n), refunded=n % 5 == 0) for n in range(25)]
    with GumroadApi(*many) as standin:
        yield standin


class Reader:
    """Statements of one folder, and for how long they slept."""

    def __init__(self, folder: Path, api: GumroadApi, clock: Clock) -> None:
        self.folder, self.clock, self.slept = folder, clock, list[float]()
        self.platform: Platform = Gumroad("secret", None, OurGumroadApi(TOKEN, api.url))

    def statement(self) -> Statement:
        return Statement(self.platform, self.folder, self.clock, self.slept.append)

    def read(self, since: datetime = SINCE) -> list[PurchaseEvent]:
        return self.statement().read(since)

    @property
    def spool(self) -> Path:
        return self.folder / f"reconcile-{self.platform.name}.jsonl"


@pytest.fixture
def reader(tmp_path, api, clock) -> Reader:
    return Reader(tmp_path, api, clock)


def names(events: list[PurchaseEvent]) -> list[str]:
    return sorted(event.event_id for event in events)


EVERYTHING = sorted([f"s{n}==:sale:false" for n in range(25)] + [f"s{n}==:refund:true" for n in range(0, 25, 5)])


# ---------------------------------------------------------------------------------------------------- all of it
def test_all_pages_are_read(reader, api):
    assert names(reader.read()) == EVERYTHING
    assert len(api.asked) == 3
    assert api.asked[0] == "/v2/sales?after=2026-11-01"


def test_only_since_a_day(reader, api):
    api.add(sale("old==", created_at=SINCE - timedelta(seconds=1)))
    assert names(reader.read()) == EVERYTHING
    assert "old==:sale:false" in names(reader.read(SINCE - timedelta(days=1)))


def test_stripes_record_is_all_its_lists(tmp_path, clock):
    many = [session(f"cs_live_{n}", payment_intent=f"pi_{n}") for n in range(105)]
    rest = [invoice(), invoice_payment(), charge("ch_0", "pi_0", amount_refunded=4900), refund("re_0", "ch_0", "pi_0")]
    with StripeApi(*many, *rest, dispute("du_1", "ch_1", "pi_1")) as api:
        reader = Reader(tmp_path, api, clock)  # type: ignore[arg-type]
        reader.platform = Stripe(("whsec",), OurStripeApi(KEY, api.url))
        found = [event.event for event in reader.read()]
        assert {kind: found.count(kind) for kind in found} == {"sale": 105, "renewal": 1, "refund": 2, "dispute": 1}
        assert len(api.asked) == 6


@pytest.mark.parametrize(("retry_after", "slept"), [(None, [2.0]), (4, [4.0])])
def test_stripes_rate_limit_is_respected_too(tmp_path, clock, retry_after, slept):
    with StripeApi(session()) as api:
        reader = Reader(tmp_path, api, clock)  # type: ignore[arg-type]
        reader.platform = Stripe(("whsec",), OurStripeApi(KEY, api.url))
        api.fail_next(429, retry_after=retry_after)
        assert [event.sale_id for event in reader.read()] == ["cs_live_1"]
        assert reader.slept == slept


def test_an_object_that_cannot_be_read_is_counted_and_left_out_whole(reader, api):
    """A sale whose refund cannot be read must not pass for one that was not refunded."""
    api.add(sale("odd==") | {"partially_refunded": "perhaps"}, sale("far==", created_at=WHEN.replace(year=2201)))
    statement = reader.statement()
    assert names(statement.read(SINCE)) == EVERYTHING
    assert statement.unreadable == 2


def test_it_tells_how_far_it_is(reader):
    ticks = []
    reader.statement().read(SINCE, lambda done, total: ticks.append(done))
    assert ticks == [1, 2, 3]


def test_an_empty_record_is_one(tmp_path, clock):
    with GumroadApi() as api:
        assert Reader(tmp_path, api, clock).read() == []


@pytest.mark.parametrize("body", [{}, {"success": True}, {"success": False, "message": "Sorry"}, {"sales": []}])
def test_an_answer_without_a_list_is_no_empty_record(reader, api, monkeypatch, body):
    """Else every license would be one without payment."""
    monkeypatch.setattr(web_client, "_body", lambda *_: json.dumps(body).encode())
    with pytest.raises(PlatformUnreachable, match="not its list of sales"):
        reader.read()


def test_a_platform_that_goes_in_a_circle_is_left(reader, monkeypatch):
    monkeypatch.setattr(reader.platform, "page", lambda since, at: Page((), "again"))
    with pytest.raises(PlatformUnreachable, match="the same page"):
        reader.read()


# ---------------------------------------------------------------------------------------------------- patience
@pytest.mark.parametrize(("retry_after", "slept"), [(None, [5.0, 10.0]), (0, [0.0, 1.0]), (7, [7.0, 14.0])])
def test_a_rate_limit_is_respected(reader, api, retry_after, slept):
    api.fail_next(429, times=2, retry_after=retry_after)
    assert names(reader.read()) == EVERYTHING
    assert reader.slept == slept


@pytest.mark.parametrize(
    ("header", "seconds"), [("120", 120.0), (None, 5.0), ("soon", 5.0), ("Fri, 01 Jan 2021 00:00:00 GMT", 0.0)]
)
def test_how_long_it_wants_to_be_left_alone(header, seconds):
    assert web_client.seconds_of(header) == seconds


def test_a_moment_to_come_is_waited_for():
    there = datetime.now(UTC) + timedelta(seconds=90)
    assert 80 < web_client.seconds_of(f"{there:%a, %d %b %Y %H:%M:%S} GMT") <= 90


def test_a_long_rest_is_left_to_the_owner_who_goes_on_later(reader, api):
    reader.read()
    reader.spool.unlink()
    asked = len(api.asked)
    api.fail_next(429, retry_after=3600)
    with pytest.raises(PlatformUnreachable, match="start again in 60 minutes, it goes on where it stopped"):
        reader.read()
    assert (reader.slept, len(api.asked)) == ([], asked + 1)


def test_it_is_never_asked_earlier_than_it_wants(reader, api):
    api.fail_next(429, times=99, retry_after=2)
    with pytest.raises(PlatformUnreachable, match="more slowly: start again in 1 minute"):
        reader.read()
    assert (reader.slept, len(api.asked)) == ([2.0, 4.0, 8.0, 16.0, 32.0], TRIES)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_trouble_of_theirs_is_sat_out(reader, api, status):
    api.fail_next(status, times=TRIES - 1)
    assert names(reader.read()) == EVERYTHING
    assert reader.slept == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_after_some_tries_it_is_given_up_with_the_reason(reader, api):
    api.fail_next(503, times=99)
    with pytest.raises(PlatformUnreachable, match=r"127\.0\.0\.1 answers 503$"):
        reader.read()
    assert len(api.asked) == TRIES


def test_what_it_says_is_wrong_with_the_question_is_passed_on(reader, api):
    api.fail_next(400, times=99)
    with pytest.raises(PlatformUnreachable, match=r"answers 400 \(Query timed out\. Try narrowing your date range"):
        reader.read()


def test_a_refused_token_is_no_reason_to_wait(reader, api):
    api.token = "another"
    with pytest.raises(PlatformUnreachable, match="GUMROAD_ACCESS_TOKEN") as caught:
        reader.read()
    assert TOKEN not in str(caught.value)
    assert (reader.slept, len(api.asked)) == ([], 1)


def test_patience_hands_on_what_is_no_trouble_of_the_platforms():
    def broken() -> None:
        raise KeyError("a bug of ours")

    with pytest.raises(KeyError):
        patiently(broken, [].append)


# ---------------------------------------------------------------------------------------------------- interrupted
def interrupted(reader: Reader, api: GumroadApi, pages: int = 1) -> None:
    """Dies behind so many pages."""
    api.asked.clear()
    page, platform = reader.platform.page, reader.platform

    def fails(since: datetime, at: str | None) -> Page:
        if len(api.asked) >= pages:
            raise KeyboardInterrupt
        return page(since, at)

    platform.page = fails  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        reader.read()
    platform.page = page  # type: ignore[method-assign]
    assert len(api.asked) == pages
    api.asked.clear()


def test_it_goes_on_where_it_was_interrupted(reader, api):
    interrupted(reader, api, pages=2)
    statement = reader.statement()
    assert names(statement.read(SINCE)) == EVERYTHING
    assert (statement.resumed, len(api.asked)) == (2, 1)
    assert "page_key" in api.asked[0]


def test_what_was_read_whole_is_used_until_it_is_forgotten(reader, api):
    """The comparison behind it may be interrupted, too."""
    first = reader.read()
    api.down()
    statement = reader.statement()
    assert statement.read(SINCE) == first
    statement.forget()
    statement.forget()
    assert not reader.spool.exists()


def test_its_age_is_that_of_its_first_page(reader, api, clock):
    interrupted(reader, api)
    clock.forward(hours=3)
    statement = reader.statement()
    statement.read(SINCE)
    assert statement.begun == NOW


@pytest.mark.parametrize(
    ("since", "by"),
    [
        (SINCE - timedelta(days=1), timedelta(0)),
        (SINCE, KEPT_FOR + timedelta(seconds=1)),
        (SINCE, timedelta(hours=-1)),  # a clock that was put back
    ],
)
def test_another_question_or_an_old_answer_begins_anew(reader, api, clock, since, by):
    interrupted(reader, api)
    clock.now += by
    statement = reader.statement()
    assert names(statement.read(since)) == EVERYTHING
    assert (statement.resumed, len(api.asked), statement.begun) == (0, 3, clock.now)


def test_within_twelve_hours_it_is_the_same_answer(reader, api, clock):
    interrupted(reader, api)
    clock.now += KEPT_FOR
    reader.read()
    assert len(api.asked) == 2


def test_a_torn_page_is_read_again(reader, api):
    """Whatever was cut off, nothing is missing and nothing comes twice; and what follows is kept whole."""
    reader.read()
    whole = reader.spool.read_bytes()
    first, second = (whole.index(b"\n", at) + 1 for at in (0, whole.index(b"\n") + 1))
    for cut in [0, 1, first - 1, first, first + 1, second - 1, second, second + 1, len(whole) - 1, len(whole)]:
        reader.spool.write_bytes(whole[:cut])
        assert names(reader.read()) == EVERYTHING, cut
        asked = len(api.asked)
        assert names(reader.read()) == EVERYTHING, cut
        assert len(api.asked) == asked, cut  # it was mended


def test_what_is_no_page_of_this_reading_ends_it(reader, api):
    """As two readings at once would leave it."""
    reader.read()
    head, first, second, third, end = reader.spool.read_bytes().split(b"\n")
    for lines in ([head, second, third], [head, first, first, second, third], [head, first, third], [head, b"{}"]):
        reader.spool.write_bytes(b"\n".join([*lines, end]))
        assert names(reader.read()) == EVERYTHING


def test_two_readings_at_once_are_one_too_many(reader, api):
    anew = pytest.raises(Conflict, match="another reconciliation of gumroad")
    with reader.statement().alone(), anew, reader.statement().alone():
        pass
    with reader.statement().alone():
        assert names(reader.read()) == EVERYTHING


def test_what_is_kept_is_the_owners_alone_and_holds_no_token(reader):
    reader.read()
    assert stat.S_IMODE(reader.spool.stat().st_mode) == 0o600
    assert TOKEN.encode() not in reader.spool.read_bytes()


def test_mutant_a_torn_page_that_stays_is_caught(reader, api, monkeypatch):
    monkeypatch.setattr(statement_module.os, "truncate", lambda path, size: None)
    with pytest.raises(AssertionError):
        test_a_torn_page_is_read_again(reader, api)


def test_mutant_pages_of_any_reading_are_caught(reader, api, monkeypatch):
    def careless(lines: list[bytes]) -> list[Any]:
        decode = statement_module.msgspec.json.decode
        return [decode(line, type=statement_module._Kept) for line in lines if line != b"{}"]

    monkeypatch.setattr(statement_module, "_sound", careless)
    with pytest.raises(AssertionError):
        test_what_is_no_page_of_this_reading_ends_it(reader, api)


def test_rate_limits_are_told_apart_from_silence():
    assert isinstance(RateLimited("slowly", 1.0), PlatformUnreachable)


# ---------------------------------------------------------------------------------------------------- files
def from_file(folder: Path, text: str | bytes, platform: str = "gumroad", name: str = "record.csv") -> StatementFile:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_statement_file(path, PLATFORMS[platform])


CSV = """event,sale_id,email,product_id,quantity,price,currency,date
sale,s1==,ann@example.com,G-WAVE==,2,29.99,USD,2026-11-05T19:38:56Z
refund,s1==,ann@example.com,G-WAVE==,2,29.99,USD,2026-11-06
"""
ROWS = [
    {
        "event": "sale",
        "sale_id": "s1==",
        "email": "ann@example.com",
        "product_id": "G-WAVE==",
        "quantity": 2,
        "price": 29.99,
        "currency": "usd",
        "date": "2026-11-05T19:38:56Z",
    },
    {"event": "REFUND", "sale_id": "s1==", "price": "29.99", "quantity": "2", "customer": "Ann", "id": 7},
]


@pytest.mark.parametrize(
    "text",
    [
        CSV,
        CSV.replace(",", ";"),
        CSV.replace(",", "\t"),
        CSV.replace("\n", "\r\n"),
        b"\xef\xbb\xbf" + CSV.encode(),
        "\n" + CSV.replace("\nrefund", "\n\n,,,,,,,\nrefund"),
        CSV.replace("sale_id", "Sale ID").replace("product_id", "Product-Id").replace("price", " PRICE "),
        CSV.replace("price", "Amount").replace("email", "Customer Email").replace("event", "Type"),
        CSV.replace("\n", ",,,\n"),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\n".join(map(json.dumps, ROWS)),
        "\n\n".join(map(json.dumps, ROWS)) + "\n",
    ],
)
def test_both_forms_in_their_varieties(tmp_path, text):
    charge, back = from_file(tmp_path, text).events
    assert (charge.event, charge.event_id, charge.source) == ("sale", "s1==:sale:false", "gumroad")
    assert (charge.email, charge.source_product_id, charge.quantity) == ("ann@example.com", "G-WAVE==", 2)
    assert (charge.price, charge.currency) == ("29.99", "usd")
    assert charge.purchase_date == datetime(2026, 11, 5, 19, 38, 56, tzinfo=UTC)
    assert (back.event, back.event_id) == ("refund", "s1==:refund:true")


def test_one_object_is_a_record_too(tmp_path):
    assert len(from_file(tmp_path, json.dumps(ROWS[0], indent=1)).events) == 1


def test_numbers_may_be_ids_and_of_two_columns_the_plainer_name_counts(tmp_path):
    row = {"event": "sale", "id": 5, "sale_id": 12, "product": "Wave", "product_id": 406519, "name": "x", "total": 3}
    (event,) = from_file(tmp_path, json.dumps([row | {"customer_name": "Ann", "price": 49}])).events
    assert (event.sale_id, event.source_product_id, event.customer_name, event.price) == ("12", "406519", "Ann", "49")


def test_which_rows_do_not_say_how_many(tmp_path):
    found = from_file(tmp_path, CSV.replace("G-WAVE==,2,29.99,USD,2026-11-05", "G-WAVE==,,29.99,USD,2026-11-05"))
    assert [event.identity in found.without_quantity for event in found.events] == [True, False]
    assert found.events[0].quantity == 1


def test_what_an_export_leaves_out_of_its_rows_end_is_empty(tmp_path):
    (event,) = from_file(tmp_path, "event,sale_id,email,price\nsale,s1\n").events
    assert (event.email, event.price) == (None, None)


@pytest.mark.parametrize(
    ("price", "told"),
    [("1,234.50", "1234.50"), ("$29.99", "29.99"), ("€ 5", "5"), ("(29.99)", "-29.99"), ("-$5.00", "-5.00"), (0, "0")],
)
def test_how_amounts_may_be_written(tmp_path, price, told):
    (event,) = from_file(tmp_path, json.dumps([{"event": "sale", "sale_id": "s1", "price": price}])).events
    assert event.price == told


@pytest.mark.parametrize(
    ("date", "told"),
    [
        ("2026-11-05", "2026-11-05T00:00:00Z"),
        ("20261105", "2026-11-05T00:00:00Z"),
        ("2026-11-05 19:38:56", "2026-11-05T19:38:56Z"),
        ("2026-11-05 19:38:56 UTC", "2026-11-05T19:38:56Z"),
        ("2026-11-05T14:38:56-05:00", "2026-11-05T19:38:56Z"),
        (1793907536, "2026-11-05T19:38:56Z"),
    ],
)
def test_how_days_may_be_written(tmp_path, date, told):
    (event,) = from_file(tmp_path, json.dumps([{"event": "sale", "sale_id": "s1", "date": date}])).events
    assert event.purchase_date is not None
    assert f"{event.purchase_date:%Y-%m-%dT%H:%M:%SZ}" == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "record.csv is empty"),
        (" \n\n", "record.csv is empty"),
        (CSV.encode("utf-16"), "record.csv is not in UTF-8: save it as CSV UTF-8"),
        ("Purchase ID,Email\n1,a@b.example\n", "record.csv: no column event (or event transactiontype"),
        ("event,Email\nsale,a@b.example\n", "record.csv: no column sale_id (or saleid receipt"),
        (CSV.replace("sale,s1==", "sale,"), "record.csv row 2: sale_id: is missing"),
        (CSV.replace("refund,s1==", ",s1=="), "record.csv row 3: event: is missing"),
        (CSV.replace("refund,", "sold,"), "record.csv row 3: event: 'sold' is none of dispute, dispute_lost"),
        (CSV.replace("refund,", "\n\nsold,"), "record.csv row 5: event: 'sold'"),
        (CSV.replace("2026-11-06", "11/06/2026"), "record.csv row 3: date: '11/06/2026' is no date such as 2026-11-20"),
        (CSV.replace("2026-11-06", "1969-11-06"), "record.csv row 3: date: '1969-11-06' is not between 1970 and 2200"),
        (CSV.replace("2026-11-06", "9999999999999"), "record.csv row 3: date: '9999999999999' is no date"),
        (CSV.replace(",29.99,", ',"29,99",'), "record.csv row 2: price: '29,99' is no amount such as 1234.50"),
        (CSV.replace("29.99", "NaN"), "record.csv row 2: price: 'NaN'"),
        (CSV.replace("29.99", "29.999"), "record.csv row 2: price: '29.999' is no amount in usd"),
        (CSV.replace("USD", "dollars"), "record.csv row 2: currency: 'dollars' is no currency code"),
        (CSV.replace(",2,", ",0,"), "record.csv row 2: quantity: '0' is no number from 1 to 100000"),
        (CSV.replace(",2,", ",-2,"), "record.csv row 2: quantity: '-2'"),
        (CSV.replace(",2,", ",1.5,"), "record.csv row 2: quantity: '1.5'"),
        (CSV.replace(",2,", ",inf,"), "record.csv row 2: quantity: 'inf'"),
        (CSV.replace("29.99", "1,029.99"), "record.csv row 2: has more cells than there are columns"),
        (CSV.replace("s1==", "s" * 513), "record.csv row 2: sale_id: is longer than 512 characters"),
        (CSV.replace(",2026-11-06", ',"2026-11-06'), "record.csv row 3: unexpected end of data"),
        ("[", "record.csv is no JSON: Input data was truncated"),
        ('{"event": "sale"', "record.csv is no JSON: "),
        ("[" * 100_000, "record.csv is no JSON: "),
        ("[1, 2]", "record.csv row 1: is no object"),
        ('{"event": "sale", "sale_id": "s1"}\n{oops}', "record.csv row 2: is no JSON: "),
        ('[{"event": "sale", "sale_id": true}]', "record.csv row 1: sale_id: 'True' is no text"),
        ('[{"event": "sale", "sale_id": ["s1"]}]', "record.csv row 1: sale_id: "),
        ('[{"event": "sale", "sale_id": "s1", "quantity": true}]', "record.csv row 1: quantity: 'True'"),
        ('[{"event": "sale", "sale_id": "s1", "price": {"usd": 3}}]', "record.csv row 1: price: "),
    ],
)
def test_a_mistake_is_named_with_its_row_and_column(tmp_path, text, told):
    with pytest.raises(BadRequest) as caught:
        from_file(tmp_path, text)
    assert caught.value.detail.startswith(told)


def test_jvzoos_export(tmp_path):
    text = (
        "Transaction ID,Transaction Type,Product ID,Customer Email,Amount,Currency,Date\n"
        "R1,SALE,406519,ann@example.com,47.00,USD,2026-11-05 14:38:56\n"
        "R1-B001,BILL,406519,ann@example.com,47.00,USD,2026-12-05 14:38:56\n"
        "R1-B001,RFND,406519,ann@example.com,47.00,USD,2026-12-06 10:00:00\n"
    )
    first, renewal, back = from_file(tmp_path, text, "jvzoo").events
    assert (first.event_id, first.subscription_id, first.purchase_date) == (
        "R1:SALE",
        "R1",
        datetime(2026, 11, 5, 19, 38, 56, tzinfo=UTC),
    )
    assert (renewal.event, renewal.event_id, renewal.subscription_id) == ("renewal", "R1-B001:BILL", "R1")
    assert (back.event, back.event_id) == ("refund", "R1-B001:RFND")


@pytest.mark.parametrize("word", ["TEST_SALE", "TEST", "INSF", "CANCEL-REBILL"])
def test_rows_that_are_no_money_are_passed_over(tmp_path, word):
    text = f"Transaction ID,Transaction Type,Product ID\nR1,SALE,406519\nR2,{word},406519\n"
    events = from_file(tmp_path, text, "jvzoo").events
    assert [event.sale_id for event in events if event.event == "sale" and not event.is_test] == ["R1"]
