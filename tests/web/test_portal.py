"""The customer's account from outside: links that work once, sessions that end, and nobody sees what is another's."""

from __future__ import annotations

import re
import string
from html.parser import HTMLParser

import pytest

from server.domain.keys import license_id
from server.domain.purchase import EventKind
from server.errors import StorageUnavailable
from server.services.sign_in import Links
from server.storage.shelf import FileShelf
from server.web import sessions
from tests.customers import ANN, BOB, Browser, Counter, link_in, without_caretakers
from tests.hostile_words import HOSTILE
from tests.storage.test_growth import calls_of

E = EventKind


@pytest.fixture
def shop(tmp_path, clock, monkeypatch) -> Counter:
    without_caretakers(monkeypatch)
    return Counter(tmp_path / "data", clock)


# ---------------------------------------------------------------------------------------------------- asking for a link
def test_a_customer_is_mailed_a_link_that_signs_him_in(shop):
    shop.sale(email="Ann@Example.com")
    browser = shop.sign_in(ANN)
    assert browser.get("/me") == {"email": ANN, "csrf_token": browser.token}
    assert {message["To"] for message in shop.pigeon.messages if "sign in" in message["Subject"]} == {ANN}


@pytest.mark.files
def test_nothing_tells_whether_an_address_is_known(shop):
    shop.sale(email=ANN)
    shop.link(ANN)  # the folder's files are there
    answers, deeds = [], []
    for email in (ANN, "nobody@example.com"):
        body = {"email": email}
        deeds.append(calls_of(lambda body=body: answers.append(shop.client.post("/api/v1/portal/sign-in", json=body))))
    known, unknown = answers
    assert (known.status_code, known.data) == (unknown.status_code, unknown.data) == (202, unknown.data)
    varying = {"X-Request-Id"}
    assert [(k, v) for k, v in known.headers if k not in varying] == [
        (k, v) for k, v in unknown.headers if k not in varying
    ]
    assert deeds[0] == deeds[1]
    assert deeds[0].count("fsync") == 1
    assert shop.states()[-2:] == ["queued", "queued"]
    assert [message["To"] for message in shop.post_round() if "sign in" in message["Subject"]] == [ANN]
    assert shop.states()[-2:] == ["sent", "dropped"]


def test_the_health_of_the_service_does_not_tell_what_became_of_a_link(shop):
    """Anyone may read it, and the letter to an address that is not known is dropped."""
    shop.sale(email=ANN)
    shop.post_round()

    def mail():
        return shop.client.get("/health").json["checks"]["mail"]

    before = mail()
    for email in (ANN, "nobody@example.com"):
        shop.client.post("/api/v1/portal/sign-in", json={"email": email})
        assert mail() == before
        shop.post_round()
        assert mail() == before
    assert shop.states() == ["sent", "dropped"]


def test_the_request_itself_looks_nobody_up(shop, monkeypatch):
    """Or its time would tell: what is known takes longer to read than what is not."""
    shop.sale(email=ANN)

    def looked(*given):
        raise AssertionError("somebody was looked up")

    monkeypatch.setattr(type(shop.services.store), "licenses_of", looked)
    monkeypatch.setattr(type(shop.services.store.orders), "of_email", looked)
    assert shop.client.post("/api/v1/portal/sign-in", json={"email": ANN}).status_code == 202
    assert shop.client.post("/portal/sign-in", data={"email": ANN}).status_code == 202


def test_the_form_of_the_page_does_the_same(shop):
    shop.sale(email=ANN)
    assert "<form" in shop.client.get("/portal/sign-in").text
    pages = [shop.client.post("/portal/sign-in", data={"email": email}) for email in (ANN, "nobody@example.com")]
    assert [page.status_code for page in pages] == [202, 202]
    assert pages[0].text == pages[1].text
    assert shop.client.post("/portal/sign-in", data={"email": "nonsense"}).status_code == 400
    assert [m["To"] for m in shop.post_round() if "sign in" in m["Subject"]] == [ANN]


def test_a_paid_order_without_a_license_makes_an_account_and_an_unpaid_one_does_not(shop):
    shop.place("wave", email=BOB)
    shop.client.post("/api/v1/portal/sign-in", json={"email": BOB})
    assert shop.post_round() == []
    shop.write_catalogue({"products": {}})
    shop.tell(shop.place("gone", email=BOB))
    assert shop.sign_in(BOB).get("/me/licenses") == {"licenses": []}


