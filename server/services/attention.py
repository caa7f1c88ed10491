"""What needs the owner: each matter in words, with what mends it. It is looked for with every visit, so it is cheap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice

import msgspec

from server.domain.purchase import EventKind
from server.errors import KeyledgerError
from server.services import doctor, doctor_settings
from server.services.backlog import Backlog
from server.services.catalogue_file import CatalogueFile
from server.services.deliveries import Deliveries
from server.services.limits import RateLimits
from server.services.outbox import Outbox
from server.settings import ROOT, Settings, env_file
from server.storage.base import Store

SUSPICIOUS_FOR = timedelta(days=7)
COUNTED = 500  # sales that wait, each looked at for 50 us


class Kind(StrEnum):
    STORAGE = "storage"
    UNMAPPED = "unmapped"
    HELD = "held"
    ORDERS = "orders"
    LETTERS = "letters"
    MAIL = "mail"
    WEBHOOKS = "webhooks"
    CATALOGUE = "catalogue"
    DISK = "disk"
    BACKUP = "backup"
    LIMITS = "limits"


class Matter(msgspec.Struct, frozen=True, kw_only=True):
    """`is_bad`: somebody may be without what he paid for, or soon will be. `command` is what to type on the server."""

    kind: Kind
    words: str
    todo: str | None = None
    command: str | None = None
    is_bad: bool = False


class Attention:
    def __init__(
        self,
        store: Store,
        settings: Settings,
        catalogue: CatalogueFile,
        backlog: Backlog,
        outbox: Outbox,
        deliveries: Deliveries,
        limits: RateLimits | None,
        clock: Callable[[], datetime],
    ) -> None:
        self._store, self._settings, self._catalogue, self._backlog = store, settings, catalogue, backlog
        self._outbox, self._deliveries, self._limits, self._clock = outbox, deliveries, limits, clock

    def matters(self) -> list[Matter]:
        """The gravest first. Never raises."""
        found: list[Matter] = []
        for look in (
            self._storage, self._waiting, self._webhooks, self._letters, self._orders, self._products, self._machine
        ):  # fmt: skip
            try:
                found += look()
            except (KeyledgerError, OSError) as error:
                found.append(Matter(kind=Kind.STORAGE, words=f"something cannot be read: {error}", is_bad=True))
        unlike = list({(matter.kind, matter.words): matter for matter in found}.values())
        return sorted(unlike, key=lambda matter: not matter.is_bad)

    def _storage(self) -> Iterator[Matter]:
        state = self._store.state()
        verify = _script("audit.py verify")
        if state.trouble:
            todo = "Webhooks are refused meanwhile; their platforms send them again. Free space, or mend what is named."
            yield Matter(
                kind=Kind.STORAGE,
                words=f"nothing can be written: {state.trouble}",
                todo=todo,
                command=verify,
                is_bad=True,
            )
        if state.view:
            yield Matter(kind=Kind.STORAGE, words=f"storage: {state.view}", todo="It is tried again and again.")
        for notice in state.notices:
            yield Matter(
                kind=Kind.STORAGE,
                words=f"a file was damaged: {notice}",
                todo="It is mended. Look for the cause.",
                command=verify,
            )

    def _waiting(self) -> Iterator[Matter]:
        entries = list(islice(self._backlog.newest(), COUNTED + 1))
        more = "at least " if len(entries) > COUNTED else ""
        held = sum(entry.event is EventKind.PENDING for entry in entries)
        if unmapped := len(entries) - held:
            words = f"{more}{_many(unmapped, 'paid sale')} {'waits' if unmapped == 1 else 'wait'} for a license"
            todo = "Map the product in products.json, then issue what waits."
            yield Matter(kind=Kind.UNMAPPED, words=words, todo=todo, is_bad=True)
        if held:
            are = "is" if held == 1 else "are"
            words = f"{more}{_many(held, 'sale')} {are} held, by the platform or for you to look at"
            yield Matter(kind=Kind.HELD, words=words)

    def _webhooks(self) -> Iterator[Matter]:
        for sender in self._deliveries.failing():
            for trouble in sender.troubles:
                if trouble.is_failing:
                    words = (
                        f"Webhooks of {sender.shop}: {_many(trouble.lately, 'delivery', 'deliveries')} {trouble.words}"
                    )
                    yield Matter(kind=Kind.WEBHOOKS, words=words, todo=f"{trouble.todo}.", is_bad=trouble.is_proven)

    def _letters(self) -> Iterator[Matter]:
        summary = self._outbox.summary()
        if dead := summary["dead"]:
            yield Matter(kind=Kind.LETTERS, words=f"{_many(dead, 'letter')} could not be delivered", is_bad=True)
        if summary["trouble"]:
            yield Matter(
                kind=Kind.MAIL, words=summary["trouble"], todo="Mend the SMTP_ settings; letters wait.", is_bad=True
            )
        if self._settings.email_backend == "console":
            words, todo = (
                "letters are printed by the server, not sent",
                "Set EMAIL_BACKEND=smtp, so that buyers get keys.",
            )
            yield Matter(kind=Kind.MAIL, words=words, todo=todo)

    def _orders(self) -> Iterator[Matter]:
        if count := self._store.orders.suspicious(self._clock() - SUSPICIOUS_FOR):
            words = (
                f"something was told of {_many(count, 'order')} within {SUSPICIOUS_FOR.days} days that is not believed"
            )
            todo = "A mistake in the settings, or somebody who tries. No license was given for it."
            yield Matter(kind=Kind.ORDERS, words=words, todo=todo, command=_script("audit.py suspicious"), is_bad=True)

    def _products(self) -> Iterator[Matter]:
        self._catalogue.current()
        if self._catalogue.trouble:
            yield Matter(kind=Kind.CATALOGUE, words=f"the catalogue: {self._catalogue.trouble}", is_bad=True)
            return
        for check in doctor.run([doctor_settings.catalogue], self._patient()):
            if check.status in (doctor.Status.WARNING, doctor.Status.WRONG):
                yield Matter(kind=Kind.CATALOGUE, words=f"the catalogue: {check.words}", todo=check.todo)

    def _machine(self) -> Iterator[Matter]:
        looks = [(Kind.DISK, doctor.disk_space), (Kind.BACKUP, doctor.backup)]
        for kind, examination in looks if self._store.state().ledger_lines else looks[:1]:
            for check in doctor.run([examination], self._patient()):
                if check.status in (doctor.Status.WARNING, doctor.Status.WRONG):
                    is_bad, words = check.status is doctor.Status.WRONG, f"{check.name}: {check.words}"
                    command = _script("backup.py create --keep 30") if kind is Kind.BACKUP and not is_bad else None
                    todo = "Make one, and one each day by cron." if command else check.todo
                    yield Matter(kind=kind, words=words, todo=todo, command=command, is_bad=is_bad)
        if self._limits is not None and (trouble := self._limits.trouble()):
            yield Matter(kind=Kind.LIMITS, words=trouble, todo="Free space, or take away what is in the table's place.")

    def _patient(self) -> doctor.Patient:
        return doctor.Patient(self._settings, self._store, env_file(), self._clock())


def _many(number: int, one: str, several: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def _script(words: str) -> str:
    return f"cd {ROOT} && .venv/bin/python scripts/{words}"
