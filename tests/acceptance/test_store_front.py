"""The store front from outside: each platform's whole story over HTTP, four workers, and its stand-in."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.servers import Answer, Server
from tests.standins import easypaisa, jazzcash, payu
from tests.standins.easypaisa import EasyPaisaApi
from tests.standins.jazzcash import JazzCashApi
from tests.standins.payu import PayuApi
from tests.standins.payu_notices import SECOND_KEY
from tests.standins.stripe_api import KEY, StripeApi
from tests.standins.stripe_objects import signed

PRICES = {"usd": "49.00", "pln": "119.00", "pkr": "8500.00"}
CATALOGUE: dict[str, Any] = {
    "products": {
        "wave": {"name": "Wave", "published": True, "price": PRICES},
        "brush": {"name": "Brush", "published": True, "price": PRICES, "duration_days": 365},
        "grain": {"name": "Grain", "published": True, "price": PRICES},
        "studio": {"name": "Studio", "published": True, "price": PRICES, "bundle": ["wave", "brush"]},
        "print": {"name": "Print", "published": True, "price": PRICES, "bundle": ["brush", "grain"]},
    }
}
FORM, JSON = "application/x-www-form-urlencoded", "application/json"


class Front(Server):
    """A server with a store front. `buy` places an order; what a platform tells goes to the doors that it was told."""

    def __init__(self, folder: Path, **env: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "products.json").write_text(json.dumps(CATALOGUE))
        super().__init__(folder, **env)
        self.told_before = 0
        self.url = self.env["APP_URL"] = f"http://127.0.0.1:{self.port}"

    def buy(self, provider: str, *packages: str, **more: Any) -> dict[str, Any]:
        answered = self.initiate(provider, *packages, **more)
        assert answered.status == 201, answered.body
        return dict(answered.json)

    def initiate(self, provider: str, *packages: str, **more: Any) -> Answer:
        said = {"package_ids": packages or ["studio"], "email": "ann@example.com", "name": "Ann Example"}
        return self.post("/api/v1/checkout/initiate", said | {"payment_provider": provider} | more)

    def status(self, order: dict[str, Any]) -> str:
        return str(self.get(f"/api/v1/checkout/order/{order['order_id']}").json["status"])

    def refund(self, order: dict[str, Any], key: str | None = None, **body: Any) -> Answer:
        named = {"Idempotency_Key": key} if key else {}
        owner = {"Authorization": f"Bearer {self.env['ADMIN_API_KEY']}"}
        return self.post(f"/api/v1/orders/{order['order_id']}/refund", body, **owner, **named)

    def ledger(self) -> list[dict[str, Any]]:
        """What was written since this test began."""
        return super().ledger()[self.told_before :]

    def events(self) -> Counter[str]:
        """The ledger's lines by kind."""
        return Counter(line["event"] for line in self.ledger())

    def anew(self) -> Front:
        """For another test on the same server."""
        self.told_before += len(self.ledger())
        return self

    def keys(self, order: dict[str, Any]) -> dict[str, bool]:
        """The products that the order gave a license of, and whether it is active, once the view is up to date."""
        (sale,) = [x for x in self.ledger() if x["event"] == "sale" and x["order_id"] == order["order_id"]]
        found = [(key, self.code(key)) for key in sale["license_keys"]]
        return {grant["product_id"]: code == "VALID" for grant, (_, code) in zip(sale["grants"], found, strict=True)}


