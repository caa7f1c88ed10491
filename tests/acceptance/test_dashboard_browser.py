"""The dashboard as its owner sees it: a real Chromium, gunicorn with two workers, the keyboard, the dark, a phone."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from server.domain.keys import license_id
from tests.acceptance.accessibility import serious_findings
from tests.acceptance.servers import Server
from tests.conftest import sale_ping, some_of
from tests.dashboard import HASH, PASSWORD

expect.set_options(timeout=15_000)  # a busy machine may take its time
HOSTILE = "<img src=x onerror=alert(1)>\"'&</textarea> wordswithoutanend" + "x" * 60
PAGES = ["", "/licenses", "/licenses/new", "/waiting", "/purchases", "/orders", "/letters", "/catalogue", "/webhooks"]


class Office:
    """A shop with a dashboard, and the owner's browser; `complaints` are what that says of any page."""

    def __init__(self, folder: Path, browser: Browser, stack: ExitStack) -> None:
        self.browser = browser
        self.complaints: list[str] = []
        self.server = Server(folder, workers=2, ADMIN_PASSWORD_HASH=HASH, TRUSTED_PROXIES="1")
        self.url = self.server.env["APP_URL"] = f"http://127.0.0.1:{self.server.port}"
        stack.callback(self.server.stop)
        self.server.start()
        self.folder, self._sales = folder, 0

    def sale(self, email: str = "ann@example.com", product: str = "G-TEAM==", **more: Any) -> str:
        self._sales += 1
        return self.server.sale(f"sale-{self._sales}", email, product, **more)

    def context(self, **more: Any) -> BrowserContext:
        return self.browser.new_context(base_url=self.url, **more)

    def page(self, context: BrowserContext) -> Page:
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda asked: self._watch(asked.url))
        return page

    def _watch(self, url: str) -> None:
        if not url.startswith((self.url, "data:")):
            self.complaints.append(f"asked {url}")

    def of(self, key: str) -> Any:
        return self.server.owner("GET", f"/licenses/{key}").json


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Office]:
    with ExitStack() as stack:
        yield Office(tmp_path_factory.mktemp("office") / "data", browser, stack)


@pytest.fixture(scope="module")
def session(office: Office) -> Any:
    """The owner's cookies. He signs in seldom in this file: who does so too often has to wait."""
    with office.context() as context:
        sign_in(office.page(context))
        return context.storage_state()


@pytest.fixture
def page(office: Office, session: Any) -> Iterator[Page]:
    """A browser in which the owner has signed in; at the end it has complained of nothing."""
    office.complaints.clear()
    with office.context(storage_state=session) as context:
        yield office.page(context)
    assert office.complaints == []


def sign_in(page: Page) -> None:
    page.goto("/admin/sign-in")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    press(page, "Sign in")
    expect(page).to_have_url(re.compile(r"/admin$"))


def press(page: Page, name: str) -> None:
    """A button that leads to another page."""
    with page.expect_navigation():
        page.get_by_role("button", name=name, exact=True).click()


def follow(page: Page, name: str) -> None:
    with page.expect_navigation():
        page.get_by_role("link", name=name, exact=True).click()


# ---------------------------------------------------------------------------------------------------- a working day
def test_the_owner_looks_a_license_up_and_decides_about_it(office):
    office.complaints.clear()
    with office.context() as context:
        page = office.page(context)
        sign_in(page)
        a_day(office, page)
    assert office.complaints == []


