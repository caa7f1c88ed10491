"""The catalogue: tiers, bundles, platform ids, and errors that name the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.domain.catalogue import Item, Sold, read_catalogue
from server.errors import BadRequest
from tests.conftest import CATALOGUE


def catalogue(**products):
    return read_catalogue(json.dumps({"tiers": CATALOGUE["tiers"], "products": products}).encode())


def test_features_come_from_the_tier_below_the_tier_and_the_product():
    found = read_catalogue(json.dumps(CATALOGUE).encode())
    team = found.find("team")
    assert found.features(team, None, None) == ["batch", "api_access", "extra"]
    assert found.features(team, "pro", ("own",)) == ["batch", "own"]


def test_a_bundle_is_its_children_each_once():
    found = catalogue(
        a={"name": "A"},
        b={"name": "B"},
        ab={"name": "AB", "bundle": ["a", "b"]},
        all={"name": "All", "bundle": ["ab", "a"]},
    )
    assert [child.id for child in found.children(found.find("all"))] == ["a", "b"]


def sold(*ids: str, variants: tuple[str, ...] = (), own: str | None = None, items: tuple[Item, ...] = ()) -> list[Any]:
    found = read_catalogue(json.dumps(CATALOGUE).encode()).sold("gumroad", own, ids, variants, 2, items)
    return [(one.product.id, one.quantity) for one in found]


def test_a_variant_goes_before_the_plain_id():
    assert sold("G-TEAM==", variants=("Solo",)) == [("solo", 2)]
    assert sold("G-TEAM==", variants=("Other",)) == [("team", 2)]
    assert sold("G-NONE==") == []


def test_our_own_id_goes_before_the_sales_ids_and_those_before_its_items():
    items = (Item(("none", "G-TEAM=="), 3), Item(("G-NONE==",), 1), Item(("G-WAVE==",), 1))
    assert sold("G-TEAM==", own="wave", items=items) == [("wave", 2)]
    assert sold("G-TEAM==", own="nothing of ours", items=items) == [("team", 2)]
    assert sold("G-NONE==", items=items) == [("team", 3), ("wave", 1)]


def test_of_a_product_sold_twice_and_once_more_in_a_bundle_the_quantities_add_up():
    found = catalogue(a={"name": "A"}, b={"name": "B"}, ab={"name": "AB", "bundle": ["a", "b"]})
    a, ab = found.find("a"), found.find("ab")
    parts = found.parts([Sold(a, 2), Sold(ab, 1), Sold(a, 3)])
    assert [(part.product.id, part.quantity) for part in parts] == [("a", 6), ("b", 1)]


@pytest.mark.parametrize(
    ("products", "named"),
    [
        ({"a": {"name": "A", "max_devices": 0}}, "products.a.max_devices"),
        ({"a": {"name": "A", "max_devices": "2"}}, "max_devices"),
        ({"a": {"name": "A", "duration_days": -1}}, "products.a.duration_days"),
        ({"a": {"name": "A", "tier": "gold"}}, "products.a.tier"),
        ({"a": {"name": "A", "price": {"usd": "12.345"}}}, "products.a.price.usd"),
        ({"a": {"name": "A", "price": {"dollars": "1"}}}, "products.a.price"),
        ({"a": {"name": "A", "price": {"usd": "-1.00"}}}, "products.a.price.usd"),
        ({"a": {"name": "A", "bundle": ["b"]}, "b": {"name": "B", "bundle": ["a"]}}, "products.a.bundle"),
        ({"a": {"name": "A", "bundle": ["none"]}}, "products.a.bundle"),
        ({"a": {"name": "A", "key_prefix": "x y"}}, "products.a.key_prefix"),
        ({"a": {"name": "A", "buy_url": "http://shop.example"}}, "products.a.buy_url"),
        ({"a": {"name": "A", "buy_url": "javascript:alert(1)"}}, "products.a.buy_url"),
        ({"a": {"name": "A", "buy_url": 'https://shop.example/"><b>'}}, "products.a.buy_url"),
        ({"a": {"name": "A", "buy_url": "https://" + "x" * 500}}, "products.a.buy_url"),
        (
            {
                "a": {"name": "A", "platform_ids": {"gumroad": ["X"]}},
                "b": {"name": "B", "platform_ids": {"gumroad": ["X"]}},
            },
            "products.b.platform_ids.gumroad",
        ),
        ({"a": {}}, "name"),
    ],
)
def test_nonsense_is_refused_by_name(products, named):
    with pytest.raises(BadRequest, match=named.replace(".", r"\.")):
        catalogue(**products)


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{", b'{"products": 3}', b"\xff", b"[" * 100000])
def test_a_file_that_is_no_catalogue_is_refused(raw):
    with pytest.raises(BadRequest):
        read_catalogue(raw)


def test_a_tier_that_extends_itself_is_refused():
    with pytest.raises(BadRequest, match="tiers"):
        read_catalogue(b'{"tiers": {"a": {"extends": "b"}, "b": {"extends": "a"}}, "products": {}}')
