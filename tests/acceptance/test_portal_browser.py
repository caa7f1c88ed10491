"""The account as a customer sees it: a real Chromium, gunicorn with its workers, and a mail server's letters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from server.domain.keys import license_id
from tests.acceptance.accessibility import need_axe, serious_findings
from tests.acceptance.street import HOSTILE, Street, fits
from tests.conftest import sale_ping
from tests.device_codes import device_code
from tests.license_files import opened
from tests.signed_answers import public_keys

_LINK = re.compile(r"http://127\.0\.0\.1:\d+/portal/sign-in/\S+")


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Street]:
    with ExitStack() as stack:
        yield Street(tmp_path_factory.mktemp("portal") / "data", browser, stack)


@pytest.fixture(autouse=True)
def no_complaints(street: Street) -> Iterator[None]:
    """Whatever a page says to the console: a policy that is broken, a script that ran where none should."""
    street.complaints.clear()
    yield
    ours = [said for said in street.complaints if not said.startswith("Failed to load resource")]
    assert ours == []


def press(page: Page, button: str) -> None:
    with page.expect_navigation():
        page.get_by_role("button", name=button, exact=True).click()


def follow(page: Page, link: str) -> None:
    with page.expect_navigation():
        page.get_by_role("link", name=link, exact=True).click()


def by_letter(
    street: Street, page: Page, email: str, about: str = "Your link to sign in", button: str = "Send me a link"
) -> None:
    """From the page that asks for the address to the page that the link leads to."""
    page.get_by_label("Your e-mail address").fill(email)
    press(page, button)
    expect(page.get_by_role("heading", level=1)).to_have_text("Look into your mailbox")
    found = _LINK.search(street.letter(email, about))
    assert found
    page.goto(found[0])
    press(page, "Sign in")


def test_signed_in_by_a_letter_the_key_is_copied_and_mailed_again(street):
    key = street.server.sale("p1", "one@example.com")
    page = street.page(permissions=["clipboard-read", "clipboard-write"])
    page.goto("/portal")
    by_letter(street, page, "one@example.com")
    expect(page.get_by_role("heading", level=1)).to_have_text("Your account")
    page.get_by_role("button", name="Copy the key of Wave", exact=True).click()
    expect(page.locator("#said")).to_have_text("The key of Wave is copied.")
    assert page.evaluate("navigator.clipboard.readText()") == key
    follow(page, "Wave")
    assert key in street.letter("one@example.com", "Your license key for Wave")
    press(page, "Send the key by e-mail again")
    expect(page.get_by_role("status").first).to_have_text("The key is on its way to you by e-mail.")
    assert key in street.letter("one@example.com", "Your license key for Wave", number=2)


def test_who_lost_the_key_finds_it_and_ends_all_sessions(street):
    key = street.server.sale("p2", "two@example.com")
    elsewhere = street.page()
    street.sign_in(elsewhere, "two@example.com")
    elsewhere.goto("/portal")
    expect(elsewhere.get_by_label("License key of Wave")).to_have_value(key)
    page = street.page(java_script_enabled=False)
    page.goto("/portal/sign-in")
    follow(page, "Lost your license key?")
    by_letter(street, page, "two@example.com", "Your license keys", "Find my keys")
    expect(page.get_by_label("License key of Wave")).to_have_value(key)
    press(page, "Sign out everywhere")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    elsewhere.goto("/portal")
    expect(elsewhere.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_the_app_of_a_refused_device_leads_to_where_a_dead_one_is_released(street):
    """Without a script, on a narrow phone."""
    key = street.server.sale("p3", "three@example.com")
    street.server.code(key, hardware_id="dead", device_name="Old PC")
    asked = {"license_key": key, "hardware_id": "new", "device_name": "New PC"}
    told = street.server.post("/api/v1/licenses/validate", asked).json
    page = street.page(java_script_enabled=False, viewport={"width": 320, "height": 640})
    page.goto(told["help_url"])
    by_letter(street, page, "three@example.com")
    expect(page.get_by_role("heading", level=1)).to_have_text("Wave")
    follow(page, "Release Old PC")
    expect(page.get_by_role("heading", level=1)).to_have_text("Release Old PC?")
    press(page, "Release Old PC")
    expect(page.get_by_role("status").first).to_have_text(re.compile("The device is released"))
    assert street.server.post("/api/v1/licenses/validate", asked).json["code"] == "VALID"
    letter = street.letter("three@example.com", "could not be used on one more device")
    assert told["help_url"] in letter
    assert "New PC" in letter


@pytest.mark.parametrize("scripts", [True, False])
def test_a_device_without_a_network_gets_its_file_by_paste_and_by_upload(street, scripts, tmp_path: Path):
    email = f"four{scripts}@example.com"
    key = street.server.sale(f"p4{scripts}", email, "G-TEAM==")
    (public,) = public_keys(street.server.get("/api/v1/licenses/public-key").json).values()
    page = street.page(java_script_enabled=scripts)
    street.sign_in(page, email)
    for number, name in enumerate(("Cellar PC", "Boat")):
        page.goto(f"/portal/licenses/{license_id(key)}")
        code = device_code(f"off-{number}", name, "team")
        if number:
            (tmp_path / "code.txt").write_text(code)
            page.get_by_label("Or the file that the program saved").set_input_files(tmp_path / "code.txt")
        else:
            page.get_by_label("Device code").fill(f"Here it is:\r\n{code}")
        press(page, "Make a license file")
        expect(page.get_by_role("heading", level=1)).to_have_text(f"The license file for {name}")
        with page.expect_download() as loading:
            page.get_by_role("link", name="Download the file", exact=True).click()
        assert loading.value.suggested_filename == f"Team-{name.replace(' ', '-')}.lic"
        shown = page.get_by_label("License file", exact=True).input_value()  # made a moment before
        for text in (shown, Path(loading.value.path()).read_text()):
            said = opened(public, text)
            assert (said["hardware_id"], said["device_name"]) == (f"off-{number}", name)


def test_a_code_that_is_no_code_is_told_beside_its_field(street):
    key = street.server.sale("p5", "five@example.com")
    page = street.page()
    street.sign_in(page, "five@example.com")
    page.goto(f"/portal/licenses/{license_id(key)}")
    page.get_by_label("Device code").fill(key)
    press(page, "Make a license file")
    expect(page.get_by_role("alert")).to_contain_text("this is a license key")
    expect(page.get_by_label("Device code")).to_be_focused()
    expect(page.get_by_label("Device code")).to_have_value(key)
    assert fits(page)


def test_who_was_refunded_buys_back_in(street):
    old = street.server.sale("p6", "six@example.com")
    street.server.ping(sale_ping("p6", "six@example.com", resource="refund", refunded="true"))
    page = street.page()
    street.sign_in(page, "six@example.com")
    page.goto("/portal")
    expect(page.get_by_text("Refunded", exact=True)).to_be_visible()
    follow(page, "Buy Wave again")
    page.get_by_label("Your name").fill("Six")
    expect(page.get_by_label("Your e-mail address")).to_have_value("six@example.com")
    with page.expect_navigation():
        page.get_by_role("button", name="Go to the payment").click()
    page.get_by_role("button", name="Pay", exact=True).click()
    (new,) = street.keys(page)
    assert new != old
    follow(page, "Your licenses and orders")
    expect(page.get_by_label("License key of Wave")).to_have_value(new)
    expect(page.get_by_text(old)).to_be_visible()
    assert street.server.code(new) == "VALID"


# ---------------------------------------------------------------------------------------------------- looks
def full_account(street: Street, email: str) -> tuple[str, list[str]]:
    """Licenses in several states, one with all its seats taken by devices with odd names; and the pages about them."""
    key = street.server.sale(f"{email}1", email, "G-TEAM==", full_name=HOSTILE)
    for number, name in enumerate([HOSTILE, "wordswithoutanend" * 7, "", "Laptop", "Studio PC"]):
        street.server.code(key, hardware_id=f"hw{number}{HOSTILE}", device_name=name)
    gone = street.server.sale(f"{email}2", email)
    street.server.ping(sale_ping(f"{email}2", email, resource="refund", refunded="true"))
    one = f"/portal/licenses/{license_id(key)}"
    own = [one, f"{one}/devices/1/release", f"{one}/devices/2/file", f"/portal/licenses/{license_id(gone)}"]
    return key, ["/portal", *own, "/portal/licenses/lic_00000000000000000000"]


def test_no_page_of_the_account_keeps_anybody_out_or_sticks_out_of_a_phone(street):
    need_axe()
    page, found = street.page(), dict[str, list[str]]()
    key, paths = full_account(street, "seven@example.com")

    def look(called: str) -> None:
        found[called] = serious_findings(page) + ([] if fits(page) else ["it sticks out of a phone"])

    for path in ("/portal/sign-in", "/portal/lost-key", paths[1], "/portal/sign-in/nonsense"):
        page.goto(path)
        look(f"{path} signed out")
    street.sign_in(page, "seven@example.com")
    for path in paths:
        page.goto(path)
        look(path)
    page.goto("/portal")
    for receipt in [link.get_attribute("href") for link in page.locator("a[href*='/receipts/']").all()]:
        page.goto(str(receipt))
        look(str(receipt))
    page.goto(f"/portal/licenses/{license_id(key)}?done=released")
    page.get_by_label("Device code").fill(device_code("one more"))
    press(page, "Make a license file")
    expect(page.get_by_role("alert")).to_contain_text("are taken")
    look("all seats taken")
    assert {called: findings for called, findings in found.items() if findings} == {}
    assert len(found) == 13
