"""How the service is, for load balancers and for people. Public, so it names no customer and no path."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Literal, NotRequired, TypedDict, cast

from flask import Blueprint, Response, current_app

from server import __version__
from server.errors import StorageUnavailable
from server.services.outbox import OutboxSummary
from server.storage.base import StoreState
from server.web.pages import page, wants_page
from server.web.responses import RETRY_AFTER, answer
from server.web.services import services

blueprint = Blueprint("health", __name__)

_SUSPICIOUS_FOR = timedelta(days=7)
_PROBE_EVERY = 5.0  # seconds: a public route must not be a way to wear out a disk


class Check(TypedDict):
    ok: bool
    detail: str | None
    mended: NotRequired[list[str]]


class MailCheck(OutboxSummary):
    ok: bool
    detail: str | None
    backend: str


class Checks(TypedDict):
    storage: Check
    licenses_file: Check
    catalogue: Check
    mail: MailCheck
    orders: Check
    limits: Check


class Health(TypedDict):
    status: Literal["ok", "degraded"]
    version: str
    storage: str
    checks: Checks


@blueprint.get("/health")
def health() -> Response:
    """A browser, which says that it wants a page, gets the same as one."""
    state = services().store.state(probe=is_time_to_probe())
    checks = checks_of(state)
    well = all(check["ok"] for check in each(checks).values())
    body: Health = {
        "status": "ok" if well else "degraded",
        "version": __version__,
        "storage": state.kind,
        "checks": checks,
    }
    status = 503 if state.trouble else 200
    response = page("health.html", status, told=body, each=each(checks)) if wants_page() else answer(body, status)
    response.vary.add("Accept")
    if state.trouble:
        response.headers["Retry-After"] = RETRY_AFTER
    return response


def checks_of(state: StoreState) -> Checks:
    services().catalogue.current()
    return {
        "storage": _check(state.trouble),
        "licenses_file": {**_check(state.view), "mended": list(state.notices)},
        "catalogue": _check(services().catalogue.trouble),
        "mail": _mail_check(),
        "orders": _orders_check(),
        "limits": _limits_check(),
    }


def each(checks: Checks) -> dict[str, Check | MailCheck]:
    return cast("dict[str, Check | MailCheck]", checks)


def _check(trouble: str | None) -> Check:
    return {"ok": trouble is None, "detail": trouble}


def _mail_check() -> MailCheck:
    summary = services().outbox.summary()
    dead = summary["dead"]
    trouble = f"{dead} dead letters: scripts/outbox.py list" if dead else summary["trouble"]
    backend, detail = services().settings.email_backend, trouble
    if trouble is None and backend == "console":
        detail = "letters are printed, not sent: set EMAIL_BACKEND=smtp"
    return {**summary, "ok": trouble is None, "detail": detail, "backend": backend}


def _orders_check() -> Check:
    """Something that does not agree with its order: a mistake in the settings, or somebody who tries."""
    try:
        count = services().store.orders.suspicious(services().clock() - _SUSPICIOUS_FOR)
    except StorageUnavailable as error:
        return _check(error.detail)
    days = _SUSPICIOUS_FOR.days
    told = f"{count} order{'' if count == 1 else 's'}: something was told within {days} days that is not believed"
    return _check(f"{told}; scripts/audit.py suspicious" if count else None)


def _limits_check() -> Check:
    """Trouble with the limits is no trouble of the service: it answers everybody meanwhile."""
    limits = services().limits
    if limits is None:
        return {**_check(None), "detail": "RATE_LIMIT is off"}
    trouble = limits.trouble()
    return {**_check(trouble), "detail": trouble or limits.notice()}


def is_time_to_probe() -> bool:
    now, last = time.monotonic(), current_app.extensions.get("keyledger.probed", -_PROBE_EVERY)
    if now < last + _PROBE_EVERY:
        return False
    current_app.extensions["keyledger.probed"] = now
    return True
