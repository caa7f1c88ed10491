"""The application: blueprints, errors, request ids, one log line a request, work after the answer."""

from __future__ import annotations

import logging
import re
import secrets
import time

from flask import Flask, Response, g, request
from flask_cors import CORS
from werkzeug.middleware.proxy_fix import ProxyFix

from server.web import docs, health, jvzoo_doors, licenses, logs, older, openapi, owner, webhooks
from server.web.responses import MAX_BODY, register_errors
from server.wiring import Services, caretakers

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


def make_app(services: Services) -> Flask:
    logs.set_up_logging()
    app = Flask("server.web", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # no redirects: they repeat the query, with its secret, to any Host
    app.extensions["keyledger"] = services
    for room in (webhooks, jvzoo_doors, licenses, owner, older, health, openapi, docs):
        app.register_blueprint(room.blueprint)
    register_errors(app)
    _around_requests(app, services)
    if origins := services.settings.allowed_origins:
        CORS(app, resources={r"/api/*": {"origins": list(origins)}}, expose_headers=["X-Request-Id", "Retry-After"])
    if proxies := services.settings.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies)  # type: ignore[method-assign]
    return app


def _around_requests(app: Flask, services: Services) -> None:
    tidy, mail = caretakers(services)

    @app.before_request
    def begin() -> None:
        given = request.environ.get("HTTP_X_REQUEST_ID", "")
        g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        g.began = time.perf_counter()

    @app.after_request
    def end(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"  # a verdict repeats a device's name: never a page
        if request.endpoint not in _QUIET or response.status_code >= 400:
            _log_request(response)
        response.call_on_close(tidy.poke)
        if request.endpoint != "licenses.validate":
            response.call_on_close(mail.poke)
        return response


_QUIET = frozenset(
    {"licenses.validate", "health.health", "webhooks.receive", "webhooks.receive_stripe"}
)  # the last ones log their own lines


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
