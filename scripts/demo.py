#!/usr/bin/env python3
"""Keyledger's story in a few seconds: a real server on a temporary folder, a sale, its letter, two laptops, a refund.

Everything is real but the outside world: the platforms' webhooks come from here, signed as they sign them, and the mail
server is a small one in here.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import secrets
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from stripe import WebhookSignature

from server.settings import ROOT, Settings

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
        }
    }
}
SALE = {
    "seller_id": "kL0psVL2admJSYRNs-OCMg==",
    "product_id": "32-nPAicqbLj8B_WswVlMw==",
    "product_name": "ImageWave Converter",
    "permalink": "imagewave",
    "short_product_id": "QMGY",
    "email": "ann@example.com",
    "full_name": "Ann Example",
    "price": "2999",
    "gumroad_fee": "350",
    "currency": "usd",
    "quantity": "1",
    "order_number": "524459935",
    "sale_id": "FO8TXN-dbxYaBdahG97Y-Q==",
    "sale_timestamp": "2026-11-05T19:38:56Z",
    "ip_country": "Poland",
    "is_gift_receiver_purchase": "false",
    "refunded": "false",
    "resource_name": "sale",
    "disputed": "false",
    "dispute_won": "false",
}
CHECKOUT = {
    "id": "cs_live_a1YS1URlnyQCN5fUUduORoQ7Pw41PJqDWk",
    "object": "checkout.session",
    "mode": "payment",
    "payment_status": "paid",
    "status": "complete",
    "amount_total": 2999,
    "currency": "eur",
    "created": 1794137936,
    "customer_details": {"email": "bea@example.com", "name": "Bea Example", "address": {"country": "DE"}},
    "payment_intent": "pi_3PgafyB7WZ01zgkW0SjxsAJo",
    "payment_link": "plink_1Pgc78B7WZ01zgkW",
    "livemode": True,
}
IPN = {
    "ccustname": "Cem Example",
    "ccustemail": "cem@example.com",
    "ccustcc": "TR",
    "ccuststate": "",
    "cproditem": "406519",
    "cprodtitle": "ImageWave Converter",
    "cprodtype": "STANDARD",
    "ctransaction": "SALE",
    "ctransreceipt": "9U7RZQUDEMO00001A",
    "ctransamount": "29.99",
    "ctranspaymentmethod": "PYPL",
    "ctransvendor": "1140863",
    "ctransaffiliate": "0",
    "ctranstime": "1794137936",
    "caffitid": "",
    "cupsellreceipt": "",
    "cvendthru": "",
}


# ---------------------------------------------------------------------------------------------------- a mail server
class Mailbox(socketserver.ThreadingTCPServer):
    """Takes any letter over SMTP and keeps it in `letters`."""

    daemon_threads = True

    def __init__(self) -> None:
        self.letters: queue.Queue[EmailMessage] = queue.Queue()
        super().__init__(("127.0.0.1", 0), MailSession)


class MailSession(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"220 demo\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                self.keep()
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 well\r\n")

    def keep(self) -> None:
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b"."))
        letter = message_from_bytes(b"".join(lines), policy=default)
        assert isinstance(letter, EmailMessage)
        assert isinstance(self.server, Mailbox)
        self.server.letters.put(letter)


# ---------------------------------------------------------------------------------------------------- the shop
@dataclass
class Shop:
    url: str
    secret: str
    mailbox: Mailbox
    environment: dict[str, str]

    def ping(self, **more: str) -> dict[str, Any]:
        """As Gumroad sends it: a form, proven by the secret in the URL."""
        return self._post(f"webhooks/gumroad?secret={self.secret}", urlencode(SALE | more), "x-www-form-urlencoded")

    def checkout(self) -> dict[str, Any]:
        """As Stripe sends it: JSON, signed over its bytes."""
        event = {"id": "evt_1", "object": "event", "type": "checkout.session.completed", "created": 1794137940}
        body = json.dumps({**event, "livemode": True, "data": {"object": CHECKOUT}})
        signature = WebhookSignature.generate_signature_header(body, self.secret)
        return self._post("webhooks/stripe", body, "json", {"Stripe-Signature": signature})

    def ipn(self) -> dict[str, Any]:
        """As JVZoo sends it: a form, signed by eight digits of a hash over its values."""
        told = "|".join([*(IPN[name] for name in sorted(IPN)), self.secret])
        cverify = hashlib.sha1(told.encode()).hexdigest()[:8].upper()  # noqa: S324 (JVZoo's, not ours)
        return self._post("webhooks/jvzoo", urlencode({**IPN, "cverify": cverify}), "x-www-form-urlencoded")

    def ask(self, verb: str, **body: str) -> dict[str, Any]:
        """As an app sends it."""
        return self._post(f"licenses/{verb}", json.dumps(body), "json")

    def _post(self, path: str, body: str, kind: str, more: dict[str, str] | None = None) -> dict[str, Any]:
        url, headers = f"{self.url}/api/v1/{path}", {"Content-Type": f"application/{kind}", **(more or {})}
        request = Request(url, body.encode(), headers)  # noqa: S310 (our own address)
        with build_opener(ProxyHandler({})).open(request, timeout=PATIENCE) as answer:
            return dict(json.load(answer))

    def letter(self) -> EmailMessage:
        return self.mailbox.letters.get(timeout=PATIENCE)

    def script(self, *command: str) -> None:
        subprocess.run([sys.executable, *command], cwd=ROOT, env=self.environment, check=True)


@contextmanager
def open_shop(folder: Path) -> Iterator[Shop]:
    data = folder / "data"
    data.mkdir(mode=0o700)
    (data / "products.json").write_text(json.dumps(PRODUCTS))
    with Mailbox() as mailbox:
        threading.Thread(target=mailbox.serve_forever, daemon=True).start()
        secret = secrets.token_urlsafe(24)
        environment = environment_for(data, secret, mailbox.server_address[1])
        with serving(environment, folder / "server.log") as url:
            yield Shop(url, secret, mailbox, environment)
        mailbox.shutdown()


def environment_for(data: Path, secret: str, smtp_port: int) -> dict[str, str]:
    """Every setting is given, so that nothing of an .env that may be here reaches the demo."""
    names = [field.name.upper() for field in fields(Settings)]
    blank = dict.fromkeys([*names, *(f"{name}_FILE" for name in names)], "")
    return {
        **os.environ,
        **blank,
        "SECRET_KEY": secrets.token_urlsafe(24),
        "LICENSE_SECRET": secrets.token_urlsafe(24),
        "ENV_FILE": os.devnull,
        "GUMROAD_WEBHOOK_SECRET": secret,
        "STRIPE_WEBHOOK_SECRET": secret,
        "JVZOO_SECRET_KEY": secret,
        "DATA_DIR": str(data),
        "EMAIL_BACKEND": "smtp",
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(smtp_port),
        "FROM_EMAIL": "shop@example.com",
        "WEB_CONCURRENCY": "2",
    }


@contextmanager
def serving(environment: dict[str, str], log: Path) -> Iterator[str]:
    """gunicorn with two workers on a socket that listens already: requests wait until it is up."""
    with socket.create_server(("127.0.0.1", 0)) as listener, open(log, "wb") as output:
        command = ["gunicorn", "-c", "deployment/gunicorn.conf.py", "-b", f"fd://{listener.fileno()}", "wsgi:app"]
        server = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
        )
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        except (OSError, queue.Empty, subprocess.SubprocessError):
            sys.stderr.write(log.read_text(errors="replace")[-3000:])
            raise
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=PATIENCE)


# ---------------------------------------------------------------------------------------------------- the story
def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended with us
    with tempfile.TemporaryDirectory(prefix="keyledger-demo-") as folder, open_shop(Path(folder)) as shop:
        say(f"Keyledger runs: gunicorn with 2 workers on {shop.url}, files in {folder}")
        tell_story(shop)
    say("Everything is stopped and removed.")


def tell_story(shop: Shop) -> None:
    say("Ann buys ImageWave on Gumroad, whose ping comes in as a form")
    sold = shop.ping()
    key = sold["license_keys"][0]
    show(f"answer: {json.dumps(sold)}")
    say("Her license is mailed, after the answer went out")
    letter = shop.letter()
    body = letter.get_body(("plain",))
    show(f"To: {letter['To']}\nSubject: {letter['Subject']}\n\n{body.get_content() if body else ''}")
    two_laptops(shop, key)
    say("Gumroad delivers the same ping again: the same license, and no second letter")
    show(f"answer: {json.dumps(shop.ping())}")
    say("Ann gets her money back: that license is suspended")
    show(f"answer: {json.dumps(shop.ping(resource_name='refund', refunded='true'))}")
    show(verdict("laptop B", shop.ask("validate", license_key=key, hardware_id="laptop-B")))
    show(f"letter: {shop.letter()['Subject']}")
    say("Bea buys it through a Stripe payment link, Cem on JVZoo; each is proven by the platform's own signature")
    show(f"Stripe: {json.dumps(shop.checkout())}")
    show(f"JVZoo:  {json.dumps(shop.ipn())}")
    show("letters: " + ", ".join(sorted(str(shop.letter()["To"]) for _ in range(2))))
    say("The owner's audit: scripts/audit.py stats")
    shop.script("scripts/audit.py", "stats")
    say("Why does the license stand as it does? scripts/audit.py explain KEY")
    shop.script("scripts/audit.py", "explain", key)
    say("Are the books sound? scripts/audit.py verify")
    shop.script("scripts/audit.py", "verify")


def two_laptops(shop: Shop, key: str) -> None:
    a, b = (
        {"hardware_id": "laptop-A", "device_name": "Laptop A"},
        {"hardware_id": "laptop-B", "device_name": "Laptop B"},
    )
    say("She starts the app on laptop A, starts it again, then on laptop B: one license, one computer")
    show(verdict("laptop A", shop.ask("validate", license_key=key, **a)))
    show(verdict("laptop A", shop.ask("validate", license_key=key, **a)))
    show(verdict("laptop B", shop.ask("validate", license_key=key, **b)))
    say("She signs laptop A off; now laptop B may take the seat")
    show(verdict("laptop A signs off", shop.ask("deactivate", license_key=key, hardware_id="laptop-A")))
    show(verdict("laptop B", shop.ask("validate", license_key=key, **b)))


def verdict(who: str, answer: dict[str, Any]) -> str:
    found, how = answer["license"] or {}, "takes the seat" if answer.get("activated") else ""
    used = f"{found.get('devices_used')} of {found.get('max_devices')} seats"
    return f"{who:18}  {answer['code']:18} the license {answer['detail']}; {used} {how}".rstrip()


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def show(text: str) -> None:
    print("\n".join(f"   {line}".rstrip() for line in text.splitlines()), flush=True)


if __name__ == "__main__":
    main()