def test_links_are_limited_by_client_and_by_address_and_tell_nothing_by_it(tmp_path, clock, monkeypatch):
    without_caretakers(monkeypatch)
    shop = Counter(tmp_path / "limited", clock, rate_limit="120/minute")
    shop.sale(email=ANN)

    def ask(email, client):
        path = "/api/v1/portal/sign-in"
        return shop.client.post(path, json={"email": email}, environ_base={"REMOTE_ADDR": client})

    for email in (ANN, "nobody@example.com"):
        told = [ask(email, f"10.0.{len(email)}.{n}").status_code for n in range(7)]
        assert told == [202] * 5 + [429] * 2
    refused = ask(ANN.upper(), "10.9.9.9")
    assert (refused.status_code, int(refused.headers["Retry-After"]) > 60) == (429, True)
    by_client = [ask(f"c{n}@example.com", "10.1.1.1").status_code for n in range(12)]
    assert by_client == [202] * 10 + [429] * 2
    page = shop.client.post("/portal/sign-in", data={"email": ANN}, environ_base={"REMOTE_ADDR": "10.2.2.2"})
    assert (page.status_code, page.mimetype) == (429, "text/html")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_addresses_get_no_letter_and_break_nothing(shop, text):
    shop.sale(email=ANN)
    for email in (text, f"{text}@example.com", f"{ANN}{text}"):
        assert shop.client.post("/api/v1/portal/sign-in", json={"email": email}).status_code in (202, 400)
        form = {"email": email.encode(errors="replace")}
        assert shop.client.post("/portal/sign-in", data=form).status_code in (202, 400)
    assert [m["To"] for m in shop.post_round() if "sign in" in m["Subject"] and m["To"] != ANN] == []
    assert set(shop.states()) <= {"dropped", "sent"}
    assert not [x for x in shop.services.outbox.list() if x.kind == "alert_dead_letter"]


@pytest.mark.parametrize("email", [f"{ANN}\r\nBcc: evil@example.com", f"evil@example.com,{ANN}", f"Ann <{ANN}>", ""])
def test_no_address_becomes_a_header_or_a_list(shop, email):
    shop.sale(email=ANN)
    shop.client.post("/api/v1/portal/sign-in", json={"email": email})
    assert [m for m in shop.post_round() if "sign in" in m["Subject"]] == []


def test_a_lookalike_spelling_gets_no_link_to_anothers_account(shop):
    """U+212A in lower case is the letter k: the letter must go to the account's own mailbox."""
    shop.sale(email="kim@example.com")
    shop.client.post("/api/v1/portal/sign-in", json={"email": "\u212aim@example.com"})
    (message,) = [m for m in shop.post_round() if "sign in" in m["Subject"]]
    assert message["To"] == "kim@example.com"
    shop.buy("wave", email="\u212aurt@example.com")
    (delivery,) = shop.post_round()
    assert "/portal/sign-in/" not in delivery.get_body(("plain",)).get_content()


# ---------------------------------------------------------------------------------------------------- the link
def test_scanners_spend_nothing(shop):
    shop.sale(email=ANN)
    path, scanner = shop.link(), Browser(shop)
    for _ in range(3):
        for method in ("GET", "HEAD", "OPTIONS"):
            answered = scanner.client.open(path, method=method)
            assert (answered.status_code, "Set-Cookie" in answered.headers) == (200, False)
    assert scanner.ask("/me").status_code == 401
    assert Browser(shop).client.post(path).status_code == 303


def test_a_link_is_spent_once_over_all_workers(shop, clock):
    shop.sale(email=ANN)
    path, other = shop.link(), Counter(shop.folder, clock)
    assert other.client.get(path).status_code == 200
    assert shop.client.post(path).status_code == 303
    for worker in (other, shop):
        browser = Browser(worker)
        assert [browser.client.post(path).status_code, browser.client.get(path).status_code] == [410, 410]
        assert browser.ask("/me").status_code == 401


@pytest.mark.files
def test_mutant_without_the_claim_a_link_works_twice(shop, monkeypatch):
    shop.sale(email=ANN)
    monkeypatch.setattr(FileShelf, "claim", lambda self, name, until, now: True)
    path = shop.link()
    assert [shop.client.post(path).status_code for _ in range(2)] == [303, 303]


def test_a_link_is_over_after_an_hour(shop, clock):
    shop.sale(email=ANN)
    path = shop.link()
    clock.forward(minutes=59, seconds=59)
    assert shop.client.get(path).status_code == 200
    clock.forward(seconds=1)
    assert [shop.client.get(path).status_code, shop.client.post(path).status_code] == [410, 410]


def test_a_letter_that_could_not_go_within_the_hour_is_dropped(shop, clock):
    shop.sale(email=ANN)
    shop.post_round()
    shop.client.post("/api/v1/portal/sign-in", json={"email": ANN})
    clock.forward(hours=1)
    assert (shop.post_round(), shop.states()) == ([], ["dropped"])


