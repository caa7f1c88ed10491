"""Rate limits of the service as it is run: four workers, one limit."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acceptance.servers import Answer, Server

LIMIT = 60  # in an hour, so that nothing comes back while a test runs
FORGED = {"Content_Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "data", RATE_LIMIT=f"{LIMIT}/hour").start()
    yield running
    running.stop()


def validations(server: Server, key: str, number: int, **headers: str) -> list[Answer]:
    path = "/api/v1/licenses/validate"
    with ThreadPoolExecutor(12) as pool:
        return list(pool.map(lambda _: server.post(path, {"license_key": key}, **headers), range(number)))


def statuses(answers: list[Answer]) -> dict[int, int]:
    return dict(Counter(answer.status for answer in answers))


def test_all_workers_together_let_the_limit_through_exactly(server):
    answers = validations(server, server.sale("s1"), 3 * LIMIT)
    assert statuses(answers) == {200: LIMIT, 429: 2 * LIMIT}
    left = [int(answer.headers["X-RateLimit-Remaining"]) for answer in answers if answer.status == 200]
    assert (min(left), max(left)) == (0, LIMIT - 1)
    for answer in answers:
        assert answer.headers["X-RateLimit-Limit"] == str(LIMIT)
        if answer.status == 429:
            assert 1 <= int(answer.headers["Retry-After"]) <= 3600 // LIMIT
            assert answer.json["errors"][0]["code"] == "RATE_LIMITED"


def test_a_spoofed_header_gets_nothing_more(server):
    key = server.sale("s1")
    assert statuses(validations(server, key, LIMIT)) == {200: LIMIT}
    for spoofed in ("203.0.113.9", "127.0.0.1", "::1", "1.1.1.1, 2.2.2.2"):
        named = {"X_Forwarded_For": spoofed, "X_Real_IP": spoofed, "Forwarded": f"for={spoofed}"}
        assert statuses(validations(server, key, 3, **named)) == {429: 3}


def test_forged_webhooks_are_limited_while_sales_go_on(server):
    def forge(number: int) -> int:
        path = "/api/v1/webhooks/gumroad?secret=wrong-wrong-wrong"
        return server.call("POST", path, f"sale_id=f{number}".encode(), **FORGED).status

    with ThreadPoolExecutor(12) as pool:
        forged = pool.map(forge, range(LIMIT + 20))
        sales = list(pool.map(lambda number: server.sale(f"s{number}"), range(30)))
    assert Counter(forged) == {403: LIMIT, 429: 20}
    assert len(set(sales)) == len(server.ledger()) == 30


@pytest.mark.files
def test_a_table_that_is_cut_off_or_filled_with_garbage_kills_no_worker(server):
    """Mapped memory would: a page behind the end of its file is a SIGBUS."""
    key, workers = server.sale("s1"), server.workers()
    table = server.folder / "limits.table"
    for damage in (b"", b"\xff" * 1000, os.urandom(1 << 20)):
        validations(server, key, 3)
        table.write_bytes(damage)
        answers = validations(server, key, 2 * LIMIT)
        assert statuses(answers) == {200: LIMIT, 429: LIMIT}
    assert server.workers() == workers


@pytest.mark.files
def test_a_folder_in_the_tables_place_lets_everybody_in(tmp_path):
    (tmp_path / "data" / "limits.table").mkdir(parents=True)
    server = Server(tmp_path / "data", workers=1, RATE_LIMIT=f"{LIMIT}/hour").start()
    try:
        key = server.sale("s1")
        assert statuses(validations(server, key, 2 * LIMIT)) == {200: 2 * LIMIT}
        assert not server.get("/health").json["checks"]["limits"]["ok"]
    finally:
        server.stop()
