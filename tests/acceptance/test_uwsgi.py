"""Hosting without threads, with the code loaded before the fork: uWSGI as PythonAnywhere runs it, by the WSGI file that
is put there, in the home of somebody whose checkout is ~/keyledger."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.servers import BINARIES, ROOT, Server
from tests.conftest import OWNER_KEY, sale_ping
from tests.standins.gumroad_api import TOKEN, WHEN, GumroadApi, sale

pytest.importorskip("pyuwsgi")


def pythonanywhere(tmp_path: Path, **settings: str) -> Server:
    (tmp_path / "keyledger").symlink_to(ROOT)
    binary, wsgi_file = str(BINARIES / "uwsgi"), str(ROOT / "deployment" / "pythonanywhere" / "wsgi.py")
    command = [binary, "--http-socket", "127.0.0.1:PORT", "--master", "--processes", "2", "--die-on-term"]
    command += ["--wsgi-file", wsgi_file, "--virtualenv", str(BINARIES.parent), "--need-app"]
    return Server(tmp_path / "data", command, OWNER_EMAIL="owner@shop.example", **settings)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = pythonanywhere(tmp_path).start()
    yield running
    running.stop()


def test_sales_seats_and_letters_work_without_threads(server):
    with ThreadPoolExecutor(6) as pool:
        keys = list(pool.map(server.sale, [f"s{number % 10}" for number in range(60)]))
    assert len(set(keys)) == 10
    with ThreadPoolExecutor(6) as pool:
        codes = list(pool.map(lambda number: server.code(keys[0], hardware_id=f"hw{number}"), range(20)))
    assert sorted(codes) == ["TOO_MANY_MACHINES"] * 19 + ["VALID"]

    def is_tidy() -> bool:
        server.get("/health")  # the next request does what a thread would have done
        return set(server.licenses()) == set(keys)

    assert server.until(is_tidy)

    def all_sent() -> bool:
        server.ping(sale_ping("s0", "ann@example.com"))
        return server.owner("GET", "/outbox").json["summary"]["sent"] >= 10  # and one that all seats are taken

    assert server.until(all_sent)


def test_what_is_counted_is_of_both_workers_although_nothing_runs_beside_requests(server):
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(server.sale, [f"s{number}" for number in range(40)]))

    def counted() -> bool:
        metrics = server.call("GET", "/metrics", Authorization=f"Bearer {OWNER_KEY}").body.decode()
        with ThreadPoolExecutor(6) as pool:  # so that each worker has a request, with which it leaves what it counted
            list(pool.map(lambda _: server.get("/health"), range(12)))
        return 'keyledger_webhooks_total{outcome="issued",platform="gumroad"} 40.0' in metrics.replace(
            'platform="gumroad",outcome="issued"', 'outcome="issued",platform="gumroad"'
        )

    assert server.until(counted)


def test_scheduled_tasks_ask_the_service_over_http(tmp_path):
    """As PythonAnywhere runs them: on another machine than the service, so they must not touch the files."""
    with GumroadApi() as api:
        token = {"GUMROAD_ACCESS_TOKEN": TOKEN, "GUMROAD_API_BASE": api.url}
        server = pythonanywhere(tmp_path, **token).start()
        api.add(*(sale(f"s{number}==", created_at=WHEN.replace(minute=number)) for number in range(12)))
        try:
            told = task(server, "reconcile", "gumroad", "--since", "2026-11-01", "--apply")
            assert (told["state"], told["repaired"], told["left"]) == ("done", 12, 0)
            assert task(server, "outbox", "send")["failed"] == 0
            assert server.owner("GET", "/outbox").json["summary"]["sent"] == 12
        finally:
            server.stop()


def task(server: Server, script: str, *arguments: str) -> dict[str, Any]:
    elsewhere = server.folder.parent / "elsewhere"
    command = [str(BINARIES / "python"), str(ROOT / "scripts" / f"{script}.py"), *arguments, "--json"]
    url, env = ["--url", f"http://127.0.0.1:{server.port}"], server.env | {"DATA_DIR": str(elsewhere)}
    done = subprocess.run([*command, *url], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert not elsewhere.exists()
    return dict(json.loads(done.stdout))
