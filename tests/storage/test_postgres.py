"""What is PostgreSQL's own: how a start goes, what the database itself holds, what is done when it is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from server.domain.purchase import Entry, EventKind, Grant
from server.domain.rate import Rate
from server.errors import Contended, DamagedFile, StartRefused, StorageUnavailable
from server.storage import postgres, postgres_link
from server.storage.base import retried
from server.storage.postgres import PostgresStore
from tests import databases
from tests.storage.backroom import NOW, device_line, entry, letter, sold
from tests.torture.processes import Child, Tell, together


@pytest.fixture
def url(tmp_path: Path) -> str:
    return databases.url_for(tmp_path)


@pytest.fixture
def open_one(url: str) -> Iterator[Callable[..., PostgresStore]]:
    stores: list[PostgresStore] = []

    def make(**more: str) -> PostgresStore:
        stores.append(PostgresStore(url + "".join(f"&{key}={quote(value)}" for key, value in more.items())).open())
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def keep(store: PostgresStore, *entries: Entry) -> None:
    with store.transaction() as books:
        books.append(entries)


def run(url: str, command: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(command)


# ---------------------------------------------------------------------------------------------------- the start
def test_eight_processes_make_the_tables_once(url):
    def work(tell: Tell, begin: Callable[[], None]) -> None:
        store = PostgresStore(url)
        begin()
        tell(store.open().state().ledger_lines)

    assert together([work] * 8) == [[0]] * 8


def test_a_schema_goes_forward_and_never_back(url, open_one, monkeypatch):
    parts = postgres_link.schema_parts()
    keep(open_one(), sold(1))
    monkeypatch.setattr(postgres_link, "schema_parts", lambda: [*parts, "ALTER TABLE license ADD COLUMN colour text"])
    assert open_one().find_license("KEY-1") is not None
    run(url, "UPDATE license SET colour = 'red'")
    monkeypatch.setattr(postgres_link, "schema_parts", lambda: parts)
    with pytest.raises(StartRefused, match=r"DATABASE_URL: a newer version of Keyledger .*schema 2, here 1"):
        open_one()


def test_a_part_that_fails_changes_nothing(url, open_one, monkeypatch):
    parts = postgres_link.schema_parts()
    wrong = "ALTER TABLE license ADD COLUMN colour text; SELECT nonsense"
    monkeypatch.setattr(postgres_link, "schema_parts", lambda: [*parts, wrong])
    with pytest.raises(StartRefused, match="nonsense"):
        open_one()
    monkeypatch.setattr(postgres_link, "schema_parts", lambda: parts)
    assert open_one().state().trouble is None


REFUSED = {
    "postgresql://locked:the%20wrong%20one@/postgres?host={host}": "lets nobody in with this name and password",
    "postgresql://nobody_knows@/postgres?host={host}": "lets nobody in with this name and password|does not exist",
    "postgresql://postgres@/no_such_database?host={host}": "there is no such database",
    "postgresql://postgres@127.0.0.1:1/postgres": "the database cannot be used: .*refused",
    "postgresql://postgres@/postgres?host=/nowhere": "the database cannot be used",
}


@pytest.mark.parametrize("address", REFUSED)
def test_a_start_is_refused_in_one_line_without_the_password(address):
    with pytest.raises(StartRefused, match=REFUSED[address]) as refused:
        PostgresStore(address.format(host=quote(databases.server(), safe=""))).open()
    assert refused.value.detail.startswith("DATABASE_URL: ")
    assert "\n" not in refused.value.detail
    assert "wrong one" not in refused.value.detail


def test_a_user_who_may_make_no_tables_is_told_so(url):
    address = url.replace("postgres@", "locked:the%20right%20one@")
    with pytest.raises(StartRefused, match=r"may not make tables|no schema has been selected"):
        PostgresStore(address).open()


def test_a_database_that_lost_lines_is_refused(url, open_one):
    keep(open_one(), sold(1), sold(2))
    run(url, "SET session_replication_role = replica; DELETE FROM ledger WHERE seq = 2")
    with pytest.raises(DamagedFile, match="it ends with number 1, but the book says 2"):
        open_one()


# ---------------------------------------------------------------------------------------------------- what it holds
@pytest.mark.parametrize("table", ["ledger", "device_line", "order_line"])
@pytest.mark.parametrize("deed", ["UPDATE {} SET line = ''", "DELETE FROM {}", "TRUNCATE {}"])
def test_nobody_changes_a_log(url, open_one, table, deed):
    open_one()
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        run(url, deed.format(table))


def second_license_of_s1() -> Entry:
    other = Grant(product_id="wave", license_key="OTHER")
    return entry(EventKind.SALE, "s1:again", other, said={"sale_id": "s1"})


def test_the_database_refuses_a_second_license_of_one_sale(open_one):
    """As a program with another secret, or a mistake in it, would issue one."""
    store = open_one()
    keep(store, sold(1))
    with pytest.raises(StorageUnavailable, match="second license of one sale"):
        keep(store, second_license_of_s1())
    assert store.find_license("OTHER") is None
    assert (store.state().ledger_lines, store.state().licenses) == (1, 1)
    keep(store, sold(2))
    assert [one.seq for _, batch in store.entries() for one in batch] == [1, 2]


def test_mutant_without_the_uniqueness_a_sale_has_two(url, open_one):
    store = open_one()
    run(url, "ALTER TABLE license DROP CONSTRAINT one_license_per_sale")
    keep(store, sold(1))
    keep(store, second_license_of_s1())
    assert len(list(store.licenses())) == 2


def test_a_sale_is_two_statements_of_looking_and_one_round_trip_of_writing(open_one, monkeypatch):
    """BEGIN with the lock, a look for the event, a look for its purchase, all that is written with COMMIT."""
    store, trips = open_one(), []
    keep(store, sold(1))
    ((_, license),) = store.licenses()
    for module, name in ((postgres_link, "begun"), (postgres, "fetched"), (postgres, "commit")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, real=real: trips.append(1) or real(*given))
    with store.transaction() as books:
        assert store.find_event("event\0gumroad\0s2:sale") is None
        assert store.history(["sale\0gumroad\0s2"]) == []
        books.append([sold(2)], {"KEY-2": license})
    assert len(trips) == 4


def test_a_validation_is_one_indexed_read(url, open_one):
    store = open_one()
    keep(store, *(sold(number) for number in range(1, 3000)))
    run(url, "ANALYZE license")
    with psycopg.connect(url) as connection:
        query = "EXPLAIN SELECT key, record FROM license WHERE id = 'lic_0' AND record IS NOT NULL"
        plan = "\n".join(line for (line,) in connection.execute(query))
    assert "Index Scan using license_pkey" in plan
    assert "Seq Scan" not in plan


# ---------------------------------------------------------------------------------------------------- contention
def test_serialization_failures_are_tried_again(url, open_one):
    """The strictest isolation, as some databases always have it: whoever comes second is told to try again."""
    strict = url.replace("options=", "options=-cdefault_transaction_isolation%3Dserializable%20")

    def work(worker: int) -> Callable[[Tell, Callable[[], None]], None]:
        def sell(tell: Tell, begin: Callable[[], None]) -> None:
            store = PostgresStore(strict).open()

            @retried
            def one(number: int) -> None:
                keep(store, sold(worker * 100 + number))

            begin()
            for number in range(10):
                one(number)
            tell("done")

        return sell

    open_one()
    assert [told[-1] for told in together(map(work, range(4)))] == ["done"] * 4
    lines = [one for _, batch in open_one().entries() for one in batch]
    assert len(lines) == 40
    assert open_one().state().licenses == 40


def test_mutant_without_a_second_try_a_sale_is_refused(url, open_one, tmp_path):
    other = open_one()
    strict = url.replace("options=", "options=-cdefault_transaction_isolation%3Dserializable%20")
    with other.transaction() as books:

        def late(tell: Tell, begin: Callable[[], None]) -> None:
            mine = PostgresStore(f"{strict}&application_name={tmp_path.name}")
            begin()
            try:
                keep(mine, sold(2))
            except Contended:
                tell("contended")

        told = waiting(late, tmp_path.name)
        books.append([sold(1)])
    assert told() == "contended"


def waiting(work: Callable[[Tell, Callable[[], None]], None], name: str) -> Callable[[], object]:
    """Starts it, and comes back when the connection of this name waits for a lock; the rest is what it tells then."""
    child = Child(lambda tell: work(tell, lambda: tell("ready")))
    assert child.hear() == "ready"
    query = f"SELECT 1 FROM pg_stat_activity WHERE application_name = '{name}' AND wait_event_type = 'Lock'"
    with psycopg.connect(f"host={databases.server()} user=postgres dbname=postgres", autocommit=True) as connection:
        deadline = time.monotonic() + 20
        while not connection.execute(query).fetchone() and time.monotonic() < deadline:
            time.sleep(0.005)

    def rest() -> object:
        told = child.hear()
        child.end()
        return told

    return rest


# ---------------------------------------------------------------------------------------------------- connections
def test_a_connection_that_died_while_it_was_idle_is_no_trouble(url, open_one, tmp_path):
    store = open_one(application_name=tmp_path.name)
    keep(store, sold(1))
    for deed in (
        lambda: store.find_license("KEY-1"),
        lambda: keep(store, sold(2)),
        lambda: store.shelf.claim("a", NOW + timedelta(days=1), NOW),
        lambda: store.letterbox.enqueue([letter("1")]),
    ):
        cut(url, tmp_path.name)
        deed()
    assert store.state(probe=True).trouble is None


def test_a_forked_child_leaves_its_parents_connection_alone(open_one):
    store = open_one()
    keep(store, sold(1))

    def work(tell: Tell, begin: Callable[[], None]) -> None:
        begin()
        tell([store.find_license(f"KEY-{1}") is not None for _ in range(50)].count(True))

    assert together([work] * 3) == [[50]] * 3
    assert store.find_license("KEY-1") is not None
    with store.transaction() as books:  # the same connection as before the forks
        books.append_devices([device_line("KEY-1", "pc")])


def cut(url: str, name: str) -> None:
    """End the connections of this name: other tests have theirs on the same server."""
    run(url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'")


def test_a_turn_whose_connection_is_lost_is_over(url, open_one, tmp_path):
    store, other = open_one(application_name=tmp_path.name), open_one()
    deed = store.letterbox.turn()
    deed.__enter__()
    cut(url, tmp_path.name)
    with other.letterbox.turn(wait=True), pytest.raises(StorageUnavailable):
        store.letterbox.write([letter("1")])
    assert list(store.letterbox.letters()) == []
    with pytest.raises(StorageUnavailable):
        deed.__exit__(None, None, None)


# ---------------------------------------------------------------------------------------------------- rate limits
def test_all_machines_together_let_exactly_the_limit_through(url, open_one):
    rate = Rate(40, 3600 * 1_000_000_000)
    open_one()

    def work(tell: Tell, begin: Callable[[], None]) -> None:
        table = PostgresStore(url).limit_table("secret")
        begin()
        tell([table.take("1.2.3.4", 1, rate, time.monotonic_ns())[0].granted for _ in range(20)].count(True))

    assert sum(told[-1] for told in together([work] * 6)) == 40


def test_a_bucket_says_what_is_left_and_what_stands_beside_it(open_one):
    table, rate = open_one().limit_table("secret"), Rate(3, 60 * 1_000_000_000)
    told = [table.take("a", 1, rate, 0, beside=2) for _ in range(4)]
    assert [(one.granted, one.remaining) for one, _ in told] == [(True, 2), (True, 1), (True, 0), (False, 0)]
    assert 15 <= told[-1][0].retry_after <= 20
    assert [beside for _, beside in told] == [0] * 4
    table.take("a", 2, rate, 0)
    _, beside = table.take("a", 1, rate, 1_000_000_000_000, beside=2)
    assert 1_000_000_000_000 < beside <= 1_020_000_000_000  # by the caller's own clock
    assert table.take("b", 1, rate, 0)[0].remaining == 2
    assert open_one().limit_table("other secret").take("a", 1, rate, 0)[0].remaining == 2
