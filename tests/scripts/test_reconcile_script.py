"""reconcile.py as the owner runs it: a real process, the platforms' APIs on sockets of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from server.platforms import PLATFORMS
from tests.conftest import SECRET, sale_ping
from tests.scripts.conftest import ROOT
from tests.standins.gumroad_api import TOKEN, WHEN, GumroadApi, sale
from tests.standins.stripe_api import KEY, StripeApi, line_item
from tests.stripe_shop import WHSEC, wave

SINCE = ("--since", "2026-11-01")
LONG_AGO = {"sale_timestamp": "2026-11-02T00:00:00Z"}


@pytest.fixture
def api():
    with GumroadApi() as standin:
        yield standin


@pytest.fixture
def clerk(owner, api):
    """An owner with a token for Gumroad's API."""
    owner.settings |= {"GUMROAD_ACCESS_TOKEN": TOKEN, "GUMROAD_API_BASE": api.url}
    return owner


def ledger(shop) -> bytes:
    path = shop.folder / "purchases.jsonl"
    return path.read_bytes() if path.exists() else b""


def differ(shop, api):
    """One of each: lost, refunded unheard of, told differently, sold under an id that nobody mapped."""
    shop.sale("s2==", "bob@example.com")
    shop.sale("s3==", "dan@example.com", price=1999)
    at = [WHEN.replace(minute=minute) for minute in range(5)]
    api.add(sale("s1==", "ann@example.com", created_at=at[0]))
    api.add(sale("s2==", "bob@example.com", created_at=at[1], refunded=True))
    api.add(sale("s3==", "dan@example.com", created_at=at[2]))
    api.add(*(sale(name, product_id="G-ELSE==", created_at=at[3]) for name in ("s4==", "s5==")))


def test_where_the_ledger_agrees(shop, clerk, api):
    shop.sale("s1==")
    api.add(sale("s1=="))
    done = clerk.run("reconcile", "gumroad", *SINCE)
    assert done.stdout == "gumroad since 2026-11-01: 1 charge and 0 other events compared; the ledger agrees\n"
    assert done.stderr == ""


def test_a_dry_run_tells_and_changes_nothing(shop, clerk, api):
    differ(shop, api)
    before = ledger(shop)
    done = clerk.run("reconcile", "gumroad", *SINCE, code=1)
    head, line, *rows, note, verdict = done.stdout.splitlines()
    assert head.split() == ["finding", "sale", "id", "email", "told", "repair"]
    assert set(line) == {"─"}
    assert [" ".join(row.split()) for row in rows] == [
        "paid without a license s1== ann@example.com sale 29.99 usd by --apply",
        "refunded but active s2== bob@example.com refund 29.99 usd by --apply",
        "amount differs s3== dan@example.com 29.99, here 19.99 by --apply",
    ]
    assert "nobody mapped G-ELSE== (2 sales)" in note
    assert verdict == (
        "gumroad since 2026-11-01: 5 charges and 1 other event compared; 1 paid without a license, 1 refunded but "
        "active, 1 told differently. Nothing was changed: --apply repairs 3"
    )
    assert ledger(shop) == before
    assert not list(shop.folder.glob("reconcile-*.jsonl"))


def test_apply_repairs_and_a_second_run_is_empty(shop, clerk, api):
    differ(shop, api)
    done = clerk.run("reconcile", "gumroad", *SINCE, "--apply")
    assert done.stdout.count(" repaired\n") == 3
    assert done.stdout.splitlines()[-1].endswith(
        "3 repaired; the ledger agrees now. Letters go out with the service's next request"
    )
    once = ledger(shop)
    done = clerk.run("reconcile", "gumroad", *SINCE, "--apply")
    assert done.stdout.splitlines()[-1].endswith("compared; the ledger agrees")
    assert ledger(shop) == once
    assert clerk.run("audit", "verify").stdout.endswith("the books are sound\n")


def test_for_programs(shop, clerk, api):
    differ(shop, api)
    done = clerk.run("reconcile", "gumroad", *SINCE, "--json", code=1)
    told = json.loads(done.stdout)
    assert (told["platform"], told["applied"], told["compared"], told["repaired"], told["left"]) == (
        "gumroad",
        False,
        6,
        0,
        3,
    )
    assert told["unmapped"] == [{"product": "G-ELSE==", "sales": 2}]
    assert told["findings"][2] == {
        "finding": "told differently",
        "field": "amount",
        "sale_id": "s3==",
        "email": "dan@example.com",
        "platform": "29.99",
        "ledger": "19.99",
        "license_keys": [],
        "repair": "by --apply",
    }
    done = clerk.run("reconcile", "gumroad", *SINCE, "--csv", "--apply")
    rows = done.stdout.splitlines()
    assert rows[0] == "finding,field,sale_id,email,platform,ledger,license_keys,repair"
    assert rows[1] == "paid without a license,,s1==,ann@example.com,sale 29.99 usd,,,repaired"
    assert done.stderr.splitlines()[-1].startswith("gumroad since 2026-11-01:")


def test_what_is_for_the_owner_to_decide_is_said_with_its_command(shop, clerk, api):
    key = shop.sale("forged\x1b[2J", **LONG_AGO)
    done = clerk.run("reconcile", "gumroad", *SINCE, "--apply", code=1)
    assert f"where nobody paid for it: scripts/licenses.py revoke {key}" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[-1].endswith("1 license without payment. 0 repaired; 1 left for you")
    assert shop.code(key) == "VALID"