def test_a_link_that_is_over_offers_a_new_one_and_leaks_nothing(shop, clock):
    key = shop.sale(email=ANN)
    path = shop.link()
    shop.client.post(path)
    page = shop.client.get(path)
    assert (page.status_code, f'action="{path}/again"' in page.text, ANN in page.text) == (410, True, False)
    known = shop.client.post(f"{path}/again")
    assert Browser(shop).client.post(link_in(shop.post_round()[0])).status_code == 303
    shop.owner("POST", f"/licenses/{key}/transfer", {"email": BOB})
    unknown = shop.client.post(f"{path}/again")
    assert (known.status_code, known.text) == (unknown.status_code, unknown.text)
    assert [m["To"] for m in shop.post_round() if "sign in" in m["Subject"]] == []


def test_a_link_that_was_changed_is_no_link(shop):
    shop.sale(email=ANN)
    path = shop.link()
    head, _, token = path.rpartition("/")
    last = [token[:-1] + letter for letter in string.ascii_letters + string.digits + "-_" if letter != token[-1]]
    for other in (*last, "x" + token, token[:40], "x", "a.b.c", "%00", "é"):
        for method, again in (("GET", ""), ("POST", ""), ("POST", "/again")):
            answered = shop.client.open(f"{head}/{other}{again}", method=method)
            assert (answered.status_code, answered.mimetype) == (404, "text/html"), other
    assert shop.states() == ["sent"]


def test_no_usable_link_stands_in_any_file(shop):
    shop.sale(email=ANN)
    token = shop.link().rpartition("/")[2]
    browser = Browser(shop)
    browser.client.post(f"/portal/sign-in/{token}")
    browser.post("/portal/sign-out")
    for file in shop.folder.iterdir():
        if file.is_file():
            assert token.encode() not in file.read_bytes(), file.name
            assert browser.cookie.encode() not in file.read_bytes() or not browser.cookie


@pytest.mark.files
def test_a_full_disk_signs_nobody_in_and_spends_nothing(shop, monkeypatch):
    shop.sale(email=ANN)
    path = shop.link()
    with monkeypatch.context() as patch:

        def full(*given):
            raise StorageUnavailable("no space left on device")

        patch.setattr(FileShelf, "claim", full)
        answered = shop.client.post(path)
    assert (answered.status_code, answered.mimetype, "Set-Cookie" in answered.headers) == (503, "text/html", False)
    assert answered.headers["Retry-After"]
    assert shop.client.post(path).status_code == 303


@pytest.mark.files
def test_what_was_given_before_the_shelf_was_damaged_is_good_no_more_and_the_owner_is_told(shop, clock):
    shop.sale(email=ANN)
    ended, kept, path, spent = shop.sign_in(ANN), shop.sign_in(ANN), shop.link(), shop.link()
    assert shop.client.post(spent).status_code == 303
    left = ended.cookie
    ended.post("/portal/sign-out")
    (shop.folder / "shelf.json").write_bytes(b"\0" * 64)
    back = Browser(shop)
    back.client.set_cookie("keyledger", left)
    assert [back.ask("/me").status_code, kept.ask("/me").status_code] == [401, 401]
    assert [shop.client.post(link).status_code for link in (spent, path)] == [410, 410]
    again, worker = shop.sign_in(ANN), Counter(shop.folder, clock)
    assert again.ask("/me").status_code == 200
    (told,) = worker.client.get("/health").json["checks"]["licenses_file"]["mended"]
    assert told.startswith("shelf.json was damaged at ")
    assert "everybody was signed out" in told
    clock.forward(days=13)
    assert again.ask("/me").status_code == 200
    assert [back.ask("/me").status_code, kept.ask("/me").status_code] == [401, 401]


def test_a_key_that_is_replaced_is_still_believed_and_one_that_is_gone_is_not(shop, clock):
    shop.sale(email=ANN)
    path, browser = shop.link(), shop.sign_in()
    old, new = shop.services.settings.secret_key[0], "a-newer-secret-key-of-the-tests"
    both = Counter(shop.folder, clock, secret_key=(new, old))
    gone = Counter(shop.folder, clock, secret_key=(new,))
    assert [gone.client.get(path).status_code, both.client.get(path).status_code] == [404, 200]
    for worker, status in ((both, 200), (gone, 401)):
        other = Browser(worker)
        other.client.set_cookie("keyledger", browser.cookie)
        assert other.ask("/me").status_code == status
    fresh = Browser(gone)
    fresh.client.set_cookie("keyledger", both.sign_in().cookie)
    assert fresh.ask("/me").status_code == 200


