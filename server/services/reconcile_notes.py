"""What the steps of one reconciliation had done by now: what was answered one by one, and what was repaired.

So no step asks again what an earlier one asked, and the last one tells of all of them. It stands beside what was read
of the platform's record, and goes with it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from server.domain.purchase import PurchaseEvent
from server.errors import PlatformUnreachable
from server.platforms.web_client import RateLimited
from server.services.reconcile import Answer, Drift
from server.services.statement import Sleep, append_line, patiently

TRIES = 3  # after which a question is left: others may be answered


class _Answered(msgspec.Struct, tag="answered"):
    """`events` are None where there was no answer."""

    about: str
    events: tuple[PurchaseEvent, ...] | None


class _Repaired(msgspec.Struct, tag="repaired"):
    drift: Drift


class Notes:
    def __init__(self, path: Path, come_again: Sleep, is_late: Callable[[], bool]) -> None:
        """`come_again` raises in the place of a rest, and ends the step."""
        self._path, self._come_again, self._is_late = path, come_again, is_late
        self._answers: dict[str, Answer] = {}
        self._failures: Counter[str] = Counter()
        self.repaired: dict[tuple[object, ...], Drift] = {}
        for line in _sound(path):
            self._take(line)

    @property
    def asked(self) -> int:
        """How many questions are behind us."""
        return len(self._answers) + sum(tries >= TRIES for tries in self._failures.values())

    def ask(self, about: str, question: Callable[[], Answer]) -> Answer:
        """Raises PlatformUnreachable where there is no answer to be had."""
        if about in self._answers:
            return self._answers[about]
        if self._failures[about] >= TRIES:
            raise PlatformUnreachable("there was no answer to this")
        if self._is_late():
            self._come_again(0)
        self._note(_Answered(about, tuple(patiently(lambda: self._tried(about, question), self._come_again))))
        return self._answers[about]

    def _tried(self, about: str, question: Callable[[], Answer]) -> Answer:
        try:
            return question()
        except RateLimited:  # it answers, later
            raise
        except PlatformUnreachable:
            self._note(_Answered(about, None))
            raise

    def note_repaired(self, drift: Drift) -> None:
        self._note(_Repaired(drift))

    def _note(self, line: _Answered | _Repaired) -> None:
        append_line(self._path, line)
        self._take(line)

    def _take(self, line: _Answered | _Repaired) -> None:
        if isinstance(line, _Repaired):
            self.repaired[line.drift.name] = line.drift
        elif line.events is None:
            self._failures[line.about] += 1
        else:
            self._answers[line.about] = line.events


def _sound(path: Path) -> list[_Answered | _Repaired]:
    """The lines up to one that was cut, which is cut off."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    found: list[_Answered | _Repaired] = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=_Answered | _Repaired))
        except msgspec.MsgspecError:
            break
    os.truncate(path, sum(len(line) + 1 for line in lines[: len(found)]))
    return found
