"""The page of a license from outside: devices that are released and replaced, files for devices without a network, keys
that are mailed again, and what a refused device leads to."""

from __future__ import annotations

import io

import pytest

from server.domain import license as rules
from server.domain.keys import license_id
from tests.conftest import CATALOGUE
from tests.customers import ANN, BOB, Browser, Counter, link_in, without_caretakers
from tests.device_codes import device_code
from tests.license_files import opened
from tests.signed_answers import OTHER_SEED, SEED, public_keys
from tests.web.test_portal import Page


@pytest.fixture
def shop(tmp_path, clock, monkeypatch) -> Counter:
    without_caretakers(monkeypatch)
    return Counter(tmp_path / "data", clock, signing_key=(SEED,))


def page_of(browser: Browser, key: str) -> str:
    answered = browser.client.get(f"/portal/licenses/{license_id(key)}")
    assert answered.status_code == 200, answered.text
    return words(answered)


def words(answered) -> str:
    return " ".join(Page(answered.text).words.split())


def press(browser: Browser, key: str, button: str, **fields: object):
    """A button of the license's page, with the session's token."""
    return browser.client.post(
        f"/portal/licenses/{license_id(key)}/{button}", data={"csrf_token": browser.token} | fields
    )


def plain(message) -> str:
    return str(message.get_body(("plain",)).get_content()).replace("\r\n", "\n")


# ---------------------------------------------------------------------------------------------------- the page
def test_it_shows_the_license_and_only_to_its_customer(shop):
    key = shop.sale("s1", ANN, "G-TEAM==")
    shop.sale("s2", BOB)
    shop.code(key, hardware_id="hw1", device_name="Laptop")
    told = page_of(shop.sign_in(), key)
    for said in ("Team", key, "Active", "Paid through 5 December 2026", "1 of 2 devices in use", "Laptop", "extra"):
        assert said in told
    assert "You can release 10 more devices within 90 days" in told
    bob = shop.sign_in(BOB)
    others = bob.client.get(f"/portal/licenses/{license_id(key)}")
    assert (others.status_code, key in others.text, "sign in with that one" in others.text) == (404, False, True)
    assert Page(others.text).fields("/portal/sign-out") == {"csrf_token": bob.token}


@pytest.mark.parametrize(
    ("deed", "headline", "advice"),
    [
        ("refund", "Refunded", "The money went back to you"),
        ("suspend", "Paused by the seller", "ask the seller"),
        ("revoke", "Withdrawn by the seller", "no longer valid"),
        ("dispute", "Paused: the payment is disputed", "withdraw the dispute with your bank"),
        ("expire", "Expired", "It was paid through 5 December 2026"),
        ("late", "Its time is over", "still works until 8 December 2026"),
    ],
)
def test_it_says_in_plain_words_how_the_license_stands(shop, clock, deed, headline, advice):
    key = shop.sale("s1", ANN, "G-TEAM==")
    if deed == "refund":
        shop.refund("s1")
    elif deed == "dispute":
        shop.ping(
            {"resource_name": "dispute", "sale_id": "s1", "disputed": "true", "product_id": "G-TEAM==", "email": ANN}
        )
    elif deed in ("expire", "late"):
        clock.forward(days=30 if deed == "expire" else 16)
    else:
        assert shop.owner("POST", f"/licenses/{key}/{deed}").status_code == 200
    browser = shop.sign_in()
    for told in (page_of(browser, key), words(browser.client.get("/portal"))):
        assert headline in told
        assert advice in told
    assert ("Send the key by e-mail again" in page_of(browser, key)) == (deed == "late")


