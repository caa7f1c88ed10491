"""The owner's scripts on PostgreSQL: the backup and its drill, the inspection, the check-up, the rebuilding."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests import databases
from tests.conftest import CATALOGUE, SECRET, Clock, Shop
from tests.scripts.conftest import Desk

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    folder = tmp_path / "data"
    selling = Shop(folder, Clock(), database_url=databases.url_for(folder))
    keys = [selling.sale(f"s{number}") for number in range(5)]
    selling.refund("s1")
    selling.code(keys[0], hardware_id="pc")
    selling.services.store.tidy(force=True)
    return selling


@pytest.fixture
def run(shop: Shop, desk: Desk) -> Run:
    def run(script: str, *arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        told = {
            "PATH": os.environ["PATH"],
            "ENV_FILE": os.devnull,
            "SECRET_KEY": "secret-key-of-the-tests",
            "LICENSE_SECRET": "license-secret-of-the-tests",
            "DATA_DIR": str(shop.folder),
            "DATABASE_URL": databases.url_for(shop.folder),
            "GUMROAD_WEBHOOK_SECRET": SECRET,
        } | env
        done = desk.ask(script, arguments, told)
        assert done.returncode == code, (done.stdout[-2000:], done.stderr[-2000:])
        assert "Traceback" not in done.stderr
        assert told["DATABASE_URL"] not in done.stdout + done.stderr
        return done

    return run


def test_a_backup_is_made_checked_and_put_into_an_empty_database(shop: Shop, run: Run, tmp_path: Path) -> None:
    made = json.loads(run("backup", "create", "--json").stdout)
    assert made["sound"]
    assert {file["name"] for file in made["files"]} >= {"purchases.jsonl", "licenses.json", "products.json"}
    assert json.loads(run("backup", "verify", made["file"], "--json").stdout)["sound"]
    refused = run("backup", "restore", made["file"], code=1).stderr
    assert "holds books already" in refused
    empty = databases.url_for(tmp_path / "drill")
    said = run("backup", "restore", made["file"], DATABASE_URL=empty, DATA_DIR=str(tmp_path / "there" / "data")).stdout
    assert "The database is now as it was at" in said
    assert json.loads((tmp_path / "there" / "data" / "products.json").read_text()) == CATALOGUE
    assert databases.licenses(tmp_path / "drill") == databases.licenses(shop.folder)
    assert databases.ledger(tmp_path / "drill") == databases.ledger(shop.folder)
    files = str(tmp_path / "files")
    run("backup", "restore", made["file"], "--to", files)
    assert (Path(files) / "purchases.jsonl").read_bytes().count(b"\n") == len(databases.ledger(shop.folder))


def test_the_audit_names_what_is_wrong(shop: Shop, run: Run) -> None:
    assert "6" in run("audit", "stats", "--json").stdout
    run("audit", "verify")
    with psycopg.connect(databases.url_for(shop.folder)) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE ledger SET line = replace(line, 'Jane', 'June') WHERE seq = 3")
    assert "ledger line 3: was changed" in run("audit", "verify", code=1).stdout


def test_the_check_up_looks_at_the_database(run: Run) -> None:
    said = run("doctor", code=1).stdout  # the tests' database has fsync off
    assert "database answers: PostgreSQL 18" in said
    assert "database durability: fsync and full_page_writes off" in said
    assert "database schema: its schema is 1" in said
    away = "postgresql://postgres@127.0.0.1:1/postgres"
    assert "database answers: the database cannot be reached" in run("doctor", code=1, DATABASE_URL=away).stdout


def test_the_licenses_are_made_anew(shop: Shop, run: Run) -> None:
    before = databases.licenses(shop.folder)
    with psycopg.connect(databases.url_for(shop.folder)) as connection:
        connection.execute("DELETE FROM name")
        connection.execute("DELETE FROM license WHERE key <> %s", (next(iter(before)),))
    assert run("licenses", "rebuild").stdout == "5 licenses\n"
    after = databases.licenses(shop.folder)
    for key, one in before.items():
        assert (after[key]["is_active"], after[key]["hardware_id"]) == (one["is_active"], one["hardware_id"])
    assert [one for one in after.values() if one["hardware_id"] == "pc"]
    assert run("audit", "verify").returncode == 0


def test_scripts_say_what_is_missing(run: Run, tmp_path: Path) -> None:
    empty = databases.url_for(tmp_path / "never started")
    refused = run("audit", "stats", code=3, DATABASE_URL=empty)
    assert "the database has no tables of Keyledger's" in refused.stderr
