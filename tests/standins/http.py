"""A platform's API on a socket of its own: what every stand-in shares, its ways to fail above all."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """One request. `path` is as it came, still percent-encoded."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: Message
    body: bytes = b""

    @classmethod
    def read(cls, method: str, target: str, headers: Message, body: bytes = b"") -> Asked:
        url = urlsplit(target)
        return cls(method, url.path, parse_qsl(url.query, keep_blank_values=True), headers, body)

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))

    @property
    def json(self) -> Json:
        """Empty where the body is no JSON object."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def find(self, name: str) -> str | None:
        return next((value for key, value in self.query if key == name), None)

    @property
    def bearer(self) -> str | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" and token else None


@dataclass(frozen=True)
class Answer:
    """`body` is written as JSON, but bytes as they are."""

    status: int
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)


class StandIn(ABC):
    """A server on 127.0.0.1 until `close()` or the end of its `with`. Its fault controls:

    - `down()`: connections are refused, or (`refuse=False`) taken and closed without an answer; `up()` ends it
    - `hang`: seconds of silence before an answer; `math.inf` stays silent until `close()`
    - `fail_next(status, times, retry_after)`: the next answers
    - `rate_limit(every)`: each n-th answer is a 429
    - `lose_next(times)`: what is asked is done, but the connection closes without the answer

    `asked` are the paths with their queries, without credentials, of all requests that arrived, failed ones too.
    """

    credentials: tuple[str, ...] = ()  # query parameters that `asked` leaves out

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hang = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._drops = False
        self._failures: list[Answer] = []
        self._every, self._counted = 0, 0
        self._losses = 0
        self._limited = Answer(429)
        self._reserved: socket.socket | None = None
        self._server: _Server | None = _Server(self, 0)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @abstractmethod
    def answer(self, asked: Asked) -> Answer:
        """The platform's own answer."""

    @abstractmethod
    def fault(self, status: int) -> Answer:
        """What the platform says with this status when it fails at no fault of the request."""

    # ---------------------------------------------------------------------------------------------- faults
    def fail_next(self, status: int, times: int = 1, retry_after: int | None = None) -> None:
        with self._lock:
            self._failures += [_later(self.fault(status), retry_after)] * times

    def rate_limit(self, every: int, retry_after: int | None = 0) -> None:
        """0 ends it."""
        with self._lock:
            self._every, self._counted = every, 0
            self._limited = _later(self.fault(429), retry_after)

    def lose_next(self, times: int = 1) -> None:
        with self._lock:
            self._losses += times

    def down(self, refuse: bool = True) -> None:
        if not refuse:
            self._drops = True
        elif self._server is not None:
            self._stop()
            self._reserved = socket.socket()  # bound but not listening: refused, and nobody else gets the port
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._reserved.bind(("127.0.0.1", self.port))

    def up(self) -> None:
        self._drops = False
        self._release()
        if self._server is None:
            self._server = _Server(self, self.port)

    # ---------------------------------------------------------------------------------------------- life
    def close(self) -> None:
        self._closed.set()
        self._stop()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def _release(self) -> None:
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    # ---------------------------------------------------------------------------------------------- answering
    def take(self, asked: Asked) -> Answer | None:
        """The answer, or None: close without one."""
        kept = "&".join(f"{key}={value}" for key, value in asked.query if key not in self.credentials)
        self.asked.append(asked.path + ("?" + kept if kept else ""))
        if self.hang and self._closed.wait(None if math.isinf(self.hang) else self.hang):
            return None
        if self._drops:
            return None
        if failure := self._failure():
            return failure
        answer = self.answer(asked)
        return None if self._is_lost() else answer

    def _is_lost(self) -> bool:
        with self._lock:
            self._losses, was = max(0, self._losses - 1), self._losses
        return was > 0

    def _failure(self) -> Answer | None:
        with self._lock:
            if self._failures:
                return self._failures.pop(0)
            self._counted += 1
            return self._limited if self._every and self._counted % self._every == 0 else None


def _later(answer: Answer, retry_after: int | None) -> Answer:
    extra = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Answer(answer.status, answer.body, answer.headers | extra)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, standin: StandIn, port: int) -> None:
        self.standin = standin
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: one request a connection, so that nothing outlives `down()`."""

    def _reply(self) -> None:
        assert isinstance(self.server, _Server)
        with contextlib.suppress(ConnectionError):  # a client that did not wait
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = self.server.standin.take(Asked.read(self.command, self.path, self.headers, body))
            if answer is not None:
                self._write(answer)

    def _write(self, answer: Answer) -> None:
        is_text = isinstance(answer.body, bytes)
        body = answer.body if is_text else json.dumps(answer.body, ensure_ascii=False, indent=2).encode()
        kind = "text/plain; charset=utf-8" if is_text else "application/json; charset=utf-8"
        self.send_response(answer.status)
        for name, value in ({"Content-Type": kind} | answer.headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _reply

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test's output is its own."""
