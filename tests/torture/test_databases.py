"""Two machines' applications on one database while workers, all of one, backends and the database are killed; and
connections that are cut at COMMIT, when nobody can know what became of it."""

from __future__ import annotations

import itertools
import json
import os
import random
import selectors
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from server.domain.license import Claim
from server.domain.order import Step
from server.errors import StorageUnavailable
from server.services.catalogue_file import CatalogueFile
from server.services.fulfilment import Fulfilment
from server.services.license_manager import LicenseManager
from server.storage import postgres
from server.storage.postgres import PostgresStore
from tests import databases
from tests.acceptance.servers import Answer, Server
from tests.conftest import sale_ping
from tests.databases import Cluster
from tests.storage.backroom import CATALOGUE, NOW, room_for, sale, sold
from tests.storage.counter import ordered
from tests.storage.order_book_contract import line
from tests.torture.account import Torture
from tests.torture.processes import Tell, together

CLIENTS, MACHINES, DELIVERIES, AGAIN = 6, 2, 6, 3000
SAFE = "max_connections=100 shared_buffers=32MB restart_after_crash=on"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A server of one's own, which may be killed."""
    with room_for() as room:
        room.chmod(0o755)
        with databases.cluster(room / "pg", SAFE) as made:
            yield made


def deployed(folder: Path, workers: int, url: str) -> Server:
    """As every one of our deployments starts it: `gunicorn.conf.py` knows which workers join others."""
    server = Server(folder, workers=workers, DATABASE_URL=url)
    server.command[1:1] = ["-c", "deployment/gunicorn.conf.py"]
    return server


class Machines:
    """Applications that share nothing but the database, and what is done to all of them."""

    def __init__(self, folder: Path, cluster: Cluster, every: int) -> None:
        self.cluster, self._every = cluster, every
        self.url = f"postgresql://postgres@/postgres?host={quote(str(cluster.home), safe='')}"
        made = [deployed(folder / f"machine{n}", 2, self.url) for n in range(MACHINES)]
        self.servers = [server.start() for server in made]
        self._chance, self._lock, self._count = random.Random(7), threading.Lock(), 0
        deeds = [self.kill_backend, self.kill_worker, self.kill_database, self.reload, self.kill_machine]
        self._deeds = itertools.cycle(deeds)
        self.done: Counter[str] = Counter()
        self.odd: list[Answer] = []

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def answered(self) -> None:
        with self._lock:
            self._count += 1
            if self._count % self._every == 0:
                deed = next(self._deeds)
                deed()
                self.done[deed.__name__.replace("_", " ")] += 1

    def kill_backend(self) -> None:
        with suppress(psycopg.Error, ProcessLookupError), psycopg.connect(self.url) as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'keyledger'"
            pids = [pid for (pid,) in connection.execute(query)]
            if pids:
                os.kill(self._chance.choice(pids), signal.SIGKILL)

    def kill_database(self) -> None:
        self.cluster.stop(signal.SIGKILL)
        (self.cluster.home / "data" / "postmaster.pid").unlink(missing_ok=True)
        self.cluster.start()

    def kill_worker(self) -> None:
        if workers := self._chance.choice(self.servers).workers():
            with suppress(ProcessLookupError):
                os.kill(self._chance.choice(workers), signal.SIGKILL)

    def kill_machine(self) -> None:
        """All of an application at once; meanwhile the other one is all that answers."""
        server = self._chance.choice(self.servers)
        server.kill()
        server.start()

    def reload(self) -> None:
        process = self._chance.choice(self.servers).process
        assert process is not None
        process.send_signal(signal.SIGHUP)

    def ask(self, number: int, ask: Callable[[Server], Answer]) -> Answer:
        """As a platform or an app does: again, at another machine too, until it is answered with a 200."""
        for again in range(AGAIN):
            with suppress(OSError, HTTPException):
                answer = ask(self.servers[(number + again) % MACHINES])
                if answer.status == 200:
                    self.answered()
                    return answer
                if answer.status != 503 or "Retry-After" not in answer.headers:
                    self.odd.append(answer)
        raise AssertionError("it was never answered")


@contextmanager
def machines(folder: Path, cluster: Cluster, every: int) -> Iterator[Machines]:
    running = Machines(folder, cluster, every)
    try:
        yield running
    finally:
        running.stop()