def test_where_to_renew_is_the_shop_or_what_its_owner_says(shop, clock):
    catalogue = {
        **CATALOGUE["products"],
        "team": CATALOGUE["products"]["team"] | {"buy_url": "https://shop.example/t?a=1&b"},
    }
    shop.write_catalogue({"tiers": CATALOGUE["tiers"], "products": catalogue})
    key = shop.sale("s1", ANN, "G-TEAM==")
    path = f"/portal/licenses/{license_id(key)}"
    assert "shop.example" not in shop.sign_in().client.get(path).text
    clock.forward(days=30)
    assert (
        '<a class="button" href="https://shop.example/t?a=1&amp;b">Renew Team</a>'
        in shop.sign_in().client.get(path).text
    )


def test_who_is_not_signed_in_is_led_there_and_back(shop):
    key = shop.sale(email=ANN)
    shop.post_round()
    path, browser = f"/portal/licenses/{license_id(key)}", Browser(shop)
    led = browser.client.get(path)
    assert (led.status_code, led.headers["Location"]) == (303, f"/portal/sign-in?why={license_id(key)}")
    form = Page(browser.client.get(led.headers["Location"]).text).fields("/portal/sign-in")
    assert browser.client.post("/portal/sign-in", data=form | {"email": ANN}).status_code == 202
    (message,) = shop.post_round()
    link = link_in(message)
    assert browser.client.post(link).headers["Location"] == path
    assert browser.client.get(path).status_code == 200
    assert browser.client.post(f"{link}/again").status_code == 202  # a new one leads to the same
    assert browser.client.post(link_in(shop.post_round()[0])).headers["Location"] == path
    for why in ("x", "lic_1", "//evil.example", "keys2"):
        assert browser.client.get(f"/portal/sign-in?why={why}").status_code == 400
        assert browser.client.post("/portal/sign-in", data={"email": ANN, "why": why}).status_code == 400


@pytest.mark.parametrize("button", ["release", "room", "resend", "offline"])
def test_no_button_works_without_the_sessions_token_or_for_another(shop, button):
    key = shop.sale("s1", ANN)
    shop.sale("s2", BOB)
    shop.code(key, hardware_id="pc")
    given = {"number": 1, "hardware_id": "pc", "device_code": "off-1"}
    path = f"/portal/licenses/{license_id(key)}/{button}"
    ann, bob = shop.sign_in(ANN), shop.sign_in(BOB)
    shop.post_round()
    assert Browser(shop).client.post(path, data=given).status_code == 401
    assert ann.client.post(path, data=given | {"csrf_token": bob.token}).status_code == 403
    assert (
        ann.client.post(
            path, data=given | {"csrf_token": ann.token}, headers={"Sec-Fetch-Site": "cross-site"}
        ).status_code
        == 403
    )
    assert bob.client.post(path, data=given | {"csrf_token": bob.token}).status_code == 404
    assert shop.post_round() == []
    assert [d["hardware_id"] for d in ann.get("/me/licenses")["licenses"][0]["devices"]] == ["pc"]


# ---------------------------------------------------------------------------------------------------- devices
def short_of_moves(shop: Counter) -> str:
    """A license that may go to one new device in 90 days, and is on one."""
    products = {"wave": CATALOGUE["products"]["wave"] | {"device_moves": 1}}
    shop.write_catalogue({"tiers": CATALOGUE["tiers"], "products": products})
    key = shop.sale(email=ANN)
    assert shop.code(key, hardware_id="dead", device_name="Old PC") == "VALID"
    return key


def test_a_dead_computer_can_be_replaced_whatever_moves_are_left(shop):
    key = short_of_moves(shop)
    assert shop.code(key, hardware_id="new") == "TOO_MANY_MACHINES"
    browser = shop.sign_in()
    assert "release a device, another one can take its place at once" in page_of(browser, key)
    done = press(browser, key, "release", number=1, hardware_id="dead")
    assert done.headers["Location"] == f"/portal/licenses/{license_id(key)}?done=released"
    assert shop.code(key, hardware_id="new") == "VALID"


