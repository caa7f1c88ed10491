"""kill -9 at every call that changes the disk: what was promised is there afterwards, and nothing twice."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from server.storage import log
from tests.storage.backroom import BackRoom, room_for
from tests.torture.account import Torture
from tests.torture.processes import Child, Killer, Tell, spread
from tests.torture.promises import DAY, KEYS, Step, check, live

Point = tuple[int, str, float]
CUTS = (0.0, 0.5, -2.0, -1.0)  # one byte, half of them, all but two, all but the newline
MORE_CUTS = (*CUTS, 0.1, 0.3, 0.7, 0.9, -10.0)


def killed(folder: Path, point: Point, steps: list[Step] = DAY, day: Callable[..., None] = live) -> list[Any]:
    """What a process promised that lived this day and was killed at this point."""

    def work(tell: Tell) -> None:
        Killer(*point).install()
        day(BackRoom(folder), steps, tell)

    child = Child(work)
    told = child.told()
    assert child.status == signal.SIGKILL
    return told


def calls_of_the_day(day: Callable[..., None] = live) -> list[str]:
    """What a day that nobody disturbs does to the disk, and that it keeps its promises."""

    def work(tell: Tell) -> None:
        killer = Killer()
        killer.install()
        day(BackRoom(folder), DAY, tell)
        tell(killer.calls)

    with room_for() as folder:
        child = Child(work)
        *told, calls = child.told()
        assert child.status == 0
        check(folder, told)
    return list(calls)


def points(calls: list[str], cuts: Sequence[float] = CUTS) -> Iterator[Point]:
    """Closing changes nothing on a disk."""
    for at, name in enumerate(calls):
        if name == "close":
            continue
        yield at, "before", 0.0
        yield at, "after", 0.0
        if name == "write":
            for cut in cuts:
                yield at, "middle", cut


def survives(point: Point, day: Callable[..., None] = live) -> None:
    with room_for() as folder:
        check(folder, killed(folder, point, day=day))


def broken_by(points: Iterable[Point], day: Callable[..., None] = live, again: bool = True) -> Point | None:
    """The first of these points where a promise is broken."""
    for point in points:
        with room_for() as folder:
            told = killed(folder, point, day=day)
            try:
                check(folder, told, again)
            except Exception:
                return point
    return None


def test_a_kill_at_any_call_breaks_no_promise(torture: Torture) -> None:
    calls = calls_of_the_day()
    assert calls.count("write") > 15
    assert calls.count("fsync") > 25
    assert calls.count("replace") >= 7
    found = list(points(calls, torture.of(CUTS, MORE_CUTS)))[:: torture.of(3, 1)]
    for _ in torture.each("kills before, inside and after every call of a day", spread(survives, found), len(found)):
        pass


def test_kills_at_chance_calls_of_chance_days_break_no_promise(torture: Torture) -> None:
    """Each day is lived twice, and may be cut short twice."""
    days, killed = torture.of(20, 6500), 0
    found = spread(chance_day_survives, range(days))
    for kills in torture.each("days in a chance order, each killed up to twice", found, days):
        killed += kills
    torture.tried("kills at chance points of those days", killed)
    assert killed >= torture.of(25, 10_000)


def chance_day_survives(seed: int) -> int:
    """How often it was killed."""
    chance = random.Random(seed)
    steps = chance_day(chance)
    with room_for() as folder:
        first = lived(folder, chance_killer(chance, 200), steps)
        begun = {name for _, name, _ in first.words}
        rest = [step for step in steps if step[0] not in begun or step[0].startswith(("sell", "refund", "tidy"))]
        second = lived(folder, chance_killer(chance, 150), rest)
        check(folder, first.words + second.words)
    return first.was_killed + second.was_killed


def chance_killer(chance: random.Random, calls: int) -> Killer:
    return Killer(chance.randrange(calls), chance.choice(("before", "after", "middle")), chance.choice(MORE_CUTS))


def chance_day(chance: random.Random) -> list[Step]:
    """The day's steps in another order; only what needs the team's license stays behind its sale."""
    team = [step for step in DAY if step[0] in ("sell s2", "bind d1", "bind d2", "free d1")]
    others = [step for step in DAY if step not in team]
    chance.shuffle(others)
    whole: list[Step] = []
    while team or others:
        is_team = team and chance.random() < len(team) / (len(team) + len(others))
        whole.append((team if is_team else others or team).pop(0))
    return whole


class Life(NamedTuple):
    words: list[Any]
    was_killed: bool


def lived(folder: Path, killer: Killer, steps: list[Step]) -> Life:
    """What a process promised, whether it came to the call where it is killed or not."""

    def work(tell: Tell) -> None:
        killer.install()
        live(BackRoom(folder), steps, tell)

    child = Child(work)
    return Life(child.told(), child.status == signal.SIGKILL)


# ------------------------------------------------------------------------------------------------ mutants
def promise_first(room: BackRoom, steps: list[Step], tell: Tell) -> None:
    """A shop that tells its customers before it has written anything."""
    for name, step in steps:
        tell(["begin", name, None])
        if name.startswith("sell "):
            tell(["done", name, [KEYS[sale_id] for sale_id in name.split()[1:]]])
            step(room)
        else:
            tell(["done", name, step(room)])


def test_mutant_ack_before_the_line_is_caught():
    found = list(points(calls_of_the_day(promise_first)))[::5]
    assert broken_by(found, promise_first, again=False) is not None


def torn_lines() -> list[Point]:
    return [point for point in points(calls_of_the_day()) if point[1] == "middle"]


def test_mutant_no_seal_is_caught(monkeypatch):
    found = torn_lines()
    monkeypatch.setattr(log.ChainedLog, "_fragment", lambda self: b"")
    assert broken_by(found) is not None


def test_mutant_a_fragment_that_becomes_a_line_by_being_sealed_is_caught(monkeypatch):
    lines = torn_lines()
    monkeypatch.setattr(log, "SEAL", b"\n")
    found = broken_by(lines)
    assert found is not None
    assert found[1:] == ("middle", -1.0)
