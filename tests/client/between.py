"""What stands between an app and its license server: nothing, a liar, a slow line, somebody else's sign-in page."""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.conftest import Shop

Told = tuple[int, list[tuple[str, str]], bytes]
HTML = [("Content-Type", "text/html")]


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        return dict(json.loads(self.raw))

    @property
    def verb(self) -> str:
        return self.path.rsplit("/", 1)[1]


@dataclass
class Between:
    """A server on loopback. What it answers is `says`, else what the shop says."""

    shop: Shop
    tls: ssl.SSLContext | None = None
    says: Callable[[Request], Told | None] | None = None
    heard: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        between, lock = self, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                request = Request(self.path, dict(self.headers), self.rfile.read(length))
                with lock:
                    between.heard.append(request)
                    told = (between.says(request) if between.says else None) or between.forward(request)
                status, headers, body = told
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if self.tls:
            self.server.socket = self.tls.wrap_socket(self.server.socket, server_side=True)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who hangs up is no failure
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"{'https://localhost' if self.tls else 'http://127.0.0.1'}:{self.server.server_port}"

    def forward(self, request: Request) -> Told:
        told = self.shop.client.post(
            request.path,
            data=request.raw,
            content_type="application/json",
            environ_overrides={"RAW_URI": request.path},
        )
        skipped = ("content-length", "server", "date")
        return told.status_code, [pair for pair in told.headers.items() if pair[0].lower() not in skipped], told.data

    def stop(self) -> None:
        """From now on connections are refused."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)

    def verbs(self) -> list[str]:
        return [request.verb for request in self.heard]


class Trickle:
    """Sends what it was given, and then a byte at a time: for a minute, or until the other side hangs up."""

    def __init__(self, first: bytes) -> None:
        self.first, self.is_over, self.hung_up = first, threading.Event(), threading.Event()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        try:
            while not self.is_over.is_set():
                taken, _ = self.listening.accept()
                with taken:
                    taken.recv(65536)
                    taken.sendall(self.first)
                    for _ in range(1200):
                        if self.is_over.wait(0.05):
                            return
                        taken.sendall(b"x")
        except OSError:
            self.hung_up.set()

    def stop(self) -> None:
        self.is_over.set()
        self.listening.close()
        self.thread.join(10)