def test_mutant_where_a_released_device_still_counts_its_successor_is_refused(shop, monkeypatch):
    key = short_of_moves(shop)
    assert "by_customer" in rules.recent_devices.__code__.co_names

    def as_it_was(lines, now):
        bound = [line for line in lines if line.event is rules.DeviceEvent.ACTIVATION]
        return [rules.Move([line.hardware_id], line.timestamp) for line in bound]

    monkeypatch.setattr("server.services.seats.recent_devices", as_it_was)
    press(shop.sign_in(), key, "release", number=1, hardware_id="dead")
    assert shop.code(key, hardware_id="new") == "TOO_MANY_MACHINES"


def test_where_the_app_freed_all_seats_room_is_made_by_a_release(shop, clock):
    """No device is left to be released, and none may be bound."""
    key = short_of_moves(shop)
    shop.ask("deactivate", license_key=key, hardware_id="dead")
    assert shop.code(key, hardware_id="new") == "TOO_MANY_MACHINES"
    browser = shop.sign_in()
    told = page_of(browser, key)
    assert "takes no new one before 18 February 2027" in told
    assert "make room for it: that counts as a release" in told
    assert "on too many devices of late" in words(press(browser, key, "offline", device_code="new"))
    assert press(browser, key, "room").headers["Location"].endswith("?done=room")
    assert press(browser, key, "room").status_code == 303  # there is room: nothing is done
    assert "You can release" not in page_of(browser, key)  # nothing is bound
    assert browser.get("/me/licenses")["licenses"][0]["releases_left"] == 4
    assert shop.code(key, hardware_id="new") == "VALID"
    assert [finding for finding in shop.services.audit.verify() if not finding.is_note] == []
    assert shop.services.audit.explain(key) is not None


def test_it_says_what_is_left_and_when_the_next_is_possible(tmp_path, clock, monkeypatch):
    without_caretakers(monkeypatch)
    shop = Counter(tmp_path / "one", clock, device_releases=1)
    key = shop.sale(email=ANN)
    shop.code(key, hardware_id="a", device_name="First")
    browser, path = shop.sign_in(), f"/portal/licenses/{license_id(key)}/devices/1/release"
    assert "It is the last release that is possible within 90 days." in words(browser.client.get(path))
    press(browser, key, "release", number=1, hardware_id="a")
    clock.forward(days=1)
    shop.code(key, hardware_id="b", device_name="Second")
    told = page_of(browser, key)
    assert "The next one can be released from 18 February 2027 on" in told
    assert f'{license_id(key)}/devices/1/release"' not in browser.client.get(f"/portal/licenses/{license_id(key)}").text
    assert "before 18 February 2027" in words(browser.client.get(path))
    refused = press(browser, key, "release", number=1, hardware_id="b")
    assert (refused.status_code, "2027-02-18" in refused.text) == (409, True)
    assert browser.get("/me/licenses")["licenses"][0]["next_release"] == "2027-02-18T12:00:00Z"
    assert words(browser.client.get(f"{path[:-9]}/file")).startswith("Not found") is False


def test_the_confirmation_says_which_device_and_what_happens(shop):
    key = shop.sale(email=ANN)
    shop.code(key, hardware_id="hw<1>", device_name="Studio PC")
    browser = shop.sign_in()
    answered = browser.client.get(f"/portal/licenses/{license_id(key)}/devices/1/release")
    told, page = words(answered), Page(answered.text)
    for said in (
        "Release Studio PC?",
        "Its place is free at once",
        "30 days after it was made",
        "You need not have the device",
    ):
        assert said in told
    assert page.fields("/release")["hardware_id"] == "hw<1>"
    for number in ("0", "2", "99", "x", "-1", "00000000001", "٣"):
        assert browser.client.get(f"/portal/licenses/{license_id(key)}/devices/{number}/release").status_code == 404


# ---------------------------------------------------------------------------------------------------- files
CODE = device_code("off-1", "Cellar PC", "wave")


