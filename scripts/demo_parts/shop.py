"""The shop of the demo: the real server on a temporary folder, a mail server, and PayU's stand-in of the tests."""

from __future__ import annotations

import json
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from email.message import EmailMessage
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.request import HTTPCookieProcessor, OpenerDirector, ProxyHandler, Request, build_opener

from scripts.demo_parts.mailbox import Mailbox
from server.settings import ROOT, Settings
from tests.standins import payu
from tests.standins.payu import PayuApi
from tests.standins.payu_notices import SECOND_KEY

PATIENCE = 20.0  # seconds for an answer or a letter: a slow machine, not a slow server
PRODUCTS = {
    "products": {
        "imagewave": {
            "name": "ImageWave Converter",
            "max_devices": 1,
            "platform_ids": {
                "gumroad": ["32-nPAicqbLj8B_WswVlMw=="],
                "stripe": ["plink_1Pgc78B7WZ01zgkW"],
                "jvzoo": ["406519"],
            },
        },
        "grainlab": {"name": "GrainLab", "max_devices": 1},
        "studio": {
            "name": "Studio bundle",
            "bundle": ["imagewave", "grainlab"],
            "price": {"pln": "199.00"},
            "published": True,
        },
    }
}


def _browser() -> OpenerDirector:
    return build_opener(ProxyHandler({}), HTTPCookieProcessor(CookieJar()))


@dataclass
class Shop:
    url: str
    secret: str
    mailbox: Mailbox
    payu: PayuApi
    environment: dict[str, str]
    browser: OpenerDirector = field(default_factory=_browser)

    def ask(self, verb: str, **body: str) -> dict[str, Any]:
        """As an app sends it."""
        return self.post(f"licenses/{verb}", body)

    def post(self, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        return self.send(path, json.dumps(body), {"Content-Type": "application/json"} | headers)

    def send(self, path: str, body: str | None = None, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """The API's answer; without a body it is a GET."""
        return dict(json.loads(self.visit(f"{self.url}/api/v1/{path}", body, headers)[1]))

    def visit(self, url: str, body: str | None = None, headers: dict[str, str] | None = None) -> tuple[str, str]:
        """Where it led, and what stands there."""
        request = Request(url, None if body is None else body.encode(), headers or {})  # noqa: S310 (our own addresses)
        with self.browser.open(request, timeout=PATIENCE) as answer:
            return str(answer.url), answer.read().decode()

    @property
    def owner(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.environment['ADMIN_API_KEY']}"}

    def letter(self) -> EmailMessage:
        return self.mailbox.letters.get(timeout=PATIENCE)

    def script(self, *command: str) -> None:
        subprocess.run([sys.executable, *command], cwd=ROOT, env=self.environment, check=True)


@contextmanager
def open_shop(folder: Path) -> Iterator[Shop]:
    data = folder / "data"
    data.mkdir(mode=0o700)
    (data / "products.json").write_text(json.dumps(PRODUCTS))
    with Mailbox() as mailbox, PayuApi() as payu_api, socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=mailbox.serve_forever, daemon=True).start()
        url, secret = f"http://127.0.0.1:{listener.getsockname()[1]}", secrets.token_urlsafe(24)
        environment = blank_environment() | sold_here(url, payu_api.url) | told_by_platforms(secret)
        environment |= {"DATA_DIR": str(data), "SMTP_PORT": str(mailbox.server_address[1])}
        with serving(environment, listener, folder / "server.log"):
            yield Shop(url, secret, mailbox, payu_api, environment)
        mailbox.shutdown()


def blank_environment() -> dict[str, str]:
    """Every setting is given, so that nothing of an .env that may be here reaches the demo."""
    names = [field.name.upper() for field in fields(Settings)]
    return {
        **os.environ,
        **dict.fromkeys([*names, *(f"{name}_FILE" for name in names)], ""),
        "SECRET_KEY": secrets.token_urlsafe(24),
        "LICENSE_SECRET": secrets.token_urlsafe(24),
        "ADMIN_API_KEY": secrets.token_urlsafe(24),
        "ENV_FILE": os.devnull,
        "EMAIL_BACKEND": "smtp",
        "SMTP_HOST": "127.0.0.1",
        "FROM_EMAIL": "shop@example.com",
        "WEB_CONCURRENCY": "2",
    }


def told_by_platforms(secret: str) -> dict[str, str]:
    return dict.fromkeys(("GUMROAD_WEBHOOK_SECRET", "STRIPE_WEBHOOK_SECRET", "JVZOO_SECRET_KEY"), secret)


def sold_here(url: str, payu_url: str) -> dict[str, str]:
    return {
        "APP_URL": url,
        "PAYU_POS_ID": payu.POS,
        "PAYU_CLIENT_ID": payu.POS,
        "PAYU_CLIENT_SECRET": payu.CLIENT_SECRET,
        "PAYU_SECOND_KEY": SECOND_KEY,
        "PAYU_API_URL": payu_url,
    }


@contextmanager
def serving(environment: dict[str, str], listener: socket.socket, log: Path) -> Iterator[None]:
    """gunicorn with two workers on a socket that listens already: requests wait until it is up."""
    command = ["gunicorn", "-c", "deployment/gunicorn.conf.py", "-b", f"fd://{listener.fileno()}", "wsgi:app"]
    with open(log, "wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
        )
        try:
            yield
        except (OSError, queue.Empty, subprocess.SubprocessError):
            sys.stderr.write(log.read_text(errors="replace")[-3000:])
            raise
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=PATIENCE)
