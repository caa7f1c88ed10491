"""Sending: one turn at the letters that are due, with the account of every attempt.

A state is written before and after each attempt. So a letter may go out twice where a process is killed in between
(under one Message-ID), but none is forgotten; and whatever is wrong with one letter never holds up the others.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from email.message import EmailMessage
from typing import Any

import msgspec

from server.errors import DamagedFile, PlatformUnreachable, StorageUnavailable
from server.services import logs
from server.services.catalogue_file import CatalogueFile
from server.services.inquiries import Inquiries
from server.services.letter_subjects import LetterSubjects
from server.services.letter_writing import Matter, render
from server.services.letters import (
    DEAD_LETTER,
    INQUIRIES,
    INQUIRY,
    KEYS,
    ORDER_INQUIRY,
    SEATS_TAKEN,
    SIGN_IN,
    BadAddress,
    mail_address,
    masked_address,
)
from server.services.mailer import ConnectionLost, Mailer, MailError, ServerUnreachable
from server.services.settlement import Settlement
from server.services.sign_in import Links
from server.services.trace import on_behalf_of
from server.settings import Settings
from server.storage.base import Letter, LetterBox, Progress, Store

log = logging.getLogger(__name__)

GIVE_UP = timedelta(days=7)
BACKOFF = tuple(timedelta(minutes=m) for m in (1, 5, 15, 60, 180, 360, 720, 1440))
BACKOFFS = {
    INQUIRY: (timedelta(seconds=20), *BACKOFF[:4]),  # a license may rest on the answer
    ORDER_INQUIRY: tuple(timedelta(minutes=m) for m in (1, 15, 60, 180, 360, 720)),  # until the order is over, and once
}
PAUSES = tuple(timedelta(seconds=s) for s in (30, 60, 120, 300))  # in which a mail server in trouble is left alone
SERVER = "server"  # the note that tells how the mail server was last found
_GROUP, _GROUP_FOR = 20, timedelta(seconds=1)  # sent letters that are written down together
_LOST_IN_A_ROW = 2


class SendReport(msgspec.Struct, kw_only=True):
    """What one turn did. `next_due` says in how many seconds to call again, None when nothing waits.

    `busy`: another process is sending. `dropped` were overtaken by what happened since, such as a refund. `answered`
    are inquiries that a platform settled; `refusal` says why one refuses to be asked at all.
    """

    sent: int = 0
    answered: int = 0
    failed: int = 0
    dead: int = 0
    dropped: int = 0
    waiting: int = 0
    next_due: float | None = None
    busy: bool = False
    trouble: str | None = None
    refusal: str | None = None

    def count(self, state: str) -> None:
        setattr(self, state, getattr(self, state) + 1)


class Sender:
    """What is needed to send letters; a turn is made of it each time."""

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
        self.box, self.mailer, self.settings, self.clock = store.letterbox, mailer, settings, clock
        self._links = Links(store.shelf, settings, clock)
        self.subjects, self._catalogue = LetterSubjects(store, clock), catalogue
        self.inquiries, self.settlement = inquiries, settlement

    def work_off(self, limit: int | None, progress: Progress, by_hand: bool = False) -> SendReport:
        """Send what is due, at most `limit` letters; the caller holds the turn. Raises StorageUnavailable."""
        run, now = _Run(self), self.clock()
        due = [x for x in self.box.waiting() if not wait(x, now, BACKOFF[-1]) or (by_hand and x.kind in INQUIRIES)]
        if by_hand:
            self.inquiries.wake()
        inquiries = [letter for letter in due if letter.kind in INQUIRIES]
        try:
            run.ask(inquiries[:limit], progress)
        finally:
            run.flush()
        if pause_left(self.box, now) == 0.0:
            letters = [letter for letter in due if letter.kind not in INQUIRIES]
            try:
                run.through(letters[:limit], progress)
            finally:
                run.flush()
            run.conclude(letters)
        return run.report

    def _link(self, letter: Letter) -> str:
        why = letter.text if letter.kind == SIGN_IN else None
        return self._links.make(letter.to, why if why and why != KEYS else "")

    def compose(self, letter: Letter) -> EmailMessage:
        """A letter that cannot be written, for a reason that nobody thought of, must not hold up the others either."""
        try:
            return self.written(letter, self._link)
        except StorageUnavailable:
            raise
        except Exception as error:
            log.exception("outbox: %s cannot be composed", letter.id)
            raise MailError(f"cannot be composed: {type(error).__name__}") from error

    def written(self, letter: Letter, link: Callable[[Letter], str]) -> EmailMessage:
        """The letter as it reads now; `link` makes the link to sign in that it brings. Raises BadAddress."""
        entry = self.subjects.entry(letter)
        dead = self.subjects.dead(letter) if letter.kind == DEAD_LETTER else []
        matter = Matter(
            now=self.clock(),
            catalogue=self._catalogue.current(),
            entry=entry,
            order=self.subjects.order(entry),
            sign_in=link(letter) if self.subjects.brings_link(letter, entry) else None,
            licenses=self.subjects.licenses(letter),
            dead=dead,
            asked_about=self.subjects.asked_about(dead),
        )
        return render(letter, matter, self.settings)


class _Run:
    """One turn: letters in, states out. `_unwritten` are states that are not on disk yet."""

    def __init__(self, sender: Sender) -> None:
        self._sender, self._box, self._clock = sender, sender.box, sender.clock
        self._delivers = sender.mailer.delivers
        self.report = SendReport()
        self._settled: list[Letter] = []
        self._unwritten: list[Letter] = []
        self._since = self._clock()
        self._lost = 0
        self._stopped_by: MailError | None = None

    def through(self, letters: Sequence[Letter], progress: Progress) -> None:
        with self._sender.mailer:
            for done, letter in enumerate(letters, 1):
                self._settle(self._traced(letter, self._attempt))
                progress(done, len(letters))
                if self._stopped_by:
                    break

    def ask(self, inquiries: Sequence[Letter], progress: Progress) -> None:
        """Ask platforms what is still open; whoever does not answer is asked again later, as a letter is sent again."""
        for done, inquiry in enumerate(inquiries, 1):
            self._settle(self._traced(inquiry, self._inquire))
            progress(done, len(inquiries))

    def _traced(self, letter: Letter, act: Callable[[Letter], Letter]) -> Letter:
        """What is logged meanwhile, and of how it went, names the request that the letter goes back to. No line is
        written of links to sign in: what became of one would tell whose address is known."""
        with on_behalf_of(letter.request_id):
            after = act(letter)
            if letter.kind != SIGN_IN:
                told = {"kind": after.kind, "state": after.state, "attempts": after.attempts}
                logs.info(log, "letter", told | ({"letter": after.id, "seq": after.seq} if after.seq else {}))
            return after

    def _inquire(self, inquiry: Letter) -> Letter:
        trying = self._trying(inquiry)
        try:
            if inquiry.kind == ORDER_INQUIRY:
                if self._sender.settlement.ask(inquiry.about or ""):
                    # Buyer or bank take their time: given up is only a platform that does not answer for so long.
                    return self._state(trying, "queued", next_at=trying.next_at, first_at=self._clock())
            elif entry := self._sender.subjects.entry(inquiry):
                self._sender.inquiries.settle(entry)
        except PlatformUnreachable as error:
            self.report.refusal = error.detail if error.is_refused else self.report.refusal
            return self._failed(trying, error.detail)
        except StorageUnavailable as error:  # an order book that cannot be read holds up no letter
            if inquiry.kind != ORDER_INQUIRY:
                raise
            return self._failed(trying, error.detail)
        except (DamagedFile, OSError) as error:
            return self._failed(trying, f"cannot be asked now: {error}")
        self.report.answered += 1
        return self._state(trying, "sent")

    def _attempt(self, letter: Letter) -> Letter:
        """The letter's next state."""
        trying = self._trying(letter)
        try:
            if reason := self._sender.subjects.overtaken(letter):
                return self._state(letter, "dropped", error=f"not sent: {reason}")
            trying.to = trying.to or self._sender.subjects.home(letter)
            mail_address(trying.to)
            if self._delivers:
                self._box.write([trying], durably=False)
            self._sender.mailer.send(trying, lambda: self._sender.compose(trying))
        except BadAddress as error:
            return self._given_up(trying, error.detail)
        except MailError as error:
            return self._after_failure(letter, trying, error)
        except (DamagedFile, OSError) as error:
            return self._failed(trying, f"cannot be written now: {error}")
        self._lost = 0
        return self._state(trying, "sent")

    def _trying(self, letter: Letter) -> Letter:
        """Already says when to try again, should nothing more be heard of this attempt; the last time after a week."""
        now = self._clock()
        backoff = BACKOFFS.get(letter.kind, BACKOFF)
        later = now + backoff[min(letter.attempts, len(backoff) - 1)]
        if letter.first_at:
            later = min(later, max(letter.first_at + GIVE_UP, now + BACKOFF[0]))
        return self._state(letter, "sending", attempts=letter.attempts + 1, next_at=later, error=letter.error)

    def _after_failure(self, letter: Letter, trying: Letter, error: MailError) -> Letter:
        log.warning("outbox: %s to %s: %s", letter.id, masked_address(trying.to), error.code)
        if isinstance(error, ServerUnreachable):
            self._stopped_by = error
            trying.attempts, trying.next_at = letter.attempts, self._clock() + PAUSES[0]
        elif isinstance(error, ConnectionLost):
            self._lost += 1
            self._stopped_by = error if self._lost >= _LOST_IN_A_ROW else None
        if error.permanent:
            return self._given_up(trying, error.detail)
        return self._failed(trying, error.detail)

    def _failed(self, trying: Letter, error: str) -> Letter:
        if self._is_given_up(trying):
            return self._given_up(trying, error)
        return self._state(trying, "failed", next_at=trying.next_at, error=error)

    def _given_up(self, letter: Letter, error: str) -> Letter:
        """What a stranger can cause is no concern of the owner's: anyone may type any address, or ask for a seat."""
        return self._state(letter, "dropped" if letter.kind in (SEATS_TAKEN, SIGN_IN) else "dead", error=error)

    def _is_given_up(self, letter: Letter) -> bool:
        return letter.first_at is not None and self._clock() >= letter.first_at + GIVE_UP

    def _state(self, letter: Letter, state: str, **changes: Any) -> Letter:
        changes = {"next_at": None, "error": None} | changes
        return msgspec.structs.replace(letter, state=state, at=self._clock(), **changes)

    # ------------------------------------------------------------------------------------------------ the account
    def _settle(self, letter: Letter) -> None:
        self._settled.append(letter)
        if not (letter.kind in INQUIRIES and letter.state in ("sent", "queued")):
            self.report.count(letter.state)
        self._note(letter)
        if self._delivers and (len(self._unwritten) >= _GROUP or self._clock() - self._since >= _GROUP_FOR):
            self.flush()

    def _note(self, letter: Letter) -> None:
        if not self._unwritten:
            self._since = self._clock()
        self._unwritten.append(letter)

    def flush(self) -> None:
        if self._unwritten:
            self._box.write(self._unwritten, durably=self._delivers)
        self._unwritten = []

    def conclude(self, due: Sequence[Letter]) -> None:
        """What the turn teaches about the mail server, and what the owner has to know of it."""
        server = self._box.note(SERVER)
        was_down = server is not None and server.state == "failed"
        if self._stopped_by:
            self.report.trouble = self._stopped_by.detail
            self._give_up_on_the_late(due, self._stopped_by)
            self._note(self._pause(server.attempts if server and was_down else 0))
        elif was_down and self.report.sent:
            self._note(Letter(id=SERVER, state="sent", at=self._clock()))
        self._tell_owner_of_deaths()
        self.flush()

    def _pause(self, failures: int) -> Letter:
        now = self._clock()
        until = now + PAUSES[min(failures, len(PAUSES) - 1)]
        return Letter(id=SERVER, state="failed", at=now, attempts=failures + 1, next_at=until)

    def _give_up_on_the_late(self, due: Sequence[Letter], error: MailError) -> None:
        """Letters behind the one that found the server down were not tried; their week is over all the same."""
        tried = {letter.id for letter in self._settled}
        for letter in due:
            if letter.id not in tried and self._is_given_up(letter):
                self._settle(self._given_up(letter, error.detail))

    def _tell_owner_of_deaths(self) -> None:
        """One alert for all; never about the owner's own letters, which would go the same way."""
        owner = self._sender.settings.owner_email
        dead = [x for x in self._settled if x.state == "dead" and x.to != owner]
        if not owner or not dead or any(letter.kind == DEAD_LETTER for letter in self._box.waiting()):
            return
        since = dead[0].at
        name = f"{DEAD_LETTER}:{secrets.token_hex(8)}"
        self._note(Letter(id=name, kind=DEAD_LETTER, to=owner, at=since, first_at=since))


def pause_left(box: LetterBox, now: datetime) -> float:
    """Seconds for which the mail server is left alone, by every process."""
    server = box.note(SERVER)
    return wait(server, now, PAUSES[-1]) if server else 0.0


def wait(letter: Letter, now: datetime, longest: timedelta) -> float:
    """Seconds until it is time. Nobody is told to wait for longer than the longest pause: a time beyond it was written
    down while this machine's clock was ahead, and is over."""
    left = letter.next_at - now if letter.next_at else timedelta(0)
    return max(0.0, left.total_seconds()) if left <= longest else 0.0
