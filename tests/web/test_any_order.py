"""Any order, any number of times, the same books: every permutation of a sale's events ends in one state."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from server.platforms import WebhookRequest
from server.platforms.gumroad import Gumroad
from server.services.catalogue_file import CatalogueFile
from server.services.fulfilment import Fulfilment
from server.storage import durable
from server.storage.flatfile import FlatFileStore
from tests.conftest import CATALOGUE, NOW, SECRET, form, sale_ping, some_of, subscription_ping

ANN = "ann@example.com"
FIRST = {"subscription_id": "sub", "recurrence": "monthly"}
SECOND = {**FIRST, "is_recurring_charge": "true", "sale_timestamp": "2026-12-05T19:38:56Z"}
THIRD = {**FIRST, "is_recurring_charge": "true", "sale_timestamp": "2027-01-05T19:38:56Z"}
PLAN = {"new_plan[quantity]": 3, "new_plan[tier][name]": "Team", "effective_as_of": "2026-11-16T10:00:00Z"}


def team(sale_id: str, resource: str = "sale", **more: Any) -> dict[str, Any]:
    return sale_ping(sale_id, ANN, "G-TEAM==", resource, **more)


STORIES = {
    "refund and dispute": [
        sale_ping("s1", ANN),
        sale_ping("s1", ANN, resource="refund", refunded="false"),
        sale_ping("s1", ANN, resource="refund", refunded="true"),
        sale_ping("s1", ANN, resource="dispute", disputed="true"),
        sale_ping("s1", ANN, resource="dispute_won", disputed="true", dispute_won="true"),
    ],
    "a renewal refunded": [
        team("s1", **FIRST),
        team("s2", **SECOND),
        team("s2", "refund", refunded="true", **SECOND),
        team("s3", **THIRD),
        subscription_ping("cancellation", "sub", cancelled_at="2027-02-05T19:38:56Z", cancelled_by_buyer="true"),
    ],
    "failed, ended, restarted": [
        team("s1", **FIRST),
        subscription_ping(
            "cancellation", "sub", cancelled_at="2026-12-06T00:00:00Z", cancelled_due_to_payment_failures="true"
        ),
        subscription_ping("subscription_ended", "sub", ended_at="2026-12-07T00:00:00Z", ended_reason="failed_payment"),
        subscription_ping("subscription_restarted", "sub", restarted_at="2026-12-08T00:00:00Z"),
        subscription_ping("subscription_updated", "sub", **PLAN),
    ],
    "failed, then paid, then disputed": [
        team("s1", **FIRST),
        subscription_ping(
            "cancellation", "sub", cancelled_at="2026-12-04T00:00:00Z", cancelled_due_to_payment_failures="true"
        ),
        team("s2", **SECOND),
        team("s2", "dispute", disputed="true", **SECOND),
        team("s1", "refund", refunded="true", **FIRST),
    ],
    "a bundle": [
        sale_ping("s1", ANN, "G-STUDIO=="),
        sale_ping("s1", ANN, "G-STUDIO==", "dispute", disputed="true"),
        sale_ping("s1", ANN, "G-STUDIO==", "dispute_won", disputed="true", dispute_won="true"),
        sale_ping("s2", ANN),
        sale_ping("s2", ANN, resource="refund", refunded="true"),
    ],
}


def books(folder: Path, pings: list[dict[str, Any]]) -> dict[str, Any]:
    """The licenses after these pings in this order, by key."""
    folder.mkdir()
    (folder / "products.json").write_text(json.dumps(CATALOGUE))
    store = FlatFileStore(folder)
    platform = Gumroad(SECRET, None)
    fulfilment = Fulfilment(store, CatalogueFile(folder / "products.json"), "license-secret", lambda: NOW)
    for ping in pings:
        fulfilment.record(platform.parse(WebhookRequest(form(ping), {}, {}.get)))
    found = dict(store.licenses())
    store.close()
    return found


@pytest.mark.parametrize("story", STORIES)
def test_every_order_ends_in_the_same_books(tmp_path, story):
    pings = STORIES[story]
    expected = books(tmp_path / "straight", pings)
    assert expected
    for number, order in enumerate(itertools.permutations(pings)):
        again = [*order, random.Random(number).choice(order)]
        assert books(tmp_path / str(number), again) == expected, [p["resource_name"] for p in order]


def test_one_refund_among_many_sales_touches_its_own_license_alone(tmp_path):
    pings = [sale_ping(f"s{n}", ANN) for n in range(6)]
    pings.append(sale_ping("s3", ANN, resource="refund", refunded="true"))
    for number in range(50):
        random.Random(number).shuffle(pings)
        found = books(tmp_path / str(number), pings)
        assert [record.purchase_id for record in found.values() if not record.is_active] == ["s3"]
        assert len(found) == 6


LIFE = [
    *STORIES["a renewal refunded"],
    *STORIES["failed, ended, restarted"][1:],
    team("s2", "refund", refunded="false", **SECOND),
    team("s3", "dispute", disputed="true", **THIRD),
    team("s3", "dispute_won", disputed="true", dispute_won="true", **THIRD),
    sale_ping("t1", ANN, "G-TEAM==", test="true"),
]


@pytest.mark.parametrize("seed", some_of(range(40), 8))
def test_any_part_of_a_long_life_ends_alike_however_it_is_told(tmp_path, monkeypatch, seed):
    """2,000 histories (400 in the quick suite) of six to twelve events; what is told twice is told so in any place."""
    monkeypatch.setattr(durable, "sync", lambda *_: None)
    chance = random.Random(seed)
    part = chance.sample(LIFE, chance.randint(6, len(LIFE)))
    expected = books(tmp_path / "straight", part)
    for number in range(50):
        told = [*part, *chance.sample(part, 3)]
        chance.shuffle(told)
        assert books(tmp_path / str(number), told) == expected, [ping["resource_name"] for ping in told]
