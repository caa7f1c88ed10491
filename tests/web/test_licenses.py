"""What a desktop app sees: seats, verdicts in their order, and answers that name nobody."""

from __future__ import annotations

import json

import pytest

from tests.conftest import OWNER_KEY, sale_ping, subscription_ping


def test_a_new_device_takes_a_seat_once(shop):
    key = shop.sale()
    first = shop.ask("validate", license_key=key, hardware_id="hw1", device_name="Ann's laptop", nonce="n1")
    assert first == {
        "valid": True,
        "code": "VALID",
        "detail": "is valid",
        "license": {
            "id": first["license"]["id"],
            "product_id": "wave",
            "product_name": "Wave",
            "tier": "pro",
            "features": ["batch"],
            "purchase_date": "2026-11-05T19:38:56Z",
            "expiry_date": None,
            "status": "active",
            "max_devices": 1,
            "devices_used": 1,
        },
        "device": {"hardware_id": "hw1", "device_name": "Ann's laptop", "bound_at": "2026-11-20T12:00:00Z"},
        "nonce": "n1",
        "ts": "2026-11-20T12:00:00Z",
        "activated": True,
    }
    again = shop.ask("validate", license_key=key, hardware_id="hw1")
    assert "activated" not in again
    assert (again["device"]["device_name"], again["license"]["devices_used"]) == ("Ann's laptop", 1)


def test_seats_are_counted_and_given_back(shop):
    key = shop.sale()
    assert shop.code(key, hardware_id="hw1") == "VALID"
    assert shop.code(key, hardware_id="hw2") == "TOO_MANY_MACHINES"
    assert shop.code(key) == "VALID"
    freed = shop.ask("deactivate", license_key=key, hardware_id="hw1")
    assert (freed["valid"], freed["device"], freed["license"]["devices_used"]) == (True, None, 0)
    assert shop.ask("deactivate", license_key=key, hardware_id="hw1")["license"]["devices_used"] == 0
    assert shop.ask("activate", license_key=key, hardware_id="hw2")["activated"] is True


def test_the_record_keeps_the_first_device_and_the_others(shop):
    key = shop.sale(product="G-TEAM==")
    shop.ask("activate", license_key=key, hardware_id="hw1", device_name="one")
    shop.ask("activate", license_key=key, hardware_id="hw2", device_name="two")
    record = shop.licenses()[key]
    assert (record["hardware_id"], record["device_name"]) == ("hw1", "one")
    assert record["devices"] == [{"hardware_id": "hw2", "device_name": "two", "bound_at": "2026-11-20T12:00:00Z"}]
    shop.ask("deactivate", license_key=key, hardware_id="hw1")
    record = shop.licenses()[key]
    assert (record["hardware_id"], "devices" in record) == ("hw2", False)


def test_too_many_moves_are_refused_until_the_window_has_passed(shop, clock):
    key = shop.sale()
    for number in range(10):
        assert shop.code(key, hardware_id=f"hw{number}") == "VALID"
        shop.ask("deactivate", license_key=key, hardware_id=f"hw{number}")
    assert shop.code(key, hardware_id="hw10") == "TOO_MANY_MACHINES"
    clock.forward(days=91)
    assert shop.code(key, hardware_id="hw10") == "VALID"


def test_the_owner_gives_all_moves_back(shop):
    key = shop.sale()
    for number in range(10):
        shop.code(key, hardware_id=f"hw{number}")
        shop.ask("deactivate", license_key=key, hardware_id=f"hw{number}")
    assert shop.owner("POST", f"/licenses/{key}/reset-devices").status_code == 200
    assert shop.code(key, hardware_id="hw11") == "VALID"


def test_without_bind_a_new_device_takes_nothing(shop):
    key = shop.sale()
    assert shop.code(key, hardware_id="hw1", bind=False) == "FINGERPRINT_SCOPE_MISMATCH"
    assert shop.licenses()[key]["hardware_id"] is None


