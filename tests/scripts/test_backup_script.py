"""backup.py as the owner runs it, beside a server too."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.acceptance.servers import Server


@pytest.fixture
def made(shop, owner) -> Path:
    shop.sale("s1")
    shop.services.store.tidy(force=True)
    return Path(owner.json("backup", "create")["file"])


def test_create_verify_restore(shop, owner, tmp_path, made):
    assert made.parent == tmp_path / "data-backups"
    assert {file["name"] for file in owner.json("backup", "verify", str(made))["files"]} >= {"purchases.jsonl"}
    done = owner.json("backup", "restore", str(made), "--to", str(tmp_path / "new"))
    assert (done["folder"], done["aside"]) == (str(tmp_path / "new"), None)
    assert (tmp_path / "new" / "purchases.jsonl").read_bytes() == (shop.folder / "purchases.jsonl").read_bytes()
    owner.run("audit", "verify", DATA_DIR=str(tmp_path / "new"))


def test_it_says_what_is_not_in_it_and_what_comes_next(shop, owner, made, tmp_path):
    said = owner.run("backup", "create").stdout
    assert "Not in it: .env" in said
    assert "LICENSE_SECRET" in said
    assert "sound" in said
    said = owner.run("backup", "restore", str(made), "--to", str(tmp_path / "new"), JVZOO_SECRET_KEY="k").stdout
    steps = said.partition("Next:\n")[2].splitlines()
    assert [step.strip() for step in steps][:2] == [f"set DATA_DIR={tmp_path}/new", "./scripts/server"]
    assert "reconcile.py gumroad --since 20" in said
    assert "reconcile.py jvzoo --since 20" in said
    assert "stripe" not in said


def test_what_comes_next_can_be_run_as_it_stands(shop, owner, made, tmp_path):
    done = owner.json("backup", "restore", str(made), "--to", str(tmp_path / "new"))
    (step,) = [step for step in done["next"] if "reconcile" in step]
    _, script, *arguments = shlex.split(step, comments=True)
    asked = owner.run(Path(script).stem, *arguments, code=2, DATA_DIR=str(tmp_path / "new"))
    assert "GUMROAD_ACCESS_TOKEN is missing" in asked.stderr  # so all else of the command was understood


def test_a_ledger_is_not_overwritten(shop, owner, made):
    refused = owner.run("backup", "restore", str(made), code=1)
    assert "--force" in refused.stderr


def test_a_folder_that_is_being_served_is_refused(tmp_path, owner, made):
    server = Server(tmp_path / "served", workers=1).start()
    try:
        server.sale("s9")
        path = owner.json("backup", "create", DATA_DIR=str(server.folder))["file"]
        refused = owner.run("backup", "restore", path, "--force", code=1, DATA_DIR=str(server.folder))
        assert "stop the server" in refused.stderr
        assert server.sale("s9")
    finally:
        server.stop()
    done = owner.json("backup", "restore", path, "--force", DATA_DIR=str(server.folder))
    assert Path(done["aside"], "purchases.jsonl").exists()


def test_rotation(owner, made):
    assert owner.json("backup", "create", "--keep", "1")["removed"] == [str(made)]
    assert owner.run("backup", "create", "--keep", "0", code=2)


def test_a_damaged_backup_is_refused_with_exit_code_one(shop, owner, made):
    whole = made.read_bytes()
    made.write_bytes(whole[: len(whole) // 2])
    assert "cut off" in owner.run("backup", "verify", str(made), code=1).stderr
    told = json.loads(owner.run("backup", "verify", str(made), "--json", code=1).stdout)
    assert (told["sound"], len(told["findings"])) == (False, 1)
    assert "cut off" in owner.run("backup", "restore", str(made), "--to", str(shop.folder / "new"), code=1).stderr
    assert not (shop.folder / "new").exists()


def test_damaged_books_are_backed_up_and_told(shop, owner, made):
    ledger = shop.folder / "purchases.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b"Jane", b"Jean"))
    said = owner.run("backup", "create", "--keep", "1", code=1).stdout
    assert "WRONG: purchases.jsonl" in said
    assert made.exists()


def test_a_folder_without_a_ledger(owner, tmp_path):
    assert "nothing was sold" in owner.run("backup", "create", code=1, DATA_DIR=str(tmp_path)).stderr
