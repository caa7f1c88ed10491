"""The dashboard's first page: what needs the owner, each with what mends it; the figures; the sales that wait."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from typing import Any

import msgspec
import pytest

from server.domain.purchase import EventKind, PurchaseEvent
from server.services import doctor
from server.services.deliveries import Reason
from server.storage import archive
from server.storage.base import Letter
from server.wiring import caretakers
from tests.conftest import CATALOGUE, sale_ping
from tests.dashboard import OwnerBrowser, Worker, forms_of, shop_with_dashboard
from tests.storage.backroom import sale


@pytest.fixture
def shop(tmp_path, clock, monkeypatch):
    """One that needs nobody: its mail goes out, its disk is large, and yesterday's backup is there."""
    monkeypatch.setattr(doctor, "GOOD_SPACE", 0)
    found = shop_with_dashboard(tmp_path / "data", clock, email_backend="smtp")
    note = archive.Note(at=clock(), file="keyledger.tar.gz", seq=0, is_sound=True)
    (found.folder / archive.NOTE).write_bytes(msgspec.json.encode(note))
    return found


@pytest.fixture
def owner(shop):
    return OwnerBrowser(shop)


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page.partition("<main")[2])))


def matters(owner: OwnerBrowser) -> list[str]:
    return [text_of(f"<main>{one}") for one in re.findall(r'<li class="matter[^>]*>(.*?)</li>', owner.get(""), re.S)]


def matter(owner: OwnerBrowser) -> str:
    (found,) = matters(owner)
    return found


# ---------------------------------------------------------------------------------------------------- what needs him
def test_where_all_is_well_nothing_needs_him(owner):
    assert matters(owner) == []
    assert "all is well Nothing waits for you." in text_of(owner.get(""))


def test_a_sale_that_nobody_mapped_is_issued_by_a_button_once_it_is_mapped(shop, owner):
    shop.ping(sale_ping("s1", "ann@example.com", "G-NEW=="))
    assert "1 paid sale waits for a license." in matter(owner)
    told = owner.told(owner.press("", "/waiting"))
    assert (
        told
        == "Not done. 0 sales got a license, 1 still waits: products.json maps none of G-NEW==, WAVE, wave for gumroad."
    )
    products = CATALOGUE["products"] | {"new": {"name": "New", "platform_ids": {"gumroad": ["G-NEW=="]}}}
    shop.write_catalogue(CATALOGUE | {"products": products})
    assert owner.told(owner.press("", "/waiting")) == "Done. 1 sale got a license. Nothing waits any more."
    assert matters(owner) == []
    assert [record["product_id"] for record in shop.licenses().values()] == ["new"]


def test_letters_that_were_given_up_are_told(shop, owner, clock):
    with shop.services.store.letterbox.turn():
        shop.services.store.letterbox.write(
            [Letter(id="1", kind="delivery", to="a@b.example", state="dead", at=clock())]
        )
    assert "1 letter could not be delivered." in matter(owner)
    assert owner.told(owner.press("", "/letters/retry")) == "Done. 1 letter will be tried again, for a week more."
    assert matters(owner) == []


def test_letters_that_are_only_printed_are_told(tmp_path, clock, monkeypatch):
    shop = shop_with_dashboard(tmp_path / "other", clock)
    assert any("Letters are printed by the server, not sent." in one for one in matters(OwnerBrowser(shop)))


def test_webhooks_that_are_refused_are_told(shop, owner):
    shop.services.deliveries.failed("gumroad", Reason.PROOF, 100, "secret: wrong")
    assert "Webhooks of Gumroad: 1 delivery refused, since the proof is missing or wrong." in matter(owner)


def test_orders_that_something_untrue_was_told_of_are_told(shop, owner, monkeypatch):
    monkeypatch.setattr(shop.services.store.orders, "suspicious", lambda since: 2)
    found = matter(owner)
    assert "Something was told of 2 orders within 7 days that is not believed." in found
    assert found.rstrip().endswith("The orders")
    assert "scripts/audit.py suspicious" in found


