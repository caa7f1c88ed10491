"""A small language for tests: a shop that sells over real HTTP requests to the application, and a clock of its own."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import weakref
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import hypothesis
import pytest
from werkzeug.routing import Map, Rule, RuleFactory

from server.settings import Settings
from server.storage.deliveries import DeliveryTable
from server.storage.flatfile import FlatFileStore
from server.web import app as web_app
from server.web.app import make_app
from server.wiring import build
from tests import databases
from tests.torture.account import pytest_terminal_summary as pytest_terminal_summary  # here, where every run loads it

# The quick suite tries the same cases each time, so that it tells what a change did; the slow one draws new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True)
if not any("slow" in word for word in sys.argv):
    hypothesis.settings.load_profile("repeatable")

SECRET = "gumroad-secret-of-the-tests-1234"
OWNER_KEY = "owner-key-of-the-tests-1234"
ROOM = 4 * 1024**3  # of memory that is free for the folders of a whole run
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

CATALOGUE: dict[str, Any] = {
    "tiers": {"pro": {"features": ["batch"]}, "elite": {"extends": "pro", "features": ["api_access"]}},
    "products": {
        "wave": {"name": "Wave", "tier": "pro", "platform_ids": {"gumroad": ["G-WAVE=="]}},
        "team": {
            "name": "Team",
            "tier": "elite",
            "features": ["extra"],
            "duration_days": 30,
            "max_devices": 2,
            "platform_ids": {"gumroad": ["G-TEAM=="]},
        },
        "solo": {"name": "Solo", "duration_days": 30, "platform_ids": {"gumroad": ["G-TEAM==#Solo"]}},
        "studio": {"name": "Studio", "bundle": ["wave", "team"], "platform_ids": {"gumroad": ["G-STUDIO=="]}},
    },
}


def some_of(cases: Iterable[Any], number: int) -> list[Any]:
    """The first so many of these for the quick suite, the others for the slow one."""
    return [case if place < number else pytest.param(case, marks=pytest.mark.slow) for place, case in enumerate(cases)]


class Clock:
    """A clock that only moves when a test says so."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: int) -> None:
        self.now += timedelta(**by)


def settings_for(folder: Path, **more: Any) -> Settings:
    given: dict[str, Any] = {
        "secret_key": ("secret-key-of-the-tests",),
        "license_secret": "license-secret-of-the-tests",
        "data_dir": folder,
        "admin_api_key": OWNER_KEY,
        "gumroad_webhook_secret": SECRET,
        "owner_email": "owner@shop.example",
        "from_email": "shop@shop.example",
        "rate_limit": "off",
        "database_url": databases.url_for(folder) if databases.on_postgresql() else None,
    }
    return Settings(**(given | more))


def form(fields: dict[str, Any]) -> bytes:
    """As HTTParty writes it: brackets and spaces percent-encoded."""
    pairs = [(k, v) for k, vs in fields.items() for v in (vs if isinstance(vs, list) else [vs])]
    return "&".join(f"{quote(k, safe='')}={quote(str(v), safe='')}" for k, v in pairs).encode()


def sale_ping(
    sale_id: str, email: str, product: str = "G-WAVE==", resource: str | None = "sale", **more: Any
) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "seller_id": "seller==",
        "product_id": product,
        "product_name": "Wave",
        "permalink": "wave",
        "short_product_id": "WAVE",
        "email": email,
        "price": 2999,
        "gumroad_fee": 330,
        "currency": "usd",
        "quantity": 1,
        "order_number": 524459935,
        "sale_id": sale_id,
        "sale_timestamp": "2026-11-05T19:38:56Z",
        "full_name": "Jane Doe",
        "purchaser_id": "5550321502811",
        "license_key": "85DB562A-C11D4B06-A2335A6B-8C079166",
        "ip_country": "United States",
        "is_gift_receiver_purchase": "false",
        "refunded": "false",
        "disputed": "false",
        "dispute_won": "false",
    }
    if resource is not None:
        fields["resource_name"] = resource
    return fields | more


def subscription_ping(resource: str, subscription_id: str, product: str = "G-TEAM==", **more: Any) -> dict[str, Any]:
    return {
        "subscription_id": subscription_id,
        "product_id": product,
        "product_name": "Team",
        "user_id": "",
        "user_email": "ann@example.com",
        "purchase_ids[]": ["s1", "s2"],
        "created_at": "2026-11-05T19:38:56Z",
        "charge_occurrence_count": "",
        "recurrence": "monthly",
        "free_trial_ends_at": "",
        "resource_name": resource,
    } | more


