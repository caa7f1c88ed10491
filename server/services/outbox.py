"""The outbox: the letters that the ledger owes and those that the owner asks for, and the inquiries that are open.

What is owed is found by reading the ledger on from where it was last looked through. One process sends at a time, the
others go on with their work; and nothing here ever happens inside the folder lock.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from itertools import islice
from typing import Any, TypedDict, cast

import msgspec

from server.domain.keys import license_id
from server.domain.purchase import Entry
from server.errors import BadRequest, Conflict, DamagedFile, NotFound, StorageUnavailable, Unprocessable
from server.services import trace
from server.services.catalogue_file import CatalogueFile
from server.services.inquiries import Inquiries
from server.services.letters import (
    DELIVERY,
    INQUIRIES,
    ORDER_INQUIRY,
    PLATFORM,
    SEATS_TAKEN,
    SIGN_IN,
    BadAddress,
    letters_owed,
)
from server.services.mailer import Mailer
from server.services.sending import BACKOFF, GIVE_UP, SERVER, Sender, SendReport, pause_left, wait
from server.services.settlement import Settlement
from server.settings import Settings
from server.storage.base import Letter, Progress, Store, no_progress
from server.storage.log import START, Mark

log = logging.getLogger(__name__)

STATES = ("queued", "sending", "sent", "failed", "dead", "dropped")
BUSY, DISK_PAUSE = 1.0, 60.0
A_DAY = timedelta(days=1)
ALWAYS = datetime.min.replace(tzinfo=UTC)
_COVERS = "covers"
_UNTOLD = (ORDER_INQUIRY, SIGN_IN)  # which nobody is kept waiting by, or nobody else may know of


class OutboxSummary(TypedDict):
    """Letters by state, and what is wrong with the mail, in words that name nobody."""

    queued: int
    sending: int
    sent: int
    failed: int
    dead: int
    dropped: int
    oldest_waiting_seconds: int | None
    trouble: str | None


class Outbox:
    def __init__(
        self,
        store: Store,
        mailer: Mailer,
        catalogue: CatalogueFile,
        inquiries: Inquiries,
        settlement: Settlement,
        settings: Settings,
        clock: Callable[[], datetime],
    ) -> None:
        self._store, self._box, self._clock = store, store.letterbox, clock
        self._sender = Sender(store, mailer, catalogue, inquiries, settlement, settings, clock)
        self._owner, self._delivers, self._app_url = settings.owner_email, mailer.delivers, settings.app_url
        self._tells_of_seats = settings.seats_letter == "on"
        self._complaint: str | None = None
        self._told: set[str] = set()

    # ------------------------------------------------------------------------------------------------ sending
    def send_due(self, limit: int | None = None, progress: Progress = no_progress, by_hand: bool = False) -> SendReport:
        """Send what is owed and due, at most `limit` letters; what is to be asked of a platform is asked at once where
        somebody wants it (`by_hand`). Waits for no other process, and never raises for mail."""
        try:
            with self._box.turn():
                return self._take_turn(limit, progress, by_hand)
        except StorageUnavailable:
            return SendReport(next_due=BUSY, busy=True)

    def _take_turn(self, limit: int | None, progress: Progress, by_hand: bool) -> SendReport:
        try:
            self._enrol()
            report = self._sender.work_off(limit, progress, by_hand)
            if report.refusal:
                self.alert(PLATFORM, report.refusal)
            waiting, now = self._box.waiting(), self._clock()
            report.waiting = len(waiting)
            if waiting:
                soonest = min(wait(letter, now, BACKOFF[-1]) for letter in waiting)
                report.next_due = max(soonest, pause_left(self._box, now))
            return report
        except StorageUnavailable as error:
            log.error("outbox: stopped, since what is sent could not be written down: %s", error.detail)
            return SendReport(next_due=DISK_PAUSE, trouble=error.detail)

    # ------------------------------------------------------------------------------------------------ what is owed
    def _enrol(self) -> None:
        """Queue the letters that the ledger owes since it was last looked through."""
        try:
            for mark, entries, since in self._new_entries():
                self._queue(mark, entries, since)
        except (DamagedFile, OSError) as error:
            self._complain(f"the ledger cannot be read on: {error}")

    def _new_entries(self) -> Iterator[tuple[Mark, Sequence[Entry], datetime]]:
        """Batches, with the time before which their letters are left alone.

        Where the outbox itself was lost, or the ledger was put back from a backup, years of letters must not go out
        once more: only what is young, or newer than the last look.
        """
        covers = self._box.note(_COVERS)
        looked_at = covers.at if covers and covers.at else self._clock() - GIVE_UP
        try:
            for mark, entries in self._store.entries((covers and covers.covers) or START):
                yield mark, entries, ALWAYS if covers else looked_at
        except DamagedFile as error:
            if error.line or not covers:
                raise
            # no line is to blame: it is another ledger than the one that was looked through
            self._complain(f"letters go out for what the ledger holds since {looked_at.isoformat()}: {error}")
            for mark, entries in self._store.entries():
                yield mark, entries, looked_at

    def _queue(self, mark: Mark, entries: Sequence[Entry], since: datetime) -> None:
        """Where the letters or the mark are lost or torn they are redone from the ledger. But a mark without its
        letters would lose them, and a disk may keep the later of two bytes: they are on disk before it is written.
        """
        now = self._clock()
        owed = [letter for entry in entries if entry.timestamp > since for letter in letters_owed(entry, self._owner)]
        for letter in owed:
            letter.at = letter.first_at = now
        if old := sum(len(letters_owed(entry, None)) for entry in entries if entry.timestamp <= since):
            log.warning("outbox: %d letters owed before %s are left alone", old, since.isoformat())
        if owed:
            self._box.write(owed, durably=self._delivers)
        self._box.write([Letter(id=_COVERS, covers=mark, at=now)], durably=False)

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            log.error("outbox: %s", text)
        self._complaint = text

    def sign_in(self, email: str, why: str = "") -> Letter:
        """Queue a letter with a link to sign in. Whoever sends it drops it where there is no such account: here the
        same is done for every address."""
        letter = self._new(f"{SIGN_IN}:{secrets.token_hex(8)}", SIGN_IN, email, text=why or None)
        self._box.enqueue([letter])
        return letter

    def seats_taken(self, key: str, device_name: str | None) -> Letter | None:
        """Tell a customer that a device was refused, once a day for each license: who has the key can cause it. Never
        raises, since the refusal is to be answered all the same."""
        license, now, shelf = self._store.find_license(key), self._clock(), self._store.shelf
        told = f"seats:{license_id(key)}"
        if not self._tells_of_seats or license is None or not license.email:
            return None
        try:
            if shelf.get(told, now) is not None or not shelf.claim(told, now + A_DAY, now):
                return None
            name = f"{SEATS_TAKEN}:{secrets.token_hex(8)}"
            letter = self._new(name, SEATS_TAKEN, license.email, license_key=key, text=device_name or None)
            self._box.enqueue([letter])
        except StorageUnavailable as error:
            log.error("outbox: a letter about taken seats could not be written down: %s", error.detail)
            return None
        return letter

    # ------------------------------------------------------------------------------------------------ the owner
    def resend(self, key: str, request: str | None = None) -> Letter:
        """Queue the delivery of this license once more; a `request` that comes twice is met once. Raises NotFound,
        Conflict where it is not active."""
        license = self._store.find_license(key)
        if license is None:
            raise NotFound("there is no such license")
        if not license.is_active:
            raise Conflict(f"the license is not active ({license.inactive_reason}): its key is not sent", "INACTIVE")
        if not license.email:
            raise Unprocessable("the license has no e-mail address: transfer it to one first")
        name = f"resend:{request or secrets.token_hex(8)}"
        known = next((one for one in self._box.letters_about([key]) if request and one.id == name), None)
        letter = known or self._new(name, DELIVERY, license.email, license_key=key)
        if known is None:
            self._box.enqueue([letter])
        return letter

    def alert(self, kind: str, text: str) -> Letter | None:
        """Tell the owner, once a day for the same text; None where it was told already or OWNER_EMAIL is not set."""
        digest = hashlib.sha256(f"{kind}\0{text}".encode(errors="replace")).hexdigest()[:16]
        name = f"{kind}:{self._clock():%Y%m%d}:{digest}"
        if self._owner is None or name in self._told:
            return None
        letter = None
        if not any(known.id == name for known in self._box.letters()):
            letter = self._new(name, kind, self._owner, text=text)
            self._box.enqueue([letter])
        self._told.add(name)
        return letter

    def retry(self, letter_id: str | None = None) -> Sequence[Letter]:
        """Try a letter again that is dead or waits, or all dead ones, at once and for a week more."""
        letters = self._box.dead() if letter_id is None else [self._unsent(letter_id)]
        now = self._clock()
        renewed = {"state": "queued", "at": now, "first_at": now, "next_at": None, "attempts": 0}
        fresh = [msgspec.structs.replace(letter, **renewed) for letter in letters]
        if fresh:
            self._box.enqueue([*fresh, Letter(id=SERVER, at=now)])
        return fresh

    def _unsent(self, letter_id: str) -> Letter:
        found = self.get(letter_id)
        if found.state not in ("dead", "failed", "queued"):
            raise Conflict(f"the letter is {found.state}: only one that was not sent can be tried again")
        return found

    def again(self, letter_id: str, request: str) -> Letter:
        """Queue a letter to a customer once more, as it reads when it goes out; a `request` that comes twice is met
        once. Raises NotFound, Conflict."""
        letter = self.get(letter_id)
        if why := self.fixed(letter):
            raise Conflict(why)
        fresh = self._new(f"again:{request}", letter.kind, letter.to)
        fresh.license_key, fresh.seq, fresh.about = letter.license_key, letter.seq, letter.about
        if known := self._box.named([fresh.id]).get(fresh.id):
            return known
        self._box.enqueue([fresh])
        return fresh

    def fixed(self, letter: Letter) -> str | None:
        """Why a letter cannot be sent once more; None where it can."""
        if letter.state in ("queued", "sending", "failed"):
            return "the letter is still to be sent: it can be tried at once"
        if letter.kind == SIGN_IN:
            return "a link to sign in is sent to who asks for it at the account's page"
        if letter.kind in INQUIRIES or letter.text is not None or letter.kind.startswith("alert_"):
            return "this is no letter to a customer"
        return self._sender.subjects.overtaken(letter)

    # ------------------------------------------------------------------------------------------------ reading
    def get(self, letter_id: str) -> Letter:
        """Raises NotFound."""
        if (found := self._box.named([letter_id]).get(letter_id)) is None:
            raise NotFound("there is no such letter")
        return found

    def of_line(self, entry: Entry) -> Sequence[Letter]:
        """The letters that a line of the ledger owed, as far as they are still kept."""
        return list(self._box.named([letter.id for letter in letters_owed(entry, self._owner)]).values())

    def page(self, state: str | None = None, skip: int = 0, limit: int = 50) -> tuple[Sequence[Letter], bool]:
        """The letters that were written last, and whether there are more. What waits or is dead is known by heart."""
        if state in (None, "sent", "dropped"):
            found = self._box.newest(state, skip)
        else:
            known = self._box.dead() if state == "dead" else self._box.waiting()
            found = islice((letter for letter in reversed(known) if letter.state == state), skip, None)
        letters = list(islice(found, limit + 1))
        return letters[:limit], len(letters) > limit

    def reading(self, letter: Letter) -> EmailMessage | None:
        """The letter as it would be written now, with no link in it that works; None for what is no letter, or has no
        address that one could be written to."""
        letter = msgspec.structs.replace(letter, to=letter.to or self._sender.subjects.home(letter))
        with suppress(BadAddress):
            return None if letter.kind in INQUIRIES else self._sender.written(letter, self._no_link)
        return None

    def _no_link(self, letter: Letter) -> str:
        return f"{self._app_url}/portal/sign-in/[made when the letter goes out]"

    def list(self, state: str | None = None) -> Sequence[Letter]:
        """The letters that are still kept, in the order they were first written."""
        if state is not None and state not in STATES:
            raise BadRequest(f"state: it can be {', '.join(STATES)}")
        return [letter for letter in self._box.letters() if state in (None, letter.state)]

    def summary(self) -> OutboxSummary:
        """Letters by state, the age of the oldest that waits, and trouble; never raises. Links to sign in are left out,
        for anyone may read this, and what became of the one that he asked for would tell whose address is known."""
        found: dict[str, Any] = {**dict.fromkeys(STATES, 0), "oldest_waiting_seconds": None, "trouble": None}
        try:
            counts, waiting, server = self._box.counts(but=(SIGN_IN,)), self._box.waiting(), self._box.note(SERVER)
        except StorageUnavailable as error:
            return cast(OutboxSummary, found | {"trouble": error.detail})
        if owed := [letter.first_at for letter in waiting if letter.first_at and letter.kind not in _UNTOLD]:
            found["oldest_waiting_seconds"] = int((self._clock() - min(owed)).total_seconds())
        if server is not None and server.state == "failed":
            found["trouble"] = "the mail server cannot be reached or refuses us"
        return cast(OutboxSummary, found | counts)

    def _new(self, name: str, kind: str, to: str, **more: str | None) -> Letter:
        now = self._clock()
        made = Letter(id=name, kind=kind, to=to, at=now, first_at=now, request_id=trace.request_id.get())
        return msgspec.structs.replace(made, **more)
