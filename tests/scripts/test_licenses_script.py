"""licenses.py as the owner runs it: every verb, exit codes, and imports that are whole or not at all."""

from __future__ import annotations

import csv
import fcntl
import io
import json

import pytest

from tests.conftest import CATALOGUE, sale_ping
from tests.scripts.conftest import Owner

ANN = ("--email", "ann@example.com", "--name", "Ann")
HEADING = "license_key,email,customer_name,product_id\n"


@pytest.fixture
def key(owner):
    """A license that the owner issued, of a product with a duration."""
    return owner.json("licenses", "issue", *ANN, "--product", "team")["license_key"]


def test_issue_shows_what_was_issued(shop, owner):
    made = owner.json("licenses", "issue", *ANN, "--product", "team", "--lifetime", "--devices", "5", "--note", "press")
    assert (made["email"], made["product_id"], made["expiry_date"], made["max_devices"], made["status"]) == (
        "ann@example.com",
        "team",
        None,
        5,
        "active",
    )
    assert shop.code(made["license_key"]) == "VALID"
    assert shop.ledger()[0]["note"] == "press"
    assert shop.licenses().keys() == {made["license_key"]}


def test_issue_of_a_bundle_shows_each_license(owner):
    made = owner.json("licenses", "issue", *ANN, "--product", "studio")
    assert [one["product_id"] for one in made] == ["wave", "team"]


def test_show_by_key_and_by_id(owner, key):
    shown = owner.json("licenses", "show", key.lower())
    assert shown == owner.json("licenses", "show", shown["id"])
    told = owner.run("licenses", "show", key).stdout
    assert told.startswith(f"active: {key}\n")
    assert "ann@example.com" in told


def test_the_verbs(shop, owner, key):
    assert owner.json("licenses", "suspend", key, "--note", "why")["inactive_reason"] == "suspended"
    assert shop.code(key) == "SUSPENDED"
    assert owner.json("licenses", "reinstate", key)["status"] == "active"
    assert owner.json("licenses", "extend", key, "--until", "2099-01-05")["expiry_date"] == "2099-01-05T23:59:59Z"
    assert owner.json("licenses", "extend", key, "--days", "1")["expiry_date"] == "2099-01-06T23:59:59Z"
    assert owner.json("licenses", "extend", key)["expiry_date"] == "2099-02-05T23:59:59Z"
    assert owner.json("licenses", "transfer", key, "eve@example.com", "--name", "Eve")["customer_name"] == "Eve"
    shop.code(key, hardware_id="hw1")
    assert owner.json("licenses", "show", key)["seats"] == "1 of 2"
    assert owner.json("licenses", "reset-devices", key)["seats"] == "0 of 2"
    new = owner.json("licenses", "reissue", key)
    assert new["license_key"] != key
    assert (shop.code(key), shop.code(new["license_key"])) == ("BANNED", "VALID")
    assert owner.json("licenses", "revoke", new["license_key"])["status"] == "banned"
    assert [line["event"] for line in shop.ledger()] == [
        "owner_issue",
        "owner_suspend",
        "owner_reinstate",
        "owner_extend",
        "owner_extend",
        "owner_extend",
        "owner_transfer",
        "owner_reissue",
        "owner_revoke",
    ]


def test_list_and_its_filters(shop, owner, key):
    sold = shop.sale("s1", "bob@example.com")
    assert {row["license_key"] for row in owner.json("licenses", "list")} == {key, sold}
    for filters in (["--email", " BOB@example.com"], ["--product", "wave"], ["--purchase-id", "s1"]):
        assert [row["license_key"] for row in owner.json("licenses", "list", *filters)] == [sold]
    assert owner.json("licenses", "list", "--status", "banned") == []
    rows = list(csv.DictReader(io.StringIO(owner.run("licenses", "list", "--csv").stdout)))
    assert {row["email"] for row in rows} == {"ann@example.com", "bob@example.com"}
    assert sold in owner.run("licenses", "list").stdout


