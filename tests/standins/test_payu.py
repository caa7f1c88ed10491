"""PayU's stand-in is as strict as PayU: asked by plain HTTP, without our own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

import pytest

from tests.standins.http import Answer, Asked, StandIn
from tests.standins.payu import CLIENT_SECRET, POS, PayuApi

GRANT = {"grant_type": "client_credentials", "client_id": POS, "client_secret": CLIENT_SECRET}
AUTHORIZE = "/pl/standard/user/oauth/authorize"


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def ask(method: str, url: str, body: bytes = b"", **headers: str) -> tuple[int, bytes, str | None]:
    """Status, body and where a redirect goes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        opened = build_opener(ProxyHandler({}), _Stay()).open(
            Request(url, body or None, named, method=method), timeout=5
        )
    except HTTPError as refused:
        opened = refused
    with opened as answered:
        return answered.status, answered.read(), answered.headers["Location"]


class Door(StandIn):
    """The shop's side: takes whatever is posted."""

    def __init__(self) -> None:
        self.taken: list[Asked] = []
        super().__init__()

    def answer(self, asked: Asked) -> Answer:
        self.taken.append(asked)
        return Answer(200, {"received": True})

    def fault(self, status: int) -> Answer:
        return Answer(status, {})


@pytest.fixture
def api() -> Iterator[PayuApi]:
    with PayuApi() as standin:
        yield standin


@pytest.fixture
def door() -> Iterator[Door]:
    with Door() as standin:
        yield standin


def bearer(api: PayuApi) -> dict[str, str]:
    told = ask("POST", api.url + AUTHORIZE, urlencode(GRANT).encode(), Content_Type="application/x-www-form-urlencoded")
    return {"Authorization": f"Bearer {json.loads(told[1])['access_token']}", "Content_Type": "application/json"}


def wanted(door: Door, **more: Any) -> bytes:
    told = {
        "extOrderId": "inv-1001",
        "notifyUrl": f"{door.url}/api/v1/webhooks/payu",
        "continueUrl": f"{door.url}/thanks?order=1",
        "customerIp": "127.0.0.1",
        "merchantPosId": POS,
        "description": "<Licence>",
        "currencyCode": "PLN",
        "totalAmount": "15000",
        "products": [{"name": "Licence", "unitPrice": "15000", "quantity": "1"}],
    }
    return json.dumps(told | more).encode()


def placed(api: PayuApi, door: Door, **more: Any) -> str:
    status, body, _ = ask("POST", f"{api.url}/api/v2_1/orders", wanted(door, **more), **bearer(api))
    assert status == 302
    return str(json.loads(body)["orderId"])


def test_a_token_is_granted_for_a_form_alone(api):
    for body, kind in ((json.dumps(GRANT), "application/json"), (urlencode(GRANT), "text/plain")):
        assert ask("POST", api.url + AUTHORIZE, body.encode(), Content_Type=kind)[0] == 401
    wrong = urlencode(GRANT | {"client_secret": "x"}).encode()
    assert ask("POST", api.url + AUTHORIZE, wrong, Content_Type="application/x-www-form-urlencoded")[0] == 401
    assert ask("GET", f"{api.url}/api/v2_1/orders/X", Authorization="Bearer invented")[0] == 401
    assert bearer(api)["Authorization"] == "Bearer token-1"


def test_an_order_is_a_redirect_with_json_in_it(api, door):
    status, body, location = ask("POST", f"{api.url}/api/v2_1/orders", wanted(door), **bearer(api))
    told = json.loads(body)
    assert (status, told["status"], told["extOrderId"]) == (302, {"statusCode": "SUCCESS"}, "inv-1001")
    assert told["redirectUri"] == location
    status, page, _ = ask("GET", str(location))
    assert status == 200
    assert b"&lt;Licence&gt;" in page


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"totalAmount": 15000}, 400, "ERROR_VALUE_INVALID"),
        ({"products": [{"name": "x", "unitPrice": "1.5", "quantity": "1"}]}, 400, "ERROR_VALUE_INVALID"),
        ({"validityTime": 86400}, 400, "ERROR_VALUE_INVALID"),
        ({"customerIp": "0.0.0.0"}, 400, "ERROR_VALUE_INVALID"),
        ({"currencyCode": "pln"}, 400, "ERROR_VALUE_INVALID"),
        ({"description": ""}, 400, "ERROR_VALUE_MISSING"),
        ({"merchantPosId": "1"}, 403, "UNAUTHORIZED_REQUEST"),
    ],
)
def test_what_payu_does_not_take(api, door, change, status, code):
    told = ask("POST", f"{api.url}/api/v2_1/orders", wanted(door, **change), **bearer(api))
    assert (told[0], json.loads(told[1])["status"]["statusCode"]) == (status, code)
    assert api.orders == {}


def test_an_id_is_taken_once_and_an_order_is_cancelled_once(api, door):
    order_id = placed(api, door)
    told = json.loads(ask("POST", f"{api.url}/api/v2_1/orders", wanted(door), **bearer(api))[1])
    assert (told["status"]["statusCode"], told["orderId"]) == ("ERROR_ORDER_NOT_UNIQUE", order_id)
    assert [ask("DELETE", f"{api.url}/api/v2_1/orders/{order_id}", **bearer(api))[0] for _ in range(2)] == [200, 400]
    assert api.orders[order_id]["status"] == "CANCELED"


@pytest.mark.parametrize(("choice", "status", "back"), [("pay", "COMPLETED", ""), ("cancel", "CANCELED", "&error=501")])
def test_the_page_tells_the_shop_and_sends_the_buyer_back(api, door, choice, status, back):
    order_id = placed(api, door)
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    for _ in range(2):  # a second click changes nothing and tells nothing
        answered = ask("POST", f"{api.url}/pay/{order_id}", f"choice={choice}".encode(), **form)
        assert (answered[0], answered[2]) == (302, f"{door.url}/thanks?order=1{back}")
    (told,) = door.taken
    assert (told.path, json.loads(told.body)["order"]["status"]) == ("/api/v1/webhooks/payu", status)
    assert told.headers["OpenPayu-Signature"] == told.headers["X-OpenPayU-Signature"]
    assert api.delivered == [(f"{door.url}/api/v1/webhooks/payu", 200)]


def test_a_notification_goes_out_as_often_as_told_and_a_shop_that_is_away_is_noticed(api, door):
    order_id = placed(api, door)
    api.pay(order_id)
    api.deliver(api.notice(order_id), order_id, times=3)
    late = api.notice(order_id, "CANCELED")
    assert api.deliver(late, order_id) == 200
    assert [json.loads(one.body)["order"]["status"] for one in door.taken] == ["COMPLETED"] * 3 + ["CANCELED"]
    assert api.orders[order_id]["status"] == "COMPLETED"
    door.down()
    assert api.deliver(late, order_id) == 0