def test_two_machines_on_a_database_that_is_killed_lose_and_double_nothing(
    torture: Torture, tmp_path: Path, cluster: Cluster
) -> None:
    sales = [f"s{number}" for number in range(torture.of(30, 1500))]
    deliveries = sales * DELIVERIES
    random.Random(1).shuffle(deliveries)
    keys: dict[str, str] = {}
    with machines(tmp_path, cluster, 60) as running, ThreadPoolExecutor(CLIENTS) as clients:

        def deliver(given: tuple[int, str]) -> tuple[str, str, str]:
            number, sale_id = given
            ping = sale_ping(
                sale_id, "ann@example.com", "G-TEAM==", sale_timestamp=running.servers[0].today.isoformat()
            )
            key = running.ask(number, lambda server: server.ping(ping)).json["license_keys"][0]
            claim = {"license_key": key, "hardware_id": f"pc{number % 5}"}
            answer = running.ask(number + 1, lambda server: server.post("/api/v1/licenses/validate", claim)).json
            return sale_id, key, answer["code"]

        answers = clients.map(deliver, enumerate(deliveries))
        codes = Counter[str]()
        for sale_id, key, code in torture.each("deliveries to two machines", answers, len(deliveries)):
            assert keys.setdefault(sale_id, key) == key, "one sale has two keys"
            codes[code] += 1
        assert running.odd == [], [(answer.status, answer.body) for answer in running.odd[:3]]
        assert set(codes) <= {"VALID", "TOO_MANY_MACHINES"}, "trouble was told as an invalid license"
        assert len(running.done) == 5
        for deed, times in running.done.items():
            torture.tried(deed, times)
            assert times >= torture.of(1, 20)
    store = PostgresStore(running.url).open()
    assert [finding for finding in store.inspect() if not finding.is_note] == []
    lines = [one for _, batch in store.entries() for one in batch]
    assert Counter(one.sale_id for one in lines) == dict.fromkeys(sales, 1)
    licenses = dict(store.licenses())
    assert set(licenses) == set(keys.values())
    torture.tried("sales, each of them exactly one license", len(licenses))
    asking: dict[str, set[int]] = {}  # which devices asked for a seat of each, of two; chance may have sent but one
    for number, sale_id in enumerate(deliveries):
        asking.setdefault(sale_id, set()).add(number % 5)
    seats = {sale_id: licenses[key].devices_used for sale_id, key in keys.items()}
    assert seats == {sale_id: min(2, len(devices)) for sale_id, devices in asking.items()}, "seats"
    store.close()


def test_a_worker_that_is_replaced_while_the_database_is_away_ends_nobody(tmp_path: Path, cluster: Cluster) -> None:
    """gunicorn ends with a worker that refuses to start: nothing would answer any more when the database is back."""
    url = f"postgresql://postgres@/postgres?host={quote(str(cluster.home), safe='')}"
    server = deployed(tmp_path / "machine", 1, url).start()
    try:
        cluster.stop(signal.SIGKILL)
        os.kill(server.workers()[0], signal.SIGKILL)
        assert server.until(lambda: server.log.read_text().count("keyledger: DATABASE_URL: ") >= 2), "and tries again"
        (cluster.home / "data" / "postmaster.pid").unlink(missing_ok=True)
        cluster.start()
        assert server.until(lambda: server.get("/health").status == 200)
    finally:
        server.stop()


# ---------------------------------------------------------------------------------------------------- at COMMIT
class Proxy:
    """Stands before the database and cuts the next connection at its COMMIT: before it arrives, or when it was done."""

    def __init__(self, folder: Path, target: str) -> None:
        self._target = target
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / ".s.PGSQL.5433"))
        self._listening.listen(50)
        self.cuts: str | None = None  # "before" or "after"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._target)
        with client, server, selectors.DefaultSelector() as waiting, suppress(OSError):
            waiting.register(client, selectors.EVENT_READ)
            waiting.register(server, selectors.EVENT_READ)
            while True:
                for key, _ in waiting.select():
                    source = client if key.fileobj is client else server
                    data = source.recv(1 << 16)
                    if not data or self._cuts_here(data, source is client):
                        return
                    (server if source is client else client).sendall(data)

    def _cuts_here(self, data: bytes, is_question: bool) -> bool:
        """At the client's word, or at the server's answer that it is done, which nobody gets to hear."""
        if b"COMMIT" not in data or self.cuts != ("before" if is_question else "after"):
            return False
        self.cuts = None
        return True


