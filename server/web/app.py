"""The application: blueprints, errors, request ids, one log line a request, work after the answer."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flask import Flask, Request, Response, g, request
from flask_cors import CORS
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import MapAdapter, Rule
from werkzeug.wsgi import get_host

from server.services import trace
from server.web import (
    admin,
    checkout,
    docs,
    health,
    jvzoo_doors,
    licenses,
    limits,
    logs,
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
from server.web.measured import LIMITED, TIMED
from server.web.responses import MAX_BODY, register_errors
from server.wiring import Services, caretakers

log = logging.getLogger(__name__)

VALIDATE, WEBHOOKS = "/api/v1/licenses/validate", "/api/v1/webhooks"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


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
    """Flask without two things that cost it a tenth of a request here."""

    url_rule_class = _Route

    def __init__(self, name: str) -> None:
        self._busy: dict[tuple[str, str], tuple[Rule, Mapping[str, Any]]] = {}
        super().__init__(name, static_folder=None)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Flask asks of each function that it calls whether it is async: none of ours is."""
        return func

    def know_busy_paths(self, paths: Iterable[str]) -> None:
        """To match these once for all: they are what nearly every request is for."""
        adapter = self.url_map.bind("")
        self._busy = {("POST", path): adapter.match(path, "POST", return_rule=True) for path in paths}

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        busy = self._busy.get((request.method, request.path)) if request else None
        if request is None or busy is None:
            return super().create_url_adapter(request)
        request.host = get_host(request.environ)  # as Flask does: a malformed one is refused
        request.url_rule, request.view_args = busy[0], dict(busy[1])
        return None  # nothing is left to match


def make_app(services: Services) -> Flask:
    logs.set_up_logging()
    app = _Application("server.web")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY + 1  # so that what is read up to it is known to be too much
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # no redirects: they repeat the query, with its secret, to any Host
    app.extensions["keyledger"] = services
    front = (packages, checkout, pay, me, shop, order_page, portal, portal_license, portal_receipts)
    rooms = (webhooks, jvzoo_doors, licenses, *front, owner, older, health, metrics, openapi, docs, static)
    for blueprint in (*(room.blueprint for room in rooms), *admin.blueprints):
        app.register_blueprint(blueprint)
    app.know_busy_paths([VALIDATE, *(f"{WEBHOOKS}/{name}" for name in services.platforms)])
    register_errors(app)
    trouble.tell_the_lost(app)
    _around_requests(app, services)
    if origins := services.settings.allowed_origins:
        told = ["X-Request-Id", "Retry-After", *limits.HEADERS, *signatures.HEADERS]
        CORS(app, resources={r"/api/*": {"origins": list(origins)}}, expose_headers=told)
    if proxies := services.settings.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies)  # type: ignore[method-assign]
    return app


def _around_requests(app: Flask, services: Services) -> None:
    tidy, mail = caretakers(services)
    tallies = services.tallies

    @app.before_request
    def begin() -> None:
        given = request.environ.get("HTTP_X_REQUEST_ID")
        g.request_id = given if given and _REQUEST_ID.fullmatch(given) else _new_request_id()
        trace.request_id.set(g.request_id)
        g.began = time.perf_counter()

    @app.after_request
    def end(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"  # a verdict repeats a device's name: never a page
        endpoint, status = request.endpoint, response.status_code
        if status != 429 and (endpoint not in _QUIET or status >= 400):  # a flood must not fill the log
            _log_request(response)
        tallies.time(time.perf_counter() - g.began, TIMED, endpoint or "none", str(status))
        if status == 429:
            tallies.add(LIMITED, endpoint or "none")
        response.call_on_close(tidy.poke)
        if endpoint != "licenses.validate" or g.get("letter"):
            response.call_on_close(mail.poke)
        return response


def _new_request_id() -> str:
    """A name, no secret: so it need not cost a system call, and Python seeds `random` anew in each forked worker."""
    return f"{random.getrandbits(64):016x}"


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
