"""Real servers for tests: gunicorn and uWSGI on loopback, as a user starts them, ended by their ids."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests import databases
from tests.conftest import CATALOGUE, OWNER_KEY, SECRET, form, sale_ping

ROOT = Path(__file__).resolve().parent.parent.parent
BINARIES = Path(sys.executable).parent
PATIENCE = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def held_port() -> tuple[socket.socket, int]:
    """A port that nobody else is given while the socket is open: it is bound, and who connects is refused until a
    server listens there, too. Servers may share it, since both say SO_REUSEADDR and one alone listens."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held, int(held.getsockname()[1])


class Answer:
    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.status, self.body, self.headers = status, body, headers

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """The project's checkout, served from a folder of its own."""

    def __init__(self, folder: Path, command: list[str] | None = None, workers: int = 4, **env: str) -> None:
        self.folder = folder
        held, self.port = held_port()  # also while it is stopped
        weakref.finalize(self, held.close)
        self.log = folder.parent / f"{folder.name}.log"
        folder.mkdir(exist_ok=True)
        if not (folder / "products.json").exists():
            (folder / "products.json").write_text(json.dumps(CATALOGUE))
        self.command = command or [str(BINARIES / "gunicorn"), "wsgi:app", "-w", str(workers)]
        self.expected = 0 if command else workers
        self.env = {
            "PATH": os.environ["PATH"],
            "SECRET_KEY": "secret-key-of-the-tests",
            "LICENSE_SECRET": "license-secret-of-the-tests",
            "ENV_FILE": os.devnull,  # not the .env that somebody sells with
            "DATA_DIR": str(folder),
            "ADMIN_API_KEY": OWNER_KEY,
            "GUMROAD_WEBHOOK_SECRET": SECRET,
            "RATE_LIMIT": "off",
            "HOME": str(folder.parent),
        }
        self.env |= databases.environment(folder) | env
        self.process: subprocess.Popen[bytes] | None = None
        self.today = datetime.now(UTC).replace(microsecond=0)  # the server has the machine's clock

    def spawn(self) -> subprocess.Popen[bytes]:
        command = [part.replace("PORT", str(self.port)) for part in [*self.command, *self._binding()]]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    def _binding(self) -> list[str]:
        return ["-b", "127.0.0.1:PORT"] if "gunicorn" in self.command[0] else []

    def start(self) -> Server:
        """Started when it answers and every worker is there: gunicorn forks them a moment apart."""
        process = self.spawn()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if self.get("/health").status == 200 and len(self.workers()) >= self.expected:
                    return self
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"the server did not start: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """As an operator does; then what is left is killed."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """The master and its workers at once, as a power cut does."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def workers(self) -> list[int]:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children]

    # ------------------------------------------------------------------------------------------------ HTTP
    def call(self, method: str, path: str, body: bytes = b"", timeout: float = 15, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answered = connection.getresponse()
            return Answer(answered.status, answered.read(), dict(answered.headers))
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.call("POST", path, json.dumps(body).encode(), Content_Type="application/json", **headers)

    def owner(self, method: str, path: str, body: Any = None) -> Answer:
        raw = b"" if body is None else json.dumps(body).encode()
        return self.call(method, f"/api/v1{path}", raw, Authorization=f"Bearer {OWNER_KEY}")

    def ping(self, fields: dict[str, Any], secret: str = SECRET) -> Answer:
        kind = "application/x-www-form-urlencoded"
        return self.call("POST", f"/api/v1/webhooks/gumroad?secret={secret}", form(fields), Content_Type=kind)

    def sale(self, sale_id: str, email: str = "ann@example.com", product: str = "G-WAVE==", **more: Any) -> str:
        answered = self.ping(sale_ping(sale_id, email, product, **({"sale_timestamp": self.today.isoformat()} | more)))
        assert answered.status == 200, answered.body
        return str(answered.json["license_keys"][0])

    def code(self, key: str, **more: Any) -> str:
        return str(self.post("/api/v1/licenses/validate", {"license_key": key} | more).json["code"])

    # ------------------------------------------------------------------------------------------------ the folder
    def ledger(self) -> list[dict[str, Any]]:
        if databases.on_postgresql():
            return databases.ledger(self.folder)
        path = self.folder / "purchases.jsonl"
        return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def licenses(self) -> dict[str, Any]:
        if databases.on_postgresql():
            return databases.licenses(self.folder)
        return dict(json.loads((self.folder / "licenses.json").read_bytes())["licenses"])

    def until(self, holds: Any) -> Any:
        """Ask again and again, up to a bound, until it holds; the last answer."""
        deadline = time.monotonic() + PATIENCE
        while not (found := holds()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return found
