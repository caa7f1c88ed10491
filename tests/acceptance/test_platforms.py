"""Three platforms at once over gunicorn with four workers: every notice thrice, in any order, from eight senders."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.acceptance import world
from tests.acceptance.servers import Server
from tests.acceptance.test_simulation import Apis, as_told_in_order, compared
from tests.acceptance.world import Webhook
from tests.jvzoo_notices import KEY as JVZOO_KEY
from tests.tills import WHSEC, catalogue_of_three

ORDERS, TIMES, SENDERS, SEED = 60, 3, 8, 7


@pytest.fixture
def apis() -> Iterator[Apis]:
    found = Apis()
    yield found
    found.close()


def test_the_books_are_the_same_whatever_order_four_workers_heard_of_it_in(tmp_path, apis):
    orders = world.make_orders(ORDERS, SEED)
    apis.take(orders)
    expected = as_told_in_order(tmp_path / "told", orders, apis)
    assert len(expected) == ORDERS

    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "products.json").write_text(json.dumps(catalogue_of_three()))
    settings = {name.upper(): value for name, value in apis.settings().items()}
    server = Server(folder, STRIPE_WEBHOOK_SECRET=WHSEC, JVZOO_SECRET_KEY=JVZOO_KEY, **settings).start()
    try:
        webhooks = [webhook for order in orders for webhook in order.webhooks] * TIMES
        random.Random(SEED).shuffle(webhooks)

        def send(webhook: Webhook) -> int:
            headers = {name.replace("-", "_"): value for name, value in webhook.headers().items()}
            return server.call("POST", world.door(webhook), webhook.body, **headers).status

        with ThreadPoolExecutor(SENDERS) as senders:
            assert set(senders.map(send, webhooks)) == {200}
    finally:
        server.stop()  # which writes the view
    assert compared(server.licenses()) == expected
    told = [(line["source"], line["event_id"], line.get("revision", 0)) for line in server.ledger()]
    assert len(told) == len(set(told))


def test_an_orderly_end_leaves_no_traceback(tmp_path):
    server = Server(tmp_path / "data", workers=2).start()
    server.stop()
    assert "Traceback" not in server.log.read_text()
    assert "Shutting down: Master" in server.log.read_text()