# ---------------------------------------------------------------------------------------------------- the session
def test_the_cookie_is_for_this_site_alone(shop, tmp_path, clock):
    shop.sale(email=ANN)
    told = shop.client.post(shop.link()).headers["Set-Cookie"]
    assert re.match(r"keyledger=\S+; .*HttpOnly; Path=/; SameSite=Lax$", told)
    assert ("Secure" in told, "Domain" in told) == (False, False)
    safe = Counter(tmp_path / "safe", clock, app_url="https://licenses.shop.example")
    safe.sale(email=ANN)
    answered = safe.client.post(safe.link(), headers={"Host": "evil.example"})
    assert answered.headers["Location"] == "/portal"
    told = answered.headers["Set-Cookie"]
    assert re.match(r"__Host-keyledger=\S+; .*Secure; HttpOnly; Path=/; SameSite=Lax$", told)
    assert "Domain" not in told


def test_a_session_ends_everywhere_and_for_good(shop, clock):
    shop.sale(email=ANN)
    browser, other = shop.sign_in(), Counter(shop.folder, clock)
    kept, elsewhere = browser.cookie, Browser(other)
    elsewhere.client.set_cookie("keyledger", kept)
    assert elsewhere.ask("/me").status_code == 200
    assert browser.post("/portal/sign-out").json == {"signed_out": True}
    assert browser.cookie == ""
    browser.client.set_cookie("keyledger", kept)
    assert [browser.ask("/me").status_code, elsewhere.ask("/me").status_code] == [401, 401]
    assert elsewhere.client.get("/portal").headers["Location"] == "/portal/sign-in"


def test_a_new_sign_in_puts_a_new_session_in_the_old_ones_place(shop):
    shop.sale(email=ANN)
    browser = shop.sign_in()
    before, token = browser.cookie, browser.token
    browser.client.post(shop.link())
    assert browser.cookie != before
    assert browser.token != token
    browser.client.set_cookie("keyledger", before)
    assert browser.ask("/me").status_code == 401


def test_a_session_that_somebody_planted_is_not_taken_up(shop):
    shop.sale(email=ANN)
    browser = Browser(shop)
    browser.client.set_cookie("keyledger", "planted")
    path = shop.link()
    browser.client.post(path)
    assert browser.cookie != "planted"
    browser.client.set_cookie("keyledger", path.rpartition("/")[2])  # what was sealed as a link is no session
    assert browser.ask("/me").status_code == 401


def test_a_session_is_over_after_two_weeks(shop, clock):
    shop.sale(email=ANN)
    browser = shop.sign_in()
    clock.forward(days=13, hours=23)
    assert browser.ask("/me").status_code == 200
    clock.forward(hours=1)
    assert browser.ask("/me").status_code == 401


MINE = ["/me", "/me/licenses", "/me/orders", "/orders/me", "/orders/x", "/package-enrollments/me"]
MINE += ["/package-enrollments/wave/check"]
CHANGES = ["/portal/sign-out", "/me/licenses/lic_00000000000000000000/devices/1/release"]


def test_without_a_session_nothing_is_told(shop):
    key = shop.sale(email=ANN)
    for path in MINE:
        answered = shop.client.get(f"/api/v1{path}", headers={"Authorization": "Bearer owner-key-of-the-tests-1234"})
        assert (answered.status_code, answered.json["errors"][0]["code"]) == (401, "NOT_SIGNED_IN"), path
        assert answered.headers["Cache-Control"] == "no-store"
        assert key not in answered.text
    for path in CHANGES:
        assert shop.client.post(f"/api/v1{path}", headers={"X-CSRF-Token": "x"}).status_code == 401


@pytest.mark.parametrize("token", ["", "wrong", "é"])
def test_nothing_is_changed_without_the_token(shop, token):
    key = shop.sale(email=ANN)
    shop.code(key, hardware_id="pc")
    browser = shop.sign_in()
    name = license_id(key)
    for path in ("/portal/sign-out", f"/me/licenses/{name}/devices/1/release"):
        answered = browser.client.post(
            f"/api/v1{path}", headers={"X-CSRF-Token": token.encode("utf-8").decode("latin-1")}
        )
        assert (answered.status_code, answered.json["errors"][0]["code"]) == (403, "CSRF")
    form = {"csrf_token": token, "number": "1", "hardware_id": "pc"}
    for path in ("/portal/sign-out", f"/portal/licenses/{name}/release"):
        answered = browser.client.post(path, data=form)
        assert (answered.status_code, answered.mimetype) == (403, "text/html")
    assert browser.get("/me/licenses")["licenses"][0]["devices_used"] == 1