def at_once(times: int, act: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(times) as pool:
        return [done.result() for done in [pool.submit(act) for _ in range(times)]]


def ended(front: Front) -> None:
    """Whatever was told and tried: the books hold together."""
    log = front.log.read_text()
    assert '"INTERNAL_ERROR"' not in log
    assert "unforeseen" not in log
    assert "ann@example.com" not in log


# ---------------------------------------------------------------------------------------------------- PayU
@pytest.fixture(scope="module")
def warsaw(tmp_path_factory) -> Iterator[tuple[Front, PayuApi]]:
    with PayuApi() as api:
        settings = {
            "PAYU_POS_ID": payu.POS,
            "PAYU_CLIENT_ID": payu.POS,
            "PAYU_CLIENT_SECRET": payu.CLIENT_SECRET,
            "PAYU_SECOND_KEY": SECOND_KEY,
            "PAYU_API_URL": api.url,
        }
        front = Front(tmp_path_factory.mktemp("shop") / "data", **settings)
        front.start()
        try:
            yield front, api
            ended(front)
        finally:
            front.stop()


@pytest.fixture
def poland(warsaw) -> tuple[Front, PayuApi]:
    front, api = warsaw
    api.collects = True
    return front.anew(), api


def payu_id(api: PayuApi, order: dict[str, Any]) -> str:
    return next(name for name, one in api.orders.items() if one["extOrderId"] == order["order_id"])


def test_payu_from_the_order_to_the_last_refund(poland):
    front, api = poland
    order = front.buy("payu", "studio", "print", currency="pln")
    assert (order["amount"], order["currency"], order["status"]) == ("238.00", "pln", "pending")
    assert order["payment_url"].startswith(api.url)
    assert front.get(f"/pay/{order['order_id']}").headers["Location"] == order["payment_url"]
    name = payu_id(api, order)
    assert api.deliver(api.notice(name, "PENDING"), name) == 200
    assert front.status(order) == "processing"

    api.pay(name)
    assert set(at_once(20, lambda: api.deliver(api.notice(name), name))) == {200}
    assert front.events() == {"sale": 1}
    assert front.keys(order) == {"wave": True, "brush": True, "grain": True}
    assert api.deliver(api.notice(name, "CANCELED"), name) == 200
    assert front.status(order) == "paid"

    asked = [front.refund(order, "first", amount="38.00") for _ in range(3)]
    assert {(a.status, a.json["refund_status"], a.json["status"]) for a in asked} == {(200, "accepted", "paid")}
    assert len(api.refunds[name]) == 1
    api.settle(name)
    assert {api.deliver(api.refund_notice(name), name) for _ in range(3)} == {200}
    assert (front.status(order), front.keys(order)["wave"]) == ("partially_refunded", True)
    assert front.refund(order, amount="200.01").status == 422

    rest = front.refund(order)
    assert (rest.status, rest.json["amount"]) == (200, "200.00")
    assert front.refund(order).status == 409
    api.settle(name)
    assert api.deliver(api.refund_notice(name), name) == 200
    assert front.status(order) == "refunded"
    assert front.keys(order) == {"wave": False, "brush": False, "grain": False}
    assert front.events() == {"sale": 1, "partial_refund": 2}


def test_payu_is_down_in_the_middle(poland):
    front, api = poland
    api.down()
    kept = front.initiate("payu", currency="pln")
    assert (kept.status, kept.json["errors"][0]["code"]) == (503, "PLATFORM_UNREACHABLE")
    assert front.get(f"/pay/{kept.json['order_id']}").status == 503
    api.up()
    assert front.get(f"/pay/{kept.json['order_id']}").headers["Location"].startswith(api.url)
    order = {"order_id": kept.json["order_id"]}
    name = payu_id(api, order)
    api.pay(name)  # and its notice is lost
    assert front.status(order) == "paid"
    assert front.keys(order) == {"wave": True, "brush": True}
    assert [one["extOrderId"] for one in api.orders.values()].count(order["order_id"]) == 1


def test_payu_tells_of_money_that_is_not_the_orders(poland):
    front, api = poland
    order = front.buy("payu", "wave", currency="pln")
    name = payu_id(api, order)
    for wrong in ({"totalAmount": "1"}, {"currencyCode": "EUR"}, {"merchantPosId": "1"}):
        assert api.deliver(api.notice(name, "COMPLETED", **wrong), name) == 200
    assert front.events() == {"ignored": 3}
    assert all(line["is_withdrawn"] for line in front.ledger())
    assert front.status(order) == "pending"


def test_payu_waits_until_what_was_paid_is_taken(poland):
    front, api = poland
    api.collects = False
    order = front.buy("payu", "wave", currency="pln")
    name = payu_id(api, order)
    api.pay(name)
    assert api.deliver(api.notice(name), name) == 200
    assert api.orders[name]["status"] == "COMPLETED"
    assert front.status(order) == "paid"


def test_a_refund_in_doubt_is_looked_up_and_never_repeated(poland):
    front, api = poland
    order = front.buy("payu", "wave", currency="pln")
    name = payu_id(api, order)
    api.pay(name)
    api.deliver(api.notice(name), name)
    api.lose_next()  # it is done, and nobody hears of it
    answered = front.refund(order, "once", amount="19.00")
    assert (answered.status, answered.json["refund_status"]) == (202, "in_doubt")
    assert front.refund(order, "once", amount="19.00").json["refund_status"] == "accepted"
    api.down()
    assert front.refund(order, "twice").json["refund_status"] == "in_doubt"
    api.up()
    assert front.refund(order, "twice").json["refund_status"] == "in_doubt"  # it may still be on its way
    assert front.refund(order).status == 409
    assert [one["amount"] for one in api.refunds[name]] == ["1900"]


# ---------------------------------------------------------------------------------------------------- Pakistan
@pytest.fixture(scope="module")
def karachi(tmp_path_factory) -> Iterator[tuple[Front, JazzCashApi, EasyPaisaApi]]:
    with JazzCashApi() as jazz, EasyPaisaApi() as easy:
        settings = {
            "JAZZCASH_MERCHANT_ID": jazzcash.MERCHANT,
            "JAZZCASH_PASSWORD": jazzcash.PASSWORD,
            "JAZZCASH_INTEGRITY_SALT": jazzcash.SALT,
            "JAZZCASH_API_URL": jazz.url,
            "EASYPAISA_STORE_ID": easypaisa.STORE,
            "EASYPAISA_HASH_KEY": easypaisa.HASH_KEY,
            "EASYPAISA_USERNAME": easypaisa.USERNAME,
            "EASYPAISA_PASSWORD": easypaisa.PASSWORD,
            "EASYPAISA_API_URL": easy.url,
        }
        front = Front(tmp_path_factory.mktemp("shop") / "data", **settings)
        jazz.ipn_url = f"{front.url}/api/v1/webhooks/jazzcash"
        easy.ipn_url = f"{front.url}/api/v1/webhooks/easypaisa"
        front.start()
        try:
            yield front, jazz, easy
            ended(front)
        finally:
            front.stop()


@pytest.fixture
def pakistan(karachi) -> tuple[Front, JazzCashApi, EasyPaisaApi]:
    front, jazz, easy = karachi
    easy.answers.clear()
    return front.anew(), jazz, easy


def returned(front: Front, jazz: JazzCashApi, ref: str, code: str = "000") -> Answer:
    _, body = jazz.return_of(ref, code)
    return front.call("POST", "/api/v1/webhooks/jazzcash", body, Content_Type=FORM)


def test_jazzcash_from_the_form_to_the_refund(pakistan):
    front, jazz, _ = pakistan
    order = front.buy("jazzcash", "studio")
    assert (order["amount"], order["currency"]) == ("8500.00", "pkr")
    ref = order["form"]["fields"]["pp_TxnRefNo"]
    assert (ref, order["form"]["fields"]["pp_Amount"]) == (order["order_id"], "850000")
    page = front.get(f"/pay/{ref}")
    assert (page.status, f'value="{ref}"' in page.body.decode()) == (200, True)
    jazz.know(ref, 850000, "157")
    answered = returned(front, jazz, ref, "124")
    assert (answered.status, answered.headers["Location"]) == (303, f"{front.url}/pay/{ref}/back")
    assert front.status(order) == "processing"

    jazz.settle(ref)
    told = at_once(10, lambda: jazz.send_ipn(ref)) + at_once(10, lambda: returned(front, jazz, ref).status == 303)
    assert told == [True] * 20
    assert front.events() == {"sale": 1}
    assert front.keys(order) == {"wave": True, "brush": True}
    assert returned(front, jazz, ref, "112").status == 303  # a late word of an abandoned try
    assert front.status(order) == "paid"

    assert front.refund(order).status == 422  # there is no API: the portal's reference is wanted
    part = front.refund(order, amount="500.00", reference="R-1")
    assert (part.status, part.json["status"]) == (200, "partially_refunded")
    assert front.refund(order, amount="500.00", reference="R-1").json["status"] == "partially_refunded"
    assert front.refund(order, reference="R-2").json["status"] == "refunded"
    assert front.keys(order) == {"wave": False, "brush": False}
    assert front.events() == {"sale": 1, "partial_refund": 2}


def test_jazzcash_says_success_and_its_inquiry_does_not(pakistan):
    front, jazz, _ = pakistan
    order = front.buy("jazzcash", "wave")
    ref = order["order_id"]
    jazz.know(ref, 850000, "199")
    assert returned(front, jazz, ref).status == 303
    assert jazz.send_ipn(ref)
    assert front.events() == {}
    jazz.know(ref, 100, "121")
    assert returned(front, jazz, ref).status == 303  # which tells the amount; this inquiry does not
    assert front.events() == {"ignored": 1}
    assert front.ledger()[0]["is_withdrawn"]


def test_jazzcash_is_down_when_the_buyer_comes_back(pakistan):
    front, jazz, _ = pakistan
    order = front.buy("jazzcash", "wave")
    ref = order["order_id"]
    jazz.know(ref, 850000)
    jazz.down()
    assert returned(front, jazz, ref).status == 303
    assert front.events() == {}
    jazz.up()
    assert front.status(order) == "paid"
    assert front.keys(order) == {"wave": True}


def test_easypaisa_from_the_form_to_the_reversal(pakistan):
    front, _, easy = pakistan
    order = front.buy("easypaisa", "wave")
    fields = order["form"]["fields"]
    ref = fields["orderRefNum"]
    assert (fields["amount"], ref) == ("8500.0", order["order_id"])
    second = front.get(f"/pay/{ref}/back?auth_token=abcDEF123")
    assert (second.status, b"Confirm.jsf" in second.body) == (200, True)
    assert front.get(f"/pay/{ref}/back?status=0000&desc=completed&success=true").status == 303
    assert front.events() == {}

    easy.know(ref, "8500.0")
    at_once(10, lambda: easy.send_ipn(ref))
    assert set(easy.answers) == {(200, b"")}
    assert front.events() == {"sale": 1}
    assert front.keys(order) == {"wave": True}
    assert front.refund(order, reference="bank-1").json["status"] == "refunded"
    assert front.keys(order) == {"wave": False}


def test_easypaisa_is_down_and_its_notice_is_lost(pakistan):
    front, _, easy = pakistan
    order = front.buy("easypaisa", "wave")
    easy.know(order["order_id"], "8500.0")
    easy.down()
    easy.send_ipn(order["order_id"])
    assert easy.answers == [(200, b"")]
    assert front.events() == {}
    easy.up()
    assert front.status(order) == "paid"


def test_what_strangers_tell_of_easypaisa_leads_nowhere(pakistan):
    front, _, easy = pakistan
    before = len(easy.asked)
    for url in ("http://169.254.169.254/latest", "https://evil.example/easypay-service/rest/v1/order-status/1/x"):
        assert front.get(f"/api/v1/webhooks/easypaisa?url={url}").status == 400
    assert front.get(f"/api/v1/webhooks/easypaisa?{easy.ipn_of('900111')}").status == 200
    assert len(easy.asked) == before
    assert front.ledger() == []


# ---------------------------------------------------------------------------------------------------- Stripe
STRIPE_SECRET = "whsec_of_the_tests"


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory) -> Iterator[tuple[Front, StripeApi]]:
    with StripeApi() as api:
        settings = {"STRIPE_WEBHOOK_SECRET": STRIPE_SECRET, "STRIPE_SECRET_KEY": KEY, "STRIPE_API_BASE": api.url}
        front = Front(tmp_path_factory.mktemp("shop") / "data", **settings)
        api.desk.webhook = f"{front.url}/api/v1/webhooks/stripe", STRIPE_SECRET
        front.start()
        try:
            yield front, api
            ended(front)
        finally:
            front.stop()


