"""A street for tests in the browser: a shop, the platforms that take its payments, a post office, and people with
browsers of their own.

The platforms' pages are on `localhost`, the shop is on 127.0.0.1: for a browser these are two sites, as in life.
"""

from __future__ import annotations

import base64
import json
import re
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, BrowserContext, Page, expect

from server.services.sign_in import Sessions
from server.settings import Settings
from server.storage.shelf import FileShelf
from tests.acceptance.servers import Server
from tests.services.mail_room import PostOffice
from tests.signed_answers import SEED
from tests.standins import easypaisa, jazzcash, payu
from tests.standins.payu_notices import SECOND_KEY

expect.set_options(timeout=15_000)  # a busy machine may take its time
HOSTILE = "<img src=x onerror=alert(1)>\"'&</textarea>"
CATALOGUE: dict[str, Any] = {
    "tiers": {"pro": {"features": ["batch", "cloud_sync"]}},
    "products": {
        "wave": {
            "name": "Wave",
            "tier": "pro",
            "platform_ids": {"gumroad": ["G-WAVE=="]},
            "price": {"pln": "119.00", "pkr": "8500.00"},
            "published": True,
            "category": "Tools",
            "description": "Converts whole folders.",
        },
        "team": {
            "name": "Team",
            "platform_ids": {"gumroad": ["G-TEAM=="]},
            "duration_days": 365,
            "max_devices": 5,
            "price": {"pln": "200.00"},
        },
        "studio": {
            "name": "Studio",
            "bundle": ["wave", "team"],
            "price": {"pln": "249.00", "pkr": "15000.00"},
            "original_price": {"pln": "319.00"},
            "featured": True,
            "published": True,
            "category": "Bundles",
        },
        "hostile": {
            "name": HOSTILE,
            "description": HOSTILE + "wordswithoutanend" * 9,
            "price": {"pln": "1.00"},
            "published": True,
            "category": HOSTILE,
        },
    },
}


class Street:
    def __init__(self, folder: Path, browser: Browser, stack: ExitStack) -> None:
        self.browser = browser
        self.complaints: list[str] = []
        self.payu = stack.enter_context(payu.PayuApi())
        self.jazzcash = stack.enter_context(jazzcash.JazzCashApi())
        self.easypaisa = stack.enter_context(easypaisa.EasyPaisaApi())
        self.post = stack.enter_context(PostOffice())
        for platform in (self.payu, self.jazzcash, self.easypaisa):
            platform.url = f"http://localhost:{platform.port}"
        folder.mkdir()
        (folder / "products.json").write_text(json.dumps(CATALOGUE))
        self.server = Server(folder, workers=2, **self._platforms(), **self._own())
        self.url = self.server.env["APP_URL"] = f"http://127.0.0.1:{self.server.port}"
        stack.callback(self.server.stop)
        self.server.start()

    def _platforms(self) -> dict[str, str]:
        return {
            "PAYU_POS_ID": payu.POS,
            "PAYU_CLIENT_ID": payu.POS,
            "PAYU_CLIENT_SECRET": payu.CLIENT_SECRET,
            "PAYU_SECOND_KEY": SECOND_KEY,
            "PAYU_API_URL": self.payu.url,
            "JAZZCASH_MERCHANT_ID": jazzcash.MERCHANT,
            "JAZZCASH_PASSWORD": jazzcash.PASSWORD,
            "JAZZCASH_INTEGRITY_SALT": jazzcash.SALT,
            "JAZZCASH_API_URL": self.jazzcash.url,
            "EASYPAISA_STORE_ID": easypaisa.STORE,
            "EASYPAISA_HASH_KEY": easypaisa.HASH_KEY,
            "EASYPAISA_USERNAME": easypaisa.USERNAME,
            "EASYPAISA_PASSWORD": easypaisa.PASSWORD,
            "EASYPAISA_ACCOUNT": easypaisa.ACCOUNT,
            "EASYPAISA_API_URL": self.easypaisa.url,
        }

    def _own(self) -> dict[str, str]:
        return {
            "SIGNING_KEY": base64.b64encode(SEED).decode(),
            "OWNER_EMAIL": "owner@shop.example",
            "EMAIL_BACKEND": "smtp",
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(self.post.port),
            "SMTP_STARTTLS": "false",
        }

    def page(self, **more: Any) -> Page:
        context = self.browser.new_context(base_url=self.url, **more)
        context.set_default_timeout(15_000)
        return self.listen(context)

    def listen(self, context: BrowserContext) -> Page:
        page = context.new_page()
        page.on("console", lambda said: self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page

    def order(
        self,
        page: Page,
        package: str = "wave",
        currency: str = "pln",
        provider: str | None = None,
        until: Literal["load", "commit"] = "load",
    ) -> None:
        """Fill in the package's form, and send it."""
        page.goto(f"/shop/{package}?currency={currency}")
        page.get_by_label("Your name").fill("Ann Example")
        page.get_by_label("Your e-mail address").fill("ann@example.com")
        if provider:
            page.get_by_label(provider).check()
        with page.expect_navigation(wait_until=until):  # on a busy machine the form stays on the screen for a while
            page.get_by_role("button", name="Go to the payment").click()

    def letter(self, to: str, about: str, number: int = 1) -> str:
        """The text of the so-manieth letter to somebody about something, which leaves after the answer."""
        inbox = self.post.inbox

        def came() -> list[Any]:
            return [m for tos, m in inbox if to in tos and about in str(m["Subject"])]

        assert self.server.until(lambda: len(came()) >= number), [(tos, str(m["Subject"])) for tos, m in inbox]
        return str(came()[number - 1].get_body(("plain",)).get_content()).replace("\r\n", "\n")

    def sign_in(self, page: Page, email: str) -> None:
        """Where the letter is not what is looked at: a session is begun as its link would."""
        settings = Settings(secret_key=("secret-key-of-the-tests",), license_secret="not needed", app_url=self.url)
        shelf = FileShelf(self.server.folder / "shelf.json", 5.0)
        _, cookie = Sessions(shelf, settings, lambda: datetime.now(UTC)).begin(email)
        page.context.add_cookies([{"name": "keyledger", "value": cookie, "url": self.url}])

    def keys(self, page: Page) -> list[str]:
        """Those on the screen of a paid order, which a slow platform may have kept waiting."""
        expect(page.get_by_role("heading", level=1)).to_have_text("Thank you: your order is paid")
        return [field.input_value() for field in page.get_by_label(re.compile("^License key of")).all()]


def fits(page: Page, width: int = 320) -> bool:
    """Whether nothing sticks out of a narrow phone."""
    before = page.viewport_size
    page.set_viewport_size({"width": width, "height": 640})
    fit = page.evaluate("document.documentElement.scrollWidth") <= width
    if before:
        page.set_viewport_size(before)
    return bool(fit)