def test_stripe_through_its_library(shop, owner):
    catalogue = {"products": {"wave": {"name": "Wave", "platform_ids": {"stripe": ["plink_wave"]}}}}
    shop.write_catalogue(catalogue)
    with StripeApi(wave()) as stripe:
        stripe.line_items["cs_live_1"] = [line_item("li", "prod_wave")]
        stripe.rate_limit(every=3)
        owner.settings |= {"STRIPE_SECRET_KEY": KEY, "STRIPE_WEBHOOK_SECRET": WHSEC, "STRIPE_API_BASE": stripe.url}
        owner.run("reconcile", "stripe", *SINCE, "--apply")
        assert "the ledger agrees" in owner.run("reconcile", "stripe", *SINCE).stdout
    assert [record["email"] for record in shop.licenses().values()] == ["ann@example.com"]


def test_from_a_file_of_a_platform_that_is_off(shop, owner, tmp_path):
    path = tmp_path / "record.csv"
    path.write_text("event,sale_id,email,product_id\nsale,s1==,ann@example.com,G-WAVE==\n")
    arguments = ["reconcile", "gumroad", *SINCE, "--from", str(path)]
    assert "paid without a license" in owner.run(*arguments, code=1, GUMROAD_WEBHOOK_SECRET="").stdout
    owner.run(*arguments, "--apply")
    assert [record["email"] for record in shop.licenses().values()] == ["ann@example.com"]


@pytest.mark.parametrize(
    ("arguments", "settings", "told"),
    [
        (["gumroad"], {}, "Missing option '--since'"),
        (["paypal", *SINCE], {}, f"'paypal' is not one of {', '.join(map(repr, sorted(PLATFORMS)))}"),
        (["gumroad", "--since", "yesterday"], {}, "--since: 'yesterday' is no day such as 2026-11-20"),
        (["gumroad", *SINCE, "--until", "2026-10-01"], {}, "--until: 2026-10-01 is before --since 2026-11-01"),
        (["stripe", *SINCE], {}, "stripe is off: its settings are missing (or name a file with --from)"),
        (["gumroad", *SINCE], {}, "GUMROAD_ACCESS_TOKEN is missing"),
        (["jvzoo", *SINCE], {"JVZOO_SECRET_KEY": "jvzoo-key-of-the-tests"}, "jvzoo has no API for this"),
        (["gumroad", *SINCE, "--from", "no/such.csv"], {}, "'no/such.csv' does not exist"),
    ],
)
def test_what_is_asked_wrongly_is_told_in_a_line(owner, arguments, settings, told):
    done = owner.run("reconcile", *arguments, code=2, **settings)
    assert told in " ".join(done.stderr.split())
    assert done.stdout == ""


def test_a_mistake_in_a_file_is_named_and_nothing_is_done(shop, owner, tmp_path):
    path = tmp_path / "record.csv"
    path.write_text("event,sale_id,price,currency\nsale,s1==,29.99,usd\nsale,s2==,much,usd\n")
    done = owner.run("reconcile", "gumroad", *SINCE, "--from", str(path), "--apply", code=2)
    assert done.stderr == "keyledger: record.csv row 3: price: 'much' is no amount such as 1234.50\n"
    assert ledger(shop) == b""


def test_a_platform_that_cannot_be_asked_is_no_agreement(shop, clerk, api):
    shop.sale("s1==", **LONG_AGO)
    api.token = "another"
    done = clerk.run("reconcile", "gumroad", *SINCE, code=1)
    assert done.stdout == ""
    assert done.stderr.startswith("keyledger: Gumroad refuses GUMROAD_ACCESS_TOKEN")
    assert TOKEN not in done.stderr


def test_it_goes_on_where_it_was_interrupted(shop, clerk, api):
    api.add(*(sale(f"s{n}==", created_at=WHEN.replace(minute=n)) for n in range(35)))
    page, answer = [], api.answer

    def slow(asked):
        page.append(asked)
        if len(page) == 3:
            time.sleep(30)
        return answer(asked)

    api.answer = slow
    command = [sys.executable, "scripts/reconcile.py", "gumroad", *SINCE, "--apply"]
    env = {"PATH": os.environ["PATH"]} | clerk.settings
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while len(page) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    api.asked.clear()
    done = clerk.run("reconcile", "gumroad", *SINCE, "--apply")
    assert done.stderr.startswith("keyledger: 2 pages were read at ")
    assert len(api.asked) == 2
    assert all("page_key" in path for path in api.asked)
    assert len(shop.licenses()) == 35
    assert not list(shop.folder.glob("reconcile-*.jsonl"))


def test_what_cannot_be_read_is_counted(shop, clerk, api):
    api.add(sale("s1=="), sale("s2==") | {"refunded": "perhaps"})
    shop.sale("s1==")
    done = clerk.run("reconcile", "gumroad", *SINCE)
    assert "1 objects of gumroad's record cannot be read and are left out" in done.stderr
    assert "the ledger agrees" in done.stdout


def test_a_running_service_sees_what_was_repaired(shop, clerk, api):
    api.add(sale("s1=="))
    clerk.run("reconcile", "gumroad", *SINCE, "--apply")
    told = shop.ping(sale_ping("s1==", "ann@example.com"))
    assert shop.code(told["license_keys"][0]) == "VALID"
    assert len(shop.ledger()) == 1
    assert SECRET not in json.dumps(shop.ledger())
