"""The whole service as it is run: gunicorn with four workers sharing one folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.acceptance.servers import ROOT, Server
from tests.conftest import sale_ping, subscription_ping

CHUNKED = (
    "POST /api/v1/licenses/validate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all that end no process; each sells under names of its own."""
    running = Server(tmp_path_factory.mktemp("gunicorn") / "data").start()
    yield running
    running.stop()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "data", workers=2).start()
    yield running
    running.stop()


def test_a_sale_is_known_to_every_worker_at_once(server):
    """Each request goes to whichever worker is free: none may be behind."""
    for number in range(20):
        key = server.sale(f"known-{number}")
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _, key=key: server.code(key), range(8))) == {"VALID"}
    for number in range(20):
        refunded = server.ping(sale_ping(f"known-{number}", "ann@example.com", resource="refund", refunded="true"))
        key = refunded.json["license_keys"][0]
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _, key=key: server.code(key), range(8))) == {"SUSPENDED"}


def test_concurrent_deliveries_of_one_sale_make_one_license(server):
    sales = [f"many-{number}" for number in range(30)] * 6
    with ThreadPoolExecutor(12) as pool:
        keys = list(pool.map(server.sale, sales))
    assert len(set(keys)) == 30
    assert len({(sale, key) for sale, key in zip(sales, keys, strict=True)}) == 30
    assert sorted(line["sale_id"] for line in server.ledger() if line["sale_id"] in sales) == sorted(set(sales))


def test_concurrent_activations_never_exceed_the_seats(server):
    key = server.sale("seats", product="G-TEAM==", quantity=2)  # 4 seats
    devices = [f"hw{number % 12}" for number in range(60)]
    with ThreadPoolExecutor(12) as pool:
        codes = list(pool.map(lambda hw: (hw, server.code(key, hardware_id=hw)), devices))
    seated = {hardware for hardware, code in codes if code == "VALID"}
    assert len(seated) == 4
    assert {code for hardware, code in codes if hardware in seated} == {"VALID"}
    assert server.post("/api/v1/licenses/validate", {"license_key": key}).json["license"]["devices_used"] == 4


def test_the_view_follows_a_sale(server):
    key = server.sale("viewed")
    assert server.until(lambda: key in server.licenses())
    server.code(key, hardware_id="hw1")
    assert server.until(lambda: server.licenses()[key]["hardware_id"] == "hw1")
    assert server.until(lambda: server.licenses()[key]["validation_count"] == 1)


def test_the_view_is_complete_after_a_stop(mortal):
    keys = {mortal.sale(f"s{number}") for number in range(10)}
    mortal.stop()
    assert set(mortal.licenses()) == keys


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_acknowledged_sales_survive_kill_9(tmp_path, kills):
    server = Server(tmp_path / "data").start()
    acknowledged: dict[str, str] = {}
    for round_ in range(kills):
        stop = threading.Event()

        def sell(lane: int, round_: int = round_, stop: threading.Event = stop, server: Server = server) -> None:
            for number in range(200):
                sale_id = f"s{round_}-{lane}-{number}"
                try:
                    acknowledged[sale_id] = server.sale(sale_id)
                except (OSError, HTTPException, AssertionError):
                    return
                if stop.is_set():
                    return

        lanes = [threading.Thread(target=sell, args=(lane,)) for lane in range(4)]
        for lane in lanes:
            lane.start()
        server.until(lambda round_=round_: len(acknowledged) > 25 * (round_ + 1))
        server.kill()
        stop.set()
        for lane in lanes:
            lane.join()
        server = Server(tmp_path / "data").start()
    assert len(acknowledged) > 25 * kills
    for sale_id, key in acknowledged.items():
        assert server.sale(sale_id) == key
        assert server.code(key) == "VALID"
    server.stop()
    assert len({line["event_id"] for line in server.ledger() if "event_id" in line}) == len(server.licenses())


