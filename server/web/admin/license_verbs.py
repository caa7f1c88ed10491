"""What the owner may do with a license: each verb with a page that says what will happen, and a button that does it.

Looking at that page changes nothing. Its form carries a name of its own, by which one that is sent twice is done once.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple

import msgspec
from flask import Response, g, request

from server.domain.keys import license_id
from server.domain.license import Device
from server.errors import BadRequest, KeyledgerError, NotFound, Unprocessable
from server.services import consequences
from server.services.consequences import Case, case_of
from server.web.admin import frame
from server.web.licenses import Email, HardwareId, Text
from server.web.owner import Days
from server.web.services import services

blueprint = frame.room("license_verbs", place="licenses")


def case(name: str) -> Case:
    """A license of this key or public id, and what stands around it. Raises NotFound."""
    ours = services()
    key, license = ours.licenses.get(name)
    return case_of(ours.store, ours.catalogue, key, license, ours.settings.email_backend == "console", ours.clock())


class Form(msgspec.Struct, frozen=True, kw_only=True):
    note: Text | None = None
    once: frame.Once | None = None


class ExtendForm(Form, frozen=True, kw_only=True):
    days: Days | None = None
    until: date | None = None

    def check(self) -> None:
        if (self.days is None) == (self.until is None):
            raise BadRequest("say how many days more, or until which day: one of the two")

    @property
    def end_of_day(self) -> datetime | None:
        """That day still belongs to it."""
        return datetime.combine(self.until, time(23, 59, 59), UTC) if self.until else None


class TransferForm(Form, frozen=True, kw_only=True):
    email: Email
    customer_name: Text | None = None


class ReleaseForm(Form, frozen=True, kw_only=True):
    hardware_id: HardwareId


class Verb(NamedTuple):
    """`tell` says what will happen, `do` does it and gives the key that it is about from then on; both get the form."""

    word: str
    title: str
    label: str
    done: str
    tell: Callable[[Case, Any], list[str]]
    do: Callable[[Case, Any], str]
    is_offered: Callable[[Case], bool]
    form: type[Form] = Form
    takes_note: bool = True
    is_danger: bool = False

    @property
    def asks(self) -> bool:
        """Whether something has to be said before it is known what will happen."""
        return self.form is not Form


def _extend(found: Case, form: ExtendForm) -> str:
    end = form.end_of_day
    return services().licenses.extend(found.key, form.days, end, request=form.once).license_keys[0]


def _tell_extend(found: Case, form: ExtendForm) -> list[str]:
    return consequences.of_extend(found, services().licenses.end_of(found.license, form.days, form.end_of_day))


def _transfer(found: Case, form: TransferForm) -> str:
    licenses, email = services().licenses, form.email.strip()
    return licenses.transfer(found.key, email, form.customer_name, form.note, form.once).license_keys[0]


def _decide(name: str) -> Callable[[Case, Form], str]:
    def do(found: Case, form: Form) -> str:
        decide = getattr(services().licenses, name)
        return str(decide(found.key, note=form.note, request=form.once).license_keys[0])

    return do


def _reset(found: Case, form: Form) -> str:
    services().licenses.reset_devices(found.key)
    return found.key


def _release(found: Case, form: ReleaseForm) -> str:
    services().licenses.deactivate(found.key, form.hardware_id)
    return found.key


def _resend(found: Case, form: Form) -> str:
    services().outbox.resend(found.key, form.once)
    return found.key


VERBS: dict[str, Verb] = {
    "extend": Verb(
        "Extend",
        "Extend the license",
        "Extend it",
        "The license is extended.",
        _tell_extend,
        _extend,
        lambda found: found.license.expiry_date is not None,
        form=ExtendForm,
        takes_note=False,
    ),
    "resend": Verb(
        "Send the key again",
        "Send the key again",
        "Send it",
        "The letter is on its way.",
        lambda found, form: consequences.of_resend(found),
        _resend,
        lambda found: found.license.is_active and bool(found.license.email),
        takes_note=False,
    ),
    "suspend": Verb(
        "Suspend",
        "Suspend the license",
        "Suspend it",
        "The license is suspended.",
        lambda found, form: consequences.of_suspend(found),
        _decide("suspend"),
        lambda found: found.license.is_active,
    ),
    "reinstate": Verb(
        "Reinstate",
        "Reinstate the license",
        "Reinstate it",
        "The license is active again.",
        lambda found, form: consequences.of_reinstate(found),
        _decide("reinstate"),
        lambda found: not found.license.is_active,
    ),
    "transfer": Verb(
        "Transfer",
        "Transfer the license to another customer",
        "Transfer it",
        "The license is transferred.",
        lambda found, form: consequences.of_transfer(found, form.email),
        _transfer,
        lambda found: True,
        form=TransferForm,
    ),
    "reset-devices": Verb(
        "Release all devices",
        "Release all devices",
        "Release them",
        "All devices are released.",
        lambda found, form: consequences.of_reset(found),
        _reset,
        lambda found: bool(found.devices),
        takes_note=False,
    ),
    "reissue": Verb(
        "Reissue",
        "Reissue the license under a new key",
        "Reissue it",
        "The license has a new key. The old one is banned.",
        lambda found, form: consequences.of_reissue(found),
        _decide("reissue"),
        lambda found: True,
        is_danger=True,
    ),
    "revoke": Verb(
        "Revoke",
        "Revoke the license",
        "Revoke it",
        "The license is revoked.",
        lambda found, form: consequences.of_revoke(found),
        _decide("revoke"),
        lambda found: found.license.inactive_reason != "revoked",
        is_danger=True,
    ),
    "release": Verb(
        "Release",
        "Release a device",
        "Release it",
        "The device is released.",
        lambda found, form: consequences.of_release(found, _device(found, form.hardware_id)),
        _release,
        lambda found: False,  # beside each device
        form=ReleaseForm,
        takes_note=False,
    ),
}


def offered(found: Case) -> dict[str, Verb]:
    """The verbs that make sense for this license as it stands."""
    return {} if found.is_replaced else {name: verb for name, verb in VERBS.items() if verb.is_offered(found)}


def _device(found: Case, hardware_id: str) -> Device:
    device = next((one for one in found.devices if one.hardware_id == hardware_id), None)
    if device is None:
        raise Unprocessable("this device is not bound to the license any more")
    return device


# ---------------------------------------------------------------------------------------------------- pages
@blueprint.get("/licenses/<name>/<verb>")
def ask(name: str, verb: str) -> Response:
    asked, found = _verb(verb), case(name)
    if asked.asks:
        return _form(asked, verb, found, dict(request.args))
    return _confirmation(asked, verb, found, Form())


@blueprint.post("/licenses/<name>/<verb>")
def decide(name: str, verb: str) -> Response:
    asked, found = _verb(verb), case(name)
    try:
        form: Any = frame.asked(asked.form)
        if isinstance(form, ExtendForm):
            form.check()
        if form.once is None:
            return _confirmation(asked, verb, found, form)
        return _done(asked.done, asked.do(found, form))
    except BadRequest as error:
        if not asked.asks:
            raise
        return _form(asked, verb, found, g.fields, error)


def _verb(name: str) -> Verb:
    if name not in VERBS:
        raise NotFound("there is no such page")
    return VERBS[name]


def _form(verb: Verb, name: str, found: Case, given: dict[str, str], wrong: KeyledgerError | None = None) -> Response:
    words = wrong.detail if wrong else None
    status = 400 if wrong else 200
    return frame.show(
        "verb.html", status, title=verb.title, name=name, case=found, id=license_id(found.key), given=given, wrong=words
    )


def _confirmation(verb: Verb, name: str, found: Case, form: Form) -> Response:
    home = f"/admin/licenses/{license_id(found.key)}"
    return frame.show(
        "confirm.html",
        title=verb.title,
        case=found,
        words=verb.tell(found, form),
        action=f"{home}/{name}",
        back=home,
        label=verb.label,
        danger=verb.is_danger,
        takes_note=verb.takes_note and not verb.asks,
        hidden=g.get("fields", {}),
        once=frame.one_time(),
    )


def _done(told: str, key: str) -> Response:
    return frame.done(f"/admin/licenses/{license_id(key)}", told)
