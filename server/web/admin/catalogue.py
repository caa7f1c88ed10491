"""The catalogue as it is in use: products, tiers and bundles, and what is odd about them. It is written in a file."""

from __future__ import annotations

from flask import Response

from server.domain.catalogue import Catalogue, Product
from server.services.catalogue_sanity import oddities, unmapped, unpaid
from server.web.admin import frame
from server.web.services import services

blueprint = frame.room("catalogue")


@blueprint.get("/catalogue")
def show() -> Response:
    ours = services()
    found = ours.catalogue.current()
    return frame.show(
        "catalogue.html",
        trouble=ours.catalogue.trouble,
        file=ours.catalogue.path,
        products=[(product, _children(found, product)) for product in found.products.values()],
        features={name: found.features(product, None, None) for name, product in found.products.items()},
        tiers={name: (tier, found.features(None, name, ())) for name, tier in found.tiers.items()},
        default_product=found.default_product,
        oddities=[*oddities(found, ours.platforms), *unpaid(found, ours.platforms)],
        unmapped=unmapped(entry for entry in ours.backlog.waiting() if entry.outcome == "unmapped"),
    )


def _children(found: Catalogue, product: Product) -> list[Product]:
    return list(found.children(product)) if product.bundle else []
