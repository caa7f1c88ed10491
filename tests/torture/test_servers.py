"""Real servers under load: clients deliver each sale again and again while workers are killed and told to reload."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from tests.acceptance.servers import Server
from tests.storage.backroom import chain
from tests.torture.account import Torture

CLIENTS, WORKERS, DELIVERIES = 8, 4, 10
AGAIN = 200  # times that a delivery is tried: a platform goes on for days


class Chaos:
    """Kills a worker, or tells the master to reload, each time so many deliveries were answered."""

    def __init__(self, server: Server, every: int) -> None:
        self._server, self._every = server, every
        self._chance, self._lock, self._count = random.Random(4), threading.Lock(), 0
        self.kills = self.reloads = 0

    def answered(self) -> None:
        with self._lock:
            self._count += 1
            if self._count % self._every == 0:
                self._strike()

    def _strike(self) -> None:
        assert self._server.process is not None
        if self._chance.random() < 0.2:
            self._server.process.send_signal(signal.SIGHUP)
            self.reloads += 1
        elif workers := self._server.workers():
            with suppress(ProcessLookupError):
                os.kill(self._chance.choice(workers), signal.SIGKILL)
                self.kills += 1


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder, workers=WORKERS).start()
    try:
        yield server
    finally:
        server.stop()


def delivered(server: Server, sale_id: str, chaos: Chaos) -> tuple[str, str]:
    """As a platform does it: again until it is answered with a 2xx. The key is then known to every worker."""
    for _ in range(AGAIN):
        with suppress(OSError, HTTPException, AssertionError):  # a refusal is one that `sale` asserts against
            key = server.sale(sale_id)
            chaos.answered()
            return sale_id, key
    raise AssertionError(f"{sale_id} was never answered")


def known(server: Server, key: str) -> str:
    for _ in range(AGAIN):
        with suppress(OSError, HTTPException):
            return server.code(key)
    raise AssertionError("it was never answered")


def test_each_sale_is_one_license_whatever_happens_to_the_workers(torture: Torture, tmp_path: Path) -> None:
    sales = [f"s{client}-{n}" for client in range(CLIENTS) for n in range(torture.of(5, 500))]
    deliveries = sales * DELIVERIES
    random.Random(1).shuffle(deliveries)
    keys: dict[str, str] = {}
    with serving(tmp_path / "data") as server, ThreadPoolExecutor(CLIENTS) as clients:
        chaos = Chaos(server, torture.of(100, 250))

        def deliver(sale_id: str) -> tuple[str, str]:
            told = delivered(server, sale_id, chaos)
            if sale_id not in keys:
                assert known(server, told[1]) == "VALID", "a worker does not know what another one has acknowledged"
            return told

        answers = clients.map(deliver, deliveries)
        for sale_id, key in torture.each(
            f"deliveries by {CLIENTS} clients to {WORKERS} workers", answers, len(deliveries)
        ):
            assert keys.setdefault(sale_id, key) == key, "one sale has two keys"
    torture.tried("workers killed meanwhile", chaos.kills)
    torture.tried("reloads meanwhile", chaos.reloads)
    assert chaos.kills >= torture.of(1, 100)
    assert len(set(keys.values())) == len(sales)
    torture.tried("sales, each of them exactly one license", len(server.licenses()))
    assert set(server.licenses()) == set(keys.values())
    lines = chain(tmp_path / "data" / "purchases.jsonl")
    assert Counter(line["sale_id"] for line in lines) == dict.fromkeys(sales, 1)