def a_day(office: Office, page: Page) -> None:
    key = office.sale("zoe@example.com", full_name="Zoë Müller")
    office.server.code(key, hardware_id="HW-1", device_name="Laptop")
    office.server.code(key, hardware_id="HW-2", device_name="Studio PC")
    before = office.of(key)["expiry_date"]
    follow(page, "Licenses")
    page.get_by_label("Search", exact=True).fill("zoë")
    expect(page.get_by_role("status")).to_contain_text("1 license found.")  # as it is typed, without a click
    follow(page, "Zoë Müller")
    expect(page.get_by_role("heading", level=1)).to_have_text("Team for Zoë Müller")

    follow(page, "Extend")
    page.get_by_label("Days more", exact=True).fill("30")
    press(page, "Go on")
    expect(page.get_by_role("list").filter(has_text="It is paid through")).to_contain_text("Nobody gets a letter.")
    assert office.of(key)["expiry_date"] == before
    press(page, "Extend it")
    expect(page.get_by_role("status")).to_contain_text("The license is extended.")
    assert office.of(key)["expiry_date"] > before

    press(page, "Release Laptop")
    expect(page.locator("main")).to_contain_text("Laptop loses its seat")
    press(page, "Release it")
    expect(page.get_by_role("status")).to_contain_text("The device is released.")
    assert [one["hardware_id"] for one in office.of(key)["devices"]] == ["HW-2"]

    follow(page, "Send the key again")
    press(page, "Send it")
    expect(page.get_by_role("status")).to_contain_text("The letter is on its way.")
    expect(page.get_by_role("table", name="Letters about this license").get_by_role("row")).not_to_have_count(0)

    follow(page, "Revoke")
    page.get_by_label("Note").fill("charged back by mail")
    press(page, "Revoke it")
    expect(page.get_by_role("status")).to_contain_text("The license is revoked.")
    expect(page.locator("main")).to_contain_text("note: charged back by mail")
    assert office.server.code(key) == "BANNED"

    press(page, "Sign out")
    expect(page.get_by_label("Password", exact=True)).to_be_visible()
    page.goto(f"/admin/licenses/{license_id(key)}")
    expect(page.get_by_label("Password", exact=True)).to_be_visible()


def test_both_workers_count_guesses_together(office):
    """From an address of its own, so that the owner's browser here is not slowed."""
    told = {"Content_Type": "application/x-www-form-urlencoded", "X_Forwarded_For": "203.0.113.9"}
    began = time.monotonic()
    answers = [office.server.call("POST", "/admin/sign-in", b"password=guess", **told).status for _ in range(30)]
    more = int(time.monotonic() - began) // 60 + 1  # one a minute comes back
    assert answers[:5] == [401] * 5
    assert 5 <= answers.count(401) <= 5 + more
    assert answers.count(429) == 30 - answers.count(401)


def test_the_keyboard_is_enough(office):
    key = office.sale("kay@example.com", full_name="Kay Board")
    office.complaints.clear()
    with office.context() as context:
        page = office.page(context)
        page.goto("/admin/licenses")
        expect(page.get_by_label("Password", exact=True)).to_be_focused()
        page.keyboard.type(PASSWORD)
        with page.expect_navigation():
            page.keyboard.press("Enter")
        expect(page.get_by_label("Search", exact=True)).to_be_focused()
        page.keyboard.type("kay board")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        expect(page.locator("#found tbody tr")).to_have_count(1)
        to(page, "Kay Board")
        to(page, "Suspend")
        expect(page.get_by_role("heading", level=1)).to_have_text("Suspend the license")
        to(page, "Suspend it")
        expect(page.get_by_role("status")).to_contain_text("The license is suspended.")
        to(page, "Sign out")
        expect(page.get_by_label("Password", exact=True)).to_be_visible()
    assert office.server.code(key) == "SUSPENDED"
    assert office.complaints == []


def to(page: Page, name: str) -> None:
    """Tab on to the link or button of this name, which must be seen to have the focus, and press Enter."""
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel || ''")
        if focused.strip() == name:
            shadow = "getComputedStyle(document.activeElement)"
            assert page.evaluate(f"{shadow}.outlineStyle != 'none' || {shadow}.boxShadow != 'none'"), name
            with page.expect_navigation():
                page.keyboard.press("Enter")
            return
    raise AssertionError(f"{name} is not on the way of the keyboard")


def test_the_first_stop_of_the_keyboard_leads_over_the_navigation(office, page):
    page.goto("/admin/catalogue")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


def test_a_new_license_is_issued_and_mailed(office, page):
    page.goto("/admin/licenses")
    follow(page, "Issue a license")
    page.get_by_label("Product", exact=True).select_option("wave")
    page.get_by_label("E-mail address", exact=True).fill("eve@example.com")
    page.get_by_label("Name", exact=True).fill("Eve")
    press(page, "Go on")
    expect(page.locator("main")).to_contain_text("A license will be issued. Wave: for life.")
    press(page, "Issue it")
    expect(page.get_by_role("heading", level=1)).to_have_text("Wave for Eve")