def test_anothers_token_is_as_wrong_as_none(shop):
    shop.sale("s1", ANN)
    shop.sale("s2", BOB)
    ann, bob = shop.sign_in(ANN), shop.sign_in(BOB)
    assert ann.post("/portal/sign-out", token=bob.token).status_code == 403


def test_a_field_that_a_form_has_twice_is_refused_by_its_name(shop):
    """Which of them would be meant?"""
    told = shop.client.post("/portal/sign-in", data={"email": [ANN, "eve@example.com"]})
    assert told.status_code == 400
    assert "given more than once" in told.text
    assert shop.services.store.letterbox.waiting() == []


def test_a_form_of_another_site_signs_nobody_in_and_sends_no_letter(shop):
    shop.sale(email=ANN)
    path = shop.link()
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 303)):
        assert shop.client.post(path, headers={"Sec-Fetch-Site": site}).status_code == status
    sent = len(shop.states())
    for to in ("/portal/sign-in", f"{path}/again"):
        asked = shop.client.post(to, data={"email": ANN}, headers={"Sec-Fetch-Site": "cross-site"})
        assert asked.status_code == 403
    assert len(shop.states()) == sent


def test_no_credentials_go_across_origins(tmp_path, clock, monkeypatch):
    without_caretakers(monkeypatch)
    shop = Counter(tmp_path / "d", clock, allowed_origins=("https://shop.example",))
    shop.sale(email=ANN)
    browser = shop.sign_in()
    for method, path in [*(("GET", path) for path in MINE), *(("POST", path) for path in CHANGES)]:
        for asked in ({}, {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "x-csrf-token"}):
            told = browser.client.open(
                f"/api/v1{path}",
                method="OPTIONS" if asked else method,
                headers={"Origin": "https://shop.example"} | asked,
            ).headers
            assert told["Access-Control-Allow-Origin"] == "https://shop.example"
            assert "Access-Control-Allow-Credentials" not in told
    assert (
        "Access-Control-Allow-Origin"
        not in browser.client.get("/portal", headers={"Origin": "https://shop.example"}).headers
    )


def test_mutant_without_the_check_of_the_token_anybody_signs_out(shop, monkeypatch):
    shop.sale(email=ANN)
    browser = shop.sign_in()
    monkeypatch.setattr(sessions.hmac, "compare_digest", lambda one, other: True)
    assert browser.post("/portal/sign-out", token="wrong").status_code == 200


def test_mutant_without_an_end_a_link_works_for_ever(shop, clock, monkeypatch):
    shop.sale(email=ANN)
    monkeypatch.setattr("server.services.sign_in.LINK_FOR", Links.__init__.__globals__["LINK_FOR"] * 10_000)
    path = shop.link()
    clock.forward(days=30)
    assert shop.client.post(path).status_code == 303


# ---------------------------------------------------------------------------------------------------- licenses
def test_my_licenses_with_keys_and_devices(shop):
    key = shop.sale("s1", ANN, "G-TEAM==")
    shop.sale("s2", BOB)
    shop.code(key, hardware_id="hw1", device_name="Laptop")
    shop.code(key, hardware_id="hw2")
    (mine,) = shop.sign_in().get("/me/licenses")["licenses"]
    assert (mine["id"], mine["license_key"], mine["product_name"], mine["status"]) == (
        license_id(key),
        key,
        "Team",
        "active",
    )
    assert [(d["number"], d["device_name"], d["hardware_id"]) for d in mine["devices"]] == [
        (1, "Laptop", "hw1"),
        (2, None, "hw2"),
    ]
    assert (mine["devices_used"], mine["max_devices"], mine["releases_left"]) == (2, 2, 10)  # five for each seat


def test_what_was_transferred_or_replaced_is_told_to_whom_it_belongs(shop):
    first, second = shop.sale("s1", ANN), shop.sale("s2", ANN)
    ann = shop.sign_in()
    shop.owner("POST", f"/licenses/{first}/transfer", {"email": BOB})
    new = shop.owner("POST", f"/licenses/{second}/reissue").json["license_key"]
    assert [one["license_key"] for one in ann.get("/me/licenses")["licenses"]] == [new]
    assert [one["license_key"] for one in shop.sign_in(BOB).get("/me/licenses")["licenses"]] == [first]