def file_after(shop: Counter, browser: Browser, answered) -> dict:
    assert answered.status_code == 303, words(answered)
    page = browser.client.get(answered.headers["Location"])
    assert page.status_code == 200
    loaded = browser.client.get(answered.headers["Location"] + ".lic")
    assert loaded.headers["Content-Disposition"].startswith("attachment; filename=")
    assert loaded.get_data(as_text=True) in page.text.replace("&#43;", "+").replace("&#39;", "'")
    (public,) = public_keys(shop.client.get("/api/v1/licenses/public-key").json).values()
    return opened(public, loaded.get_data(as_text=True))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"device_code": CODE}, "Cellar PC"),
        ({"device_code": "  off-1\n"}, None),
        ({"file": (io.BytesIO(CODE.encode()), "code.txt")}, "Cellar PC"),
        ({"file": (io.BytesIO(CODE.encode("utf-16")), "code.txt"), "device_code": ""}, "Cellar PC"),
        ({"file": (io.BytesIO(b""), ""), "device_code": CODE}, "Cellar PC"),
    ],
    ids=["pasted", "a plain id", "a file", "a file of Windows' editor", "pasted, and no file chosen"],
)
def test_a_device_code_gives_a_license_file_for_that_device(shop, fields, name):
    key = shop.sale(email=ANN)
    browser = shop.sign_in()
    said = {field: (io.BytesIO(v[0].getvalue()), v[1]) if isinstance(v, tuple) else v for field, v in fields.items()}
    said = file_after(shop, browser, press(browser, key, "offline", **said))
    assert (said["hardware_id"], said["device_name"], said["license"]["id"]) == ("off-1", name, license_id(key))
    assert (said["issued"], said["expires"]) == ("2026-11-20T12:00:00Z", "2026-12-20T12:00:00Z")
    assert shop.code(key, hardware_id="off-1", bind=False) == "VALID"


def test_a_file_is_named_for_people(shop):
    key = shop.sale(email=ANN)
    browser = shop.sign_in()
    press(browser, key, "offline", device_code=device_code("off-1", 'Zoë\'s \r\n"PC"'))
    loaded = browser.client.get(f"/portal/licenses/{license_id(key)}/devices/1/file.lic")
    assert loaded.headers["Content-Disposition"] == 'attachment; filename="Wave-Zo-s-PC.lic"'
    assert (loaded.mimetype, loaded.headers["Cache-Control"]) == ("application/octet-stream", "no-store")


def test_the_same_code_again_takes_no_second_seat(shop):
    key = shop.sale(email=ANN)
    browser = shop.sign_in()
    places = {press(browser, key, "offline", device_code=CODE).headers["Location"] for _ in range(3)}
    assert places == {f"/portal/licenses/{license_id(key)}/devices/1/file"}
    assert browser.get("/me/licenses")["licenses"][0]["devices_used"] == 1


