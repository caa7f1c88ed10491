"""`scripts/migrate.py`: as the owner runs it, beside a server that goes on selling."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.bench_parts.shops import build_shop
from tests import databases
from tests.acceptance.servers import Server
from tests.conftest import sale_ping
from tests.scripts.conftest import Desk

LOGS = ("purchases.jsonl", "activity.jsonl")


Migrate = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def migrate(desk: Desk) -> Migrate:
    def migrate(folder: Path, url: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": os.environ["PATH"],
            "ENV_FILE": os.devnull,
            "SECRET_KEY": "secret-key-of-the-tests",
            "LICENSE_SECRET": "license-secret-of-the-tests",
            "DATA_DIR": str(folder),
        } | ({"DATABASE_URL": url} if url else {})
        return desk.ask("migrate", arguments, env)

    return migrate


@pytest.mark.parametrize("licenses", [200, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_shop_is_moved_there_and_back_and_is_the_same(tmp_path, migrate, licenses):
    folder = build_shop(tmp_path / "data", licenses).folder
    url, before = databases.url_for(folder), [(folder / name).read_bytes() for name in LOGS]
    there = migrate(folder, url, "to-postgres", "--json")
    assert there.returncode == 0, there.stderr
    told = json.loads(there.stdout)
    assert (told["licenses"], told["ledger_lines"], told["device_lines"], told["equal"]) == (licenses,) * 3 + (True,)
    back = migrate(folder, url, "to-files", "--json")
    assert back.returncode == 0, back.stderr
    again = json.loads(back.stdout)
    assert (again["head"], again["licenses"]) == (told["head"], licenses)
    assert [(folder / name).read_bytes() for name in LOGS] == before


def test_the_owner_is_told_what_to_do_next(tmp_path, migrate):
    folder = build_shop(tmp_path / "data", 3).folder
    url = databases.url_for(folder)
    there = migrate(folder, url, "to-postgres")
    assert "3 lines of the ledger, 3 of devices, 0 of orders, 3 licenses" in there.stdout
    assert "Restart with DATABASE_URL." in there.stdout
    assert "Restart without DATABASE_URL." in migrate(folder, url, "to-files").stdout
    assert url not in there.stdout + there.stderr


@pytest.mark.parametrize(
    ("url", "code", "told"),
    [
        (None, 2, "DATABASE_URL is missing"),
        ("postgresql://postgres@127.0.0.1:1/shop", 2, "DATABASE_URL: the database cannot be used"),
        ("mysql://localhost/shop", 2, "DATABASE_URL is no postgresql://"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, migrate, url, code, told):
    folder = build_shop(tmp_path / "data", 3).folder
    done = migrate(folder, url, "to-postgres")
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"keyledger: {told}")
    assert done.stderr.count("\n") == 1
    other = migrate(folder, databases.url_for(folder), "to-files")
    assert (other.returncode, "holds a ledger that was not moved" in other.stderr) == (1, True)


def test_a_server_that_runs_meanwhile_refuses_sales_until_it_is_restarted(tmp_path, migrate):
    server = Server(tmp_path / "data", workers=2, DATABASE_URL="").start()
    try:
        key = server.sale("s1")
        url = databases.url_for(server.folder)
        assert migrate(server.folder, url, "to-postgres").returncode == 0
        refused = server.ping(sale_ping("s2", "ann@example.com"))
        assert (refused.status, "Retry-After" in refused.headers) == (503, True)
        assert server.code(key) == "VALID"
        assert server.get("/health").status == 503
        server.stop()
        server.env["DATABASE_URL"] = url
        server.start()
        assert server.code(key) == "VALID"
        assert server.sale("s2") != key  # the platform came again
        assert server.get("/health").json["storage"] == "postgresql"
    finally:
        server.stop()
