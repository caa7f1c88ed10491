"""The same hostile words on the dashboard: in all that customers, apps and platforms tell; and a look at every page
that a link of the dashboard leads to."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import pytest

from tests.acceptance.test_injection import SECRETS, SHOWN, SOME, Postbox
from tests.acceptance.test_injection import without_halves as whole
from tests.acceptance.test_injection_at_the_front import Passer, Tags
from tests.conftest import sale_ping
from tests.dashboard import HASH, OwnerBrowser, Worker, forms_of
from tests.hostile_words import CANARY, HOSTILE

MOST, FEW = 3_000, 6  # pages, should links ever lead on without end; of many of one kind
QUICK = SOME[::4]
QUERIES = (
    "/licenses?q={}",
    "/licenses?product={}",
    "/licenses?after={}",
    "/licenses/{}",
    "/purchases?email={}",
    "/purchases?q={}",
    "/orders?email={}",
    "/orders/{}",
    "/letters?state={}",
    "/letters/{}",
    "/webhooks?platform={}",
    "/webhooks/{}",
    "/sign-in?next={}",
    "/{}",
)


class Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


class Visit:
    """A shop that was told such words everywhere, and its owner, who looks at everything."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.passer = Passer(folder / "data", Postbox(), words)
        for number, word in enumerate(words):
            self.is_told(number, word)
        self.passer.shop.services.outbox.send_due()
        told = SECRETS | {"admin_password_hash": HASH}
        self.owner = OwnerBrowser(Worker(self.passer.shop, **told))
        self.pages: dict[str, Any] = {}
        self.says(words)
        self.walks()
        for word in words:
            for path in QUERIES:
                self.looks("/admin" + path.format(quote(word, safe="", errors="replace")))

    def is_told(self, number: int, word: str) -> None:
        """By platforms, with and without proof, by buyers and by apps."""
        shop, said = self.passer.shop, whole(word)
        fields = dict.fromkeys(SHOWN, said) | {"variants[Tier]": said, "custom_fields[x]": said}
        shop.post(sale_ping(f"sale-{number}", f"g{number}@example.com", **fields))
        shop.post(sale_ping(f"lost-{number}{said}", f"l{number}@example.com", f"unknown{said}", **fields))
        shop.post(sale_ping(f"bad-{number}", "a@example.com", price=said, **fields))
        shop.post({"x": said}, secret=said)
        shop.post(sale_ping(f"sale-{number}", "a@example.com", resource="dispute", disputed="true", **fields))
        self.passer.buys(number, word)
        self.passer.is_a_customer(word)

    def says(self, words: list[str]) -> None:
        """The owner himself types what a customer wrote to him."""
        for word in map(whole, words):
            typed = {"product_id": "wave", "email": "e@example.com", "customer_name": word, "note": word}
            self.owner.send("/licenses/new", **typed)
            self.owner.send("/licenses/new", **typed, once="abcdefgh" + str(abs(hash(word))))

    # ------------------------------------------------------------------------------------------------ looking
    def walks(self) -> None:
        """Every link, but of many of one kind a few."""
        waiting, seen, narrowed = deque(["/admin"]), {"/admin"}, Counter[str]()
        while waiting and len(self.pages) < MOST:
            for link in self._inside(self.looks(waiting.popleft())):
                kind = _kind(link)
                narrowed[kind] += link not in seen
                if link not in seen and (not kind or narrowed[kind] <= FEW):
                    waiting.append(link)
                seen.add(link)

    def _inside(self, page: Any) -> Iterator[str]:
        if page.mimetype != "text/html":
            return
        for link in Links(page.text).found:
            to = urlsplit(urljoin(page.request.path, link))
            if to.path.startswith("/admin") and not to.netloc and not to.path.endswith(".csv"):
                yield f"{to.path}?{to.query}" if to.query else to.path

    def looks(self, path: str) -> Any:
        page = self.pages[path] = self.owner.client.get(path)
        for form in forms_of(page.text) if page.mimetype == "text/html" else []:
            if form["action"].endswith("/release"):  # asks first
                self.pages[f"{path} release"] = self.owner.client.post(form["action"], data=form["fields"])
        return page


def _kind(link: str) -> str:
    """Of what there is much of one kind: ways to narrow a list, and what may be done with each thing of it."""
    path, _, query = link.partition("?")
    parts = path.split("/")
    return path if query else "/".join((parts[2], *parts[4:])) if len(parts) > 4 else ""


@pytest.fixture(scope="module")
def harmless(tmp_path_factory) -> Visit:
    return Visit(tmp_path_factory.mktemp("harmless"), ["Ann", "Bob"])


@pytest.fixture(scope="module")
def visit(tmp_path_factory) -> Visit:
    return Visit(tmp_path_factory.mktemp("hostile"), QUICK)


OURS = {("a", "rel"), ("input", "aria-invalid"), ("option", "selected"), ("p", "role")}  # of long lists and of mistakes


def test_no_word_becomes_a_tag_or_a_link_on_any_page(visit, harmless):
    known = set().union(*(Tags(page.text).tags for page in pages(harmless))) | OURS
    looked_at = list(pages(visit))
    assert len(looked_at) > 20 * len(QUICK)
    for page in looked_at:
        found = Tags(page.text)
        assert found.tags <= known, (page.request.path, found.tags - known)
        assert all(link.startswith(("/", "#", "data:,")) and link[:2] != "//" for link in found.links), found.links
        assert CANARY not in page.text
        assert "unsafe" not in page.headers["Content-Security-Policy"]
        assert "style=" not in page.text.replace("&#34;", "").partition("<main")[0]


def test_every_page_of_the_navigation_was_looked_at_and_no_word_is_a_500(visit):
    assert {f"/admin{path}" for path in PLACES} <= set(visit.pages)
    for path, page in visit.pages.items():
        assert page.status_code < 500, (path, page.text)
        assert len(visit.pages) < MOST


PLACES = ("", "/licenses", "/licenses/new", "/waiting", "/purchases", "/orders", "/letters", "/catalogue", "/webhooks")


def test_what_was_told_can_be_seen_as_it_was_told(visit):
    """Else the pages would be safe by hiding it."""
    everything = "".join(page.text for page in pages(visit))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in everything


@pytest.mark.slow
def test_every_word_leaves_no_tag(tmp_path, harmless):
    known = set().union(*(Tags(page.text).tags for page in pages(harmless))) | OURS
    for page in pages(Visit(tmp_path, HOSTILE)):
        assert page.status_code < 500
        assert Tags(page.text).tags <= known, page.request.path


def pages(visit: Visit) -> Iterator[Any]:
    return (page for page in visit.pages.values() if page.mimetype == "text/html" and page.status_code != 303)