class Room:
    """The back room of a shop whose database is behind the proxy."""

    def __init__(self, folder: Path, url: str, proxy: Proxy) -> None:
        (folder / "products.json").write_text(json.dumps(CATALOGUE))
        self.proxy, self.store = proxy, PostgresStore(url).open()
        catalogue = CatalogueFile(folder / "products.json")
        self.fulfilment = Fulfilment(self.store, catalogue, "license-secret-of-the-tests", lambda: NOW)
        self.licenses = LicenseManager(self.store, catalogue, self.fulfilment, lambda: NOW)

    def cut(self, when: str, deed: Callable[[], object]) -> None:
        self.proxy.cuts = when
        with pytest.raises(StorageUnavailable):
            deed()
        assert self.proxy.cuts is None, "nothing was committed at all"


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    with room_for() as folder:
        proxy = Proxy(folder, f"{databases.server()}/.s.PGSQL.5432")
        there = databases.url_for(tmp_path)
        url = there.replace(quote(databases.server(), safe=""), quote(str(folder), safe="")) + "&port=5433"
        made = Room(folder, url, proxy)
        yield made
        made.store.close()
        proxy.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_became_of_a_cut_commit_is_settled_by_the_same_request(room: Room, when: str) -> None:
    room.cut(when, lambda: room.fulfilment.record([sale("s1", "G-TEAM")]))
    assert room.store.state().ledger_lines == (when == "after")
    (entry,) = room.fulfilment.record([sale("s1", "G-TEAM")])
    key = entry.license_keys[0]
    assert room.store.state().ledger_lines == room.store.state().licenses == 1
    claim = Claim(hardware_id="pc")
    room.cut(when, lambda: room.licenses.validate(key, claim))
    verdict = room.licenses.validate(key, claim)
    assert (verdict.code, verdict.activated) == ("VALID", when == "before")
    assert len(room.store.device_lines(key)) == 1
    order = ordered()
    room.store.orders.place(order, NOW)
    room.cut(when, lambda: room.store.orders.note(line(order, Step.BEGUN)))
    assert room.store.orders.note(line(order, Step.BEGUN)) == (when == "before")
    assert [one.step for one in room.store.orders.find(order.order_id).lines] == [Step.PLACED, Step.BEGUN]


# ---------------------------------------------------------------------------------------------------- one at a time
def sells(url: str, worker: int) -> Callable[[Tell, Callable[[], None]], None]:
    def sell(tell: Tell, begin: Callable[[], None]) -> None:
        store = PostgresStore(url).open()
        store.state()
        begin()
        told = 0
        for number in range(25):
            with suppress(StorageUnavailable), store.transaction() as books:
                books.append([sold(worker * 1000 + number)])
                told += 1
        tell(told)

    return sell


def test_writers_on_all_machines_take_turns(tmp_path: Path) -> None:
    url = databases.url_for(tmp_path)
    PostgresStore(url).open().close()
    assert together(sells(url, worker) for worker in range(8)) == [[25]] * 8
    store = PostgresStore(url).open()
    assert (store.state().ledger_lines, store.state().licenses) == (200, 200)
    assert [one.seq for _, batch in store.entries() for one in batch] == list(range(1, 201))
    store.close()


def test_a_start_beside_writers_finds_the_books_whole(tmp_path: Path) -> None:
    """What it compares it has to see as it was at one moment."""
    url = databases.url_for(tmp_path)
    PostgresStore(url).open().close()

    def starts(tell: Tell, begin: Callable[[], None]) -> None:
        begin()
        for _ in range(150):
            PostgresStore(url).open().close()
        tell("done")

    writers = [sells(url, worker) for worker in range(4)]
    assert together([*writers, starts, starts]) == [[25]] * 4 + [["done"]] * 2


def test_mutant_without_the_locked_row_sales_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger's numbers still hold the chain together: who did not wait for his turn cannot write."""
    url = databases.url_for(tmp_path)
    PostgresStore(url).open().close()
    monkeypatch.setattr(postgres, "_LOCK", postgres._LOCK.replace("FOR UPDATE", ""))
    told = sum(numbers[0] for numbers in together(sells(url, worker) for worker in range(8)))
    store = PostgresStore(url).open()
    assert store.state().ledger_lines < 200
    assert told > store.state().ledger_lines or told < 200
    store.close()
