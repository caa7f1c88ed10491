"""The owner's dashboard: a room for each kind of thing, all behind one sign-in. See `frame` for what they share."""

from __future__ import annotations

from server.web.admin import (
    catalogue,
    home,
    letters,
    license_verbs,
    licenses,
    orders,
    purchases,
    reconcile,
    sign_in,
    waiting,
    webhooks,
)

blueprints = (
    sign_in.blueprint,
    sign_in.leaving,
    home.blueprint,
    licenses.blueprint,
    license_verbs.blueprint,
    purchases.blueprint,
    waiting.blueprint,
    orders.blueprint,
    letters.blueprint,
    catalogue.blueprint,
    webhooks.blueprint,
    reconcile.blueprint,
)
