#!/usr/bin/env python3
"""Keyledger's story in a few seconds: a real server on a temporary folder, sales, their letters, laptops, refunds.

Everything is real but the outside world: PayU is the stand-in of the tests, the other platforms' webhooks come from
here, signed as they sign them, and the mail server is a small one in here.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.demo_parts.sales import checkout, ipn, ping
from scripts.demo_parts.shop import Shop, open_shop
from scripts.demo_parts.store_front import sell_bundle
from scripts.demo_parts.telling import say, show, show_letter, verdict


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended with us
    with tempfile.TemporaryDirectory(prefix="keyledger-demo-") as folder, open_shop(Path(folder)) as shop:
        say(f"Keyledger runs: gunicorn with 2 workers on {shop.url}, files in {folder}")
        sell_bundle(shop)
        key = sell_on_gumroad(shop)
        sell_elsewhere(shop)
        audit(shop, key)
    say("Everything is stopped and removed.")


def sell_on_gumroad(shop: Shop) -> str:
    """The license key."""
    say("Ann buys ImageWave on Gumroad, whose ping comes in as a form")
    sold = ping(shop)
    key = str(sold["license_keys"][0])
    show(f"answer: {json.dumps(sold)}")
    say("Her license is mailed, after the answer went out")
    show_letter(shop.letter())
    two_laptops(shop, key)
    say("Gumroad delivers the same ping again: the same license, and no second letter")
    show(f"answer: {json.dumps(ping(shop))}")
    say("Ann gets her money back: that license is suspended")
    show(f"answer: {json.dumps(ping(shop, resource_name='refund', refunded='true'))}")
    show(verdict("laptop B", shop.ask("validate", license_key=key, hardware_id="laptop-B")))
    show(f"letter: {shop.letter()['Subject']}")
    return key


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


def sell_elsewhere(shop: Shop) -> None:
    say("Bea buys it through a Stripe payment link, Cem on JVZoo; each is proven by the platform's own signature")
    show(f"Stripe: {json.dumps(checkout(shop))}")
    show(f"JVZoo:  {json.dumps(ipn(shop))}")
    show("letters: " + ", ".join(sorted(str(shop.letter()["To"]) for _ in range(2))))


def audit(shop: Shop, key: str) -> None:
    say("The owner's audit: scripts/audit.py stats")
    shop.script("scripts/audit.py", "stats")
    say("Why does the license stand as it does? scripts/audit.py explain KEY")
    shop.script("scripts/audit.py", "explain", key)
    say("Are the books sound? scripts/audit.py verify")
    shop.script("scripts/audit.py", "verify")


if __name__ == "__main__":
    main()
