"""The application: blueprints, errors, request ids, one log line a request, work after the answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask, Response, g, request
from flask_cors import CORS
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import Rule

from server.services import logs
from server.web import (
    admin,
    checkout,
    docs,
    health,
    jvzoo_doors,
    licenses,
    limits,
    me,
    metrics,
    older,
    openapi,
    order_page,
    owner,
    packages,
    pay,
    portal,
    portal_license,
    portal_receipts,
    shop,
    signatures,
    static,
    trouble,
    webhooks,
)
from server.web.busy import BEGAN, FAILED, NOSNIFF, BusyDoors, Door, request_id_of
from server.web.measured import LIMITED, TIMED
from server.web.responses import MAX_BODY, register_errors
from server.web.webhooks import received
from server.wiring import Services, caretakers

log = logging.getLogger(__name__)

VALIDATE, WEBHOOKS = "/api/v1/licenses/validate", "/api/v1/webhooks"


class _Route(Rule):
    """A rule that is compiled for making addresses when the first is made of it: most never are, and compiling them all
    is most of what making an application costs."""

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        made: list[Callable[..., tuple[str, str]]] = []

        def build(rule: Rule, /, **values: Any) -> tuple[str, str]:
            if not made:
                made.append(super(_Route, self)._compile_builder(append_unknown))
            return made[0](rule, **values)

        return build


class _Application(Flask):
    url_rule_class = _Route


def make_app(services: Services) -> Flask:
    logs.set_up_logging()
    app = _Application("server.web", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY + 1  # so that what is read up to it is known to be too much
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # no redirects: they repeat the query, with its secret, to any Host
    app.extensions["keyledger"] = services
    front = (packages, checkout, pay, me, shop, order_page, portal, portal_license, portal_receipts)
    rooms = (webhooks, jvzoo_doors, licenses, *front, owner, older, health, metrics, openapi, docs, static)
    for blueprint in (*(room.blueprint for room in rooms), *admin.blueprints):
        app.register_blueprint(blueprint)
    register_errors(app)
    trouble.tell_the_lost(app)
    _open_busy_doors(app, services, _around_requests(app, services))
    if origins := services.settings.allowed_origins:
        told = ["X-Request-Id", "Retry-After", *limits.HEADERS, *signatures.HEADERS]
        CORS(app, resources={r"/api/*": {"origins": list(origins)}}, expose_headers=told)
    if proxies := services.settings.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies)  # type: ignore[method-assign]
    return app


def _open_busy_doors(app: Flask, services: Services, after: Callable[[bool], None]) -> None:
    doors = {f"{WEBHOOKS}/{name}": Door("webhooks.receive", partial(received, name)) for name in services.platforms}
    doors[VALIDATE] = Door("licenses.validate", licenses.validated)
    app.wsgi_app = BusyDoors(app.wsgi_app, services, doors, after)  # type: ignore[method-assign]


def _around_requests(app: Flask, services: Services) -> Callable[[bool], None]:
    """What is done before and after each request. Returns what is done when an answer has gone out."""
    tidy, mail = caretakers(services)
    tallies = services.tallies

    def after(owes_letter: bool = True) -> None:
        tidy.poke()
        if owes_letter:
            mail.poke()

    @app.before_request
    def begin() -> None:
        environ = request.environ
        g.request_id = request_id_of(environ)
        g.began = environ.get(BEGAN) or time.perf_counter()
        if failed := environ.get(FAILED):
            raise failed

    @app.after_request
    def end(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        response.headers.set(*NOSNIFF)
        endpoint, status = request.endpoint, response.status_code
        if status != 429 and (endpoint not in _QUIET or status >= 400):  # a flood must not fill the log
            _log_request(response)
        tallies.time(time.perf_counter() - g.began, TIMED, endpoint or "none", str(status))
        if status == 429:
            tallies.add(LIMITED, endpoint or "none")
        response.call_on_close(after)
        return response

    return after


_QUIET = frozenset(
    {"licenses.validate", "health.health", "metrics.metrics", "webhooks.receive", "webhooks.receive_stripe"}
)  # the last two log their own lines


def _log_request(response: Response) -> None:
    """The route's rule, not its path: a path may hold a license key."""
    log.info(
        "request",
        extra={
            "method": request.method,
            "route": request.url_rule.rule if request.url_rule else None,
            "status": response.status_code,
            "ms": round((time.perf_counter() - g.began) * 1000, 2),
        },
    )
