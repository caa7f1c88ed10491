"""Licenses on the dashboard: found by whatever is at hand, told with their story, and decided about once."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from server.domain.keys import license_id
from tests.dashboard import OwnerBrowser, forms_of, shop_with_dashboard

ANN, BOB = "ann@example.com", "bob@example.com"


@pytest.fixture
def shop(tmp_path, clock):
    return shop_with_dashboard(tmp_path / "data", clock)


@pytest.fixture
def owner(shop):
    return OwnerBrowser(shop)


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page.partition("<main")[2])))


def keys_on(page: str) -> list[str]:
    """The keys of the licenses that a list shows."""
    return re.findall(r'<td data-label="Key"[^>]*><code>([^<]+)</code>', page)


def search(owner: OwnerBrowser, **query: str) -> list[str]:
    return keys_on(str(owner.client.get("/admin/licenses", query_string=query).text))


def page_of(key: str, verb: str = "") -> str:
    return f"/licenses/{license_id(key)}{f'/{verb}' if verb else ''}"


def confirm(owner: OwnerBrowser, key: str, verb: str, typed: dict[str, str] | None = None, **more: str) -> Any:
    """Through the page that says what will happen; what is typed there comes with its form."""
    path = page_of(key, verb)
    page = owner.send(path, **typed).text if typed else owner.get(path)
    (form,) = [one for one in forms_of(page) if "once" in one["fields"]]
    return owner.client.post(form["action"], data=form["fields"] | more)


def events(shop: Any) -> list[str]:
    return [line["event"] for line in shop.ledger()]


# ---------------------------------------------------------------------------------------------------- looking
def test_a_license_is_found_by_whatever_is_at_hand(shop, owner):
    key = shop.sale("sale-77==", ANN, "G-TEAM==", full_name="Zoë O'Hara <zo>")
    other = shop.sale("sale-78==", BOB)
    shop.code(key, hardware_id="HW-0001", device_name="Zoë's laptop")
    shop.code(key, hardware_id="HW-0002", device_name="Studio")
    typed = [key, key.lower(), key.replace("-", " "), key.replace("1", "l").replace("0", "o"), key[4:17].lower()]
    named = [license_id(key), "ANN@example", "zoë", "o'hara", "<zo>", "sale-77==", "hw-0002", "studio", "Zoë's LAP"]
    assert {one: search(owner, q=one) for one in [*typed, *named]} == {one: [key] for one in [*typed, *named]}
    assert search(owner, q="example.com") == search(owner) == sorted([key, other], reverse=True)
    assert search(owner, q="hw-0003") == []


def test_a_license_is_found_by_a_later_charge_and_by_an_order(shop, owner):
    told = {"subscription_id": "sub-1", "is_recurring_charge": "true"}
    key = shop.sale("first==", ANN, "G-TEAM==", subscription_id="sub-1")
    assert shop.sale("second==", ANN, "G-TEAM==", **told) == key
    assert search(owner, q="second==") == search(owner, q="sub-1") == [key]


def test_a_new_device_is_found_at_once_and_a_released_one_no_more(shop, owner):
    key = shop.sale()
    shop.licenses()  # writes the view
    shop.code(key, hardware_id="HW-1")
    assert search(owner, q="HW-1") == [key]
    shop.ask("deactivate", license_key=key, hardware_id="HW-1")
    assert search(owner, q="HW-1") == []


def test_licenses_are_narrowed_by_status_and_product(shop, owner, clock):
    wave, team, gone = shop.sale("s1"), shop.sale("s2", BOB, "G-TEAM=="), shop.sale("s3", BOB, "G-TEAM==#Solo")
    shop.refund("s3")
    assert search(owner, status="active") == sorted([wave, team], reverse=True)
    assert search(owner, status="suspended") == [gone]
    assert search(owner, product="team") == [team]
    assert search(owner, product="team", status="suspended", q="bob") == []
    clock.forward(days=60)
    owner.sign_in()
    assert search(owner, status="expired") == [team]
    assert search(owner, status="expired", q=key_part(team)) == [team]
    assert search(owner, status="active", q=key_part(team)) == []


def key_part(key: str) -> str:
    return key.partition("-")[2]


def test_a_long_list_goes_on_page_by_page(shop, owner):
    keys = [shop.sale(f"s{n}", ANN) for n in range(120)]
    path, found = "/licenses?q=ann", list[str]()
    for _ in range(3):
        page = owner.get(path)
        assert "120 licenses found" in page
        found += keys_on(page)
        path = unescape((re.search(r'href="/admin([^"]+)" rel="next"', page) or [""] * 2)[1])
    assert path == ""
    assert len(found) == 120
    assert set(found) == set(keys)


@pytest.mark.parametrize("query", ["status=odd", "after=x", f"q={'x' * 300}", "status=active&status=banned"])
def test_a_query_that_is_none_of_ours_is_refused_by_name(owner, query):
    page = owner.get(f"/licenses?{query}", 400)
    assert query.partition("=")[0] in text_of(page).lower()


# ---------------------------------------------------------------------------------------------------- one license
def test_the_page_of_a_license_tells_all_of_it(shop, owner):
    key = shop.sale("s1", ANN, "G-TEAM==", full_name="Ann <b>Lee</b>")
    shop.code(key, hardware_id="HW-1", device_name="Laptop")
    shop.services.outbox.send_due()
    shop.refund("s1")
    told = text_of(owner.get(page_of(key)))
    for words in (
        "Team for Ann <b>Lee</b>",
        "suspended refunded Apps are told that it is suspended.",
        key,
        "ann@example.com",
        "batch, api_access, extra",
        "1 of 2 taken",
        "Laptop HW-1",
        "The charge was refunded in full. inactive: refunded",
        "Laptop (HW-1) was activated. 1 device bound",
        "delivery sent ann@example.com",
        "sale issued 29.99 USD gumroad",
    ):
        assert words in told, words


def test_only_what_makes_sense_is_offered(shop, owner, clock):
    def offered(key: str) -> set[str]:
        return set(re.findall(rf'href="/admin{page_of(key)}/([a-z-]+)"', owner.get(page_of(key))))

    wave, team = shop.sale("s1"), shop.sale("s2", BOB, "G-TEAM==")
    shop.code(team, hardware_id="HW-1")
    assert offered(wave) == {"resend", "suspend", "transfer", "reissue", "revoke"}
    assert offered(team) == {"extend", "resend", "suspend", "transfer", "reset-devices", "reissue", "revoke"}
    shop.refund("s1")
    assert offered(wave) == {"reinstate", "transfer", "reissue", "revoke"}
    confirm(owner, team, "reissue")
    assert offered(team) == set()
    assert "This key was replaced." in owner.get(page_of(team))


@pytest.mark.parametrize("name", ["lic_00000000000000000000", "no-such-key", "lic_x", "%00", "x" * 200])
def test_a_license_that_there_is_not_is_a_page_that_says_so(owner, name):
    assert "there is no such license" in text_of(owner.get(f"/licenses/{name}", 404)).lower()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_verb_that_there_is_not_is_a_page_that_says_so(shop, owner, method):
    key = shop.sale()
    answered = owner.client.open(f"/admin{page_of(key, 'explode')}", method=method, data={"csrf_token": owner.token})
    assert answered.status_code == 404


# ---------------------------------------------------------------------------------------------------- decisions
VERBS = {
    "extend": ({"days": "30"}, "owner_extend", "Paid through 2027-01-04"),
    "suspend": ({}, "owner_suspend", "suspended suspended"),
    "reinstate": ({}, "owner_reinstate", "active Apps are told that it is valid"),
    "revoke": ({}, "owner_revoke", "banned revoked"),
    "transfer": ({"email": "new@example.com", "customer_name": "New"}, "owner_transfer", "Team for New active"),
    "reissue": ({}, "owner_reissue", "Team for Jane Doe active"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_decision_is_told_before_it_is_made_and_made_once(shop, owner, verb):
    typed, event, after = VERBS[verb]
    key = shop.sale("s1", ANN, "G-TEAM==")
    shop.code(key, hardware_id="HW-1", device_name="Laptop")
    if verb == "reinstate":
        shop.refund("s1")
    before = events(shop)
    page = owner.send(page_of(key, verb), **typed).text if typed else owner.get(page_of(key, verb))
    assert "What will happen" in page
    assert events(shop) == before
    (form,) = [one for one in forms_of(page) if "once" in one["fields"]]
    answers = [owner.client.post(form["action"], data=form["fields"]) for _ in range(3)]
    assert [answered.status_code for answered in answers] == [303] * 3
    assert len({answered.headers["Location"] for answered in answers}) == 1
    assert events(shop) == [*before, event]
    assert after in text_of(owner.client.get(answers[0].headers["Location"]).text)


@pytest.mark.parametrize("verb", ["suspend", "reinstate", "revoke", "reissue", "transfer"])
def test_a_note_stands_in_the_books(shop, owner, verb):
    key, note = shop.sale(), "asked for it by phone <b>"
    typed = {"email": BOB, "note": note} if verb == "transfer" else None
    confirm(owner, key, verb, typed, note=note)
    assert shop.ledger()[-1]["note"] == note


def test_two_decisions_of_two_pages_are_two(shop, owner):
    key = shop.sale("s1", ANN, "G-TEAM==")
    for _ in range(2):
        confirm(owner, key, "extend", {"days": "30"})
    assert shop.owner("GET", f"/licenses/{key}").json["expiry_date"] == "2027-02-03T19:38:56Z"


def test_the_name_of_one_form_serves_no_other(shop, owner):
    one, two = shop.sale("s1"), shop.sale("s2")
    (form,) = [form for form in forms_of(owner.get(page_of(one, "suspend"))) if "once" in form["fields"]]
    owner.client.post(form["action"], data=form["fields"])
    answered = owner.client.post(f"/admin{page_of(two, 'suspend')}", data=form["fields"])
    assert answered.status_code == 409
    answered = owner.client.post(f"/admin{page_of(one, 'revoke')}", data=form["fields"])
    assert answered.status_code == 409
    assert (shop.code(one), shop.code(two)) == ("SUSPENDED", "VALID")


def test_a_license_is_extended_to_the_end_of_a_day(shop, owner):
    key = shop.sale("s1", ANN, "G-TEAM==")
    confirm(owner, key, "extend", {"until": "2027-03-31"})
    assert shop.owner("GET", f"/licenses/{key}").json["expiry_date"] == "2027-03-31T23:59:59Z"


@pytest.mark.parametrize(
    ("verb", "typed", "words"),
    [
        ("extend", {}, "Say how many days more, or until which day"),
        ("extend", {"days": "30", "until": "2027-03-31"}, "one of the two"),
        ("extend", {"days": "0"}, "days"),
        ("extend", {"days": "many"}, "days"),
        ("extend", {"until": "31.3.2027"}, "until"),
        ("extend", {"until": "2026-11-21"}, "already paid through 2026-12-05"),
        ("extend", {"until": "2999-01-01"}, "no license is paid beyond 2200"),
        ("transfer", {}, "email"),
        ("transfer", {"email": "nobody"}, "email"),
        ("transfer", {"email": BOB, "note": "x" * 600}, "note"),
        ("release", {"hardware_id": "HW-9"}, "not bound to the license any more"),
    ],
)
def test_what_cannot_be_is_said_beside_the_form_and_nothing_is_done(shop, owner, verb, typed, words):
    key = shop.sale("s1", ANN, "G-TEAM==")
    answered = owner.send(page_of(key, verb), **typed)
    assert answered.status_code == 400
    assert words in text_of(answered.text)
    assert 'role="alert"' in answered.text
    (form,) = [one for one in forms_of(answered.text) if one["action"].endswith(verb)]
    assert {name: form["fields"][name] for name in typed} == typed
    assert events(shop) == ["sale"]


@pytest.mark.parametrize("once", ["x", "a b c d e f g", "é" * 10, "a" * 100])
def test_a_forms_name_that_is_none_is_refused(shop, owner, once):
    key = shop.sale()
    assert owner.send(page_of(key, "revoke"), once=once).status_code == 400
    assert shop.code(key) == "VALID"


def test_a_device_is_released_and_no_other(shop, owner):
    key = shop.sale("s1", ANN, "G-TEAM==")
    for number in (1, 2):
        shop.code(key, hardware_id=f"HW-{number}", device_name=f"PC {number}")
    assert shop.code(key, hardware_id="HW-3") == "TOO_MANY_MACHINES"
    (asked,) = [f for f in forms_of(owner.get(page_of(key))) if f["fields"].get("hardware_id") == "HW-1"]
    page = owner.client.post(asked["action"], data=asked["fields"]).text
    assert "PC 1 loses its seat" in text_of(page)
    (form,) = [one for one in forms_of(page) if "once" in one["fields"]]
    assert owner.told(owner.client.post(form["action"], data=form["fields"])) == "Done. The device is released."
    assert shop.code(key, hardware_id="HW-3") == "VALID"
    again = owner.client.post(form["action"], data=form["fields"])
    assert again.status_code == 303
    assert shop.code(key, hardware_id="HW-2") == "VALID"


def test_all_devices_are_released(shop, owner):
    key = shop.sale("s1", ANN, "G-TEAM==")
    for number in (1, 2):
        shop.code(key, hardware_id=f"HW-{number}")
    assert owner.told(confirm(owner, key, "reset-devices")) == "Done. All devices are released."
    assert shop.owner("GET", f"/licenses/{key}").json["devices"] == []


def test_a_transfer_that_is_sent_twice_releases_no_device_of_the_new_owner(shop, owner):
    key = shop.sale()
    page = owner.send(page_of(key, "transfer"), email=BOB).text
    (form,) = [one for one in forms_of(page) if "once" in one["fields"]]
    owner.client.post(form["action"], data=form["fields"])
    shop.code(key, hardware_id="BOBS")
    owner.client.post(form["action"], data=form["fields"])
    assert [one["hardware_id"] for one in shop.owner("GET", f"/licenses/{key}").json["devices"]] == ["BOBS"]


def test_the_key_is_sent_again_once(shop, owner):
    key = shop.sale()
    shop.services.outbox.send_due()
    (form,) = [one for one in forms_of(owner.get(page_of(key, "resend"))) if "once" in one["fields"]]
    for _ in range(2):
        assert owner.client.post(form["action"], data=form["fields"]).status_code == 303
        shop.services.outbox.send_due()
    letters = [letter for letter in shop.services.outbox.list() if letter.kind == "delivery"]
    assert [(letter.to, letter.state) for letter in letters] == [(ANN, "sent")] * 2


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("revoke", "1 device (Laptop) will not run with it any more. A license file that one of them fetched"),
        ("suspend", "1 device (Laptop) keeps its seat for later."),
        ("reissue", "1 device (Laptop) stops working until the new key is typed in there."),
        ("reissue", "ann@example.com gets a letter with the new key. Mail is not set up"),
        ("reset-devices", "1 device (Laptop) loses its seat, and takes one again"),
        ("resend", "ann@example.com gets the letter with the key once more."),
        ("revoke", "Nobody gets a letter."),
    ],
)
def test_what_will_happen_is_said_in_plain_words(shop, owner, verb, words):
    key = shop.sale("s1", ANN, "G-TEAM==")
    shop.code(key, hardware_id="HW-1", device_name="Laptop")
    assert words in text_of(owner.get(page_of(key, verb)))


def test_extending_an_inactive_license_says_that_it_stays_so(shop, owner):
    key = shop.sale("s1", ANN, "G-TEAM==")
    shop.refund("s1")
    told = text_of(owner.send(page_of(key, "extend"), days="30").text)
    assert "It stays refunded: extending it does not reinstate it." in told
    assert "paid through 2026-12-05 now, and through 2027-01-04 then" in told


# ---------------------------------------------------------------------------------------------------- issuing
NEW = {"product_id": "team", "email": "eve@example.com", "customer_name": "Eve"}


def issued(owner: OwnerBrowser, **typed: str) -> tuple[str, dict[str, Any]]:
    """The page that says what will happen, and its form."""
    page = str(owner.send("/licenses/new", **NEW | typed).text)
    (form,) = [one for one in forms_of(page) if "once" in one["fields"]]
    return text_of(page), form


def test_a_license_is_issued_once_however_often_its_form_is_sent(shop, owner):
    words, form = issued(owner, note="a gift")
    assert "A license will be issued. Team: for 30 days." in words
    assert "eve@example.com gets a letter with the key" in words
    assert events(shop) == []
    answers = [owner.client.post(form["action"], data=form["fields"]) for _ in range(3)]
    assert events(shop) == ["owner_issue"]
    (key,) = shop.licenses()
    assert {answered.headers["Location"] for answered in answers} == {f"/admin{page_of(key)}"}
    assert "Team for Eve" in owner.get(page_of(key))
    assert "note: a gift" in owner.get(page_of(key))


@pytest.mark.parametrize(
    ("typed", "words", "expiry"),
    [
        ({"lasts": "life"}, "for life", None),
        ({"lasts": "days", "days": "7"}, "for 7 days", "2026-11-27T12:00:00Z"),
        ({"max_devices": "9"}, "for 30 days", "2026-12-20T12:00:00Z"),
    ],
)
def test_how_long_and_for_how_many_is_chosen(shop, owner, typed, words, expiry):
    told, form = issued(owner, **typed)
    assert words in told
    owner.client.post(form["action"], data=form["fields"])
    (record,) = shop.licenses().values()
    assert (record["expiry_date"], record["max_devices"]) == (expiry, int(typed.get("max_devices", 2)))


def test_a_bundle_gives_a_license_of_each_part(shop, owner):
    words, form = issued(owner, product_id="studio")
    assert "2 licenses will be issued. Wave: for life; Team: for 30 days." in words
    assert owner.told(owner.client.post(form["action"], data=form["fields"])) == "Done. 2 licenses are issued."


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"email": "nobody"}, "email"),
        ({"email": ""}, "email"),
        ({"product_id": "nothing"}, "Product_id: choose one of the products"),
        ({"lasts": "days"}, "Days: say how many"),
        ({"lasts": "days", "days": "-1"}, "days"),
        ({"max_devices": "0"}, "max_devices"),
        ({"note": "x" * 5000}, "note"),
    ],
)
def test_a_form_with_a_mistake_comes_back_with_what_was_typed(shop, owner, typed, words):
    answered = owner.send("/licenses/new", **NEW | typed)
    assert answered.status_code == 400
    assert words in text_of(answered.text)
    assert 'value="Eve"' in answered.text
    assert events(shop) == []