def test_the_codes_go_in_their_order(shop, clock):
    key = shop.sale(product="G-TEAM==", subscription_id="sub", recurrence="monthly")
    wrong = {"product": "wave", "email": "bob@example.com", "features": ["none"], "hardware_id": "hw9", "bind": False}
    assert shop.code(key, **wrong) == "PRODUCT_SCOPE_MISMATCH"
    wrong["product"] = "team"
    assert shop.code(key, **wrong) == "USER_SCOPE_MISMATCH"
    wrong["email"] = "ANN@example.com "
    assert shop.code(key, **wrong) == "ENTITLEMENTS_MISSING"
    wrong["features"] = ["extra", "batch", "api_access"]
    assert shop.code(key, **wrong) == "FINGERPRINT_SCOPE_MISMATCH"
    shop.code(key, hardware_id="hw1")
    shop.code(key, hardware_id="hw2")
    assert shop.code(key, **wrong) == "TOO_MANY_MACHINES"
    clock.forward(days=19)
    assert shop.code(key, **wrong) == "EXPIRED"
    shop.ping(sale_ping("s1", "ann@example.com", resource="dispute", disputed="true", subscription_id="sub"))
    assert shop.code(key, **wrong) == "SUSPENDED"
    shop.owner("POST", f"/licenses/{key}/revoke")
    assert shop.code(key, **wrong) == "BANNED"
    assert shop.code("NO-SUCH-KEY", **wrong) == "NOT_FOUND"


def test_grace_days_follow_the_expiry_date(shop, clock):
    key = shop.sale(product="G-TEAM==", subscription_id="sub", recurrence="monthly")
    clock.now = clock.now.replace(month=12, day=8, hour=19)
    assert shop.ask("validate", license_key=key)["license"]["status"] == "active"
    clock.forward(hours=1)
    assert shop.code(key) == "EXPIRED"
    shop.ping(subscription_ping("cancellation", "sub", cancelled_at="2026-12-09T00:00:00Z"))
    assert shop.code(key) == "VALID"  # paid to the end of the period that the platform names
    clock.forward(hours=5)
    assert shop.code(key) == "EXPIRED"  # and a cancelled license has no grace


def test_a_key_may_be_typed_as_people_type(shop):
    key = shop.sale()
    typed = " " + key.lower().replace("-", " ").replace("0", "o").replace("1", "l") + " "
    assert shop.code(typed) == "VALID"
    assert shop.code(key[:-1] + ("7" if key[-1] != "7" else "8")) == "NOT_FOUND"


def test_no_public_answer_names_the_customer(shop):
    key = shop.sale(email="ann@example.com", full_name="Ann Lee")
    for body in (
        shop.ask("validate", license_key=key, hardware_id="hw1"),
        shop.ask("activate", license_key=key, hardware_id="hw2"),
        shop.ask("deactivate", license_key=key, hardware_id="hw1"),
        shop.client.post("/api/verify", json={"license": key}).json,
        shop.client.post("/api/validate-license", json={"license_key": key, "email": "ann@example.com"}).json,
    ):
        assert "ann" not in json.dumps(body).lower()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "license_key"),
        ({"license_key": ""}, "license_key"),
        ({"license_key": "x" * 129}, "license_key"),
        ({"license_key": 5}, "license_key"),
        ({"license_key": "a\0b"}, "license_key"),
        ({"license_key": "k", "hardware_id": "x" * 257}, "hardware_id"),
        ({"license_key": "k", "hardware_id": []}, "hardware_id"),
        ({"license_key": "k", "device_name": "x" * 129}, "device_name"),
        ({"license_key": "k", "nonce": "x" * 129}, "nonce"),
        ({"license_key": "k", "email": "x" * 255}, "email"),
        ({"license_key": "k", "bind": "yes"}, "bind"),
        ({"license_key": "k", "features": "all"}, "features"),
    ],
)
def test_a_wrong_field_is_named(shop, body, named):
    answered = shop.client.post("/api/v1/licenses/validate", json=body)
    assert answered.status_code == 400
    assert named in answered.json["errors"][0]["detail"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b"[" * 90_000,
        b'{"a":' * 40_000,
        b'{"license_key": NaN}',
        b'{"license_key": "\\ud800"}',
    ],
)
def test_a_body_that_is_no_request_is_a_400(shop, raw):
    for route in ("validate", "activate", "deactivate"):
        assert shop.client.post(f"/api/v1/licenses/{route}", data=raw).status_code == 400