def test_resend_queues_a_letter(shop, owner, key):
    assert owner.run("licenses", "resend", key).stdout == "queued for ann@example.com\n"
    assert [letter.kind for letter in shop.services.outbox.list()] == ["delivery"]


def test_rebuild(shop, owner, key):
    (shop.folder / "licenses.json").unlink()
    assert owner.run("licenses", "rebuild").stdout == "1 licenses\n"
    assert key in (shop.folder / "licenses.json").read_text()


# ---------------------------------------------------------------------------------------------------- fulfil
def test_fulfil_issues_what_is_mapped_by_now_and_tells_why_the_rest_waits(shop, owner):
    shop.ping(sale_ping("u1", "ann@example.com", "NEW=="))
    shop.ping(sale_ping("u2", "bob@example.com", "OTHER=="))
    shop.ping(sale_ping("p1", "eve@example.com", is_preorder_authorization="true"))
    wave = CATALOGUE["products"]["wave"] | {"platform_ids": {"gumroad": ["G-WAVE==", "NEW=="]}}
    shop.write_catalogue(CATALOGUE | {"products": CATALOGUE["products"] | {"wave": wave}})
    found = {row["sale_id"]: row for row in owner.json("licenses", "fulfil")}
    assert (found["u1"]["outcome"], found["u1"]["why"]) == ("issued", None)
    assert shop.code(found["u1"]["license_keys"][0]) == "VALID"
    assert (found["u2"]["outcome"], found["u2"]["license_keys"]) == ("unmapped", [])
    assert found["u2"]["why"] == "products.json maps none of OTHER==, WAVE, wave for gumroad"
    assert found["p1"]["why"].startswith("the card is authorised")
    assert [row["sale_id"] for row in owner.json("licenses", "fulfil")] == ["u2", "p1"]
    assert owner.json("audit", "stats")["total_purchases"] == 2


def test_fulfil_of_one_sale_with_what_the_owner_knows(shop, owner):
    shop.ping(sale_ping("u1", "typo@example.con", "NEW=="))
    mended = ("--email", "ann@example.com", "--name", "Ann", "--product", "team")
    (made,) = owner.json("licenses", "fulfil", "u1", *mended)
    assert (made["outcome"], made["email"]) == ("issued", "ann@example.com")
    record = shop.licenses()[made["license_keys"][0]]
    assert (record["customer_name"], record["product_id"], record["purchase_id"]) == ("Ann", "team", "u1")
    line = shop.ledger()[-1]
    assert (line["event"], line["revision"], line["product_id"], line["tier"]) == ("owner_fulfil", 1, "team", "elite")
    again = owner.run("licenses", "fulfil", "u1", code=1)
    assert again.stderr == "keyledger: no sale of the id 'u1' waits for a license\n"


def test_fulfil_of_a_named_sale_that_still_waits_exits_with_one(shop, owner):
    shop.ping(sale_ping("u1", "ann@example.com", "NEW=="))
    (tried,) = owner.json("licenses", "fulfil", "u1:sale:false", code=1)
    assert tried["outcome"] == "unmapped"


def test_fulfil_of_a_sale_whose_words_may_be_the_buyers_needs_an_address(shop, owner):
    shop.ping(sale_ping("s1", "evil@example.com", **{"custom_fields[email]": "evil@example.com"}))
    held = shop.ledger()[0]["event_id"]
    done = owner.run("licenses", "fulfil", held, code=1)
    assert done.stderr == "keyledger: email: the sale names none; say who gets the license\n"
    assert owner.json("licenses", "fulfil")[0]["why"].startswith("your custom field email hides Gumroad's own")
    (made,) = owner.json("licenses", "fulfil", held, "--email", "ann@example.com", "--name", "Ann")
    assert (made["outcome"], made["email"]) == ("issued", "ann@example.com")


def test_nothing_waits(shop):
    assert Owner(shop.folder).run("licenses", "fulfil").stdout == "no sale waits for a license\n"


