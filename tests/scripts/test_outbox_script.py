"""outbox.py as the owner, or his scheduled task, runs it."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.conftest import OWNER_KEY

UNREACHABLE = {"EMAIL_BACKEND": "smtp", "SMTP_HOST": "127.0.0.1", "SMTP_PORT": "1", "FROM_EMAIL": "shop@example.com"}


@pytest.fixture(autouse=True)
def today(clock):
    """The scripts have the machine's clock, and leave letters alone that were owed more than a week ago."""
    clock.now = datetime.now(UTC)


def test_send_and_list(shop, owner):
    shop.services.outbox.resend(shop.sale("s1"))
    assert {letter["state"] for letter in owner.json("outbox", "list")} == {"queued"}
    report = owner.json("outbox", "send")
    assert (report["failed"], report["dead"], report["waiting"]) == (0, 0, 0)
    assert {letter["state"] for letter in owner.json("outbox", "list", "--state", "sent")} == {"sent"}
    assert "ann@example.com" in owner.run("outbox", "list").stdout
    assert owner.run("outbox", "send").stdout == "0 sent, 0 failed, 0 dead, 0 dropped, 0 waiting\n"


def test_send_exits_with_one_where_the_mail_server_cannot_be_reached(shop, owner):
    shop.sale("s1")
    done = owner.run("outbox", "send", code=1, **UNREACHABLE)
    assert "127.0.0.1:1" in done.stderr


def test_a_dead_letter_is_listed_with_exit_code_one_and_can_be_tried_again(shop, owner):
    shop.sale("s1", "nonsense")
    owner.run("outbox", "send", code=1)
    done = owner.run("outbox", "list", "--state", "dead", "--json", code=1)
    (dead,) = json.loads(done.stdout)
    assert (dead["to"], dead["state"]) == ("nonsense", "dead")
    assert "1 were given up" in done.stderr
    assert owner.json("outbox", "retry", "--all", code=1)["dead"] == 1
    assert owner.json("outbox", "retry", dead["id"], code=1)["dead"] == 1
    assert "there is no such letter" in owner.run("outbox", "retry", "nonsense", code=1).stderr


@pytest.mark.parametrize("arguments", [[], ["1:delivery", "--all"]])
def test_retry_wants_one_letter_or_all(owner, arguments):
    assert "name one letter, or give --all" in owner.run("outbox", "retry", *arguments, code=2).stderr


# ---------------------------------------------------------------------------------------------------- over HTTP
class Service(HTTPServer):
    """A service as a scheduled task sees it; `answer` is what it says, `heard` what it was asked."""

    def __init__(self, status, body=b"", **headers):
        self.answer, self.heard = (status, body, headers), []
        super().__init__(("127.0.0.1", 0), Handler)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.heard.append((self.path, self.headers["Authorization"]))
        status, body, headers = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *_):
        pass


def report(**more):
    names = ("sent", "failed", "dead", "dropped", "waiting")
    return json.dumps(dict.fromkeys(names, 0) | {"busy": False, "trouble": None, "next_due": None} | more).encode()


def test_the_running_service_is_asked_instead_of_the_files(owner):
    with Service(200, report(sent=3)) as service:
        done = owner.run("outbox", "send", "--url", f"{service.url}/", DATA_DIR="/nowhere/at/all")
    assert done.stdout == "3 sent, 0 failed, 0 dead, 0 dropped, 0 waiting\n"
    assert service.heard == [("/api/v1/outbox/send", f"Bearer {OWNER_KEY}")]


def test_what_the_service_says_decides_the_exit_code(owner):
    with Service(200, report(failed=1)) as service:
        assert owner.json("outbox", "send", "--url", service.url, code=1)["failed"] == 1


def test_the_key_follows_no_redirect(owner):
    with Service(200, report()) as elsewhere, Service(302, Location=f"{elsewhere.url}/steal") as service:
        done = owner.run("outbox", "send", "--url", service.url, code=1)
    assert "answers 302" in done.stderr
    assert elsewhere.heard == []


@pytest.mark.parametrize(("status", "body"), [(401, b""), (503, b""), (200, b"<html>")])
def test_a_service_that_says_no_is_one_line(owner, status, body):
    with Service(status, body) as service:
        done = owner.run("outbox", "send", "--url", service.url, code=1)
    assert len(done.stderr.splitlines()) == 1


def test_a_service_that_is_not_there(owner):
    done = owner.run("outbox", "send", "--url", "http://127.0.0.1:1", code=1)
    assert done.stderr.startswith("keyledger: http://127.0.0.1:1 cannot be asked")


@pytest.mark.parametrize(
    ("url", "settings"), [("file:///etc/passwd", {}), ("nonsense", {}), ("http://127.0.0.1:1", {"ADMIN_API_KEY": ""})]
)
def test_a_url_or_key_that_makes_no_sense_exits_with_two(owner, url, settings):
    owner.run("outbox", "send", "--url", url, code=2, **settings)