def test_seats_that_are_taken_are_told_with_what_can_be_released(shop):
    key = shop.sale(email=ANN)
    shop.code(key, hardware_id="dead", device_name="Old PC")
    browser = shop.sign_in()
    refused = press(browser, key, "offline", device_code=CODE)
    assert refused.status_code == 409
    assert "All devices that this license is for are taken." in words(refused)
    assert f"/portal/licenses/{license_id(key)}/devices/1/release" in refused.text
    assert CODE.splitlines()[1] in refused.text  # what was pasted is still there
    press(browser, key, "release", number=1, hardware_id="dead")
    assert file_after(shop, browser, press(browser, key, "offline", device_code=CODE))["hardware_id"] == "off-1"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("", "paste the device code"),
        (CODE[:60], "is not whole"),
        (CODE.replace(CODE.splitlines()[1], CODE.splitlines()[1][::-1]), "is not whole"),
        ("1XSP9F-DA8C12-7AF57V-AA3V5F-G0MQMD", "this is a license key"),
        (device_code("off-1", "PC", "team"), "it comes from “team”, and this license is for Wave"),
        ("x" * 9000, "far too long"),
    ],
)
def test_what_is_no_code_is_told_beside_the_field_and_binds_nothing(shop, code, said):
    key = shop.sale(email=ANN)
    browser = shop.sign_in()
    for fields in ({"device_code": code}, {"file": (io.BytesIO(code.encode() or b" "), "c.txt"), "device_code": ""}):
        refused = press(browser, key, "offline", **fields)
        assert (refused.status_code, said in words(refused)) == (422, True), words(refused)
        assert 'aria-invalid="true"' in refused.text
    assert browser.get("/me/licenses")["licenses"][0]["devices_used"] == 0


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"\x89PNG\xff\xfe", "file", 422),
        (b"x" * 300_000, "file", 413),
        (b"no parts at all", "multipart/form-data; boundary=x", 403),
        (b"--x\r\nContent-Disposition: form-data; name=device_code\r\n\r\nx", "multipart/form-data; boundary=x", 403),
        (b"csrf_token=\xff", "application/x-www-form-urlencoded", 400),
        (b"{}", "application/json", 403),
    ],
)
def test_a_hostile_upload_is_refused(shop, body, kind, status):
    key = shop.sale(email=ANN)
    browser, path = shop.sign_in(), f"/portal/licenses/{license_id(key)}/offline"
    if kind == "file":
        answered = press(browser, key, "offline", file=(io.BytesIO(body), "../../etc/passwd"))
    else:
        answered = browser.client.post(path, data=body, content_type=kind)
    assert (answered.status_code, answered.mimetype) == (status, "text/html")
    assert browser.get("/me/licenses")["licenses"][0]["devices_used"] == 0


def test_without_a_signing_key_nothing_of_it_is_shown_and_no_seat_is_taken(tmp_path, clock, monkeypatch):
    without_caretakers(monkeypatch)
    shop = Counter(tmp_path / "plain", clock)
    key = shop.sale(email=ANN)
    browser = shop.sign_in()
    assert "without a network" not in page_of(browser, key)
    assert press(browser, key, "offline", device_code=CODE).status_code == 404
    assert browser.get("/me/licenses")["licenses"][0]["devices_used"] == 0


def test_a_license_that_has_ended_gives_no_file(shop):
    key = shop.sale(email=ANN)
    browser = shop.sign_in()
    press(browser, key, "offline", device_code=CODE)
    shop.refund("s1")
    path = f"/portal/licenses/{license_id(key)}/devices/1/file"
    assert [browser.client.get(path + end).status_code for end in ("", ".lic")] == [409, 409]
    assert press(browser, key, "offline", device_code=CODE).status_code == 409


def test_mutant_a_file_of_another_key_is_not_believed(shop, tmp_path, clock):
    key = shop.sale(email=ANN)
    browser = shop.sign_in()
    answered = press(browser, key, "offline", device_code=CODE)
    other = Counter(tmp_path / "other", clock, signing_key=(OTHER_SEED,))
    with pytest.raises(Exception, match="signature"):
        file_after(other, browser, answered)


# ---------------------------------------------------------------------------------------------------- the key again
def test_the_key_is_mailed_again_to_the_accounts_own_address(shop):
    key = shop.sale(email=ANN)
    shop.post_round()
    browser = shop.sign_in()
    done = press(browser, key, "resend")
    assert done.headers["Location"].endswith("?done=resent")
    assert "on its way to you by e-mail" in browser.client.get(done.headers["Location"]).text
    (message,) = shop.post_round()
    assert (message["To"], key in plain(message)) == (ANN, True)
    shop.refund("s1")
    shop.post_round()
    assert press(browser, key, "resend").status_code == 409
    assert shop.post_round() == []


def test_it_is_mailed_five_times_an_hour_at_most(tmp_path, clock, monkeypatch):
    without_caretakers(monkeypatch)
    shop = Counter(tmp_path / "limited", clock, rate_limit="120/minute")
    key = shop.sale(email=ANN)
    browser = shop.sign_in()  # one letter
    told = [press(browser, key, "resend").status_code for _ in range(6)]
    assert told == [303] * 4 + [429] * 2