@pytest.fixture
def world(anywhere) -> tuple[Front, StripeApi]:
    front, api = anywhere
    api.desk.webhook = f"{front.url}/api/v1/webhooks/stripe", STRIPE_SECRET
    return front.anew(), api


def session_of(api: StripeApi, order: dict[str, Any]) -> str:
    return next(name for name, one in api.sessions.items() if one["client_reference_id"] == order["order_id"])


def test_stripe_from_the_order_to_the_last_refund(world):
    front, api = world
    order = front.buy("stripe", "studio", currency="usd")
    assert (order["amount"], order["currency"]) == ("49.00", "usd")
    session = session_of(api, order)
    api.desk.pay(session)
    told = api.desk.told[-1]
    body, headers = signed(told, STRIPE_SECRET)

    def deliver() -> int:
        named = {name.replace("-", "_"): value for name, value in headers.items()}
        return front.call("POST", "/api/v1/webhooks/stripe", body, **named).status

    assert set(at_once(20, deliver)) == {200}
    assert front.events() == {"sale": 1}
    assert front.keys(order) == {"wave": True, "brush": True}
    assert front.status(order) == "paid"

    part = front.refund(order, "first", amount="9.00")
    assert (part.status, part.json["refund_status"], part.json["status"]) == (200, "done", "partially_refunded")
    assert front.refund(order, "first", amount="9.00").json["refund_id"] == part.json["refund_id"]
    assert (
        len([one for one in api.refunds.values() if one["payment_intent"] == api.sessions[session]["payment_intent"]])
        == 1
    )
    api.desk.deliver()
    assert front.status(order) == "partially_refunded"
    assert front.refund(order).json["status"] == "refunded"
    assert front.keys(order) == {"wave": False, "brush": False}
    api.desk.deliver()
    assert front.status(order) == "refunded"