@pytest.mark.files
def test_a_device_is_released_and_its_seat_is_free(shop):
    key = shop.sale(email=ANN)
    shop.code(key, hardware_id="old")
    assert shop.code(key, hardware_id="new") == "TOO_MANY_MACHINES"
    browser = shop.sign_in()
    told = browser.release(license_id(key))
    assert (told.status_code, told.json["devices"], told.json["releases_left"]) == (200, [], 4)
    assert browser.release(license_id(key)).json == told.json  # a free seat stays free, and it costs nothing
    assert shop.code(key, hardware_id="new") == "VALID"
    line = (shop.folder / "activity.jsonl").read_text().splitlines()[1]
    assert '"event":"deactivation"' in line
    assert '"by_customer":true' in line


def test_a_button_that_is_pressed_twice_releases_one_device(shop):
    key = shop.sale("s1", ANN, "G-TEAM==")
    for name in ("hw1", "hw2"):
        shop.code(key, hardware_id=name)
    browser = shop.sign_in()
    for _ in range(2):
        told = browser.release(license_id(key), body={"hardware_id": "hw1"})
        assert [device["hardware_id"] for device in told.json["devices"]] == ["hw2"]
    assert [browser.release(license_id(key), number).status_code for number in (0, 3, 99)] == [404] * 3


def test_releases_are_counted_over_ninety_days(shop, clock):
    key = shop.sale(email=ANN)
    name, browser = license_id(key), shop.sign_in()

    def move(number):
        assert shop.code(key, hardware_id=f"hw{number % 3}") == "VALID"
        return browser.release(name).status_code

    assert [move(number) for number in range(6)] == [200] * 5 + [409]
    refused = browser.release(name).json["errors"][0]
    assert refused["code"] == "RELEASES_USED_UP"
    assert "2027-02-18" in refused["detail"]
    clock.forward(days=90)
    browser = shop.sign_in()
    assert browser.release(name).status_code == 200


def test_what_the_app_signs_off_by_itself_is_no_release(shop):
    key = shop.sale(email=ANN)
    for _ in range(7):
        shop.code(key, hardware_id="pc")
        shop.ask("deactivate", license_key=key, hardware_id="pc")
    assert shop.sign_in().get("/me/licenses")["licenses"][0]["releases_left"] == 5


def test_how_many_releases_is_a_setting(tmp_path, clock, monkeypatch):
    without_caretakers(monkeypatch)
    shop = Counter(tmp_path / "none", clock, device_releases=0)
    key = shop.sale(email=ANN)
    shop.code(key, hardware_id="pc")
    browser = shop.sign_in()
    assert browser.release(license_id(key)).status_code == 409
    assert "Release" not in browser.client.get("/portal").text


def test_anothers_license_is_as_unknown_as_none(shop):
    key = shop.sale("s1", BOB)
    shop.code(key, hardware_id="pc")
    shop.sale("s2", ANN)
    ann = shop.sign_in()
    answers = [ann.release(name) for name in (license_id(key), "lic_00000000000000000000", key, "x")]
    assert {(one.status_code, one.json["errors"][0]["detail"]) for one in answers} == {
        (404, "there is no such license")
    }
    assert shop.code(key, hardware_id="pc", bind=False) == "VALID"


# ---------------------------------------------------------------------------------------------------- orders
def test_my_orders_as_they_stand(shop, clock):
    paid, keys = shop.buy("wave", "team", email="Ann@example.com")
    clock.forward(minutes=5)
    waiting = shop.place("wave")
    browser = shop.sign_in()
    found = browser.get("/me/orders")["orders"]
    assert [(one["order_id"], one["status"]) for one in found] == [
        (waiting.order_id, "pending"),
        (paid.order_id, "paid"),
    ]
    assert browser.get("/orders/me") == {"orders": found}
    assert found[1] == {
        "order_id": paid.order_id,
        "order_number": paid.number,
        "status": "paid",
        "amount": "238.00",
        "currency": "pln",
        "items": [
            {"product_id": "wave", "name": "Wave", "price": "119.00", "quantity": 1},
            {"product_id": "team", "name": "Team", "price": "119.00", "quantity": 1},
        ],
        "placed_at": "2026-11-20T12:00:00Z",
        "license_keys": keys,
    }
    for name in (paid.order_id, paid.number):
        assert browser.get(f"/orders/{name}") == found[1]


def test_anothers_order_is_as_unknown_as_none(shop):
    order, _ = shop.buy("wave", email=BOB)
    shop.sale("s1", ANN)
    ann = shop.sign_in()
    answers = [ann.ask(f"/orders/{name}") for name in (order.order_id, order.number, "ORD-20261120-0000", "x")]
    assert {(one.status_code, one.json["errors"][0]["detail"]) for one in answers} == {(404, "there is no such order")}


