"""New code without a pause: what `./scripts/server` has become is told to reload, and to hand over to a new master,
while sales come in."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.servers import Server

SELLERS = 3


class Seller:
    """Sells, each sale by a connection of its own, until it is told to stop. Nothing is tried twice."""

    def __init__(self, server: Server) -> None:
        self._server, self._stop = server, threading.Event()
        self.keys: dict[str, str] = {}

    def sell(self, lane: int) -> None:
        number = 0
        while not self._stop.is_set():
            name = f"s{lane}-{number}"
            self.keys[name] = self._server.sale(name)
            number += 1

    @contextmanager
    def selling(self) -> Iterator[None]:
        with ThreadPoolExecutor(SELLERS) as pool:
            lanes = [pool.submit(self.sell, lane) for lane in range(SELLERS)]
            try:
                yield
            finally:
                self._stop.set()
        for lane in lanes:
            lane.result()  # raises what it met: a refused connection, a reset one, an answer other than 200


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "data", [sys.executable, "scripts/start.py"], WEB_CONCURRENCY="2")
    running.env["PORT"], running.expected = str(running.port), 2
    running.start()
    group = running.process.pid
    yield running
    os.killpg(group, signal.SIGKILL)  # the new master is in it, too
    running.process.wait(10)


def sold_meanwhile(server: Server, seller: Seller, number: int) -> None:
    before = len(seller.keys)
    assert server.until(lambda: len(seller.keys) >= before + number)


def assert_nothing_is_lost(server: Server, seller: Seller) -> None:
    assert sorted(line["sale_id"] for line in server.ledger()) == sorted(seller.keys)
    assert len(set(seller.keys.values())) == len(seller.keys)


def test_a_reload_under_load_refuses_nobody_and_loses_nothing(server):
    seller = Seller(server)
    with seller.selling():
        for _ in range(3):
            sold_meanwhile(server, seller, 5)
            old = set(server.workers())
            server.process.send_signal(signal.SIGHUP)
            assert server.until(
                lambda old=old: len(set(server.workers()) - old) == 2 and not old & set(server.workers())
            )
        sold_meanwhile(server, seller, 5)
    assert_nothing_is_lost(server, seller)


def test_a_new_master_takes_over_under_load(server):
    """For what a reload does not change: gunicorn itself, Python."""
    seller, old = Seller(server), set(server.workers())
    with seller.selling():
        sold_meanwhile(server, seller, 5)
        server.process.send_signal(signal.SIGUSR2)
        assert server.until(lambda: set(server.workers()) - old)
        (master,) = set(server.workers()) - old
        children = Path(f"/proc/{master}/task/{master}/children")
        assert server.until(lambda: len(children.read_text().split()) == 2)
        sold_meanwhile(server, seller, 5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        sold_meanwhile(server, seller, 5)
    assert_nothing_is_lost(server, seller)
