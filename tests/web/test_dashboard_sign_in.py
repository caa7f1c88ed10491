"""The way into the dashboard: one password, slow on guesses, sessions that end for every worker; off without a hash."""

from __future__ import annotations

from typing import Any

import pytest

from server.web.app import make_app
from server.wiring import build
from tests.conftest import Shop, settings_for
from tests.dashboard import HASH, OwnerBrowser, shop_with_dashboard


@pytest.fixture
def shop(tmp_path, clock):
    return shop_with_dashboard(tmp_path / "data", clock)


@pytest.fixture
def owner(shop):
    return OwnerBrowser(shop)


def another_worker(shop: Shop, **more: Any) -> Any:
    """A further process on the same folder, as far as anybody outside can tell."""
    settings = settings_for(shop.folder, **({"admin_password_hash": HASH} | more))
    return make_app(build(settings, shop.clock)).test_client()


@pytest.mark.parametrize("path", ["", "/sign-in", "/sign-out", "/licenses"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_hash_there_is_no_dashboard(tmp_path, clock, path, method):
    answered = Shop(tmp_path / "data", clock).client.open(f"/admin{path}", method=method)
    assert answered.status_code in (404, 405)
    assert "sign in" not in answered.text.lower()


def test_the_password_opens_it(shop):
    owner = OwnerBrowser(shop, is_signed_in=False)
    answered = owner.client.get("/admin")
    assert (answered.status_code, answered.headers["Location"]) == (303, "/admin/sign-in?next=%2Fadmin")
    answered = owner.sign_in()
    assert (answered.status_code, answered.headers["Location"]) == (303, "/admin")
    assert "Sign out" in owner.get("")


def test_another_password_does_not(shop):
    owner = OwnerBrowser(shop, is_signed_in=False)
    answered = owner.sign_in("the owner's long passwort")
    assert answered.status_code == 401
    assert "This is not the password." in answered.text
    assert owner.client.get_cookie("keyledger-owner") is None
    owner.get("", 303)