def test_an_order_keeps_no_key_that_is_another_persons_now(shop):
    order, (key,) = shop.buy("wave")
    shop.owner("POST", f"/licenses/{key}/transfer", {"email": BOB})
    assert shop.sign_in(ANN).get(f"/orders/{order.number}")["license_keys"] == []


# ---------------------------------------------------------------------------------------------------- enrollments
def test_enrollments_are_what_may_be_used_now(shop):
    order, _ = shop.buy("studio")
    browser = shop.sign_in()
    found = browser.get("/package-enrollments/me")["enrollments"]
    assert [(one["package_id"], one["is_bundle"]) for one in found] == [
        ("wave", False),
        ("team", False),
        ("studio", True),
    ]
    check = browser.get("/package-enrollments/studio/check")
    assert (check["enrolled"], len(check["license_ids"])) == (True, 2)
    assert browser.get("/package-enrollments/solo/check")["enrolled"] is False
    assert browser.ask("/package-enrollments/nothing/check").status_code == 404
    shop.tell(order, E.REFUND)
    assert browser.get("/package-enrollments/me") == {"enrollments": []}
    assert browser.get("/package-enrollments/wave/check")["enrolled"] is False


def test_a_bundle_needs_all_that_is_in_it_whoever_sold_it(shop, clock):
    shop.sale("s1", ANN)
    browser = shop.sign_in()
    assert browser.get("/package-enrollments/wave/check")["enrolled"] is True
    assert browser.get("/package-enrollments/studio/check")["enrolled"] is False
    shop.sale("s2", ANN, "G-TEAM==")
    told = browser.get("/package-enrollments/studio/check")
    assert (told["enrolled"], told["expiry_date"]) == (True, "2026-12-05T19:38:56Z")
    clock.forward(days=19)  # beyond the days of grace
    fresh = shop.sign_in()
    assert fresh.get("/package-enrollments/studio/check")["enrolled"] is False
    assert fresh.get("/package-enrollments/wave/check")["enrolled"] is True


def test_a_package_is_known_by_its_slug(tmp_path, clock, monkeypatch):
    without_caretakers(monkeypatch)
    shop = Counter(tmp_path / "slug", clock)
    shop.write_catalogue(
        {"products": {"w1": {"name": "Wave", "slug": "wave-app", "platform_ids": {"gumroad": ["G-WAVE=="]}}}}
    )
    shop.sale(email=ANN)
    told = shop.sign_in().get("/package-enrollments/wave-app/check")
    assert (told["package_id"], told["slug"], told["enrolled"]) == ("w1", "wave-app", True)


# ---------------------------------------------------------------------------------------------------- the pages
class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data

    def fields(self, action: str) -> dict[str, str]:
        """The hidden fields of the form that leads there."""
        found, inside = {}, False
        for tag, attrs in self.tags:
            inside = attrs.get("action", "").endswith(action) if tag == "form" else inside
            if inside and tag == "input":
                found[attrs["name"]] = attrs.get("value", "")
        return found


def pages_of(shop, browser):
    path, over = shop.link(), shop.link()
    Browser(shop).client.post(over)
    name = browser.get("/me/licenses")["licenses"][0]["id"]
    yield browser.client.get("/portal")
    yield browser.client.get(f"/portal/licenses/{name}")
    yield browser.client.get(f"/portal/licenses/{name}/devices/1/release")
    yield browser.client.get("/portal/receipts/" + shop.services.payments.of(ANN)[0].id)
    yield shop.client.get("/portal/sign-in")
    yield shop.client.get("/portal/lost-key")
    yield shop.client.get(path)
    yield shop.client.get(over)
    yield shop.client.get("/portal/sign-in/nonsense")
    yield shop.client.post("/portal/sign-in", data={"email": BOB})


def test_pages_need_nothing_from_elsewhere_and_are_kept_by_nobody(shop):
    """The one script copies; what a page can do without it is shown in a real browser."""
    shop.code(shop.sale(email=ANN), hardware_id="pc")
    for answered in pages_of(shop, shop.sign_in()):
        page = Page(answered.text)
        tags = {tag for tag, _ in page.tags}
        assert tags & {"link", "img", "iframe", "object", "base"} == set()
        assert ("script" in tags) == ("data-copies" in answered.text)
        assert {"html", "main", "h1", "title"} <= tags
        assert not any(
            {"src", "style"} & set(attrs) or any(n.startswith("on") for n in attrs) for _, attrs in page.tags
        )
        assert "url(" not in answered.text
        assert "prefers-color-scheme: dark" in answered.text
        policy = answered.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; ")
        assert "unsafe" not in policy
        assert (answered.headers["Cache-Control"], answered.headers["Referrer-Policy"]) == ("no-store", "no-referrer")


