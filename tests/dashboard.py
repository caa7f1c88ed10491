"""A small language for tests of the dashboard: a shop that has one, and the owner's browser in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from werkzeug.security import generate_password_hash

from server.web.app import make_app
from server.wiring import build
from tests.conftest import Clock, Shop, settings_for

PASSWORD = "the owner's long password"
HASH = generate_password_hash(PASSWORD, "pbkdf2:sha256:1")  # a cheap one: the tests sign in often


def shop_with_dashboard(folder: Path, clock: Clock, **more: Any) -> Shop:
    return Shop(folder, clock, **({"admin_password_hash": HASH} | more))


class Worker(Shop):
    """A further process on the same folder, as far as anybody outside can tell."""

    def __init__(self, shop: Shop, **more: Any) -> None:
        settings = settings_for(shop.folder, **({"admin_password_hash": HASH} | more))
        self.folder, self.clock, self.services = shop.folder, shop.clock, build(settings, shop.clock)
        self.app = make_app(self.services)
        self.client = self.app.test_client()


class OwnerBrowser:
    """The owner's browser: goes to pages, and sends the forms that stand on them."""

    def __init__(self, shop: Shop, is_signed_in: bool = True) -> None:
        self.shop, self.client = shop, shop.app.test_client()
        if is_signed_in:
            answered = self.sign_in()
            assert answered.status_code == 303, answered.text

    def sign_in(self, password: str = PASSWORD, **headers: str) -> Any:
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post("/admin/sign-in", data={"password": password}, headers=told)

    def get(self, path: str, status: int = 200) -> str:
        answered = self.client.get(f"/admin{path}")
        assert answered.status_code == status, answered.text
        return str(answered.text)

    def send(self, path: str, **fields: Any) -> Any:
        """A form of the session's, whether it stands on a page or not."""
        return self.client.post(f"/admin{path}", data={"csrf_token": self.token} | fields)

    def press(self, page: str, action: str, **fields: Any) -> Any:
        """Send the form with this action as it stands on the page, with what is typed into it."""
        (form,) = [one for one in forms_of(self.get(page)) if one["action"] == f"/admin{action}"]
        return self.client.post(form["action"], data=form["fields"] | fields)

    def told(self, answered: Any) -> str:
        """What the page says that a form led to."""
        assert answered.status_code == 303, answered.text
        page = self.client.get(answered.headers["Location"]).text
        return re.sub(r"<[^>]+>", "", re.search(r'role="status">(.*?)</p>', page, re.S)[1]).strip()  # type: ignore[index]

    @property
    def token(self) -> str:
        return next(one["fields"]["csrf_token"] for one in forms_of(self.get("")))


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append({"action": told.get("action", ""), "method": told.get("method", "get"), "fields": {}})
        elif tag == "input" and self.found and "name" in told and told.get("type") not in ("checkbox", "radio"):
            self.found[-1]["fields"][told["name"]] = told.get("value", "")


def forms_of(page: str) -> list[dict[str, Any]]:
    parser = _Forms()
    parser.feed(page)
    return parser.found
