"""Bodies and files that nobody should send: refused by name or taken whole, never a 500 and never half-done.

Stripe's signed events are tried in `tests/platforms/test_stripe.py`, JVZoo's signed notices in `test_jvzoo.py`.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.errors import BadRequest
from server.platforms import PLATFORMS
from server.services.importer import Importer
from server.services.legacy import read_old_books
from server.services.statement_file import read_statement_file
from tests.conftest import CATALOGUE, OWNER_KEY, SECRET, Clock, sale_ping, subscription_ping
from tests.tills import shop_of_three

FORM, JSON = "application/x-www-form-urlencoded", "application/json"
NUMBERS = st.integers() | st.sampled_from([-1, 0, 1, 2**31, 2**53, 2**63, 10**18, 10**400, -(10**400)])
WORDS = st.text(max_size=20) | st.sampled_from(
    ["", "\0", "true", "1e9", "-1", "2026-11-20", "9999-12-31T23:59:59-12:00", "0001-01-01", "x" * 5000, "٣", "a\r\nb"]
)
PLAIN = st.none() | st.booleans() | NUMBERS | st.floats() | WORDS
ANYTHING = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=5
)
HOOK = f"/api/v1/webhooks/gumroad?secret={SECRET}"
PINGS = [
    sale_ping("s1", "ann@example.com"),
    sale_ping("s2", "ann@example.com", product="G-TEAM==", subscription_id="sub", recurrence="monthly"),
    sale_ping("s3", "ann@example.com", product="G-STUDIO==", variants={"Tier": "Pro"}, custom_fields={"Name": "Ann"}),
    sale_ping("s1", "ann@example.com", resource="refund", refunded="true"),
    sale_ping("s1", "ann@example.com", resource="dispute", disputed="true"),
    subscription_ping("cancellation", "sub", cancelled="true", cancelled_at="2026-11-06T10:00:00Z"),
    subscription_ping("subscription_ended", "sub", ended_at="2026-11-07T10:00:00Z", ended_reason="cancelled"),
    subscription_ping("subscription_updated", "sub", type="upgrade", effective_as_of="2026-11-08T10:00:00Z"),
]


def tries(number: int) -> settings:
    return settings(max_examples=number, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


@st.composite
def mutated(draw: st.DrawFn, originals: list[Any], values: st.SearchStrategy[Any] = ANYTHING) -> Any:
    """One of these, in which a few values are others, or missing, or one was added."""
    told = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 4))):
        if not (found := list(places(told))):
            break
        container, key = draw(st.sampled_from(found))
        change = draw(st.sampled_from(["other", "missing", "more"]))
        if change == "missing":
            del container[key]
        elif change == "more" and isinstance(container, dict):
            container[draw(WORDS)] = draw(values)
        else:
            container[key] = draw(values)
    return told


class Watched:
    """A shop of all platforms whose books are looked at around each request."""

    def __init__(self, folder: Any) -> None:
        self.shop = shop_of_three(folder, Clock())
        self.key = self.shop.sale("first", product="G-TEAM==")
        self.ledger, self.devices = folder / "purchases.jsonl", folder / "activity.jsonl"

    def books(self) -> tuple[int, int]:
        return tuple(file.stat().st_size if file.exists() else 0 for file in (self.ledger, self.devices))

    def send(self, method: str, path: str, body: bytes, content_type: str = JSON, **headers: str) -> Any:
        """The answer: taken whole, or refused with nothing written."""
        before = self.books()
        answered = self.shop.client.open(path, method=method, data=body, content_type=content_type, headers=headers)
        assert answered.status_code < 500, (body, answered.text)
        if answered.status_code >= 400:
            assert self.books() == before, (body, answered.text)
            assert answered.json["errors"][0]["detail"]
        for key in (answered.json or {}).get("license_keys", ()):
            assert self.shop.services.store.find_license(key) is not None
        return answered

    def owner(self, method: str, path: str, body: bytes) -> Any:
        return self.send(method, path, body, Authorization=f"Bearer {OWNER_KEY}")

    def is_sound(self) -> bool:
        return [finding for finding in self.shop.services.audit.verify() if not finding.is_note] == []


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Iterator[Watched]:
    found = Watched(tmp_path_factory.mktemp("watched") / "data")
    yield found
    assert found.is_sound()


# ---------------------------------------------------------------------------------------------------- webhooks
def as_form(told: dict[str, Any]) -> bytes:
    """As Gumroad writes it; bytes as they are."""
    pairs = []
    for name, value in told.items():
        for inner, one in value.items() if isinstance(value, dict) else [(None, value)]:
            text = one if isinstance(one, str | bytes) else str(one)
            pairs.append((name if inner is None else f"{name}[{inner}]", text))
    return "&".join(f"{quote(name, safe='')}={quote(text, safe='')}" for name, text in pairs).encode()


@tries(100)
@given(told=mutated(PINGS, WORDS | st.binary(max_size=20)))
def test_gumroads_forms(watched, told):
    watched.send("POST", HOOK, as_form(told), FORM)


@tries(100)
@given(told=mutated(PINGS))
def test_gumroads_json(watched, told):
    watched.send("POST", HOOK, json.dumps(told).encode())


@tries(70)
@given(
    body=st.binary(max_size=120) | st.text(alphabet='sale_id=&%[]+;\0é{}":,0\\', max_size=80).map(str.encode),
    content_type=st.sampled_from([FORM, JSON, "", "text/plain", "multipart/form-data; boundary=x", "\x00", "a/b;=;"]),
    door=st.sampled_from([HOOK, "/api/v1/webhooks/stripe", "/api/v1/webhooks/jvzoo", "/ipn", "/webhooks/stripe"]),
)
def test_bytes_at_every_door(watched, body, content_type, door):
    watched.send("POST", door, body, content_type)


@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting_at_every_depth(watched, opens, closes):
    """What a decoder still takes may be too deep for who reads it: the doors are a few frames apart."""
    start = json.dumps(PINGS[0])[:-1]
    for depth in (1, 100, 101, *range(300, 1001, 3)):
        watched.send("POST", HOOK, f'{start}, "x": {opens * depth}1{closes * depth}}}'.encode())


# ---------------------------------------------------------------------------------------------------- apps and owner
BODIES = {
    "/api/v1/licenses/validate": {"license_key": "KEY", "hardware_id": "pc", "device_name": "n", "features": ["batch"]},
    "/api/v1/licenses/activate": {"license_key": "KEY", "hardware_id": "pc", "nonce": "n", "email": "ann@example.com"},
    "/api/v1/licenses/deactivate": {"license_key": "KEY", "hardware_id": "pc"},
    "/api/v1/licenses/file": {"license_key": "KEY", "hardware_id": "pc", "nonce": "n"},
    "/api/validate-license": {"license_key": "KEY", "email": "ann@example.com"},
    "/api/generate": {"userId": "u1", "userEmail": "ann@example.com", "tier": "pro", "duration": 30},
    "/api/v1/licenses": {"email": "ann@example.com", "customer_name": "Ann", "product_id": "team", "max_devices": 2},
    "/api/v1/licenses/KEY/extend": {"days": 3},
    "/api/v1/licenses/KEY/suspend": {"note": "why"},
    "/api/v1/licenses/KEY/reinstate": {"note": "why"},
    "/api/v1/licenses/KEY/transfer": {"email": "eve@example.com", "customer_name": "Eve"},
}


@tries(150)
@given(route=st.sampled_from(sorted(BODIES)), data=st.data())
def test_bodies_of_apps_and_of_the_owner(watched, route, data):
    told = data.draw(mutated([BODIES[route]]))
    body = json.dumps(told).replace('"KEY"', json.dumps(watched.key))
    watched.owner("POST", route.replace("KEY", watched.key), body.encode())


@tries(70)
@given(
    route=st.sampled_from(["licenses", "purchases", "outbox", "licenses/lic_1", "stats"]),
    query=st.dictionaries(
        st.sampled_from("email product status limit cursor since until is_test event state".split()) | WORDS,
        WORDS | NUMBERS.map(str),
        max_size=4,
    ),
)
def test_queries_of_the_owner(watched, route, query):
    told = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items())
    watched.owner("GET", f"/api/v1/{route}?{told}", b"")


@tries(70)
@given(name=st.text(max_size=40) | st.sampled_from(["..", "%2e%2e/x", "lic_", "lic_" + "f" * 20, "\0", "x" * 3000]))
def test_names_in_a_path(watched, name):
    path = f"/api/v1/licenses/{quote(name, safe='')}"
    for method, end in (("GET", ""), ("POST", "/suspend"), ("POST", "/resend")):
        assert watched.owner(method, path + end, b"").status_code in (200, 404, 405)


# ---------------------------------------------------------------------------------------------------- the owner's files
@tries(70)
@given(told=mutated([CATALOGUE]) | ANYTHING)
def test_a_catalogue_of_anything_stops_no_sale(watched, told):
    """The last good one stays in use, and /health says what is wrong."""
    path = watched.shop.folder / "products.json"
    good = path.read_bytes()
    try:
        path.write_text(json.dumps(told))
        assert watched.shop.client.get("/health").status_code == 200
        answered = watched.send("POST", HOOK, as_form(sale_ping(f"c{watched.books()[0]}", "ann@example.com")), FORM)
        assert answered.json["outcome"] in ("issued", "unmapped")
    finally:
        path.write_bytes(good)


OLD = {
    "license_key": "OLD-1",
    "email": "ann@example.com",
    "customer_name": "Ann",
    "product_id": "wave",
    "expiry_date": "2027-01-01",
    "max_devices": "2",
    "hardware_id": "pc",
    "device_name": "laptop",
    "created_date": "2024-01-05T10:00:00Z",
    "purchase_source": "gumroad",
    "purchase_id": "G1",
    "is_active": "true",
}
RECORD = {
    "event": "sale",
    "sale_id": "s9==",
    "email": "ann@example.com",
    "product_id": "G-WAVE==",
    "quantity": "2",
    "price": "29.99",
    "currency": "usd",
    "date": "2026-11-05T19:38:56Z",
}


def as_csv(rows: list[dict[str, Any]], heading: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(heading)
    csv.writer(out).writerows([str(row.get(name, "")) for name in heading] for row in rows)
    return out.getvalue()


CSV_OF = {
    name: st.tuples(st.lists(mutated([row], WORDS), max_size=3), st.permutations(list(row))).map(
        lambda told: as_csv(*told).encode("utf-8", "replace")
    )
    for name, row in (("old", OLD), ("record", RECORD))
}
GARBAGE = st.binary(max_size=100) | st.text(alphabet='",;\n\r\t\0eventsale_id{}[]:', max_size=80).map(str.encode)


@tries(80)
@given(body=CSV_OF["old"] | GARBAGE, product=st.sampled_from([None, "wave"]))
def test_a_csv_of_licenses_is_imported_whole_or_refused_by_row(watched, tmp_path_factory, body, product):
    imports(watched, tmp_path_factory.getbasetemp() / "old.csv", body, product)


@tries(80)
@given(told=mutated([{"OLD-1": OLD | {"validation_count": 3}}, {"licenses": {"OLD-2": OLD}}]) | ANYTHING)
def test_json_of_licenses_is_imported_whole_or_refused_by_name(watched, tmp_path_factory, told):
    imports(watched, tmp_path_factory.getbasetemp() / "licenses.json", json.dumps(told).encode(), None)


def imports(watched: Watched, path: Any, body: bytes, product: str | None) -> None:
    ours, before = watched.shop.services, watched.books()
    path.write_bytes(body)
    importer = Importer(ours.store, ours.catalogue, ours.fulfilment, ours.clock)
    try:
        plan = importer.plan(read_old_books(path), product)
    except BadRequest:
        assert watched.books() == before
        return
    assert all(place and why for place, why in plan.refused)
    importer.run(plan)
    again = importer.plan(read_old_books(path), product)
    assert again.new == 0, body


@tries(120)
@given(
    body=CSV_OF["record"] | GARBAGE | mutated([[RECORD], RECORD]).map(lambda told: json.dumps(told).encode()),
    platform=st.sampled_from(sorted(PLATFORMS)),
)
def test_a_platforms_record_is_read_or_refused(tmp_path_factory, body, platform):
    path = tmp_path_factory.getbasetemp() / "record.txt"
    path.write_bytes(body)
    with contextlib.suppress(BadRequest):
        assert read_statement_file(path, PLATFORMS[platform])
