"""The busy doors: what is answered without Flask is what Flask answers. A request with an `Origin` goes by Flask."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
from flask import request_started

from server.web.responses import MAX_BODY
from tests.conftest import OWNER_KEY, SECRET, Shop, form, sale_ping
from tests.signed_answers import NONCE, SEED

VALIDATE, GUMROAD = "/api/v1/licenses/validate", f"/api/v1/webhooks/gumroad?secret={SECRET}"
FORM = "application/x-www-form-urlencoded"
SAME = {"X-Request-Id": "the-same-one-for-both"}


@pytest.fixture
def shops(tmp_path, clock):
    """Two that know the same: one is asked by either way."""
    made = [Shop(tmp_path / name, clock, signing_key=(SEED,), rate_limit="9/minute") for name in ("quick", "flask")]
    for shop in made:
        shop.sale("s0")
        assert shop.services.limits is not None
        shop.services.limits.clock = lambda: 10**15
    return made


@pytest.fixture
def asks_of_flask():
    asked: list[str] = []

    def note(sender: Any, **more: Any) -> None:
        asked.append(sender.name)

    request_started.connect(note)
    yield asked
    request_started.disconnect(note)


def key_of(shop: Shop) -> str:
    return str(shop.ledger()[0]["license_keys"][0])


def send(shop: Shop, path: str, data: bytes, kind: str, by_flask: bool, **headers: str) -> Any:
    more = {"Origin": "https://elsewhere.example"} if by_flask else {}
    return shop.client.post(path, data=data, content_type=kind, headers=SAME | headers | more)


def both(shops: list[Shop], path: str, data: bytes, kind: str = "application/json", **headers: str) -> Any:
    quick = send(shops[0], path, data, kind, False, **headers)
    by_flask = send(shops[1], path, data, kind, True, **headers)
    assert (quick.status, quick.data) == (by_flask.status, by_flask.data)
    assert sorted(quick.headers.items()) == sorted(by_flask.headers.items())
    return quick


def counted(shop: Shop) -> list[str]:
    """Everything that /metrics counts, but for how long it took."""
    told = shop.client.get("/metrics", headers={"Authorization": f"Bearer {OWNER_KEY}"}).text
    lines = [line for line in told.splitlines() if line.startswith("keyledger_")]
    return sorted(line for line in lines if "_total" in line or "_count" in line)


def test_a_verdict_and_a_webhook_need_no_flask(shops, asks_of_flask):
    key = key_of(shops[0])
    assert shops[0].code(key, hardware_id="h1") == "VALID"
    assert shops[0].code("NOBODY-HOLDS-THIS") == "NOT_FOUND"
    shops[0].sale("s1")
    shops[0].refund("s1")
    assert asks_of_flask == []
    shops[0].client.get("/health")
    assert len(asks_of_flask) == 1


def test_a_page_of_another_origin_is_left_to_flask(shops, asks_of_flask):
    """flask-cors tells it whether it may read the answer; and without this the tests below would compare nothing."""
    send(shops[0], VALIDATE, json.dumps({"license_key": key_of(shops[0])}).encode(), "application/json", by_flask=True)
    send(shops[0], GUMROAD, form(sale_ping("s1", "bob@example.com")), FORM, by_flask=True)
    assert len(asks_of_flask) == 2


@pytest.mark.parametrize(
    "asked",
    [
        {"license_key": ""},
        {"license_key": "NOBODY-HOLDS-THIS"},
        {},
        {"hardware_id": "h1", "device_name": "Ann's"},
        {"hardware_id": "h1", "nonce": NONCE},
        {"hardware_id": "h1", "bind": False},
        {"product": "another", "nonce": NONCE},
        {"email": 5},
        {"nonce": "n" * 129},
        {"features": ["none"]},
    ],
)
def test_validations_are_told_alike(shops, asked):
    body = {"license_key": key_of(shops[0])} | asked
    for _ in range(2):
        answered = both(shops, VALIDATE, json.dumps(body).encode())
    assert answered.status_code == (
        400 if asked.keys() & {"email"} or "n" * 129 in asked.values() or "" in asked.values() else 200
    )
    assert answered.headers["X-Request-Id"] == SAME["X-Request-Id"]
    assert ("Signature" in answered.headers) == (asked.get("nonce") == NONCE)
    assert answered.headers["X-RateLimit-Remaining"].isdecimal()
    assert counted(shops[0]) == counted(shops[1])


@pytest.mark.parametrize("body", [b"", b"{", b'"text"', b"\xff\xfe", b'{"license_key":"\\ud800"}', b"[" * 100_000])
@pytest.mark.parametrize("path", [VALIDATE, GUMROAD])
def test_what_cannot_be_read_is_refused_alike(shops, path, body):
    assert both(shops, path, body).status_code == 400
    assert counted(shops[0]) == counted(shops[1])


@pytest.mark.parametrize("path", [VALIDATE, GUMROAD])
def test_a_body_that_is_too_large_is_refused_alike(shops, path):
    assert both(shops, path, b" " * (MAX_BODY + 1)).status_code == 413


@pytest.mark.parametrize("path", [VALIDATE, GUMROAD])
def test_a_host_that_is_none_is_refused_alike(shops, path):
    assert both(shops, path, b"{}", Host="a host").status_code == 400


def test_the_requests_beyond_the_limit_are_refused_alike(shops):
    body = json.dumps({"license_key": key_of(shops[0])}).encode()
    assert [both(shops, VALIDATE, body).status_code for _ in range(11)] == [200] * 9 + [429] * 2
    assert both(shops, VALIDATE, body).headers["Retry-After"] == "7"
    assert counted(shops[0]) == counted(shops[1])


def test_sales_are_told_alike(shops):
    first = both(shops, GUMROAD, form(sale_ping("s1", "bob@example.com")), FORM)
    assert both(shops, GUMROAD, form(sale_ping("s1", "bob@example.com")), FORM).data == first.data
    refund = form(sale_ping("s1", "bob@example.com", resource="refund", refunded="true"))
    assert both(shops, GUMROAD, refund, FORM).json["outcome"] == "revoked"
    lines = [[line | {"prev": None} for line in shop.ledger()[1:]] for shop in shops]
    assert lines[0] == lines[1]
    assert counted(shops[0]) == counted(shops[1])


def test_webhooks_without_proof_are_refused_alike(shops):
    ping = form(sale_ping("s1", "bob@example.com"))
    wrong = f"{GUMROAD}x"
    assert [both(shops, wrong, ping, FORM).status_code for _ in range(10)] == [403] * 9 + [429]
    assert both(shops, "/api/v1/webhooks/stripe", ping, FORM).status_code == 404
    assert both(shops, GUMROAD, ping, FORM).status_code == 200
    assert counted(shops[0]) == counted(shops[1])


@pytest.mark.files
def test_what_cannot_be_written_is_a_503_by_either_way(shops, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        answered = both(shops, GUMROAD, form(sale_ping("s1", "bob@example.com")), FORM)
    assert (answered.status_code, answered.headers["Retry-After"]) == (503, "30")
    assert counted(shops[0]) == counted(shops[1])


def test_an_error_of_ours_is_told_once_and_shows_nothing(shops, monkeypatch):
    def broken(self: Any, key: str, claim: Any) -> None:
        raise RuntimeError("a secret word")

    monkeypatch.setattr(type(shops[0].services.licenses), "validate", broken)
    answered = both(shops, VALIDATE, b'{"license_key":"K"}')
    assert answered.status_code == 500
    assert "a secret word" not in answered.text