def test_a_full_disk_is_told(shop, owner, monkeypatch):
    monkeypatch.setattr(doctor, "GOOD_SPACE", 1 << 60)
    assert "Disk space: " in matter(owner)
    monkeypatch.setattr(doctor, "LEAST_SPACE", 1 << 60)
    assert "now Disk space: " in matter(owner)


def test_an_old_backup_is_told_with_the_command_that_makes_a_new_one(shop, owner, clock):
    shop.sale()
    clock.forward(days=9)
    owner.sign_in()
    found = matter(owner)
    assert "Backup: the newest one is 9 days old." in found
    assert re.search(r"cd /\S+ && \.venv/bin/python scripts/backup\.py create --keep 30", found)


def test_no_backup_at_all_is_told_once_there_is_something_to_lose(shop, owner):
    (shop.folder / archive.NOTE).unlink()
    assert matters(owner) == []
    shop.sale()
    assert "Backup: none was made by scripts/backup.py." in matter(owner)


def test_a_broken_catalogue_and_an_odd_one_are_told(shop, owner):
    (shop.folder / "products.json").write_text("{")
    assert "The catalogue: products.json: Input data was truncated" in matter(owner)
    shop.write_catalogue(CATALOGUE | {"products": CATALOGUE["products"] | {"free": {"name": "Free"}}})
    found = matter(owner)
    assert "The catalogue: free has no platform_ids: no sale can mean it." in found


@pytest.mark.files
def test_a_damaged_file_and_what_was_mended_are_told(shop, owner):
    shop.services.store.notice("licenses.json was rebuilt from the ledger: it was <cut> off")
    assert "A file was damaged: licenses.json was rebuilt from the ledger: it was <cut> off. It is mended." in matter(
        owner
    )


def test_where_the_books_cannot_be_read_the_page_says_so(shop, owner, monkeypatch):
    def broken(*_: Any, **__: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shop.services.store, "scan", broken)
    assert "Something cannot be read: [Errno 5] Input/output error." in matter(owner)
    assert "The figures cannot be told just now" in owner.get("")


# ---------------------------------------------------------------------------------------------------- the figures
def test_figures_stand_in_a_chart_and_in_a_table_beside_it(shop, owner, clock):
    for number, ago in enumerate((0, 0, 3, 20, 90)):
        day = (clock() - timedelta(days=ago)).isoformat()
        shop.sale(f"s{number}", sale_timestamp=day)
    shop.refund("s2")
    page = owner.get("")
    told = text_of(page)
    assert "Revenue in USD" in told
    assert "Gumroad 59.98 2 charges of 59.98 59.98 3 charges of 89.97, 29.99 refunded 89.97 4 charges of 119.96" in told
    assert re.findall(r"<title>(\d{4}-\d\d-\d\d, [^<]+)</title>", page) == [
        "2026-10-31, Gumroad: 29.99 USD",
        "2026-11-20, Gumroad: 59.98 USD",
    ]
    assert "Sales 2 3 4" in told
    assert 'role="img"' in page


def test_each_currency_has_a_chart_of_its_own(shop, owner, clock):
    sold = {"product_id": "wave", "purchase_date": clock()}
    for source, price, currency in (("payu", "119.00", "pln"), ("stripe", "10.00", "pln"), ("stripe", "4900", "jpy")):
        info = sold | {"source": source, "sale_id": f"{source}-{currency}", "price": price, "currency": currency}
        shop.services.licenses.create_license("ann@example.com", "Ann", None, info)
    told = text_of(owner.get(""))
    assert "Revenue in JPY" in told
    assert "Together 129.00 2 charges of 129.00" in told
    assert "5029" not in told


def test_another_worker_s_sale_is_told_at_once(shop, owner):
    assert "No money came in within the last 30 days." in owner.get("")
    Worker(shop).sale("s1")
    assert "1 charge of 29.99" in text_of(owner.get(""))


# ---------------------------------------------------------------------------------------------------- what waits
def held(shop: Any, **more: Any) -> None:
    said = {
        "event": EventKind.PENDING,
        "event_id": "s9:sale",
        "source": "gumroad",
        "sale_id": "s9",
        "source_product_id": "G-WAVE==",
        "email": "ann@example.com",
        "note": "a preorder",
    }
    shop.services.fulfilment.record([PurchaseEvent(**said | more)])