def test_home_tells_what_waits_and_its_button_mends_it(office, page):
    answered = office.server.ping(unmapped("lost-1"))
    assert answered.json["outcome"] == "unmapped"
    page.goto("/admin")
    expect(page.get_by_role("list").filter(has_text="waits for a license").first).to_be_visible()
    follow(page, "The sales that wait")
    card = page.get_by_role("region", name="Sale lost-1")
    card.get_by_label("As", exact=True).select_option("wave")
    with page.expect_navigation():
        card.get_by_role("button").click()
    expect(page.get_by_role("status")).to_contain_text("The license is issued")


def unmapped(sale_id: str) -> dict[str, Any]:
    return sale_ping(sale_id, "lou@example.com", "G-UNKNOWN==", product_name=HOSTILE)


# ---------------------------------------------------------------------------------------------------- how it looks
@pytest.mark.parametrize(
    "screen", some_of([(320, "dark"), (1200, "light"), (320, "light"), (1200, "dark")], 2), ids=str
)
def test_every_page_fits_and_can_be_read(office, session, screen):
    width, look = screen
    key = office.sale("long@example.com", full_name=HOSTILE)
    office.server.code(key, hardware_id="H" * 200, device_name=HOSTILE[:120])
    office.complaints.clear()
    seen = {"viewport": {"width": width, "height": 700}, "color_scheme": look}
    with office.context(**seen) as context:
        page = office.page(context)
        page.goto("/admin/sign-in")
        assert_fits(page, width)
    with office.context(**seen, storage_state=session) as context:
        page = office.page(context)
        one = f"/licenses/{license_id(key)}"
        for path in [*PAGES, one, f"{one}/revoke", f"{one}/extend", f"{one}/transfer"]:
            page.goto(f"/admin{path}")
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            assert_fits(page, width, path)
            colours = page.evaluate("[document.body, document.querySelector('h1')].map(e => getComputedStyle(e).color)")
            ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            assert min(contrast(colour, ground) for colour in colours) >= 4.5, (path, colours, ground)
            assert (light_of(ground) > 0.5) == (look == "light"), path
    assert office.complaints == []


def assert_fits(page: Page, width: int, path: str = "") -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def light_of(colour: str) -> float:
    """https://www.w3.org/TR/WCAG21/#dfn-relative-luminance"""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    lights = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * lights[0] + 0.7152 * lights[1] + 0.0722 * lights[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((light_of(one), light_of(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_pages_are_whole_without_a_script(office, session):
    office.sale("nil@example.com", full_name="No Script")
    with office.context(java_script_enabled=False, storage_state=session) as context:
        page = office.page(context)
        page.goto("/admin/licenses")
        page.get_by_label("Search", exact=True).fill("no script")
        press(page, "Search")
        expect(page.locator("#found tbody tr")).to_have_count(1)
        follow(page, "No Script")
        follow(page, "Suspend")
        press(page, "Suspend it")
        expect(page.get_by_role("status")).to_contain_text("The license is suspended.")


def test_another_sites_form_is_refused_by_the_browsers_own_word(office, page):
    """A page of another site that posts to ours, as one that would ride on the session does."""
    key = office.sale("csrf@example.com")
    page.set_content(
        f'<form method="post" action="{office.url}/admin/licenses/{license_id(key)}/revoke">'
        '<input name="once" value="abcdefgh12"><button>Win</button></form>'
    )
    press(page, "Win")
    expect(page.locator("main")).to_contain_text("sent by another site")
    assert office.server.code(key) == "VALID"
    office.complaints.clear()  # the browser names the refusal


def test_no_page_keeps_anybody_out(office, page):
    """As axe-core sees it, with things of every kind on the pages."""
    key = office.sale("axe@example.com", full_name=HOSTILE)
    office.server.code(key, hardware_id="HW-AXE", device_name=HOSTILE)
    office.server.ping(sale_ping("sale-axe", "axe@example.com", "UNMAPPED=="))
    own = f"/licenses/{license_id(key)}"
    found = {}
    for path in [*PAGES, own, f"{own}/extend", f"{own}/revoke", "/webhooks/1", "/licenses/lic_00000000000000000000"]:
        page.goto(f"/admin{path}")
        found[path] = serious_findings(page)
    office.complaints[:] = [said for said in office.complaints if "404" not in said]  # of the license that is not there
    assert [path for path, told in found.items() if told] == []