def test_activate_and_deactivate_need_the_device(shop):
    for route in ("activate", "deactivate"):
        answered = shop.client.post(f"/api/v1/licenses/{route}", json={"license_key": "k"})
        assert (answered.status_code, "hardware_id" in answered.text) == (400, True)


# ------------------------------------------------------------------------------------------------ older doors
def test_the_older_validation_door(shop):
    key = shop.sale()
    answered = shop.client.post("/api/validate-license", json={"license_key": key, "email": "Ann@Example.com"})
    assert answered.json == {
        "valid": True,
        "error": None,
        "license": {
            "product_id": "wave",
            "product_name": "Wave",
            "features": ["batch"],
            "purchase_date": "2026-11-05T19:38:56Z",
            "expiry_date": None,
            "status": "active",
        },
    }
    other = shop.client.post("/api/validate-license", json={"license_key": key, "email": "bob@example.com"})
    assert other.json == {
        "valid": False,
        "error": "This license belongs to another e-mail address.",
        "license": None,
    }


def test_the_older_verify_door(shop):
    key = shop.sale()
    answered = shop.client.post("/api/verify", json={"license": key})
    assert answered.status_code == 200
    assert answered.json == {
        "valid": True,
        "tier": "pro",
        "expiresAt": 4949581136000,  # a hundred years after the purchase
        "userId": "5550321502811",
        "features": ["batch"],
    }
    shop.refund()
    refused = shop.client.post("/api/verify", json={"license": key})
    assert (refused.status_code, refused.json) == (401, {"valid": False, "error": "This license is suspended."})


def test_the_older_generate_door(shop):
    body = {"userId": "u7", "userEmail": "bob@example.com", "tier": "elite", "duration": 10, "paymentIntentId": "pi_1"}
    assert shop.client.post("/api/generate", json=body).status_code == 401
    told = {"Authorization": f"Bearer {OWNER_KEY}"}
    first = shop.client.post("/api/generate", json=body, headers=told)
    assert first.status_code == 200
    assert first.json == {
        "success": True,
        "license": first.json["license"],
        "tier": "elite",
        "userId": "u7",
        "userEmail": "bob@example.com",
        "expiresAt": 1796040000000,
        "generatedAt": 1795176000000,
        "features": ["batch", "api_access", "extra"],
    }
    assert shop.client.post("/api/generate", json=body, headers=told).json == first.json
    assert shop.client.post("/api/verify", json={"license": first.json["license"]}).json["userId"] == "u7"
    unknown = shop.client.post("/api/generate", json={**body, "tier": "gold"}, headers=told)
    assert (unknown.status_code, unknown.json["errors"][0]["code"]) == (422, "UNKNOWN_TIER")
    for_life = shop.client.post("/api/generate", json={**body, "duration": -1, "paymentIntentId": "pi_2"}, headers=told)
    assert for_life.json["expiresAt"] == 4950849600000


@pytest.mark.parametrize("user_id", [10**300, 2**60, "u" * 129, "a\0b", 1.5, ["u"]])
def test_an_id_that_no_answer_could_repeat_issues_nothing(shop, user_id):
    told = {"Authorization": f"Bearer {OWNER_KEY}"}
    body = {"userId": user_id, "userEmail": "ann@example.com", "tier": "wave"}
    answered = shop.client.post("/api/generate", json=body, headers=told)
    assert (answered.status_code, "userId" in answered.text, shop.ledger()) == (400, True, [])
