"""120 orders (2,000 in full) on three platforms; webhooks lost, doubled, shuffled, broken; one reconciliation.

In the end every license is what it would have been had every webhook come once and in order.
"""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import databases
from tests.acceptance import world
from tests.acceptance.servers import ROOT
from tests.acceptance.world import Order, Webhook
from tests.conftest import NOW, OWNER_KEY, SECRET, Clock, Shop
from tests.jvzoo_notices import KEY as JVZOO_KEY
from tests.standins.gumroad_api import TOKEN, GumroadApi
from tests.standins.stripe_api import KEY as STRIPE_KEY
from tests.standins.stripe_api import StripeApi
from tests.tills import WHSEC, shop_of_three

SEED = 20261120
COMPARED = ("email", "product_id", "is_active", "inactive_reason", "expiry_date", "max_devices", "purchase_id")


class Apis:
    def __init__(self) -> None:
        self.gumroad, self.stripe = GumroadApi(), StripeApi()
        self.rows: list[dict[str, str]] = []

    def take(self, orders: list[Order]) -> None:
        for order in orders:
            if order.platform == "gumroad":
                world.gumroad(order, self.gumroad)
            elif order.platform == "stripe":
                world.stripe(order, self.stripe)
            else:
                world.jvzoo_order(order, self.rows)

    def settings(self) -> dict[str, Any]:
        return {
            "gumroad_access_token": TOKEN,
            "gumroad_api_base": self.gumroad.url,
            "stripe_secret_key": STRIPE_KEY,
            "stripe_api_base": self.stripe.url,
        }

    def close(self) -> None:
        self.gumroad.close()
        self.stripe.close()


@pytest.fixture
def apis():
    found = Apis()
    yield found
    found.close()


def deliver(shop: Shop, webhook: Webhook, body: bytes | None = None) -> int:
    headers = webhook.headers()
    answered = shop.client.post(world.door(webhook), data=webhook.body if body is None else body, headers=headers)
    return int(answered.status_code)


def books(shop: Shop) -> dict[str, dict[str, Any]]:
    return compared(shop.licenses())


def compared(licenses: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {key: {name: record.get(name) for name in COMPARED} for key, record in licenses.items()}


def as_told_in_order(folder: Path, orders: list[Order], apis: Apis) -> dict[str, dict[str, Any]]:
    """The same world where no webhook is lost."""
    shop = shop_of_three(folder, Clock(), **apis.settings())
    for webhook in sorted((w for order in orders for w in order.webhooks), key=lambda webhook: webhook.at):
        assert deliver(shop, webhook) == 200
    return books(shop)


def reconcile(folder: Path, apis: Apis, platform: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/reconcile.py", platform, "--since", "2026-07-30", "--apply"]
    if platform == "jvzoo":
        export = folder.parent / "jvzoo.csv"
        with export.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(apis.rows[0]))
            writer.writeheader()
            writer.writerows(apis.rows)
        command += ["--from", str(export)]
    env = {
        "PATH": os.environ["PATH"],
        "ENV_FILE": os.devnull,
        "SECRET_KEY": "secret-key-of-the-tests",
        "LICENSE_SECRET": "license-secret-of-the-tests",
        "DATA_DIR": str(folder),
        "ADMIN_API_KEY": OWNER_KEY,
        "GUMROAD_WEBHOOK_SECRET": SECRET,
        "STRIPE_WEBHOOK_SECRET": WHSEC,
        "JVZOO_SECRET_KEY": JVZOO_KEY,
    } | {name.upper(): value for name, value in apis.settings().items()}
    env |= databases.environment(folder)
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("number", [120, pytest.param(2000, marks=pytest.mark.slow)])
def test_one_reconciliation_mends_what_the_post_did(tmp_path, apis, number):
    orders = world.make_orders(number, SEED)
    apis.take(orders)
    expected = as_told_in_order(tmp_path / "told", orders, apis)
    assert len(expected) == number
    shop = shop_of_three(tmp_path / "data", Clock(), **apis.settings())
    chance = random.Random(SEED)
    statuses = set()
    for webhook in world.lost_duplicated_and_shuffled([w for order in orders for w in order.webhooks], SEED):
        if chance.random() < 0.01:
            statuses.add(deliver(shop, webhook, world.with_a_wrong_byte(webhook.body, chance)))
        else:
            statuses.add(deliver(shop, webhook))
    assert statuses <= {200, 400, 403}
    before = books(shop)
    assert before != expected
    assert not [key for key in before if key not in expected]  # nothing was minted that nobody bought

    apis.gumroad.rate_limit(every=9)
    apis.stripe.rate_limit(every=7)
    for platform in ("gumroad", "stripe", "jvzoo"):
        done = reconcile(tmp_path / "data", apis, platform)
        assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
        assert "the ledger agrees now" in done.stdout
    assert books(shop) == expected

    ledger = shop.ledger()
    for platform in ("gumroad", "stripe", "jvzoo"):
        done = reconcile(tmp_path / "data", apis, platform)
        assert (done.returncode, "the ledger agrees" in done.stdout) == (0, True), done.stdout[-3000:]
    assert shop.ledger() == ledger
    is_true_of_the_world(orders, books(shop))


def is_true_of_the_world(orders: list[Order], found: dict[str, dict[str, Any]]) -> None:
    """Apart from any other run: as many licenses as orders, each inactive for its own reason alone."""
    told = sorted((r["email"], r["inactive_reason"] or "", r["expiry_date"] is None) for r in found.values())
    assert told == sorted((email, reason or "", for_life) for email, reason, for_life in (o.truth() for o in orders))
    assert max(order.regretted_at for order in orders) < NOW