class OneMap(Map):
    """The addresses of all applications of a run, which are the same. To compile them for each of thousands, and to
    clear them away again, was three quarters of what a shop costs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._known: set[tuple[str, str, frozenset[str]]] = set()

    def add(self, rulefactory: RuleFactory) -> None:
        rule = cast(Rule, rulefactory)
        name = (rule.endpoint, rule.rule, frozenset(rule.methods or ()))
        if name not in self._known:
            self._known.add(name)
            super().add(rule)


web_app._Application.url_map_class = staticmethod(cache(OneMap))


class Shop:
    """One application on one folder. Keys come back from sales, codes from validations."""

    def __init__(self, folder: Path, clock: Clock, catalogue: dict[str, Any] | None = None, **settings: Any) -> None:
        self.folder, self.clock = folder, clock
        folder.mkdir(exist_ok=True)
        self.write_catalogue(CATALOGUE if catalogue is None else catalogue)
        self.services = build(settings_for(folder, **settings), clock)
        self.app = make_app(self.services)
        self.client = self.app.test_client()

    def write_catalogue(self, catalogue: dict[str, Any]) -> None:
        (self.folder / "products.json").write_text(json.dumps(catalogue))

    # ------------------------------------------------------------------------------------------------ Gumroad
    def post(self, fields: dict[str, Any], secret: str | None = SECRET) -> Any:
        query = "" if secret is None else f"?secret={secret}"
        return self.client.post(
            f"/api/v1/webhooks/gumroad{query}", data=form(fields), content_type="application/x-www-form-urlencoded"
        )

    def ping(self, fields: dict[str, Any]) -> dict[str, Any]:
        answered = self.post(fields)
        assert answered.status_code == 200, answered.text
        return dict(answered.json)

    def sale(self, sale_id: str = "s1", email: str = "ann@example.com", product: str = "G-WAVE==", **more: Any) -> str:
        return str(self.ping(sale_ping(sale_id, email, product, **more))["license_keys"][0])

    def refund(self, sale_id: str = "s1", **more: Any) -> dict[str, Any]:
        return self.ping(sale_ping(sale_id, "ann@example.com", resource="refund", refunded="true", **more))

    # ------------------------------------------------------------------------------------------------ apps and owner
    def ask(self, route: str, **body: Any) -> dict[str, Any]:
        answered = self.client.post(f"/api/v1/licenses/{route}", json=body)
        assert answered.status_code == 200, answered.text
        return dict(answered.json)

    def code(self, key: str, **more: Any) -> str:
        return str(self.ask("validate", license_key=key, **more)["code"])

    def owner(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        told = {"Authorization": f"Bearer {OWNER_KEY}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return self.client.open(f"/api/v1{path}", method=method, json=body, headers=told)

    # ------------------------------------------------------------------------------------------------ the folder
    def ledger(self) -> list[dict[str, Any]]:
        if databases.on_postgresql():
            return databases.ledger(self.folder)
        path = self.folder / "purchases.jsonl"
        return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def device_log(self) -> list[dict[str, Any]]:
        if databases.on_postgresql():
            return databases.device_log(self.folder)
        path = self.folder / "activity.jsonl"
        return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def licenses(self) -> dict[str, dict[str, Any]]:
        self.services.store.tidy(force=True)
        if databases.on_postgresql():
            return databases.licenses(self.folder)
        return dict(json.loads((self.folder / "licenses.json").read_bytes())["licenses"])


def pytest_configure(config: pytest.Config) -> None:
    databases.begin_run()
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))  # every application of a test syncs six times


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: the collector need not look at a million objects again."""
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    databases.end_run()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Who asks for a browser needs more than pip brings. On PostgreSQL the tests about the flat files are no tests."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("slow"):
            item.add_marker("system")
    if databases.on_postgresql() and (left_out := [item for item in items if item.get_closest_marker("files")]):
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Slow tests start processes of their own, one for each core and more; the others share the cores."""
    return 0 if config.option.markexpr == "slow" else None


_opened: list[weakref.ref[Any]] = []


def _remember(kind: type[Any]) -> None:
    make = kind.__init__

    def remembered(self: Any, *given: Any, **named: Any) -> None:
        make(self, *given, **named)
        _opened.append(weakref.ref(self))  # what is kept alive keeps its files mapped

    kind.__init__ = remembered


_remember(FlatFileStore)
_remember(DeliveryTable)


@pytest.fixture(autouse=True)
def _descriptors_given_back() -> Iterator[None]:
    """A process of the service opens one store, one of the tests thousands: each is closed when its test has ended."""
    before = len(_opened)
    yield
    for known in _opened[before:]:
        if (one := known()) is not None:
            one.close()
    del _opened[before:]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shop(tmp_path: Path, clock: Clock) -> Shop:
    return Shop(tmp_path / "data", clock)