def test_a_sale_is_issued_by_hand_as_a_product_that_the_owner_names(shop, owner):
    shop.ping(sale_ping("s1", "ann@example.com", "G-NEW==", product_name="New <b>thing</b>"))
    assert "New <b>thing</b> for 29.99 USD" in text_of(owner.get("/waiting"))
    answered = owner.press("/waiting", "/waiting/one", product_id="team")
    assert owner.told(answered) == "Done. The license is issued, and its letter is on its way."
    assert [record["product_id"] for record in shop.licenses().values()] == ["team"]
    assert "No sale waits for a license." in text_of(owner.get("/waiting"))


def test_a_sale_that_is_held_is_issued_by_name_alone(shop, owner):
    held(shop)
    assert "1 sale is held" in matter(owner)
    assert "still waits: a preorder" in owner.told(owner.send("/waiting"))
    assert owner.told(owner.press("/waiting", "/waiting/one", product_id="wave")).startswith("Done.")
    assert len(shop.licenses()) == 1


def test_a_sale_without_an_address_asks_for_one(shop, owner):
    shop.ping(sale_ping("s1", "", "G-NEW=="))
    (form,) = [one for one in forms_of(owner.get("/waiting")) if one["action"] == "/admin/waiting/one"]
    assert "email" in form["fields"]
    answered = owner.send("/waiting/one", event_id=form["fields"]["event_id"], product_id="wave")
    assert answered.status_code == 422
    assert "say who gets the license" in answered.text
    assert owner.told(owner.press("/waiting", "/waiting/one", product_id="wave", email="eve@example.com"))[:4] == "Done"


def test_what_the_figures_rest_on_is_kept_for_workers_to_come_after_an_answer(shop, owner, monkeypatch):
    monkeypatch.setattr("server.services.kept_figures.BEHIND", 2)
    monkeypatch.setattr("server.wiring.threads_run", lambda: False)
    kept = shop.folder / "figures.idx"
    for number, is_kept in ((1, False), (2, True)):
        shop.ping(sale_ping(f"s{number}", "ann@example.com"))
        tidy, _ = caretakers(Worker(shop).services)
        tidy.poke()
        assert kept.exists() == is_kept  # one line is read sooner than a file
    assert "59.98" in text_of(OwnerBrowser(Worker(shop)).get(""))


def test_many_sales_that_wait_are_shown_page_by_page_the_newest_first(shop, owner, monkeypatch):
    monkeypatch.setattr("server.services.attention.COUNTED", 51)
    for number in range(53):
        shop.services.fulfilment.record([sale(f"s{number}", "G-UNKNOWN")])
    assert "At least 52 paid sales wait for a license" in text_of(owner.get(""))
    first = owner.get("/waiting")
    shown = re.findall(r'aria-label="Sale (s\d+)"', first)
    assert shown == [f"s{number}" for number in range(52, 2, -1)]
    (path,) = re.findall(r'href="/admin(/waiting\?below=\d+)" rel="next"', first)
    second = owner.get(path)
    assert re.findall(r'aria-label="Sale (s\d+)"', second) == ["s2", "s1", "s0"]
    assert "Back to the first page" in second
    assert 'rel="next"' not in second
    form = next(one for one in forms_of(second) if one["action"] == "/admin/waiting/one")
    answered = owner.client.post(form["action"], data=form["fields"] | {"product_id": "wave"})
    assert answered.headers["Location"].endswith(path)
    assert re.findall(r'aria-label="Sale (s\d+)"', owner.get(path)) == ["s1", "s0"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"event_id": "s1:sale", "product_id": "nothing"}, 422), ({"event_id": "none"}, 404), ({}, 400)],
)
def test_what_cannot_be_issued_is_said(shop, owner, fields, status):
    held(shop, event_id="s1:sale", sale_id="s1")
    assert owner.send("/waiting/one", **fields).status_code == status
    assert shop.licenses() == {}