# ---------------------------------------------------------------------------------------------------- import
def test_import_tells_what_it_did(shop, owner, tmp_path):
    path = tmp_path / "old.csv"
    path.write_text(HEADING + "OLD-1,ann@example.com,Ann,wave\nOLD-2,bob@example.com,Bob,team\n")
    assert owner.json("licenses", "import", str(path), "--dry-run")["new"] == 2
    assert shop.ledger() == []
    assert owner.run("licenses", "import", str(path)).stdout == "2 imported, 0 were here already\n"
    assert json.loads((shop.folder / "licenses.json").read_text())["licenses"].keys() == {"OLD-1", "OLD-2"}
    assert owner.run("licenses", "import", str(path)).stdout == "0 imported, 2 were here already\n"
    assert len(shop.ledger()) == 2
    assert owner.run("audit", "verify").stdout == "the books are sound\n"


def test_an_import_with_a_bad_row_writes_nothing_unless_told_to(shop, owner, tmp_path):
    path = tmp_path / "old.csv"
    path.write_text(HEADING + "OLD-1,ann@example.com,Ann,wave\n,bob@example.com,Bob,team\n")
    done = owner.run("licenses", "import", str(path), code=1)
    assert "row 3: license_key: is missing" in done.stderr
    assert shop.ledger() == []
    assert owner.run("licenses", "import", str(path), "--skip-bad").stdout == "1 imported, 0 were here already\n"
    assert len(shop.ledger()) == 1


def test_import_of_the_older_two_files(shop, owner, tmp_path):
    record = {"email": "ann@example.com", "customer_name": "Ann", "created_date": "2024-01-05T10:00:00"}
    record |= {"expiry_date": None, "is_active": True, "hardware_id": "hw1", "device_name": "Mac"}
    record |= {"last_validation": None, "validation_count": 0, "purchase_source": "gumroad", "purchase_id": "G1"}
    (tmp_path / "licenses.json").write_text(json.dumps({"OLD-1": record}))
    line = {"source": "gumroad", "sale_id": "G1", "price": "29.99", "currency": "usd", "license_key": "OLD-1"}
    (tmp_path / "purchases.jsonl").write_text(json.dumps(line) + "\n")
    assert owner.json("licenses", "import", str(tmp_path), "--product", "wave")["imported"] == 1
    assert shop.code("OLD-1", hardware_id="hw1") == "VALID"
    assert owner.json("audit", "stats")["total_revenue"] == {"usd": "29.99"}


def test_an_import_of_the_servers_own_files_is_refused(shop, owner):
    shop.sale("s1")
    shop.services.store.tidy(force=True)
    for path in (shop.folder, shop.folder / "licenses.json"):
        assert "this server's own files" in owner.run("licenses", "import", str(path), code=2).stderr


# ---------------------------------------------------------------------------------------------------- what goes wrong
@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (["show", "nonsense"], 1, "there is no such license"),
        (["issue", *ANN, "--product", "nonsense"], 1, "there is no product 'nonsense' in products.json"),
        (["issue", *ANN, "--product", "team", "--days", "1", "--lifetime"], 2, "contradict"),
        (["issue", "--email", "nonsense", "--name", "A"], 2, "no valid e-mail address"),
        (["issue", "--email", "a@b.de, c@d.de", "--name", "A"], 2, "no valid e-mail address"),
        (["fulfil", "--product", "team"], 2, "are for one sale: name it"),
        (["import", "/nowhere/at/all.csv"], 2, "does not exist"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_what_goes_wrong_is_told_with_its_exit_code(owner, command, code, told):
    done = owner.run("licenses", *command, code=code)
    assert told in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""


@pytest.mark.slow  # it waits for the lock as a patient owner does
def test_a_folder_that_cannot_be_written_exits_with_three(shop, owner):
    shop.sale("s1")
    with (shop.folder / "folder.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = owner.run("licenses", "issue", *ANN, "--product", "wave", code=3)
    assert "keyledger: folder.lock is held by another process" in done.stderr.splitlines()
    assert len(shop.ledger()) == 1
