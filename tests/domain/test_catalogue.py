"""The catalogue: tiers, bundles, platform ids, and errors that name the field."""

from __future__ import annotations

import json

import pytest

from server.domain.catalogue import read_catalogue
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


def test_a_variant_goes_before_the_plain_id():
    found = read_catalogue(json.dumps(CATALOGUE).encode())
    assert found.for_sale("gumroad", ["G-TEAM=="], ["Solo"]).id == "solo"
    assert found.for_sale("gumroad", ["G-TEAM=="], ["Other"]).id == "team"
    assert found.for_sale("gumroad", ["G-NONE=="]) is None


def test_the_default_product_takes_what_nobody_mapped():
    raw = json.dumps({**CATALOGUE, "default_product": "wave"}).encode()
    assert read_catalogue(raw).for_sale("gumroad", ["G-NONE=="]).id == "wave"


@pytest.mark.parametrize(
    ("products", "named"),
    [
        ({"a": {"name": "A", "max_devices": 0}}, "products.a.max_devices"),
        ({"a": {"name": "A", "max_devices": "2"}}, "max_devices"),
        ({"a": {"name": "A", "duration_days": -1}}, "products.a.duration_days"),
        ({"a": {"name": "A", "tier": "gold"}}, "products.a.tier"),
        ({"a": {"name": "A", "price": {"usd": "12.345"}}}, "products.a.price.usd"),
        ({"a": {"name": "A", "price": {"dollars": "1"}}}, "products.a.price"),
        ({"a": {"name": "A", "bundle": ["b"]}, "b": {"name": "B", "bundle": ["a"]}}, "products.a.bundle"),
        ({"a": {"name": "A", "bundle": ["none"]}}, "products.a.bundle"),
        ({"a": {"name": "A", "key_prefix": "x y"}}, "products.a.key_prefix"),
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