def test_stripe_is_down_in_the_middle_and_its_events_are_lost(world):
    front, api = world
    api.desk.webhook = None
    api.down()
    kept = front.initiate("stripe", currency="usd")
    assert kept.status == 503
    api.up()
    order = {"order_id": kept.json["order_id"]}
    assert front.get(f"/pay/{order['order_id']}").status == 303
    assert [one["client_reference_id"] for one in api.sessions.values()].count(order["order_id"]) == 1
    api.desk.pay(session_of(api, order))
    assert front.status(order) == "paid"
    assert front.keys(order) == {"wave": True, "brush": True}


def test_stripe_tells_of_money_that_comes_later_and_of_what_never_came(world):
    front, api = world
    late, never = front.buy("stripe", "wave", currency="usd"), front.buy("stripe", "wave", currency="usd")
    api.desk.pay(session_of(api, late), later=True)
    api.desk.deliver()
    assert (front.status(late), front.events()) == ("processing", {})
    api.desk.settle(session_of(api, late))
    api.desk.expire(session_of(api, never))
    assert (front.status(late), front.status(never)) == ("paid", "cancelled")
    assert front.events() == {"sale": 1}


# ---------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("changed", "status", "named"),
    [
        ({"package_ids": ["nothing"]}, 422, "nothing"),
        ({"package_ids": []}, 400, "package_ids"),
        ({"currency": "eur"}, 422, "currency"),
        ({"currency": "zł"}, 400, "currency"),
        ({"payment_provider": "stripe"}, 404, "stripe"),
        ({"payment_provider": "gumroad"}, 404, "gumroad"),
        ({"email": "no address"}, 400, "email"),
        ({"email": "ann@-bad-"}, 422, "email"),
        ({"name": ""}, 400, "name"),
        ({"success_url": "https://evil.example/thanks"}, 422, "success_url"),
        ({"cancel_url": "javascript:alert(1)"}, 422, "cancel_url"),
        ({"success_url": "http://127.0.0.1@evil.example/"}, 422, "success_url"),
        ({"payment_provider": "easypaisa", "currency": "usd"}, 422, "currency"),
    ],
    ids=str,
)
def test_bad_input_is_named_and_nothing_is_kept(house, changed, status, named):
    answered = house.initiate("jazzcash", **changed)
    assert answered.status == status
    assert named in answered.json["errors"][0]["detail"]
    assert not (house.folder / "orders.jsonl").exists()


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Iterator[Front]:
    settings = {
        "JAZZCASH_MERCHANT_ID": jazzcash.MERCHANT,
        "JAZZCASH_PASSWORD": jazzcash.PASSWORD,
        "JAZZCASH_INTEGRITY_SALT": jazzcash.SALT,
        "JAZZCASH_API_URL": "http://127.0.0.1:9",
        "EASYPAISA_STORE_ID": easypaisa.STORE,
        "EASYPAISA_HASH_KEY": easypaisa.HASH_KEY,
        "EASYPAISA_USERNAME": easypaisa.USERNAME,
        "EASYPAISA_PASSWORD": easypaisa.PASSWORD,
        "EASYPAISA_API_URL": "http://127.0.0.1:9",
    }
    front = Front(tmp_path_factory.mktemp("house") / "data", **settings)
    front.start()
    yield front
    front.stop()
