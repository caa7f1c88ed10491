"""The dashboard's books in a real Chromium: gunicorn with its workers, Gumroad's pings, and a stand-in of PayU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from werkzeug.security import generate_password_hash

from tests.acceptance.servers import Server
from tests.conftest import sale_ping
from tests.dashboard import PASSWORD
from tests.standins import payu
from tests.standins.payu_notices import SECOND_KEY

expect.set_options(timeout=15_000)  # a busy machine may take its time
ANN, NAME = "ann@example.com", "<b>Zoë</b> O'Hara & Söhne"
PRODUCTS: dict[str, Any] = {
    "wave": {"name": "Wave", "tier": "pro", "platform_ids": {"gumroad": ["G-WAVE=="]}},
    "team": {"name": "Team", "published": True, "price": {"pln": "119.00"}, "category": "Tools", "max_devices": 5},
    "studio": {"name": "Studio", "bundle": ["wave", "team"], "price": {"usd": "49.00"}},
}
NEW = {"name": "Brand new", "platform_ids": {"gumroad": ["G-NEW=="]}}


class Office:
    """A shop that has sold a little, and the owner's browser."""

    def __init__(self, folder: Path, browser: Browser, stack: ExitStack) -> None:
        self.browser, self.folder = browser, folder
        self.complaints: list[str] = []
        self.payu = stack.enter_context(payu.PayuApi())
        folder.mkdir()
        self.write_catalogue(PRODUCTS)
        settings = {
            "ADMIN_PASSWORD_HASH": generate_password_hash(PASSWORD, "pbkdf2:sha256:1"),
            "OWNER_EMAIL": "owner@shop.example",
            "PAYU_POS_ID": payu.POS,
            "PAYU_CLIENT_ID": payu.POS,
            "PAYU_CLIENT_SECRET": payu.CLIENT_SECRET,
            "PAYU_SECOND_KEY": SECOND_KEY,
            "PAYU_API_URL": self.payu.url,
        }
        self.server = Server(folder, workers=2, **settings)
        self.url = self.server.env["APP_URL"] = f"http://127.0.0.1:{self.server.port}"
        stack.callback(self.server.stop)
        self.server.start()
        self.key = self.server.sale("s1", ANN, full_name=NAME)
        self.server.ping(sale_ping("s2", "bob@example.com", "G-NEW==", product_name="Brand new", full_name="Bob"))
        self.server.ping(sale_ping("s3", ANN), secret="wrong")
        self.server.sale("s4", "nobody at all", full_name="Nobody")
        self.order = self._paid_order()
        assert self.server.until(lambda: self._letters("sent") >= {"1:delivery"} and self._letters("dead"))
        self.cookies = self._signed_in()

    def _letters(self, state: str) -> set[str]:
        return {letter["id"] for letter in self.server.owner("GET", f"/outbox?state={state}").json["letters"]}

    def _signed_in(self) -> Any:
        context = self.browser.new_context(base_url=self.url)
        page = context.new_page()
        page.goto("/admin/sign-in")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        press(page, "Sign in")
        expect(page.get_by_role("heading", name="Home", exact=True)).to_be_visible()
        return context.storage_state()

    def _paid_order(self) -> str:
        said = {"package_ids": ["team"], "email": ANN, "name": "Ann Example", "payment_provider": "payu"}
        order = self.server.post("/api/v1/checkout/initiate", said).json
        name = next(iter(self.payu.orders))
        self.payu.pay(name)
        notice = self.payu.notice(name)
        answered = self.server.call("POST", "/api/v1/webhooks/payu", notice.body, **notice.headers)
        assert answered.status == 200, answered.body
        return str(order["order_id"])

    def write_catalogue(self, products: dict[str, Any]) -> None:
        told = {"tiers": {"pro": {"features": ["batch", "cloud_sync"]}}, "products": products}
        (self.folder / "products.json").write_text(json.dumps(told))

    def page(self, **more: Any) -> Page:
        """Of the owner, signed in."""
        context = self.browser.new_context(base_url=self.url, storage_state=self.cookies, **more)
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.on("console", lambda said: self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Office]:
    with ExitStack() as stack:
        yield Office(tmp_path_factory.mktemp("office") / "data", browser, stack)


def press(page: Page, name: str, role: Any = "button") -> None:
    with page.expect_navigation():
        page.get_by_role(role, name=name, exact=True).click()


def follow(page: Page, name: str) -> None:
    press(page, name, "link")


def test_a_letter_is_read_and_sent_once_more(office):
    page = office.page()
    page.goto("/admin/letters?state=sent")
    with page.expect_navigation():
        page.get_by_role("row").filter(has_text=ANN).get_by_role("link", name="delivery", exact=True).last.click()
    expect(page.get_by_label("Text of the letter", exact=True)).to_contain_text(office.key)
    follow(page, "Send it once more")
    expect(page.get_by_text(f"The letter goes out once more to {ANN}, as it reads today.", exact=True)).to_be_visible()
    press(page, "Send it")
    expect(page.get_by_role("status")).to_have_text("Done. It is on its way once more.")
    page.goto("/admin/letters?state=dead")
    expect(page.get_by_text("this is no valid e-mail address", exact=True)).to_be_visible()
    assert office.complaints == []


def test_an_unmapped_sale_is_handled_again_after_it_was_mapped(office):
    page = office.page()
    page.goto("/admin/webhooks?outcome=unmapped")
    follow(page, "Line 2")
    expect(page.get_by_text('"platform_ids": {"gumroad": ["G-NEW=="]}', exact=True)).to_be_visible()
    office.write_catalogue(PRODUCTS | {"new": NEW})
    page.goto("/admin/webhooks/2")
    follow(page, "Handle it again")
    expect(
        page.get_by_text("A license of Brand new will be issued, and its key sent to bob@example.com.")
    ).to_be_visible()
    press(page, "Handle it again")
    expect(page.get_by_role("status")).to_contain_text("Done. It is issued now, by line")
    page.goto("/admin/webhooks/2")
    expect(page.get_by_text("says something newer of the same event: it is issued.")).to_be_visible()
    assert [line["outcome"] for line in office.server.ledger() if line["sale_id"] == "s2"] == ["unmapped", "issued"]
    assert office.complaints == []


def test_an_order_is_refunded(office):
    page = office.page()
    page.goto(f"/admin/orders/{office.order}")
    follow(page, "Refund")
    page.get_by_label("How much, in PLN", exact=False).fill("119.00")
    press(page, "Go on")
    expect(page.get_by_text("PayU is asked to give 119.00 PLN back to Ann Example.", exact=True)).to_be_visible()
    press(page, "Refund 119.00 PLN")
    expect(page.get_by_role("status")).to_contain_text("PayU took the refund of 119.00 PLN")
    name = next(iter(office.payu.orders))
    assert [one["amount"] for one in office.payu.refunds[name]] == ["11900"]
    office.payu.settle(name)
    press(page, "Ask PayU now")
    expect(page.get_by_role("status")).to_contain_text("It is new: the order is refunded.")
    assert office.complaints == []


PLACES = ("purchases", "orders", "letters", "catalogue", "webhooks", "webhooks/1", "webhooks/2", "letters/1:delivery")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_a_phone_in_the_light_and_in_the_dark(office, scheme):
    page = office.page(color_scheme=scheme, viewport={"width": 320, "height": 640})
    for place in (*PLACES, f"orders/{office.order}", f"orders/{office.order}/refund"):
        page.goto(f"/admin/{place}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, place
        assert page.locator("main b, main script").count() == 0, place
    assert office.complaints == []
