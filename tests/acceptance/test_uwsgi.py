"""Hosting without threads, with the code loaded before the fork: uWSGI as PythonAnywhere runs it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acceptance.servers import BINARIES, Server
from tests.conftest import sale_ping

pytest.importorskip("pyuwsgi")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    binary = str(BINARIES / "uwsgi")
    command = [binary, "--http-socket", "127.0.0.1:PORT", "--master", "--processes", "2", "--die-on-term"]
    command += ["--wsgi-file", "wsgi.py", "--virtualenv", str(BINARIES.parent), "--need-app"]
    running = Server(tmp_path / "data", command, OWNER_EMAIL="owner@shop.example").start()
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
        return server.owner("GET", "/outbox").json["summary"]["sent"] == 10

    assert server.until(all_sent)
