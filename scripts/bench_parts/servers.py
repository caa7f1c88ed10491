"""Servers of one worker whose clock and memory can be read, and loads that they take in turns."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click

from scripts.bench_parts.sent import SECRET, SEED, SELLER
from server.settings import ROOT

TURN = 50  # requests until another server's turn
IDLE = 0.01  # of a core
REST = 1.3  # seconds without work after which nothing is due any more: the view is written once a second at most


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "SECRET_KEY": SECRET,
        "LICENSE_SECRET": SECRET,
        "SIGNING_KEY": SEED,
        "ENV_FILE": os.devnull,
        "GUMROAD_WEBHOOK_SECRET": SECRET,
        "GUMROAD_SELLER_ID": SELLER,
        "DATA_DIR": str(folder),
        "RATE_LIMIT": "off",
        "EMAIL_BACKEND": "console",
        "TRUSTED_PROXIES": "0",
    }


GUNICORN = [sys.executable, *"-m gunicorn -c deployment/gunicorn.conf.py -w 1 -b".split(), "127.0.0.1:{}"]


class Server:
    """gunicorn with one worker, or whatever server the command names: there the port is the last word."""

    def __init__(self, app: str, env: dict[str, str], command: Sequence[str] = GUNICORN) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._log = os.memfd_create("log")  # in memory: no writing beside the one that is measured
        began = time.perf_counter()
        self._master = subprocess.Popen(
            [*command[:-1], command[-1].format(self.port), app],
            cwd=ROOT,
            env=env,
            stdout=self._log,
            stderr=self._log,
        )
        self._wait_until_ready()
        self.ready_after = time.perf_counter() - began
        children = Path(f"/proc/{self._master.pid}/task/{self._master.pid}/children")
        self._worker = int((children.read_text().split() or [str(self._master.pid)])[-1])  # uvicorn's first is none

    def _wait_until_ready(self) -> None:
        given_up = time.monotonic() + 60
        while time.monotonic() < given_up and self._master.poll() is None:
            with suppress(OSError):
                if b" 200 " in self.answer(b"GET /health HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")[:20]:
                    return
            time.sleep(0.005)
        told = os.pread(self._log, 1 << 16, 0).decode()
        self.stop()
        raise click.ClickException(f"the server did not start:\n{told}")

    def answer(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), 60) as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def post(self, requests: Sequence[bytes], expected: bytes) -> bytes:
        """Send these one after the other; returns the last answer."""
        answer = b""
        for one in requests:
            answer = self.answer(one)
            if expected not in answer:
                raise click.ClickException(f"an unexpected answer: {answer.decode()}")
        return answer

    def cpu(self) -> float:
        """Seconds that the worker has used, all its threads together."""
        return time.clock_gettime((~self._worker << 3) | 2)

    def memory(self) -> tuple[float, float]:
        """The worker's resident memory in KiB, and what of it is its own: mapped pages of files are shared by all."""
        status = Path(f"/proc/{self._worker}/status").read_text()
        rollup = Path(f"/proc/{self._worker}/smaps_rollup").read_text()
        return _kib(status, "VmRSS"), _kib(rollup, "Private_Dirty")

    def stop(self) -> None:
        self._master.terminate()
        try:
            self._master.wait(30)
        except subprocess.TimeoutExpired:
            self._master.kill()
        os.close(self._log)


def _kib(text: str, name: str) -> float:
    return float(text.partition(f"{name}:")[2].split()[0])


@contextmanager
def serving(app: str, env: dict[str, str], command: Sequence[str] = GUNICORN) -> Iterator[Server]:
    server = Server(app, env, command)
    try:
        yield server
    finally:
        server.stop()


@dataclass(frozen=True)
class Spent:
    """Seconds of one round by request."""

    cpu: float
    wall: float

    def over(self, limit: Spent) -> Spent:
        return Spent(self.cpu / limit.cpu, self.wall / limit.wall)


Load = tuple[Server, Sequence[bytes]]


def take_turns(expected: bytes, *loads: Load) -> list[Spent]:
    """One round: what each server spends on its requests, until none has anything left to do."""
    before, wall = [server.cpu() for server, _ in loads], [0.0] * len(loads)
    for at in range(0, len(loads[0][1]), TURN):
        for place, (server, requests) in enumerate(loads):
            began = time.perf_counter()
            server.post(requests[at : at + TURN], expected)
            wall[place] += time.perf_counter() - began
    wait_for_rest([server for server, _ in loads])
    spent = [server.cpu() - clock for (server, _), clock in zip(loads, before, strict=True)]
    return [Spent(spent[place] / len(r), wall[place] / len(r)) for place, (_, r) in enumerate(loads)]


def wait_for_rest(servers: Sequence[Server], longest: float = 20.0) -> None:
    """A server that only ticks rests too (uvicorn's loop wakes ten times a second, for less than IDLE in all)."""
    began = since = time.monotonic()
    seen = sum(server.cpu() for server in servers)
    while time.monotonic() < min(since + REST, began + longest):
        time.sleep(0.05)
        used = sum(server.cpu() for server in servers)
        if used > seen + 0.001 + IDLE * (time.monotonic() - since):
            seen, since = used, time.monotonic()
