"""What the store front sells: packages of the catalogue, for the seller's own pages."""

from __future__ import annotations

from typing import Annotated, TypedDict

import msgspec
from flask import Blueprint, Response

from server.domain.catalogue import Product
from server.web.responses import answer, query_of
from server.web.services import services

blueprint = Blueprint("packages", __name__, url_prefix="/api/v1/packages")


class Package(TypedDict):
    """`price` and `original_price` are decimal strings by currency; `duration_days` null is for life."""

    id: str
    slug: str
    name: str
    description: str
    category: str
    price: dict[str, str]
    original_price: dict[str, str]
    featured: bool
    includes: list[str]
    features: list[str]
    tier: str | None
    duration_days: int | None
    max_devices: int
    is_bundle: bool


class PackageList(TypedDict):
    packages: list[Package]


class Bundle(TypedDict):
    id: str
    name: str
    packages: list[Package]


class PackageQuery(msgspec.Struct, frozen=True):
    category: Annotated[str, msgspec.Meta(max_length=128)] | None = None


@blueprint.get("")
def packages() -> Response:
    asked = query_of(PackageQuery)
    found: PackageList = {
        "packages": [shown_package(product) for product in services().packages.published(asked.category)]
    }
    return answer(found)


@blueprint.get("/<package_name>")
def package(package_name: str) -> Response:
    return answer(shown_package(services().packages.get(package_name)))


@blueprint.get("/<package_name>/bundle")
def bundle(package_name: str) -> Response:
    product = services().packages.get(package_name)
    children = services().packages.children(product) if product.bundle else ()
    found: Bundle = {"id": product.id, "name": product.name, "packages": [shown_package(child) for child in children]}
    return answer(found)


def shown_package(product: Product) -> Package:
    return {
        "id": product.id,
        "slug": product.slug or product.id,
        "name": product.name,
        "description": product.description,
        "category": product.category,
        "price": product.price,
        "original_price": product.original_price,
        "featured": product.featured,
        "includes": list(product.includes) or [child.name for child in _contents(product)],
        "features": services().packages.features(product),
        "tier": product.tier,
        "duration_days": product.duration_days,
        "max_devices": product.max_devices,
        "is_bundle": bool(product.bundle),
    }


def _contents(product: Product) -> tuple[Product, ...]:
    return services().packages.children(product) if product.bundle else ()
