"""The store front as a buyer sees it: a real Chromium, gunicorn with its workers, and the platforms' stand-ins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.acceptance.accessibility import need_axe, serious_findings
from tests.acceptance.street import HOSTILE, Street, fits


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Street]:
    with ExitStack() as stack:
        yield Street(tmp_path_factory.mktemp("street") / "data", browser, stack)


@pytest.fixture(autouse=True)
def no_complaints(street: Street) -> Iterator[None]:
    """Whatever a page says to the console: a policy that is broken, a script that ran where none should."""
    street.complaints.clear()
    yield
    ours = [said for said in street.complaints if not said.startswith("Failed to load resource")]
    assert ours == []


def order_id(page: Page) -> str:
    return page.url.rpartition("/")[2]


# ---------------------------------------------------------------------------------------------------- stories
def test_a_bundle_is_bought_from_the_shop_to_the_keys_on_the_screen(street):
    page = street.page(permissions=["clipboard-read", "clipboard-write"])
    page.goto("/shop")
    first = page.get_by_role("listitem").filter(has=page.get_by_role("heading")).first
    expect(first).to_contain_text("Studio")  # which is featured
    expect(first.locator("s")).to_contain_text("319.00")
    page.get_by_role("link", name="Studio").click()
    expect(page.get_by_role("list").filter(has_text="Team")).to_contain_text("For 365 days, on 5 devices")
    page.get_by_label("Your name").focus()
    for typed in ("Ann Example", "Tab", "ann@example.com"):  # by the keyboard alone
        (page.keyboard.press if typed == "Tab" else page.keyboard.type)(typed)
    with page.expect_navigation():
        page.keyboard.press("Enter")
    expect(page.get_by_text("249.00 PLN")).to_be_visible()  # on PayU's page
    page.get_by_role("button", name="Pay", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you: your order is paid")
    keys = street.keys(page)
    assert [street.server.code(key) for key in keys] == ["VALID"] * 2
    page.get_by_role("button", name="Copy the key of Team").click()
    expect(page.get_by_role("status")).to_have_text("The key of Team is copied.")
    assert page.evaluate("navigator.clipboard.readText()") == keys[1]
    expect(page.locator("main")).to_contain_text("a…@e…")
    assert fits(page)


def test_the_keys_are_for_the_browser_that_began_the_order(street):
    page = street.page()
    street.order(page)
    page.get_by_role("button", name="Pay", exact=True).click()
    page.wait_for_url("**/order/*")
    (key,) = street.keys(page)
    other = street.page()
    other.goto(page.url)
    expect(other.get_by_role("heading", level=1)).to_have_text("Thank you: your order is paid")
    expect(other.get_by_role("link", name="sign in")).to_be_visible()
    told = other.content()
    assert not any(secret in told for secret in (key, "Ann", "ann@", "a…@"))


def test_an_address_with_its_proof_opens_the_order_and_is_not_kept(street):
    """As sellers get it whose own page places the orders."""
    asked = {"package_ids": ["wave"], "email": "eve@example.com", "name": "Eve", "payment_provider": "payu"}
    answered = street.server.post("/api/v1/checkout/initiate", asked).json
    page = street.page()
    page.goto(answered["payment_url"])
    page.get_by_role("button", name="Pay", exact=True).click()
    page.wait_for_url("**/order/*")
    assert street.keys(page) == []
    page.goto(answered["status_url"])
    assert page.url == f"{street.url}/order/{answered['order_id']}"
    assert len(street.keys(page)) == 1


def test_who_gives_up_can_try_again(street):
    page = street.page()
    street.order(page)
    page.get_by_role("button", name="Give up").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The order was cancelled")
    given_up = order_id(page)
    assert fits(page)
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("button", name="Pay", exact=True).click()
    page.wait_for_url("**/order/*")
    assert order_id(page) != given_up
    assert len(street.keys(page)) == 1


def test_a_failed_payment_says_so_and_leads_back_to_the_platform(street):
    """EasyPaisa sends the browser back in the answer to our own form, which the page's policy must let through."""
    page = street.page()
    street.order(page, currency="pkr", provider="EasyPaisa")
    page.get_by_role("button", name="Give up").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The payment failed")
    assert fits(page)
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("button", name="Pay", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you: your order is paid")
    assert len(street.keys(page)) == 1


def test_a_platform_that_is_down_costs_no_order(street):
    page = street.page()
    street.payu.down()
    try:
        street.order(page)
        expect(page.get_by_role("heading", level=1)).to_have_text("The payment waits")
        assert fits(page)
        page.get_by_role("link", name="Try again now").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("The payment waits")
    finally:
        street.payu.up()
    page.get_by_role("link", name="Try again now").click()
    street.payu.down()  # and again, while the buyer is on its page
    pay = page.get_by_role("button", name="Pay", exact=True)
    expect(pay).to_be_visible()
    begun = street.payu.created[-1]["extOrderId"]
    waiting = street.page()
    waiting.goto(f"/order/{begun}")
    expect(waiting.get_by_role("heading", level=1)).to_have_text("Waiting for your payment")
    street.payu.up()
    pay.click()
    page.wait_for_url("**/order/*")
    assert order_id(page) == begun
    assert len(street.keys(page)) == 1


def test_without_a_script_the_page_waits_and_shows_the_key(street):
    page = street.page(java_script_enabled=False)
    street.order(page, "studio", "pkr", "JazzCash")
    expect(page.get_by_role("heading", level=1)).to_have_text("To the payment")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Go to JazzCash")).to_be_focused()
    with page.expect_navigation():
        page.keyboard.press("Enter")
    page.get_by_role("button", name="Pay by voucher").click()
    page.get_by_role("button", name="Back to the shop").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your key is on its way")
    street.jazzcash.ipn_url = f"{street.url}/api/v1/webhooks/jazzcash"
    street.jazzcash.settle(order_id(page), "121")
    assert street.jazzcash.send_ipn(order_id(page))
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you: your order is paid")  # by itself
    keys = street.keys(page)
    assert [street.server.code(key) for key in keys] == ["VALID"] * 2
    expect(page.get_by_role("button", name=re.compile("Copy"))).to_have_count(0)


def test_where_scripts_run_the_form_sends_itself(street):
    page = street.page()
    street.order(page, "wave", "pkr", "JazzCash")
    page.get_by_role("button", name="Pay", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you: your order is paid")
    assert len(street.keys(page)) == 1


# ---------------------------------------------------------------------------------------------------- looks
def test_what_was_typed_wrong_is_told_beside_its_field(street):
    page = street.page()
    page.goto("/shop/wave?currency=pkr")
    page.locator("form.order").evaluate("form => form.noValidate = true")
    page.get_by_label("Your name").fill(HOSTILE)
    page.get_by_label("Your e-mail address").fill("ann@")
    page.get_by_label("EasyPaisa").check()
    page.get_by_role("button", name="Go to the payment").click()
    email = page.get_by_label("Your e-mail address")
    expect(email).to_be_focused()
    expect(email).to_have_accessible_description(re.compile("Write the whole address"))
    expect(email).to_have_value("ann@")
    expect(page.get_by_label("Your name")).to_have_value(HOSTILE)
    expect(page.get_by_label("EasyPaisa")).to_be_checked()
    expect(page.get_by_role("alert")).to_contain_text("your e-mail address")
    assert fits(page)


@pytest.mark.parametrize("path", ["/shop", "/shop/studio?currency=pkr", "/shop/hostile", "/order/A0"])
def test_every_page_fits_a_phone_and_the_dark(street, path):
    """And says what it was given to say, not what that would do."""
    lights = {}
    for scheme in ("light", "dark"):
        page = street.page(color_scheme=scheme, viewport={"width": 320, "height": 640})
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        lights[scheme] = brightness(page, "background-color"), brightness(page, "color")
    assert lights["light"][0] > 200 > 80 > lights["light"][1]
    assert lights["dark"][0] < 60 < 200 < lights["dark"][1]
    if path != "/order/A0":
        expect(
            page.get_by_text(HOSTILE).first if path != "/shop/studio?currency=pkr" else page.locator("h1")
        ).to_be_visible()


def brightness(page: Page, what: str) -> float:
    told = page.evaluate(f"getComputedStyle(document.body).getPropertyValue('{what}')")
    return sum(int(part) for part in re.findall(r"\d+", told)[:3]) / 3


# ---------------------------------------------------------------------------------------------------- for everybody
def test_no_page_of_the_shop_keeps_anybody_out(street):
    need_axe()
    page, found = street.page(), dict[str, list[str]]()

    def look(called: str) -> None:
        found[called] = serious_findings(page)

    for path in ("/shop", "/shop/studio?currency=pkr", "/shop/hostile", "/order/A0", "/portal/sign-in"):
        page.goto(path)
        look(path)
    page.goto("/shop/wave?currency=pkr")
    page.locator("form.order").evaluate("form => form.noValidate = true")
    with page.expect_navigation():
        page.get_by_role("button", name="Go to the payment").click()
    expect(page.get_by_role("alert")).to_be_visible()
    look("what is to be mended")
    street.payu.down()
    try:
        street.order(page)
        expect(page.get_by_role("heading", level=1)).to_have_text("The payment waits")
        look("a platform that is down")
    finally:
        street.payu.up()
    street.order(page)
    page.get_by_role("button", name="Give up", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The order was cancelled")
    look("a cancelled order")
    page.get_by_role("button", name="Try again", exact=True).click()
    page.get_by_role("button", name="Pay", exact=True).click()
    street.keys(page)
    look("a paid order")
    page.set_viewport_size({"width": 320, "height": 640})
    for wallet in ("JazzCash", "EasyPaisa"):
        page.route(lambda url: not url.startswith(street.url), lambda route: route.fulfill(status=204))
        with page.expect_request(lambda request: request.method == "POST" and not request.url.startswith(street.url)):
            street.order(page, "wave", "pkr", wallet, until="commit")  # its form is off before it is loaded
        expect(page.get_by_role("button", name=f"Go to {wallet}")).to_be_visible()  # 204: the browser stays
        assert fits(page)
        look(f"the way to {wallet}")
    assert {called: findings for called, findings in found.items() if findings} == {}


def test_what_keeps_people_out_is_found(street):
    """Or the test above could not fail."""
    page = street.page()
    page.goto("/portal/sign-in")
    page.evaluate("document.querySelector('label').remove()")
    page.evaluate("document.querySelector('main p').style.color = '#777'")
    found = {tuple(finding.split(": ")[:2]) for finding in serious_findings(page)}
    assert found == {("light", "label"), ("light", "color-contrast"), ("dark", "color-contrast")}
