"""What a decision about a license will do, in plain words: told to the owner before he decides."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from server.domain.catalogue import Product
from server.domain.fold import replaced_keys
from server.domain.license import Code, Device, License, devices_after, standing
from server.domain.purchase import Entry
from server.services.catalogue_file import CatalogueFile
from server.storage.base import Store

_NO_LETTER = "Nobody gets a letter."
_TAKEN_BACK = "Reinstating takes it back."


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A license as it stands before a decision. `prints_mail`: letters go to the server's terminal, not to people."""

    key: str
    license: License
    product: Product | None
    devices: Sequence[Device]
    history: Sequence[Entry]
    prints_mail: bool
    now: datetime

    @property
    def is_replaced(self) -> bool:
        return self.key in replaced_keys(self.history).values()

    @property
    def code(self) -> Code:
        return standing(self.license, self.now)

    def mail(self, words: str) -> list[str]:
        return [words, *(["Mail is not set up: the letter is only printed by the server."] if self.prints_mail else [])]

    def devices_will(self, one: str, several: str) -> str:
        """`2 devices (Laptop, PC) lose their seats`: what becomes of them."""
        number = len(self.devices)
        named = told([device.device_name or device.hardware_id for device in self.devices])
        return f"1 device ({named}) {one}" if number == 1 else f"{number} devices ({named}) {several}"

    def offline(self) -> list[str]:
        days = self.product.offline_days if self.product else 0
        if not days or not self.devices:
            return []
        return [f"A license file that one of them fetched for offline use stays good for {_days(days)} at most."]


def case_of(
    store: Store, catalogue: CatalogueFile, key: str, license: License, prints_mail: bool, now: datetime
) -> Case:
    return Case(
        key=key,
        license=license,
        product=catalogue.current().find(license.product_id),
        devices=devices_after(store.device_lines(key)),
        history=store.history([key]),
        prints_mail=prints_mail,
        now=now,
    )


# ---------------------------------------------------------------------------------------------------- the verbs
def of_issue(
    product: Product, children: Sequence[Product], email: str, days: int | None, prints_mail: bool
) -> list[str]:
    """`days` None is each product's own duration, -1 for life."""
    told_ = [f"{child.name}: {_lasts(child.duration_days if days is None else days)}" for child in children]
    several = len(children) > 1 or product.bundle
    letters = f"{email} gets a letter with the {'keys' if several else 'key'} as soon as mail goes out."
    printed = ["Mail is not set up: the letter is only printed by the server."] if prints_mail else []
    return [
        f"{'A license' if len(told_) == 1 else f'{len(told_)} licenses'} will be issued. {'; '.join(told_)}.",
        letters,
        *printed,
        "It is given, not sold: it counts in no revenue.",
    ]


def of_extend(case: Case, end: datetime) -> list[str]:
    before, words = case.license.expiry_date, []
    if before is not None:
        words.append(f"It is paid through {_day(before)} now, and through {_day(end)} then.")
    if case.code is Code.EXPIRED and case.license.is_active:
        words.append("Apps take it again from their next question on.")
    if not case.license.is_active:
        words.append(f"It stays {_reason(case.license)}: extending it does not reinstate it.")
    return [*words, "Its devices keep their seats.", _NO_LETTER]


def of_suspend(case: Case) -> list[str]:
    keep = [case.devices_will("keeps its seat for later.", "keep their seats for later.")] if case.devices else []
    return [
        "From their next question on apps are told that it is suspended.",
        *keep,
        *case.offline(),
        _NO_LETTER,
        _TAKEN_BACK,
    ]


def of_revoke(case: Case) -> list[str]:
    keep = (
        [case.devices_will("will not run with it any more.", "will not run with it any more.")] if case.devices else []
    )
    return [
        "From their next question on apps are told that it is banned.",
        *keep,
        *case.offline(),
        "No money goes back: a refund is made on the payment platform, or on the order's page.",
        _NO_LETTER,
        _TAKEN_BACK,
    ]


def of_reinstate(case: Case) -> list[str]:
    if case.license.is_active:
        return ["It is not suspended or revoked: nothing changes, but the books say that you looked.", _NO_LETTER]
    words = [f"It is {_reason(case.license)} now. What made it so is set aside, and it is active again."]
    if case.license.expiry_date and case.license.expiry_date < case.now:
        words.append(f"It stays past its end, {_day(case.license.expiry_date)}: extend it, too, so that it works.")
    return [*words, "What happens later (another refund, a dispute) counts again.", _NO_LETTER]


def of_transfer(case: Case, email: str | None) -> list[str]:
    words = [
        f"It belongs to {email or 'the new address'} then, and no more to {case.license.email or 'nobody'}.",
        "The key stays the same: who knows it can still type it in. Reissue it, too, where that matters.",
    ]
    if case.devices:
        again = "and can take one again while one is free."
        words.append(case.devices_will(f"loses its seat, {again}", f"lose their seats, {again}"))
    letter = f"{email or 'The new address'} gets a letter with the key; the old address gets none."
    return [*words, *case.mail(letter)]


def of_reissue(case: Case) -> list[str]:
    words = ["There will be a new key for the same purchase. The old one is banned, and cannot be put back in use."]
    if case.devices:
        until = "until the new key is typed in there."
        words.append(case.devices_will(f"stops working {until}", f"stop working {until}"))
    if not case.license.email:
        return [*words, *case.offline(), "It has no e-mail address: nobody gets the new key but you."]
    return [*words, *case.offline(), *case.mail(f"{case.license.email} gets a letter with the new key.")]


def of_reset(case: Case) -> list[str]:
    if not case.devices:
        return ["No device is bound: only the count of its moves begins anew.", _NO_LETTER]
    again = "again when its app asks, while one is free."
    return [
        case.devices_will(f"loses its seat, and takes one {again}", f"lose their seats; each takes one {again}"),
        "The count of moves begins anew.",
        _NO_LETTER,
    ]


def of_release(case: Case, device: Device) -> list[str]:
    return [
        f"{device.device_name or device.hardware_id} loses its seat, and another device can take it.",
        "Is its app still in use, it takes a free seat again when it asks the next time.",
        _NO_LETTER,
    ]


def of_resend(case: Case) -> list[str]:
    return case.mail(f"{case.license.email} gets the letter with the key once more.")


# ---------------------------------------------------------------------------------------------------- words
def told(names: Sequence[str], most: int = 5) -> str:
    return ", ".join([*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])])


def _reason(license: License) -> str:
    return (license.inactive_reason or "suspended").replace("_", " ")


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"


def _lasts(days: int | None) -> str:
    return "for life" if days in (None, -1) else f"for {_days(days or 0)}"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