# ---------------------------------------------------------------------------------------------------- a lost key
def test_who_lost_a_key_is_mailed_a_link_to_all_of_them_and_no_key(shop):
    key = shop.sale(email=ANN)
    shop.post_round()
    form = Page(shop.client.get("/portal/lost-key").text).fields("/portal/sign-in")
    assert form["why"] == "keys"
    pages = [shop.client.post("/portal/sign-in", data=form | {"email": email}) for email in (ANN, "nobody@example.com")]
    assert [page.status_code for page in pages] == [202, 202]
    assert pages[0].text == pages[1].text
    (message,) = shop.post_round()
    assert (message["To"], message["Subject"]) == (ANN, "Your license keys")
    assert key not in plain(message)
    browser = Browser(shop)
    assert browser.client.post(link_in(message)).headers["Location"] == "/portal"
    assert key in browser.client.get("/portal").text
    assert "/portal/lost-key" in shop.client.get("/portal/sign-in").text


# ---------------------------------------------------------------------------------------------------- all seats taken
def refused(shop: Counter, key: str, route: str = "validate", **more: object) -> dict:
    told = shop.ask(route, license_key=key, **({"hardware_id": "new", "device_name": "New PC"} | more))
    assert told["code"] == "TOO_MANY_MACHINES"
    return told


def test_a_refused_device_is_told_where_help_is_and_no_other_is(shop):
    key = shop.sale(email=ANN)
    assert "help_url" not in shop.ask("validate", license_key=key, hardware_id="pc")
    for route in ("validate", "activate", "file"):
        assert refused(shop, key, route)["help_url"] == f"http://127.0.0.1:8000/portal/licenses/{license_id(key)}"
    assert refused(shop, key, bind=False)["help_url"]
    for body in (
        {"license_key": key},
        {"license_key": "nobody's", "hardware_id": "x"},
        {"license_key": key, "product": "x"},
    ):
        assert "help_url" not in shop.ask("validate", **body)
    assert "help_url" not in shop.ask("deactivate", license_key=key, hardware_id="new")


def test_its_customer_is_told_by_mail_once_a_day(shop, clock):
    key = shop.sale(email=ANN)
    other = shop.sale("s2", ANN, "G-TEAM==")
    shop.code(key, hardware_id="pc")
    shop.post_round()
    for number in range(20):
        refused(shop, key, hardware_id=f"new{number}")
    (message,) = shop.post_round()
    text = " ".join(plain(message).split())
    assert (message["To"], message["Subject"]) == (ANN, "Wave could not be used on one more device")
    for said in ("“New PC”", "works on one device", f"http://127.0.0.1:8000/portal/licenses/{license_id(key)}"):
        assert said in text
    assert key not in text
    clock.forward(hours=23, minutes=59)
    refused(shop, key)
    for number in range(3):
        shop.ask("validate", license_key=other, hardware_id=f"t{number}")
    assert [m["Subject"] for m in shop.post_round()] == ["Team could not be used on one more device"]
    clock.forward(minutes=1)
    refused(shop, key)
    assert len(shop.post_round()) == 1


def test_workers_tell_it_once_together(shop, clock):
    key = shop.sale(email=ANN)
    shop.code(key, hardware_id="pc")
    other = Counter(shop.folder, clock, signing_key=(SEED,))
    for worker in (shop, other, shop):
        refused(worker, key)
    assert shop.states("seats_taken") == ["queued"]


def test_who_only_asks_or_has_no_key_writes_no_letter(shop, tmp_path, clock):
    key = shop.sale(email=ANN)
    shop.code(key, hardware_id="pc")
    refused(shop, key, bind=False)
    shop.ask("validate", license_key="nobody's", hardware_id="new")
    assert shop.states("seats_taken") == []
    quiet = Counter(tmp_path / "quiet", clock, seats_letter="off")
    key = quiet.sale(email=ANN)
    quiet.code(key, hardware_id="pc")
    assert refused(quiet, key)["help_url"]
    assert quiet.states("seats_taken") == []


