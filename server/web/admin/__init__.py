"""The owner's dashboard: a room for each kind of thing, all behind one sign-in. See `frame` for what they share."""

from __future__ import annotations

from server.web.admin import home, license_verbs, licenses, sign_in, waiting

blueprints = (
    sign_in.blueprint,
    sign_in.leaving,
    home.blueprint,
    licenses.blueprint,
    license_verbs.blueprint,
    waiting.blueprint,
)
