"""Reconciliation over HTTP: in steps of seconds, asked again until it is done."""

from __future__ import annotations

import os
import runpy
from itertools import count

import pytest

from server.platforms.web_client import PATIENT
from server.services.reconcile_steps import REPAIRS, STEP, ReconcileSteps
from server.settings import ROOT
from tests.conftest import Shop, sale_ping
from tests.standins.gumroad_api import TOKEN, WHEN, GumroadApi, sale
from tests.standins.stripe_api import StripeApi
from tests.stripe_shop import StripeShop

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
    ours, moments = shop.services, count(0, seconds)
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
        "asked": 0,
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
    hurried(shop, seconds=0)
    last = ask(shop, apply=True)
    assert (last["state"], last["compared"], last["repaired"]) == ("done", 25, 25)
    assert len(api.asked) == 3, "no page is read twice"


def test_many_repairs_are_several_steps_and_the_last_tells_of_all(shop, api):
    number = REPAIRS + 20
    api.add(*(sale(f"s{n}==", created_at=WHEN.replace(minute=n % 60, second=n // 60)) for n in range(number)))
    first = ask(shop, apply=True)
    assert (first["state"], first["repaired"], first["left"]) == ("repairing", REPAIRS, 20)
    last = ask(shop, apply=True)
    assert (last["state"], last["repaired"], last["left"]) == ("done", number, 0)
    assert len(last["findings"]) == number
    assert {row["repair"] for row in last["findings"]} == {"repaired"}
    assert f"{number} paid without a license. {number} repaired; the ledger agrees now" in last["verdict"]
    assert len(shop.ledger()) == number
    assert ask(shop, apply=True)["repaired"] == 0, "that was another reconciliation"


def test_when_time_is_short_a_step_still_repairs_something(shop, api):
    api.add(*(sale(f"s{n}==", created_at=WHEN.replace(minute=n)) for n in range(3)))
    hurried(shop)
    told = [ask(shop, apply=True) for _ in range(6)]
    assert [(one["state"], one["repaired"]) for one in told] == [
        ("reading", 0),
        ("repairing", 1),
        ("repairing", 2),
        ("repairing", 3),
        ("done", 3),
        ("reading", 0),
    ]


def test_what_only_the_owner_can_decide_does_not_go_on_for_ever(shop, api):
    shop.post(sale_ping("s1==", "ann@example.com"))  # which Gumroad does not know
    shop.clock.forward(hours=2)
    told = ask(shop, apply=True)
    assert (told["state"], told["repaired"]) == ("done", 0)
    assert ask(shop, apply=True)["state"] == "done"


def gifts(shop, api, number):
    """Licenses that Gumroad's list never names: each is asked about."""
    for name in (f"s{n}==" for n in range(number)):
        api.add(sale(name, is_gift_receiver_purchase=True))
        shop.post(sale_ping(name, "ann@example.com"))
    shop.clock.forward(hours=2)
    api.asked.clear()


def test_what_is_asked_one_by_one_goes_on_in_the_next_step(shop, api):
    gifts(shop, api, 5)
    hurried(shop, seconds=2)
    told = [ask(shop) for _ in range(3)]
    assert [(one["state"], one["asked"]) for one in told] == [("asking", 1), ("asking", 3), ("done", 5)]
    assert (told[-1]["unchecked"], told[-1]["left"]) == (0, 0)
    assert len(api.asked) == 1 + 5, "the list, and nothing twice"
    assert not list(shop.folder.glob("reconcile-*.jsonl"))


def test_what_has_no_answer_is_left_after_some_tries_and_said(shop, api):
    gifts(shop, api, 2)
    ask_list = ask(shop)
    assert (ask_list["state"], ask_list["asked"]) == ("done", 2)
    api.asked.clear()
    hurried(shop)
    assert ask(shop)["state"] == "reading"
    hurried(shop, seconds=0)
    api.fail_next(500, times=3)
    told = [ask(shop) for _ in range(4)]
    assert [(one["state"], one["wait"], one["unchecked"]) for one in told] == [
        ("asking", 1, 0),
        ("asking", 1, 0),
        ("asking", 1, 0),
        ("done", 0, 1),
    ]
    assert told[-1]["left"] == 0, "who cannot be asked accuses nobody"


def test_a_question_that_is_put_off_is_no_failed_one(shop, api):
    gifts(shop, api, 1)
    hurried(shop)
    ask(shop)
    hurried(shop, seconds=0)
    api.fail_next(429, times=5, retry_after=7)
    assert [(one["state"], one["wait"]) for one in [ask(shop) for _ in range(5)]] == [("asking", 7)] * 5
    assert (ask(shop)["unchecked"], len(api.asked)) == (0, 1 + 6)


def test_a_note_that_was_cut_is_made_again(shop, api):
    gifts(shop, api, 2)
    hurried(shop, seconds=2)
    assert ask(shop)["asked"] == 1
    (notes,) = shop.folder.glob("reconcile-*.notes.jsonl")
    assert notes.stat().st_mode & 0o777 == 0o600
    notes.write_bytes(notes.read_bytes()[:-9])
    told = ask(shop)
    assert (told["state"], told["asked"], told["unchecked"]) == ("done", 2, 0)


def test_a_step_is_shorter_than_a_worker_may_take(shop, api, tmp_path, clock):
    """One page that takes as long as it may, begun in the last moment of a step; a list is asked for once in it."""
    gunicorn = runpy.run_path(str(ROOT / "deployment" / "gunicorn.conf.py"))
    assert STEP + sum(PATIENT) < gunicorn["timeout"]
    api.fail_next(500)
    assert (ask(shop)["state"], len(api.asked)) == ("reading", 1)
    with StripeApi() as stripe:
        stripe.fail_next(500)
        seller = StripeShop(tmp_path / "stripe", clock, stripe)
        assert (ask(seller, platform="stripe")["state"], len(stripe.asked)) == ("reading", 1)


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


@pytest.mark.parametrize("name", ["reconcile-gumroad.jsonl", "reconcile-gumroad.notes.jsonl"])
def test_a_disk_that_takes_nothing_more_is_told_as_that(shop, api, monkeypatch, name):
    gifts(shop, api, 1)
    with monkeypatch.context() as full:
        full.setattr("os.open", refusing(os.open, f"/{name}"))
        answered = ask(shop, 503)["errors"][0]
        assert (answered["code"], answered["detail"]) == (
            "STORAGE_UNAVAILABLE",
            f"{name} cannot be written: No space left on device",
        )
    assert ask(shop)["state"] == "done"


def refusing(call, name):
    def refuse(path, *rest, **more):
        if str(path).endswith(name):
            raise OSError(28, "No space left on device")
        return call(path, *rest, **more)

    return refuse