def test_a_device_that_calls_itself_a_link_is_not_named(shop):
    key = shop.sale(email=ANN)
    shop.code(key, hardware_id="pc")
    shop.post_round()
    refused(shop, key, device_name="Your PC is locked: evil.example/unlock")
    (message,) = shop.post_round()
    assert "evil" not in message.as_string()
    assert "A device asked to use your license" in " ".join(plain(message).split())


def test_the_letter_is_overtaken_by_what_happened_since(shop, clock):
    key = shop.sale(email=ANN)
    shop.code(key, hardware_id="pc")
    shop.post_round()
    refused(shop, key)
    shop.refund("s1")
    assert [m["Subject"] for m in shop.post_round()] == ["Your refund for Wave"]
    assert shop.states("seats_taken") == ["dropped"]


def test_a_full_disk_still_answers_the_app(shop, monkeypatch):
    from server.errors import StorageUnavailable
    from server.storage.shelf import FileShelf

    key = shop.sale(email=ANN)
    shop.code(key, hardware_id="pc")

    def full(*given):
        raise StorageUnavailable("no space left on device")

    monkeypatch.setattr(FileShelf, "claim", full)
    assert refused(shop, key)["help_url"]


def test_the_letter_leaves_after_the_answer(tmp_path, clock, monkeypatch):
    """Validations do not look for letters; this one does."""
    poked: list[str] = []
    monkeypatch.setattr("server.services.caretaker.Caretaker.poke", lambda self: poked.append(self._name))
    shop = Counter(tmp_path / "poked", clock)
    key = shop.sale(email=ANN)
    shop.code(key, hardware_id="pc")
    poked.clear()
    for hardware_id, woken in (("pc", []), ("new", ["mail"]), ("new", [])):
        asked = {"license_key": key, "hardware_id": hardware_id}
        shop.client.post("/api/v1/licenses/validate", json=asked, buffered=True)  # read to its end
        assert [name for name in poked if name == "mail"] == woken
        poked.clear()


# ---------------------------------------------------------------------------------------------------- everywhere
def test_all_sessions_end_at_once_and_new_ones_begin(shop, clock):
    shop.sale("s1", ANN)
    shop.sale("s2", BOB)
    here, there, bob = shop.sign_in(), shop.sign_in(), shop.sign_in(BOB)
    kept = there.cookie
    out = here.client.post("/portal/sign-out-everywhere", data={"csrf_token": here.token})
    assert (out.status_code, out.headers["Location"], here.cookie) == (303, "/portal/sign-in", "")
    other = Browser(Counter(shop.folder, clock))
    other.client.set_cookie("keyledger", kept)
    assert [browser.ask("/me").status_code for browser in (there, other, bob)] == [401, 401, 200]
    again = shop.sign_in()  # in the same second
    assert again.ask("/me").status_code == 200
    clock.forward(days=13)
    later = shop.sign_in()
    clock.forward(days=2)  # the word on the shelf is gone, and so are the sessions that it ended
    assert [browser.ask("/me").status_code for browser in (later, again, there)] == [200, 401, 401]
    assert here.client.post("/portal/sign-out-everywhere", data={"csrf_token": "x"}).status_code == 401
    assert later.client.post("/portal/sign-out-everywhere", data={"csrf_token": "x"}).status_code == 403


def test_mutant_without_the_word_on_the_shelf_sessions_go_on(shop, monkeypatch):
    from server.services.sign_in import Sessions

    shop.sale(email=ANN)
    here, there = shop.sign_in(), shop.sign_in()
    monkeypatch.setattr(Sessions, "end_all", lambda self, email: None)
    here.client.post("/portal/sign-out-everywhere", data={"csrf_token": here.token})
    assert there.ask("/me").status_code == 200
