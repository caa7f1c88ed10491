"""Reconciliation over HTTP: in steps of seconds, asked again until it is done."""

from __future__ import annotations

import pytest

from server.services.reconcile_steps import REPAIRS, STEP, ReconcileSteps
from tests.conftest import Shop, sale_ping
from tests.standins.gumroad_api import TOKEN, WHEN, GumroadApi, sale

SINCE = {"since": "2026-11-01"}


@pytest.fixture
def api():
    with GumroadApi() as standin:
        yield standin


@pytest.fixture
def shop(tmp_path, clock, api):
    return Shop(tmp_path / "data", clock, gumroad_access_token=TOKEN, gumroad_api_base=api.url)


def ask(shop, status=200, platform="gumroad", **body):
    answered = shop.owner("POST", f"/reconcile/{platform}", SINCE | body)
    assert answered.status_code == status, answered.text
    return answered.json


def hurried(shop, seconds=STEP):
    """As a service whose clock goes on by so much with every look at it."""
    ours, moments = shop.services, iter(range(0, 10**9, int(seconds)))
    steps = ReconcileSteps(
        ours.store,
        ours.platforms,
        ours.fulfilment,
        ours.inquiries,
        ours.settlement,
        shop.folder,
        ours.clock,
        lambda: next(moments),
    )
    object.__setattr__(ours, "reconcile", steps)


def test_what_agrees_is_told_in_one_step(shop, api):
    api.add(sale("s1=="))
    shop.post(sale_ping("s1==", "ann@example.com"))
    assert ask(shop) == {
        "state": "done",
        "wait": 0,
        "pages": 1,
        "compared": 1,
        "repaired": 0,
        "left": 0,
        "unchecked": 0,
        "findings": [],
        "unmapped": [],
        "verdict": "gumroad since 2026-11-01: 1 charge and 0 other events compared; the ledger agrees",
    }


def test_a_dry_run_changes_nothing_and_apply_repairs(shop, api):
    api.add(sale("s1==", "ann@example.com"), sale("s2==", product_id="G-NOBODY=="))
    told = ask(shop)
    assert (told["state"], told["repaired"], told["left"]) == ("done", 0, 1)
    assert [(row["finding"], row["sale_id"], row["repair"]) for row in told["findings"]] == [
        ("paid without a license", "s1==", "by --apply")
    ]
    assert told["unmapped"] == [{"product": "G-NOBODY==", "sales": 1}]
    assert shop.ledger() == []
    told = ask(shop, apply=True)
    assert (told["state"], told["repaired"], told["left"]) == ("done", 1, 0)
    assert [(line["sale_id"], line["outcome"]) for line in shop.ledger()] == [("s1==", "issued")]
    assert not list(shop.folder.glob("reconcile-*.jsonl"))


def test_reading_goes_on_where_the_step_before_stopped(shop, api):
    api.add(*(sale(f"s{number}==", created_at=WHEN.replace(minute=number)) for number in range(25)))
    hurried(shop)
    first = ask(shop)
    assert (first["state"], first["pages"], first["verdict"]) == ("reading", 1, None)
    assert (ask(shop)["pages"], shop.ledger()) == (2, [])
    assert ask(shop)["state"] == "reading", "there is time for a comparison in the next step"
    last = ask(shop, apply=True)
    assert (last["state"], last["compared"], last["repaired"]) == ("done", 25, 25)
    assert len(api.asked) == 3, "no page is read twice"


def test_many_repairs_are_several_steps(shop, api):
    number = REPAIRS + 20
    api.add(*(sale(f"s{n}==", created_at=WHEN.replace(minute=n % 60, second=n // 60)) for n in range(number)))
    first = ask(shop, apply=True)
    assert (first["state"], first["repaired"], first["left"]) == ("repairing", REPAIRS, 20)
    last = ask(shop, apply=True)
    assert (last["state"], last["repaired"], last["left"]) == ("done", 20, 0)
    assert len(shop.ledger()) == number


def test_what_only_the_owner_can_decide_does_not_go_on_for_ever(shop, api):
    shop.post(sale_ping("s1==", "ann@example.com"))  # which Gumroad does not know
    shop.clock.forward(hours=2)
    told = ask(shop, apply=True)
    assert (told["state"], told["repaired"]) == ("done", 0)
    assert ask(shop, apply=True)["state"] == "done"


def test_when_it_is_late_nothing_more_is_asked_one_by_one(shop, api):
    """A license that the list does not name is looked up; there was no time for it, and it is said so."""
    api.add(sale("s1=="))
    shop.post(sale_ping("s1==", "ann@example.com"))
    api.sales.clear()
    hurried(shop)
    assert ask(shop)["state"] == "reading"
    told = ask(shop)
    assert (told["state"], told["unchecked"], told["findings"]) == ("done", 1, [])


def test_a_platform_that_wants_a_rest_gets_it(shop, api):
    api.add(sale("s1=="))
    api.fail_next(429, retry_after=7)
    told = ask(shop)
    assert (told["state"], told["wait"]) == ("reading", 7)
    assert ask(shop)["state"] == "done"
    api.fail_next(401, times=2)
    assert ask(shop, 503)["errors"][0]["code"] == "PLATFORM_UNREACHABLE"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"since": "yesterday!"}, "since"),
        ({"since": "2026-13-01"}, "since"),
        ({"since": 5}, "since"),
        ({"until": "2026-10-01"}, "until"),
        ({"until": "not a day at all"}, "until"),
        ({"apply": "yes"}, "apply"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(shop, body, word):
    assert word in ask(shop, 400, **body)["errors"][0]["detail"]


def test_what_cannot_be_asked_is_said(shop, tmp_path, clock):
    assert ask(shop, 404, "stripe")["errors"][0]["code"] == "PLATFORM_NOT_CONFIGURED"
    assert ask(shop, 404, "nowhere")["errors"][0]["code"] == "PLATFORM_NOT_CONFIGURED"
    without = Shop(tmp_path / "other", clock)
    assert "GUMROAD_ACCESS_TOKEN" in ask(without, 422)["errors"][0]["detail"]
    jvzoo = Shop(tmp_path / "third", clock, jvzoo_secret_key="jvzoo-secret-key")
    assert "file" in ask(jvzoo, 422, "jvzoo")["errors"][0]["detail"]


def test_it_is_the_owners(shop):
    assert shop.client.post("/api/v1/reconcile/gumroad", json=SINCE).status_code == 401