def test_the_account_works_by_its_forms_alone(shop):
    key = shop.sale(email=ANN)
    shop.code(key, hardware_id="hw1", device_name="Laptop")
    order, (other,) = shop.buy("team")
    browser = shop.sign_in()
    page = Page(browser.client.get("/portal").text)
    for word in (key, other, order.number, "119.00 PLN", "29.99 USD", ANN, "1 of 1 device in use"):
        assert word in page.words
    path = f"/portal/licenses/{license_id(key)}"
    assert f'href="{path}"' in browser.client.get("/portal").text
    page = Page(browser.client.get(path).text)
    assert "Laptop" in page.words
    page, action = Page(browser.client.get(f"{path}/devices/1/release").text), f"{path}/release"
    assert "You can release 4 more devices within 90 days after this one." in " ".join(page.words.split())
    done = browser.client.post(action, data=page.fields(action))
    assert (done.status_code, done.headers["Location"]) == (303, f"{path}?done=released")
    after = browser.client.get(done.headers["Location"]).text
    assert "is released" in after
    assert "Laptop" not in after
    again = browser.client.post(action, data=page.fields(action))
    assert again.status_code == 303
    out = browser.client.post("/portal/sign-out", data=page.fields("/portal/sign-out"))
    assert (out.status_code, out.headers["Location"]) == (303, "/portal/sign-in")
    assert browser.client.get("/portal").status_code == 303


def test_an_order_that_waits_for_its_payment_is_found_in_the_account(shop):
    """Whoever closed its page would find it nowhere else; and every page leads to the account."""
    shop.sale(email=ANN)
    order, browser = shop.place("wave"), shop.sign_in()
    links = [attrs["href"] for tag, attrs in Page(browser.client.get("/portal").text).tags if tag == "a"]
    assert links[-2:] == [f"/order/{order.order_id}", "/portal"]
    page = browser.client.get(links[-2])
    assert (page.status_code, order.number in page.text) == (200, True)
    assert 'href="/portal"' in page.text


@pytest.mark.files
def test_a_damaged_book_of_orders_takes_no_license_from_the_account(shop):
    key = shop.sale(email=ANN)
    shop.buy("wave")
    shop.place("team")
    browser, book = shop.sign_in(), shop.folder / "orders.jsonl"
    book.write_bytes(b"{" + book.read_bytes()[5:])
    other = Browser(Counter(shop.folder, shop.clock))
    other.client.set_cookie("keyledger", browser.cookie)
    page = other.client.get("/portal")
    assert (page.status_code, key in page.text, "cannot be shown just now" in page.text) == (200, True, True)
    assert other.client.get(f"/portal/licenses/{license_id(key)}").status_code == 200
    assert other.ask("/me/orders").status_code == 503


@pytest.mark.parametrize("text", [word for word in HOSTILE if "<" in word or "{{" in word])
def test_nobodys_words_become_part_of_a_page(shop, text):
    key = shop.sale(email=ANN, full_name=text[:100])
    shop.ask(
        "validate", license_key=key, hardware_id=f"hw{text[:50]}", device_name=text[:100]
    ) if text.isprintable() else None
    browser, name = shop.sign_in(), license_id(key)
    paths = ["", f"/licenses/{name}", f"/receipts/{shop.services.payments.of(ANN)[0].id}"]
    paths += [f"/licenses/{name}/devices/1/release"] if text.isprintable() else []
    known = "html head meta title style body header span form input button main h1 p h2 section div h3 ul li footer a"
    known += " script textarea table thead tbody tr th td dl dt dd br label"
    for path in paths:
        page = browser.client.get(f"/portal{path}")
        tags = [tag for tag, _ in Page(page.text).tags]
        assert (page.status_code, set(tags) - set(known.split())) == (200, set())
        assert tags.count("script") <= 1


def test_links_lead_to_the_owners_address_under_its_own_path(tmp_path, clock, monkeypatch):
    without_caretakers(monkeypatch)
    shop = Counter(tmp_path / "deep", clock, app_url="https://shop.example/licenses")
    shop.sale(email=ANN)
    shop.client.post("/api/v1/portal/sign-in", json={"email": ANN}, headers={"Host": "evil.example"})
    (message,) = [m for m in shop.post_round() if "sign in" in m["Subject"]]
    text = message.get_body(("plain",)).get_content()
    path = re.search(r"https://shop\.example/licenses(/portal/sign-in/\S+)", text)[1]
    assert "evil.example" not in text
    assert f'action="/licenses{path}"' in shop.client.get(path).text
    assert shop.client.post(path).headers["Location"] == "/licenses/portal"
