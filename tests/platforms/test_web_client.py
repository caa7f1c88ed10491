"""The way out to a platform's API, against a server that answers what a test tells it, down to each byte."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator

import pytest

from server.errors import PlatformUnreachable
from server.platforms import web_client
from server.platforms.web_client import NoJson, RateLimited, clock_of, get_json, post, send

SECRET = "token_of_the_tests"


class Server:
    """Takes one connection after the other, keeps what was sent, and answers `pieces`, one by one."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.pieces: Iterable[bytes] = (told(200, b"{}"),)
        self.heard: list[bytes] = []
        self._closed = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(OSError):
                client, _ = self._socket.accept()
                with client:
                    self._answer(client)

    def _answer(self, client: socket.socket) -> None:
        head, _, body = client.recv(65536).partition(b"\r\n\r\n")
        wanted = next((int(line[16:]) for line in head.split(b"\r\n") if line.lower()[:15] == b"content-length:"), 0)
        while len(body) < wanted:
            body += client.recv(65536)
        self.heard.append(head + b"\r\n\r\n" + body)
        for piece in self.pieces:
            client.sendall(piece)

    def drips(self, start: bytes, rest: bytes, seconds: float) -> None:
        """The rest comes byte by byte, and takes so long as a whole."""

        def pieces() -> Iterator[bytes]:
            yield start
            for at in range(len(rest)):
                if self._closed.wait(seconds / len(rest)):
                    return
                yield rest[at : at + 1]

        self.pieces = pieces()

    def close(self) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def told(status: int, body: bytes, *headers: str) -> bytes:
    kind = () if any(line.startswith("Content-Type") for line in headers) else ("Content-Type: application/json",)
    lines = (f"HTTP/1.1 {status} So", "Connection: close", f"Content-Length: {len(body)}", *kind, *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.mark.parametrize("status", [200, 201, 302, 400, 401, 404, 500, 503])
def test_it_gives_the_body_whatever_the_status(server, status):
    server.pieces = (told(status, b'{"is": "so"}', f"Location: {server.url}/elsewhere"),)
    answered, body = send("POST", server.url + "/orders", b'{"a": 1}', {"Content-Type": "application/json"})
    assert (answered, body.text("is"), len(server.heard)) == (status, "so", 1)
    assert server.heard[0].startswith(b"POST /orders HTTP/1.1\r\n")
    assert b"content-type: application/json\r\n" in server.heard[0].lower()
    assert server.heard[0].endswith(b'\r\n\r\n{"a": 1}')


@pytest.mark.parametrize("body", [b"", b"<html>", b"3", b'{"a": ', b'{"a": "\xff"}'])
@pytest.mark.parametrize("status", [200, 404])
def test_what_is_no_object_of_json_is_no_answer(server, body, status):
    server.pieces = (told(status, body),)
    with pytest.raises(PlatformUnreachable, match=f"127.0.0.1 answers {status} with something that is not JSON"):
        send("GET", server.url)


@pytest.mark.parametrize("kind", ["text/html", "text/plain; charset=utf-8", ""])
def test_what_does_not_call_itself_json_is_none(server, kind):
    server.pieces = (told(200, b"{}", f"Content-Type: {kind}"),)
    with pytest.raises(NoJson):
        send("GET", server.url)


def test_a_list_is_the_data_of_an_object(server):
    server.pieces = (told(200, b'[{"a": "b"}]', "Content-Type: application/hal+json; charset=utf-8"),)
    assert [one.text("a") for one in send("GET", server.url)[1].parts("data")] == ["b"]


def test_a_platform_that_wants_a_rest_says_for_how_long(server):
    server.pieces = (told(429, b"later", "Retry-After: 7"),)
    with pytest.raises(RateLimited) as caught:
        send("GET", server.url)
    assert caught.value.wait == 7.0


def test_compressed_answers_are_read(server):
    import gzip

    server.pieces = (told(200, gzip.compress(b'{"is": "so"}'), "Content-Encoding: gzip"),)
    assert send("GET", server.url)[1].text("is") == "so"
    server.pieces = (told(200, b"no gzip", "Content-Encoding: gzip"),)
    with pytest.raises(PlatformUnreachable, match="DecodingError"):
        send("GET", server.url)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_answer_without_end_is_left(server, monkeypatch, compressed):
    import gzip

    monkeypatch.setattr(web_client, "LARGEST", 100_000)
    body = b'"' + b"x" * 200_000
    more = ("Content-Encoding: gzip",) if compressed else ()
    server.pieces = (told(200, gzip.compress(body) if compressed else body, *more),)
    with pytest.raises(PlatformUnreachable, match="too much"):
        send("GET", server.url)


@pytest.mark.parametrize("what", ["headers", "body"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda url: send("GET", url, timeout=(0.3, 0.3)),
        lambda url: get_json(url, {}, (0.3, 0.3)),
    ],
    ids=["send", "get_json"],
)
def test_an_answer_that_drips_is_cut_off(server, ask, what):
    """Its bytes come in time each, and end after three seconds as a sound answer."""
    whole = told(200, b"{" + b" " * 300 + b"}")
    head = whole.index(b"\r\n\r\n") + 4
    cut = 0 if what == "headers" else head
    server.drips(whole[:cut], whole[cut:], 3.0)
    with pytest.raises(PlatformUnreachable, match="ReadTimeout"):
        ask(server.url)


def test_what_comes_slowly_but_in_time_is_read(server):
    whole = told(200, b"{" + b" " * 30 + b"}")
    server.drips(whole[:-10], whole[-10:], 0.3)
    assert send("GET", server.url, timeout=(5.0, 20.0))[0] == 200


def test_nothing_that_was_sent_stands_in_an_error_or_a_log(server, caplog):
    caplog.set_level(logging.INFO)
    where = f"{server.url}/{SECRET}?a={SECRET}"
    headers = {"Authorization": f"Bearer {SECRET}"}
    for pieces in ((), (b"nonsense\r\n\r\n",), (told(200, b"<html>"),), (told(429, b""),)):
        server.pieces = pieces
        for ask in (
            lambda: send("POST", where, SECRET.encode(), headers),
            lambda: get_json(server.url, {"access_token": SECRET}),
        ):
            with pytest.raises(PlatformUnreachable) as caught:
                ask()
            assert SECRET not in caught.value.detail
    server.pieces = (told(200, b"{}"),)
    assert get_json(server.url, {"access_token": SECRET})[0] == 200
    assert post(server.url, b"{}", {"secret": SECRET}, headers)[0] == 200
    assert SECRET in str(server.heard)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("odd", ["\nX: y", "\u0142"])
def test_a_header_that_cannot_be_sent_is_no_crash(server, odd):
    with pytest.raises(PlatformUnreachable) as caught:
        send("GET", server.url, headers={"Authorization": f"Bearer {SECRET}{odd}"})
    assert SECRET not in caught.value.detail


def test_the_proxy_of_the_environment_stands_before_platforms_and_not_before_this_machine(server, monkeypatch):
    proxy = Server()
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    try:
        send("GET", server.url)
        assert (len(server.heard), len(proxy.heard)) == (1, 0)
        send("GET", "http://platform.example/orders")
        assert (len(server.heard), len(proxy.heard)) == (1, 1)
        assert proxy.heard[0].startswith(b"GET http://platform.example/orders HTTP/1.1\r\n")
    finally:
        proxy.close()


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "gopher://127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used_is_told(monkeypatch, proxy):
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(PlatformUnreachable, match="proxy"):
        send("GET", "http://platform.example/")


def test_a_platforms_clock_is_its_date_header(server):
    server.pieces = (told(405, b"", "Date: Fri, 20 Nov 2026 12:00:00 GMT"),)
    assert f"{clock_of(server.url):%c}" == "Fri Nov 20 12:00:00 2026"
    server.pieces = (told(200, b""),)
    with pytest.raises(PlatformUnreachable, match="does not say what time it is"):
        clock_of(server.url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://127.0.0.1:99999/", "ftp://127.0.0.1/"])
def test_where_nobody_can_be_asked_nothing_is_known(url):
    with pytest.raises(PlatformUnreachable):
        send("GET", url)


def test_the_library_is_loaded_when_something_is_asked():
    """It takes a tenth of a second of a start that most shops need for nothing."""
    code = "import sys, server.web.app, server.wiring; print({'httpx', 'requests', 'stripe'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "set()"
