"""The way into the dashboard: one password, slow on guesses, sessions that end for every worker; off without a hash."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.security import generate_password_hash

from server.web import sessions
from tests.conftest import Shop
from tests.dashboard import PASSWORD, OwnerBrowser, Worker, shop_with_dashboard

MINUTE = 60_000_000_000
KINDS = {"css": "text/css", ".js": "text/javascript"}


class Ticks:
    """A clock of the machine that only moves when a test says so."""

    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now

    def forward(self, minutes: float) -> None:
        self.now += int(minutes * MINUTE)


@pytest.fixture
def ticks():
    return Ticks()


@pytest.fixture
def shop(tmp_path, clock, ticks):
    return timed(shop_with_dashboard(tmp_path / "data", clock), ticks)


@pytest.fixture
def owner(shop):
    return OwnerBrowser(shop)


def timed(shop: Shop, ticks: Ticks) -> Shop:
    assert shop.services.owner is not None
    shop.services.owner.ticks = ticks
    return shop


def status_at(shop: Shop, cookie: str | None, name: str = "keyledger-owner") -> int:
    """How this cookie is received: 200 where it opens the dashboard, 303 where it leads to the password."""
    client = shop.app.test_client()
    if cookie:
        client.set_cookie(name, cookie)
    return int(client.get("/admin").status_code)


def cookie_of(owner: OwnerBrowser, name: str = "keyledger-owner") -> str:
    found = owner.client.get_cookie(name)
    return found.value if found else ""


def guess(shop: Shop, password: str = "a guess at the password", address: str = "203.0.113.9") -> Any:
    """From a browser that was never here, at this address."""
    client = shop.app.test_client(use_cookies=False)
    return client.post("/admin/sign-in", data={"password": password}, environ_overrides={"REMOTE_ADDR": address})


# ---------------------------------------------------------------------------------------------------- in and out
@pytest.mark.parametrize("path", ["", "/sign-in", "/sign-out", "/licenses", "/licenses/new", "/waiting"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_hash_there_is_no_dashboard(tmp_path, clock, path, method):
    answered = Shop(tmp_path / "data", clock).client.open(f"/admin{path}", method=method)
    assert answered.status_code in (404, 405)
    assert "password" not in answered.text.lower()


def test_the_password_opens_it(shop):
    owner = OwnerBrowser(shop, is_signed_in=False)
    answered = owner.client.get("/admin")
    assert (answered.status_code, answered.headers["Location"]) == (303, "/admin/sign-in?next=%2Fadmin")
    answered = owner.sign_in()
    assert (answered.status_code, answered.headers["Location"]) == (303, "/admin")
    assert "Sign out" in owner.get("")


@pytest.mark.parametrize("password", ["the owner's long passwort", "", " ", "\0", "x" * 5000, "é" * 20])
def test_another_password_does_not(shop, password):
    owner = OwnerBrowser(shop, is_signed_in=False)
    answered = owner.sign_in(password)
    assert answered.status_code in (400, 401)
    assert 'role="alert"' in answered.text
    assert cookie_of(owner) == ""
    owner.get("", 303)


def test_who_was_on_the_way_to_a_page_comes_to_it(shop):
    owner = OwnerBrowser(shop, is_signed_in=False)
    wanted = owner.client.get("/admin/licenses?q=ann%40example.com&status=active").headers["Location"]
    assert wanted == "/admin/sign-in?next=%2Fadmin%2Flicenses%3Fq%3Dann%2540example.com%26status%3Dactive"
    assert 'value="/admin/licenses?q=ann%40example.com&amp;status=active"' in owner.client.get(wanted).text
    sent = {"password": PASSWORD, "next": "/admin/licenses?q=ann%40example.com&status=active"}
    assert owner.client.post("/admin/sign-in", data=sent).headers["Location"] == sent["next"]


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example/",
        "//evil.example",
        "/admin/../x",
        "/adminevil",
        "/admin/sign-in",
        "/admin\r\nX: y",
        "\\\\evil",
    ],
)
def test_no_link_leads_elsewhere_after_signing_in(shop, path):
    answered = OwnerBrowser(shop, is_signed_in=False).client.post(
        "/admin/sign-in", data={"password": PASSWORD, "next": path}
    )
    assert answered.headers["Location"] == "/admin"
    assert "X" not in answered.headers


def test_signing_out_ends_it_for_every_worker(shop, owner):
    other, cookie = Worker(shop), cookie_of(owner)
    assert status_at(other, cookie) == 200
    answered = owner.press("", "/sign-out")
    assert (answered.status_code, answered.headers["Location"]) == (303, "/admin/sign-in")
    assert cookie_of(owner) == ""
    assert (status_at(shop, cookie), status_at(other, cookie), status_at(Worker(shop), cookie)) == (303, 303, 303)


@pytest.mark.files
def test_a_session_of_before_the_shelf_was_damaged_is_over(shop, owner):
    (shop.folder / "shelf.json").write_bytes(b"{")
    assert status_at(shop, cookie_of(owner)) == 303
    again = OwnerBrowser(shop)
    assert status_at(shop, cookie_of(again)) == 200


def test_signing_in_again_ends_the_session_of_before(shop, owner):
    before = cookie_of(owner)
    owner.sign_in()
    assert cookie_of(owner) != before
    assert (status_at(shop, before), status_at(shop, cookie_of(owner))) == (303, 200)


def test_a_session_that_is_not_used_ends_after_an_hour(shop, owner, clock):
    clock.forward(minutes=59)
    owner.get("")
    clock.forward(minutes=59)
    owner.get("")
    clock.forward(minutes=60)
    owner.get("", 303)


def test_a_session_ends_after_twelve_hours_however_much_it_is_used(shop, owner, clock):
    for _ in range(23):
        clock.forward(minutes=30)
        owner.get("")
    renewed = cookie_of(owner)
    clock.forward(minutes=30)
    owner.get("", 303)
    assert status_at(shop, renewed) == 303


def test_signing_out_ends_the_cookies_of_before_its_renewals_too(shop, owner, clock):
    first = cookie_of(owner)
    clock.forward(minutes=30)
    owner.get("")
    assert cookie_of(owner) != first
    owner.press("", "/sign-out")
    assert status_at(shop, first) == 303


@pytest.mark.parametrize(
    "more",
    [
        {"admin_password_hash": generate_password_hash("another long password", "pbkdf2:sha256:1")},
        {"secret_key": ("another-secret-key-of-the-tests",)},
    ],
)
def test_another_password_or_secret_ends_all_sessions(shop, owner, more):
    assert status_at(Worker(shop), cookie_of(owner)) == 200
    assert status_at(Worker(shop, **more), cookie_of(owner)) == 303


def test_a_secret_that_is_changed_by_rotation_ends_none(shop, owner):
    both = ("a-newer-secret-key-of-the-tests", "secret-key-of-the-tests")
    assert status_at(Worker(shop, secret_key=both), cookie_of(owner)) == 200


# ---------------------------------------------------------------------------------------------------- whose session
def test_a_customers_session_is_nothing_here_and_the_owners_is_nothing_there(shop, owner):
    shop.sale(email="owner")
    _, customers = shop.services.customers.sessions.begin("owner")
    assert status_at(shop, customers) == 303
    assert status_at(shop, customers, "keyledger") == 303
    client = shop.app.test_client()
    client.set_cookie("keyledger", cookie_of(owner))
    client.set_cookie("keyledger-owner", cookie_of(owner))
    assert client.get("/api/v1/me").status_code == 401
    assert client.get("/portal").status_code == 303


@pytest.mark.parametrize("cookie", ["", "x", "e30.abc", "\u00e9", "a" * 3000])
def test_what_was_not_sealed_here_opens_nothing(shop, cookie):
    assert status_at(shop, cookie) == 303


@pytest.mark.parametrize("path", ["/sign-out", "/licenses/new", "/waiting", "/licenses/lic_0/revoke"])
@pytest.mark.parametrize("fields", [{}, {"csrf_token": ""}, {"csrf_token": "wrong"}, {"csrf_token": "\u00e9"}])
def test_a_form_without_the_sessions_token_is_refused(shop, owner, path, fields):
    answered = owner.client.post(f"/admin{path}", data=fields)
    assert answered.status_code == 403
    assert "another session" in answered.text
    owner.get("")


def test_another_sessions_token_is_none(shop, owner):
    assert OwnerBrowser(shop).client.post("/admin/sign-out", data={"csrf_token": owner.token}).status_code == 403


def test_a_form_after_the_session_says_that_nothing_was_done(shop, owner, clock):
    key, token = shop.sale(), owner.token
    clock.forward(hours=2)
    answered = owner.client.post(f"/admin/licenses/{key}/revoke", data={"csrf_token": token, "once": "abcdefgh"})
    assert answered.status_code == 401
    assert "nothing was done" in answered.text
    assert shop.code(key) == "VALID"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_form_of_another_site_is_refused(shop, owner, site):
    told = {"Sec-Fetch-Site": site}
    assert owner.client.post("/admin/sign-out", data={"csrf_token": owner.token}, headers=told).status_code == 403
    assert OwnerBrowser(shop, is_signed_in=False).sign_in(Sec_Fetch_Site=site).status_code == 403
    owner.get("")


def test_mutant_without_the_check_of_the_token_a_form_needs_none(shop, owner, monkeypatch):
    monkeypatch.setattr(sessions.hmac, "compare_digest", lambda one, other: True)
    assert owner.client.post("/admin/sign-out", data={"csrf_token": "wrong"}).status_code == 303


# ---------------------------------------------------------------------------------------------------- what goes out
def test_over_https_the_cookies_are_bound_to_this_host(tmp_path, clock):
    shop = shop_with_dashboard(tmp_path / "data", clock, app_url="https://licenses.shop.example")
    answered = OwnerBrowser(shop, is_signed_in=False).sign_in()
    cookies = answered.headers.getlist("Set-Cookie")
    assert [one.partition("=")[0] for one in cookies] == ["__Host-keyledger-owner", "__Host-keyledger-known"]
    for one in cookies:
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(one.split("; "))
        assert "Domain" not in one


@pytest.mark.parametrize("path", ["", "/sign-in", "/licenses", "/licenses/new", "/waiting", "/licenses/lic_0"])
def test_no_page_is_kept_framed_or_helped_from_elsewhere(shop, path):
    owner = OwnerBrowser(shop, is_signed_in=path != "/sign-in")
    answered = owner.client.get(f"/admin{path}")
    assert answered.headers["Cache-Control"] == "no-store"
    assert answered.headers["Content-Security-Policy"] == (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert answered.headers["Referrer-Policy"] in ("same-origin", "no-referrer")
    assert "style=" not in answered.text
    assert "<style" not in answered.text
    assert "http://" not in answered.text.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_style_and_script_are_kept_under_a_name_that_changes_with_them(shop, owner):
    page = owner.get("")
    for name in ("pico-2.1.1.classless.min.css", "htmx-2.0.11.min.js", "admin.css"):
        path = next(part for part in page.split('"') if part.endswith(f"/{name}"))
        answered = shop.client.get(path)
        assert (answered.status_code, answered.mimetype) == (
            200,
            "text/javascript" if name[-2:] == "js" else "text/css",
        )
        assert answered.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        other = shop.client.get(f"/static/000000000000/{name}")
        assert (other.status_code, other.headers["Cache-Control"]) == (200, "no-store")


@pytest.mark.parametrize(
    "path", ["/static/x/../app.py", "/static/x/htmx.LICENSE", "/static/x/%2e%2e%2fapp.py", "/static/x/"]
)
def test_nothing_else_is_served_with_them(shop, path):
    assert shop.client.get(path).status_code == 404


def test_the_password_stands_in_no_log_and_no_file(shop, capfd):
    OwnerBrowser(shop)
    OwnerBrowser(shop, is_signed_in=False).sign_in("another password of somebody")
    told = capfd.readouterr()
    assert PASSWORD not in told.err + told.out
    assert "another password" not in told.err + told.out
    assert all(PASSWORD.encode() not in path.read_bytes() for path in shop.folder.iterdir())


# ---------------------------------------------------------------------------------------------------- guesses
@pytest.mark.files
def test_guesses_are_slow_and_the_right_one_is_no_exception(shop, ticks):
    assert [guess(shop).status_code for _ in range(5)] == [401] * 5
    answered = guess(shop, PASSWORD)
    assert (answered.status_code, answered.headers["Retry-After"]) == (429, "60")
    assert "Too many tries to sign in: try again in 60 seconds." in answered.text
    ticks.forward(1)
    assert guess(shop, PASSWORD).status_code == 303
    assert guess(shop, PASSWORD).status_code == 429


@pytest.mark.files
def test_who_goes_on_guessing_waits_longer(shop, ticks):
    for _ in range(20):
        assert guess(shop).status_code == 401
        ticks.forward(2)
    answered = guess(shop)
    assert answered.status_code == 429
    assert 1800 < int(answered.headers["Retry-After"]) <= 4320
    ticks.forward(int(answered.headers["Retry-After"]) / 60)
    assert (guess(shop).status_code, guess(shop).status_code) == (401, 429)


def test_all_workers_count_together_and_so_they_do_after_a_restart(shop, ticks):
    workers = [timed(Worker(shop), ticks) for _ in range(2)]
    assert [guess(worker).status_code for worker in (shop, *workers, shop, workers[0])] == [401] * 5
    assert [guess(worker).status_code for worker in (shop, *workers)] == [429] * 3
    assert guess(timed(Worker(shop), ticks), PASSWORD).status_code == 429


def test_another_address_is_counted_by_itself_but_not_another_one_of_the_same_network(shop):
    assert [guess(shop, address="2001:db8:1:2::1").status_code for _ in range(5)] == [401] * 5
    assert guess(shop, address="2001:db8:1:2:ffff::9").status_code == 429
    assert guess(shop, PASSWORD, address="2001:db8:1:3::1").status_code == 303


@pytest.mark.files
def test_many_addresses_together_are_slow_too(shop, ticks):
    answers = [guess(shop, address=f"203.0.{n}.1").status_code for n in range(60)]
    assert answers == [401] * 40 + [429] * 20
    ticks.forward(1)
    assert [guess(shop, address=f"203.1.{n}.1").status_code for n in range(6)] == [401] * 4 + [429] * 2


def test_no_stranger_locks_the_owner_out_of_a_browser_that_he_used_before(shop, owner):
    owner.press("", "/sign-out")
    for n in range(60):
        guess(shop, address=f"203.0.{n}.1")
    for _ in range(6):
        guess(shop, address="127.0.0.1")
    assert guess(shop, PASSWORD, address="127.0.0.1").status_code == 429
    assert owner.sign_in().status_code == 303


def test_a_known_browser_may_not_guess_without_end_either(shop, owner):
    assert [owner.sign_in("a guess").status_code for _ in range(6)] == [401] * 5 + [429]
    known = cookie_of(owner, "keyledger-known")
    client = shop.app.test_client()
    client.set_cookie("keyledger-known", known)
    assert client.post("/admin/sign-in", data={"password": PASSWORD}).status_code == 429


def test_a_browser_is_known_under_this_password_alone(shop, owner, ticks):
    new = generate_password_hash("another long password", "pbkdf2:sha256:1")
    other = timed(Worker(shop, admin_password_hash=new), ticks)
    for _ in range(5):
        guess(other, address="127.0.0.1")
    client = other.app.test_client()
    client.set_cookie("keyledger-known", cookie_of(owner, "keyledger-known"))
    assert client.post("/admin/sign-in", data={"password": "another long password"}).status_code == 429


def test_another_password_begins_the_count_anew(shop, ticks):
    for _ in range(6):
        guess(shop)
    new = generate_password_hash("another long password", "pbkdf2:sha256:1")
    assert guess(timed(Worker(shop, admin_password_hash=new), ticks), "another long password").status_code == 303


def test_where_nothing_can_be_counted_the_owner_comes_in_all_the_same(tmp_path, clock):
    (tmp_path / "data" / "limits.table").mkdir(parents=True)
    assert OwnerBrowser(shop_with_dashboard(tmp_path / "data", clock)).get("")


def test_the_limits_of_the_api_are_others(shop):
    """RATE_LIMIT is off here, and guesses are slow all the same; with one, both stand in one table."""
    both = Worker(shop, rate_limit="10/minute")
    for _ in range(5):
        guess(both, address="127.0.0.1")
    assert guess(both, address="127.0.0.1").status_code == 429
    asked = [
        both.client.post("/api/v1/licenses/validate", json={"license_key": "x" * 30}).status_code for _ in range(3)
    ]
    assert asked == [200, 200, 429]
