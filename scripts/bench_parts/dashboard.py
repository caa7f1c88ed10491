"""The owner's dashboard on a large shop: what CPU each of its pages costs the server, from the request to the page."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median

from flask.testing import FlaskClient
from werkzeug.security import generate_password_hash

from scripts.bench_parts.rows import Row
from scripts.bench_parts.run import Run
from scripts.bench_parts.sent import SECRET
from scripts.bench_parts.shops import Shop
from server.domain.keys import license_id
from server.domain.purchase import EventKind, PurchaseEvent
from server.settings import Settings
from server.web.app import make_app
from server.wiring import Services, build

GOAL, FIRST = 150.0, 3_000.0  # milliseconds of a page; of the very first one, for which the ledger is read once
PASSWORD = "a password for the bench"


def dashboard(run: Run) -> list[Row]:
    number = run.sizes.dashboard
    shop = run.shops.of(number)
    run.say(f"looking at the dashboard of {number:,} licenses")
    with _quietly():
        return _looked_at(run, number, shop)


@contextmanager
def _quietly() -> Iterator[None]:
    """A log of each page would stand among the figures."""
    logger = logging.getLogger("server")
    before = logger.level
    try:
        yield
    finally:
        logger.setLevel(before)


def _looked_at(run: Run, number: int, shop: Shop) -> list[Row]:
    began, services = _signed_in(shop)
    first = _timed(lambda: _get(began, ""))
    rows = [Row(f"dashboard, {number:,} licenses: first page of a shop", f"{first:.0f} ms", "", first, FIRST, "ms")]
    services.figures.keep()  # as the first worker does after an answer
    client, services = _signed_in(shop)
    rows.append(_row(f"dashboard, {number:,} licenses: first page of a worker", [_timed(lambda: _get(client, ""))]))
    times = [_timed_after_refund(client, services, shop, visit) for visit in range(run.sizes.visits)]
    rows.append(_row(f"dashboard, {number:,} licenses: home, after a refund", times))
    for what, path in _pages(shop).items():
        times = [_timed(lambda path=path: _get(client, path)) for _ in range(run.sizes.visits)]  # type: ignore[misc]
        rows.append(_row(f"dashboard, {number:,} licenses: {what}", times))
    return rows


def _timed_after_refund(client: FlaskClient, services: Services, shop: Shop, visit: int) -> float:
    """Of the oldest sales: wherever they stand among the charges that are looked into."""
    sale = services.store.history([shop.keys[visit]])[0]
    refund = PurchaseEvent(event=EventKind.REFUND, event_id=f"refund {visit}", source=sale.source, sale_id=sale.sale_id)
    services.fulfilment.record([refund])
    return _timed(lambda: _get(client, ""))


def _pages(shop: Shop) -> dict[str, str]:
    key = shop.keys[len(shop.keys) // 2]
    public = license_id(key)
    return {
        "home": "",
        "licenses, the newest": "/licenses",
        "licenses, a page further on": f"/licenses?after={public}",
        "licenses by status (none)": "/licenses?status=banned",
        "licenses by status (all)": "/licenses?status=active",
        "licenses by key": f"/licenses?q={key}",
        "licenses by a part of a key": f"/licenses?q={key[7:20].lower()}",
        "licenses by an address's end (all)": "/licenses?q=example.com",
        "licenses by one letter": "/licenses?q=e",
        "licenses by a word of the file": "/licenses?q=device",
        "licenses by what there is not": "/licenses?q=nobody-has-this",
        "one license": f"/licenses/{public}",
        "a confirmation": f"/licenses/{public}/revoke",
        "sales that wait": "/waiting",
        "purchases": "/purchases",
        "purchases, half-way down": f"/purchases?below={len(shop.keys) // 2}",
        "purchases by event (none)": "/purchases?event=dispute",
        "purchases by key": f"/purchases?license_key={key}",
        "purchases by an address that nobody has": "/purchases?email=nobody@example.com",
        "orders": "/orders",
        "letters": "/letters",
        "catalogue": "/catalogue",
        "webhooks": "/webhooks",
        "webhooks by outcome (none)": "/webhooks?outcome=unmapped",
        "one webhook": f"/webhooks/{len(shop.keys) // 2}",
    }


def _signed_in(shop: Shop) -> tuple[FlaskClient, Services]:
    settings = Settings(
        secret_key=("a-secret-key-for-the-bench",),
        license_secret=SECRET,
        data_dir=shop.folder,
        gumroad_webhook_secret=SECRET,
        admin_password_hash=generate_password_hash(PASSWORD, "pbkdf2:sha256:1000"),
        rate_limit="off",
    )
    services = build(settings)
    client = make_app(services).test_client()
    logging.getLogger("server").setLevel(logging.WARNING)  # making the application has set it up
    client.post("/admin/sign-in", data={"password": PASSWORD})
    return client, services


def _get(client: FlaskClient, path: str) -> None:
    answered = client.get(f"/admin{path}")
    if answered.status_code != 200:
        raise RuntimeError(f"/admin{path} answers {answered.status_code}")


def _timed(visit: Callable[[], None]) -> float:
    began = time.process_time()
    visit()
    return (time.process_time() - began) * 1000


def _row(what: str, times: Sequence[float]) -> Row:
    middle = median(times)
    return Row(what, f"{middle:.1f} ms", "", middle, GOAL, "ms", spread=(min(times), max(times)))
