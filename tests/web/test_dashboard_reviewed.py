"""What a review of the dashboard found."""

from __future__ import annotations

import json

from tests.conftest import sale_ping
from tests.dashboard import OwnerBrowser, shop_with_dashboard


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
