"""What a review of the dashboard found."""

from __future__ import annotations

import json

import pytest

from server.services import reconcile_steps
from tests.conftest import sale_ping
from tests.dashboard import OwnerBrowser, shop_with_dashboard
from tests.standins.gumroad_api import TOKEN, GumroadApi, sale


def test_a_held_sale_is_issued_as_nothing_that_nobody_chose(tmp_path, clock):
    shop = shop_with_dashboard(tmp_path / "data", clock)
    shop.ping(sale_ping("held", "ann@example.com", "G-TEAM==", is_preorder_authorization="true"))
    page = OwnerBrowser(shop).get("/waiting")
    assert "It is held: it may not be paid yet." in page
    assert 'name="product_id" required><option value="">choose a product</option>' in page


def test_a_search_after_the_session_is_over_leads_to_the_sign_in(tmp_path, clock):
    shop = shop_with_dashboard(tmp_path / "data", clock)
    answered = shop.client.get("/admin/licenses?q=ann", headers={"HX-Request": "true"})
    assert answered.status_code == 200
    assert answered.headers["HX-Redirect"].endswith("/admin/sign-in?next=%2Fadmin%2Flicenses%3Fq%3Dann")


def test_a_device_is_released_whatever_its_id_begins_with(tmp_path, clock):
    shop = shop_with_dashboard(tmp_path / "data", clock)
    key = shop.sale()
    assert shop.code(key, hardware_id=" HW 1 ") == "VALID"
    owner = OwnerBrowser(shop)
    owner.send(
        f"/licenses/{shop.owner('GET', f'/licenses/{key}').json['id']}/release", hardware_id=" HW 1 ", once="abcdefgh01"
    )
    assert shop.owner("GET", f"/licenses/{key}").json["devices"] == []


@pytest.mark.files
def test_a_ledger_that_cannot_be_read_is_no_empty_one(tmp_path, clock):
    shop = shop_with_dashboard(tmp_path / "data", clock)
    key = shop.sale()
    owner = OwnerBrowser(shop)
    public = shop.owner("GET", f"/licenses/{key}").json["id"]
    (shop.folder / "purchases.jsonl").write_bytes(b"garbage\n" * 200)
    assert "Nothing was sold yet" not in owner.get("/purchases")
    (shop.folder / "purchases.jsonl").unlink()
    (shop.folder / "purchases.jsonl").mkdir()
    for path in ("/purchases", "/waiting", "/catalogue", "/webhooks", f"/licenses/{public}"):
        answered = owner.client.get(f"/admin{path}")
        assert answered.status_code in (200, 503), (path, answered.status_code)
        assert "Nothing was sold yet" not in answered.text


@pytest.mark.files
def test_a_license_is_shown_although_its_letters_cannot_be_read(tmp_path, clock):
    shop = shop_with_dashboard(tmp_path / "data", clock)
    key = shop.sale()
    shop.services.outbox.send_due()
    owner = OwnerBrowser(shop)
    public = shop.owner("GET", f"/licenses/{key}").json["id"]
    box = shop.folder / "outbox.jsonl"
    box.unlink(missing_ok=True)
    box.mkdir()
    for path in (f"/licenses/{public}", "/webhooks/1"):
        answered = owner.client.get(f"/admin{path}")
        assert answered.status_code == 200, path
        assert "cannot be read now" in answered.text


def test_a_formula_behind_a_semicolon_is_none(tmp_path, clock):
    shop = shop_with_dashboard(tmp_path / "data", clock)
    shop.sale(full_name="Ann;=1+1", email="ann@example.com")
    told = OwnerBrowser(shop).get("/licenses.csv")
    assert "Ann;'=1+1" in told
    assert json.dumps("Ann;=1+1") not in told


# ---------------------------------------------------------------------------------------------------- mended from there
def test_a_backup_is_made_by_a_button(tmp_path, clock):
    shop = shop_with_dashboard(tmp_path / "data", clock)
    shop.sale()
    owner = OwnerBrowser(shop)
    assert "Backup: none was made" in owner.get("")
    told = owner.told(owner.press("", "/backup"))
    (made,) = (tmp_path / "data-backups").glob("keyledger-*.tar.gz")
    assert told == f"Done. {made.name} was made, and read back. Copy it to another machine."
    assert "Backup: none was made" not in owner.get("")


def test_a_backup_that_cannot_be_made_says_so(tmp_path, clock):
    shop = shop_with_dashboard(tmp_path / "data", clock)
    shop.sale()
    (tmp_path / "data-backups").write_text("no folder")
    owner = OwnerBrowser(shop)
    assert owner.told(owner.press("", "/backup")).startswith("Not done. The backup could not be made:")


def test_what_a_platform_told_and_nobody_heard_is_looked_for_from_the_webhooks_page(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(reconcile_steps, "REPAIRS", 1)
    with GumroadApi() as api:
        api.add(sale("s1==", "ann@example.com"), sale("s2==", "ann@example.com"))
        settings = {"gumroad_access_token": TOKEN, "gumroad_api_base": api.url}
        shop = shop_with_dashboard(tmp_path / "data", clock, **settings)
        shop.post(sale_ping("s1==", "ann@example.com"), secret="wrong")
        owner = OwnerBrowser(shop)
        assert 'href="/admin/reconcile/gumroad"' in owner.get("/webhooks")
        assert "its own record of the last 30 days" in owner.get("/reconcile/gumroad")
        assert shop.ledger() == []  # by looking nothing is done
        told = owner.told(owner.press("/reconcile/gumroad", "/reconcile/gumroad"))
        assert "By now: 1 page of its record read, 0 questions asked, 1 finding repaired. Go on." in told
        told = owner.told(owner.press("/reconcile/gumroad", "/reconcile/gumroad"))
        assert told.startswith("Done. gumroad since 2026-10-21: ")
        assert "2 paid without a license. 2 repaired; the ledger agrees now" in told
        assert sorted(line["sale_id"] for line in shop.ledger()) == ["s1==", "s2=="]
        owner.press("/reconcile/gumroad", "/reconcile/gumroad")
        assert len(shop.ledger()) == 2


def test_a_platform_without_a_record_to_ask_for_says_so(tmp_path, clock):
    shop = shop_with_dashboard(tmp_path / "data", clock, jvzoo_secret_key="k" * 20)
    owner = OwnerBrowser(shop)
    assert owner.told(owner.press("/reconcile/jvzoo", "/reconcile/jvzoo")).startswith("Not done. ")
    owner.get("/reconcile/payu", 404)
