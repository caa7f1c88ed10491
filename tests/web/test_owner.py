"""The owner's API: every verb, what it does to the license, and who may call it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from server.errors import Conflict
from tests.conftest import CATALOGUE, Shop, sale_ping


def issue(shop, **more):
    body = {"email": "bob@example.com", "customer_name": "Bob", "product_id": "team"} | more
    answered = shop.owner("POST", "/licenses", body)
    assert answered.status_code == 201, answered.text
    return answered.json


def test_issue_and_show(shop):
    made = issue(shop, duration_days=10, max_devices=4, note="for the review")
    assert (made["email"], made["expiry_date"], made["max_devices"], made["status"]) == (
        "bob@example.com",
        "2026-11-30T12:00:00Z",
        4,
        "active",
    )
    assert shop.code(made["license_key"]) == "VALID"
    for name in (made["id"], made["license_key"]):
        assert shop.owner("GET", f"/licenses/{name}").json["license_key"] == made["license_key"]
    assert shop.owner("GET", "/licenses/lic_00000000000000000000").status_code == 404


def test_the_same_idempotency_key_issues_once(shop):
    body = {"email": "bob@example.com", "customer_name": "Bob", "product_id": "team"}
    first = shop.owner("POST", "/licenses", body, Idempotency_Key="order-7")
    again = shop.owner("POST", "/licenses", body, Idempotency_Key="order-7")
    assert first.json["license_key"] == again.json["license_key"]
    assert len(shop.licenses()) == 1
    other = shop.owner("POST", "/licenses", body | {"email": "eve@example.com"}, Idempotency_Key="order-7")
    assert other.status_code == 409


def test_extend_by_days_and_until(shop):
    key = issue(shop)["license_key"]  # 30 days
    assert shop.owner("POST", f"/licenses/{key}/extend", {"days": 5}).json["expiry_date"] == "2026-12-25T12:00:00Z"
    told = shop.owner("POST", f"/licenses/{key}/extend", {"until": "2027-06-01T00:00:00+02:00"})
    assert (told.json["expiry_date"], told.json["outcome"]) == ("2027-05-31T22:00:00Z", "extended")
    assert shop.owner("POST", f"/licenses/{key}/extend", {"until": "2027-01-01T00:00:00Z"}).status_code == 422
    assert shop.owner("POST", f"/licenses/{key}/extend", {}).status_code == 400
    for_life = shop.sale()
    assert shop.owner("POST", f"/licenses/{for_life}/extend", {"days": 5}).json["errors"][0]["code"] == "LIFETIME"


def test_suspend_reinstate_revoke(shop):
    key = shop.sale()
    assert shop.owner("POST", f"/licenses/{key}/suspend").json["outcome"] == "suspended"
    assert shop.code(key) == "SUSPENDED"
    assert shop.owner("POST", f"/licenses/{key}/reinstate").json["outcome"] == "reinstated"
    assert shop.code(key) == "VALID"
    assert shop.owner("POST", f"/licenses/{key}/revoke", {"note": "shared in a forum"}).json["outcome"] == "revoked"
    assert shop.code(key) == "BANNED"
    shop.owner("POST", f"/licenses/{key}/reinstate")
    assert shop.code(key) == "VALID"


def test_the_owner_overrides_what_he_names_and_nothing_later(shop):
    key = shop.sale()
    shop.refund()
    shop.owner("POST", f"/licenses/{key}/reinstate")
    assert shop.code(key) == "VALID"
    shop.ping(sale_ping("s1", "ann@example.com", resource="dispute", disputed="true"))
    assert shop.code(key) == "SUSPENDED"
    assert shop.ledger()[2]["overrides"] == ["s1:refund:true"]


def test_transfer_releases_the_devices(shop):
    key = shop.sale()
    shop.code(key, hardware_id="hw1")
    told = shop.owner("POST", f"/licenses/{key}/transfer", {"email": "eve@example.com", "customer_name": "Eve"}).json
    assert (told["email"], told["customer_name"], told["devices"]) == ("eve@example.com", "Eve", [])
    assert shop.code(key, hardware_id="hw2") == "VALID"


def test_a_leaked_key_is_replaced(shop):
    old = shop.sale(product="G-TEAM==", subscription_id="sub", recurrence="monthly")
    shop.code(old, hardware_id="thief")
    new = shop.owner("POST", f"/licenses/{old}/reissue").json["license_key"]
    assert new != old
    assert (shop.code(old), shop.code(new)) == ("BANNED", "VALID")
    assert shop.licenses()[new]["hardware_id"] is None
    assert shop.owner("POST", f"/licenses/{old}/reissue").status_code == 409
    renewal = {"subscription_id": "sub", "recurrence": "monthly", "is_recurring_charge": "true"}
    told = shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", sale_timestamp="2026-12-05T19:38:56Z", **renewal))
    assert told["license_keys"] == [new]
    third = shop.owner("POST", f"/licenses/{new}/reissue").json["license_key"]
    assert len({old, new, third}) == 3
    assert [shop.code(key) for key in (old, new, third)] == ["BANNED", "BANNED", "VALID"]
    shop.refund("s1", subscription_id="sub", product_id="G-TEAM==")
    assert shop.code(third) == "SUSPENDED"


def test_find_by_email_product_and_status_page_by_page(shop):
    keys = [shop.sale(f"s{n}", f"c{n % 2}@example.com") for n in range(7)]
    shop.refund("s0")
    assert len(shop.owner("GET", "/licenses?email=C0@example.com").json["licenses"]) == 4
    assert len(shop.owner("GET", "/licenses?status=suspended").json["licenses"]) == 1
    assert len(shop.owner("GET", "/licenses?product=team").json["licenses"]) == 0
    assert shop.owner("GET", "/licenses?purchase_id=s3").json["licenses"][0]["license_key"] == keys[3]
    seen, cursor = [], ""
    for _ in range(4):
        page = shop.owner("GET", f"/licenses?limit=2&cursor={cursor}").json
        seen += [row["license_key"] for row in page["licenses"]]
        cursor = page["next_cursor"]
    assert (sorted(seen), cursor) == (sorted(keys), None)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=x", "limit=9999", "cursor=nonsense", "limit=1&limit=2", "status=null", "email=NULL"],
)
def test_a_wrong_query_is_named(shop, query):
    answered = shop.owner("GET", f"/licenses?{query}")
    assert (answered.status_code, query.split("=")[0] in answered.json["errors"][0]["detail"]) == (400, True)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"customer_name": "B", "product_id": "team"}, "email"),
        ({"email": "not an address", "customer_name": "B", "product_id": "team"}, "email"),
        ({"email": "b@example.com", "customer_name": "B", "product_id": "team", "duration_days": 0}, "duration_days"),
        ({"email": "b@example.com", "customer_name": "B", "product_id": "team", "max_devices": 0}, "max_devices"),
    ],
)
def test_a_wrong_issue_is_named(shop, body, named):
    answered = shop.owner("POST", "/licenses", body)
    assert (answered.status_code, named in answered.json["errors"][0]["detail"]) == (400, True)
    unknown = shop.owner("POST", "/licenses", {"email": "b@example.com", "customer_name": "B", "product_id": "none"})
    assert (unknown.status_code, unknown.json["errors"][0]["code"]) == (422, "UNKNOWN_PRODUCT")


ROUTES = [
    ("GET", "/licenses"),
    ("POST", "/licenses"),
    ("GET", "/licenses/x"),
    *(("POST", f"/licenses/x/{verb}") for verb in ("extend", "suspend", "reinstate", "revoke", "transfer")),
    *(("POST", f"/licenses/x/{verb}") for verb in ("reissue", "resend", "reset-devices")),
    ("GET", "/purchases"),
    ("GET", "/stats"),
    ("GET", "/outbox"),
    ("POST", "/outbox/send"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_only_the_owner_comes_in(shop, tmp_path, clock, method, path):
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic abc"},
        {"Authorization": "Bearer "},
    ):
        answered = shop.client.open(f"/api/v1{path}", method=method, headers=headers)
        assert (answered.status_code, answered.headers["WWW-Authenticate"]) == (401, "Bearer")
    closed = Shop(tmp_path / "closed", clock, admin_api_key=None)
    assert closed.client.open(f"/api/v1{path}", method=method, headers={"Authorization": "Bearer "}).status_code == 404


def test_create_license_is_the_documented_entry(shop):
    manager = shop.services.licenses
    info = {"source": "bank", "sale_id": "transfer-9", "product_id": "wave", "price": "29.99", "currency": "eur"}
    key = manager.create_license("ann@example.com", "Ann", 365, info)
    assert manager.create_license("ann@example.com", "Ann", 365, info) == key
    record = shop.licenses()[key]
    assert (record["purchase_source"], record["purchase_id"], record["expiry_date"]) == (
        "bank",
        "transfer-9",
        "2027-11-20T12:00:00Z",
    )
    assert (
        manager.renew(manager.create_license("b@example.com", "B", None, {"product_id": "team"})).outcome == "extended"
    )


def test_the_purchases_are_told_newest_first_page_by_page(shop):
    for number in range(5):
        shop.sale(f"s{number}")
    shop.refund("s0")
    first = shop.owner("GET", "/purchases?limit=4").json
    assert [row["event_id"] for row in first["purchases"]] == [
        "s0:refund:true",
        "s4:sale:false",
        "s3:sale:false",
        "s2:sale:false",
    ]
    rest = shop.owner("GET", f"/purchases?limit=4&cursor={first['next_cursor']}").json
    assert ([row["sale_id"] for row in rest["purchases"]], rest["next_cursor"]) == (["s1", "s0"], None)
    assert [row["event"] for row in shop.owner("GET", "/purchases?event=refund&source=&email=").json["purchases"]] == [
        "refund"
    ]
    assert "raw" not in rest["purchases"][0]


def test_the_stats_count_each_sale_once_and_no_refund(shop):
    shop.sale("s1")
    shop.ping(sale_ping("s1", "ann@example.com", retry_count=1))
    shop.sale("s2")
    shop.sale("s3", test="true")
    shop.refund("s2")
    stats = shop.owner("GET", "/stats").json
    assert (stats["total_purchases"], stats["total_revenue"]) == (2, {"usd": "29.99"})


@pytest.mark.parametrize("path", ["/licenses?emial=x", "/purchases?emial=x"])
def test_a_mistyped_filter_is_named_and_not_ignored(shop, path):
    answered = shop.owner("GET", path)
    assert (answered.status_code, "emial" in answered.json["errors"][0]["detail"]) == (400, True)


def test_a_transferred_license_forgets_its_first_customer(shop):
    key = shop.sale("s1", full_name="Ann Lee")
    told = shop.owner("POST", f"/licenses/{key}/transfer", {"email": "eve@example.com"}).json
    assert (told["email"], told["customer_name"]) == ("eve@example.com", "")


def test_a_reissue_says_that_it_issued(shop):
    assert shop.owner("POST", f"/licenses/{shop.sale('s1')}/reissue").json["outcome"] == "issued"


def test_a_default_product_is_for_what_nobody_mapped_alone(shop):
    shop.write_catalogue(CATALOGUE | {"default_product": "solo"})
    issue(shop)
    shop.owner("POST", f"/licenses/{shop.sale('s1')}/suspend")
    shop.sale("s2", product="G-NONE==")
    assert [(line["product_id"], line["tier"]) for line in shop.ledger()] == [
        ("team", "elite"),
        ("wave", "pro"),
        ("wave", None),
        ("solo", None),
    ]


@pytest.mark.parametrize("verb", ["extend", "reissue"])
def test_decisions_at_once_are_all_counted(shop, verb):
    key = issue(shop)["license_key"]
    manager = shop.services.licenses
    with ThreadPoolExecutor(8) as pool:
        if verb == "extend":
            list(pool.map(lambda _: manager.extend(key, days=1), range(16)))
            assert shop.licenses()[key]["expiry_date"] == "2027-01-05T12:00:00Z"  # 30 and 16 days
        else:
            done = list(pool.map(lambda _: _refused(lambda: manager.reissue(key)), range(8)))
            assert sorted(done) == [False] + [True] * 7


def _refused(deed):
    try:
        deed()
    except Conflict:
        return True
    return False


@pytest.mark.parametrize("until", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-10:00", "0001-01-01T00:00:00+14:00"])
def test_a_date_beyond_all_calendars_is_refused_and_breaks_nothing(shop, until):
    key = issue(shop)["license_key"]
    assert shop.owner("POST", f"/licenses/{key}/extend", {"until": until}).status_code in (400, 422)
    assert len(shop.ledger()) == 1
    assert shop.code(key) == "VALID"
