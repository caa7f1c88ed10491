"""Whether what several processes saw of one license can have happened one after the other.

Each deed has a time before which it was not begun and one after which it was done. There has to be an order that keeps
to these times and in which every answer is the one that a license gives which only ever does one thing at a time. Of
a process that was killed, the last deed may have happened or not. (Just-in-time linearization, Lowe 2017.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

SEATS = 3


class Deed(NamedTuple):
    """`done` and `answer` are None where its process was killed before it could tell."""

    begun: int
    done: int | None
    verb: str
    device: str
    answer: str | None


class Held(NamedTuple):
    """A license as it is at one moment."""

    is_sold: bool = False
    is_active: bool = True
    devices: frozenset[str] = frozenset()

    def answers(self, deed: Deed) -> tuple[Held, str]:
        """What the license is after this deed, and what it answers."""
        if deed.verb == "sell":
            return self._replace(is_sold=True), "sold"
        if not self.is_sold:
            return self, "NOT_FOUND"
        match deed.verb:
            case "suspend" | "reinstate":
                return self._replace(is_active=deed.verb == "reinstate"), "done"
            case "reset":
                return self._replace(devices=frozenset()), "done"
            case "look":
                return self, f"{self.is_active} {' '.join(sorted(self.devices))}"
            case "free":
                return self._replace(devices=self.devices - {deed.device}), self._standing()
        return self._seat(deed)

    def _seat(self, deed: Deed) -> tuple[Held, str]:
        if not self.is_active or deed.device in self.devices:
            return self, self._standing()
        if len(self.devices) >= SEATS:
            return self, "TOO_MANY_MACHINES"
        if deed.verb == "peek":
            return self, "FINGERPRINT_SCOPE_MISMATCH"
        return self._replace(devices=self.devices | {deed.device}), "VALID"

    def _standing(self) -> str:
        return "VALID" if self.is_active else "SUSPENDED"


class _Possible(NamedTuple):
    """A license as it may be now, and which of the deeds that are going on have happened."""

    held: Held
    happened: frozenset[Deed]


def first_impossible(deeds: Iterable[Deed]) -> Deed | None:
    """The first deed whose answer no order explains; None where there is an order."""
    going_on: set[Deed] = set()
    possible = {_Possible(Held(), frozenset())}
    for deed, is_done in _in_time(deeds):
        if not is_done:
            going_on.add(deed)
            continue
        possible = {_Possible(one.held, one.happened - {deed}) for one in _after(deed, possible, going_on)}
        going_on.remove(deed)
        if not possible:
            return deed
    return None


def _in_time(deeds: Iterable[Deed]) -> Iterator[tuple[Deed, bool]]:
    """Beginnings and ends in the order of the clock that all processes share."""
    moments = []
    for deed in deeds:
        moments.append((deed.begun, False, deed))
        if deed.done is not None:
            moments.append((deed.done, True, deed))
    for _, is_done, deed in sorted(moments, key=lambda moment: moment[:2]):
        yield deed, is_done


def _after(deed: Deed, possible: set[_Possible], going_on: set[Deed]) -> set[_Possible]:
    """All that may be once this deed has happened; others that are going on may have happened before it."""
    found = {one for one in possible if deed in one.happened}
    waiting, seen = [one for one in possible if one not in found], set(possible)
    while waiting:
        one = waiting.pop()
        for other in going_on - one.happened:
            held, answer = one.held.answers(other)
            if other.answer is not None and answer != other.answer:
                continue
            following = _Possible(held, one.happened | {other})
            if other == deed:
                found.add(following)
            elif following not in seen:
                seen.add(following)
                waiting.append(following)
    return found