def test_a_killed_worker_is_replaced_and_nothing_is_lost(mortal):
    server, key = mortal, mortal.sale("s1", product="G-TEAM==")
    for number in range(4):
        os.kill(server.workers()[0], signal.SIGKILL)
        assert (
            server.until(lambda number=number: _try(lambda: server.code(key, hardware_id=f"hw{number % 2}"))) == "VALID"
        )
    assert server.sale("s1", product="G-TEAM==") == key


def _try(ask):
    try:
        return ask()
    except (OSError, HTTPException):
        return None


def test_a_mail_server_that_never_answers_holds_up_no_sale(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        port = str(silent.getsockname()[1])
        server = Server(
            tmp_path / "data",
            workers=1,
            EMAIL_BACKEND="smtp",
            SMTP_HOST="127.0.0.1",
            SMTP_PORT=port,
            FROM_EMAIL="a@b.example",
        ).start()
        try:
            for number in range(10):
                server.sale(f"s{number}")
            assert server.until(lambda: server.code(server.sale("s1"))) == "VALID"
        finally:
            server.kill()


def test_a_broken_chunked_body_is_a_400(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = CHUNKED
        connection.sendall(head.encode() + b"ZZ\r\nnot a chunk\r\n0\r\n\r\n")
        answered = connection.recv(65536)
    assert answered.startswith(b"HTTP/1.1 400")


def test_a_chunked_body_that_is_too_large_is_a_413(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = CHUNKED
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        connection.sendall(head.encode() + chunk * 5 + b"0\r\n\r\n")
        answered = connection.recv(65536)
    assert answered.startswith(b"HTTP/1.1 413")


def test_a_chunked_body_of_just_the_largest_size_is_taken(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        connection.sendall(CHUNKED.encode() + chunk * 4 + b"0\r\n\r\n")
        answered = connection.recv(65536)
    assert answered.startswith(b"HTTP/1.1 400")


def test_the_membership_story_over_four_workers(server):
    first = {"subscription_id": "member", "recurrence": "monthly"}
    key = server.sale("member-1", product="G-TEAM==", **first)
    later = server.today + timedelta(days=30)
    renewal = first | {"is_recurring_charge": "true", "sale_timestamp": later.isoformat()}
    told = server.ping(sale_ping("member-2", "ann@example.com", "G-TEAM==", **renewal)).json
    assert told == {"received": True, "outcome": "extended", "license_keys": [key]}
    later += timedelta(days=15)
    ended = subscription_ping("subscription_ended", "member", ended_at=later.isoformat(), ended_reason="cancelled")
    assert server.ping(ended).json["outcome"] == "suspended"
    assert server.code(key) == "EXPIRED"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("LICENSE_SECRET", "short"), ("PORT", "eighty"), ("DATABASE_URL", "postgresql://localhost/x")],
)
def test_a_wrong_setting_stops_the_start_with_one_line(tmp_path, setting, value):
    server = Server(tmp_path / "data", workers=1, **{setting: value})
    assert server.spawn().wait(20) == 3
    lines = [line for line in server.log.read_text().splitlines() if line.startswith("keyledger:")]
    assert len(lines) == 1
    assert setting in lines[0]


@pytest.mark.files
def test_a_damaged_ledger_stops_the_start_and_names_the_line(tmp_path):
    server = Server(tmp_path / "data", workers=1).start()
    for number in range(5):
        server.sale(f"s{number}")
    server.stop()
    ledger = tmp_path / "data" / "purchases.jsonl"
    lines = ledger.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"ann@", b"eve@")
    ledger.write_bytes(b"\n".join(lines))
    again = Server(tmp_path / "data", workers=1)
    assert again.spawn().wait(20) == 3
    assert "purchases.jsonl line 3" in again.log.read_text()


def test_pythonanywhere_takes_the_application_from_wsgi(tmp_path):
    """Its WSGI file lies elsewhere and imports the project by path."""
    server = Server(tmp_path / "data")
    wsgi_file = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from wsgi import app as application; print(application)"
    )
    done = subprocess.run(
        [os.path.join(os.path.dirname(server.command[0]), "python"), "-c", wsgi_file],
        cwd=tmp_path,
        env=server.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "'server.web'" in done.stdout
