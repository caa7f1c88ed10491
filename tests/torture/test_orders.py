"""An order killed, on a failing disk, after a power loss: nothing paid is lost, nothing is given back twice."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from server.domain.order import OrderFile, OrderLine, Step
from server.platforms.base import RefundWord
from server.services.order_refunds import OrderRefunds, RefundStanding
from server.storage import log
from tests.storage.backroom import room_for
from tests.torture.account import Torture
from tests.torture.disk import Recorder
from tests.torture.order_story import (
    NOW,
    ORDER,
    PART,
    Bank,
    Front,
    ask_for,
    begin,
    check,
    come_back,
    hear_payment,
    kept,
    live,
    pay,
    place,
    try_to_live,
)
from tests.torture.processes import Child, Killer, Tell, spread
from tests.torture.test_io_errors import Faults, all_faults
from tests.torture.test_kills import CUTS, MORE_CUTS, Point, points
from tests.torture.test_power_loss import crashes


def killed(room: Path, point: Point, story: Callable[[Front, Tell], None] = live) -> list[Any]:
    def work(tell: Tell) -> None:
        Killer(*point).install()
        story(Front(room), tell)

    child = Child(work)
    told = child.told()
    assert child.status == signal.SIGKILL
    return told


def calls_of_the_story(story: Callable[[Front, Tell], None] = live) -> list[str]:
    def work(tell: Tell) -> None:
        killer = Killer()
        killer.install()
        story(Front(room), tell)
        tell(killer.calls)

    with room_for() as room:
        *told, calls = Child(work).told()
        check(room, told)
    return list(calls)


def survives_a_kill(point: Point) -> None:
    with room_for() as room:
        check(room, killed(room, point))


def broken_by_a_kill(point: Point, story: Callable[[Front, Tell], None]) -> bool:
    with room_for() as room:
        told = killed(room, point, story)
        try:
            check(room, told)
        except AssertionError:
            return True
    return False


def test_a_kill_at_any_call_of_an_order_s_story(torture: Torture) -> None:
    calls = calls_of_the_story()
    assert calls.count("write") > 12
    found = list(islice(points(calls, torture.of(CUTS, MORE_CUTS)), 0, None, torture.of(11, 1)))
    for _ in torture.each("kills at the calls of an order's story", spread(survives_a_kill, found), len(found)):
        pass


# ------------------------------------------------------------------------------------------------ a failing disk
def survives_errors(faults: Faults) -> list[str]:
    with room_for() as room, pytest.MonkeyPatch.context() as patch:
        front, other = Front(room), Front(room)
        faults.install_with(patch)
        told = try_to_live(front)
        faults.heal()
        kept(front, {name: result for stage, name, result in told if stage == "done"})
        come_back(front)
        assert other.state(ORDER) == front.state(ORDER)
        assert faults.repeated == [], "used again after an fsync had failed on it"
    return faults.calls


def test_an_error_at_any_call_of_an_order_s_story(torture: Torture) -> None:
    found = list(islice(all_faults(survives_errors(Faults()), torture.of(1, 4)), 0, None, torture.of(17, 1)))
    for _ in torture.each("errors at the calls of an order's story", spread(survives_errors, found), len(found)):
        pass


# ------------------------------------------------------------------------------------------------ a power loss
def story_on_disk() -> list[Any]:
    """What the story does to the shop's disk, what it promises, and what the bank was told in between."""

    def work(tell: Tell) -> None:
        Recorder(tell).install()
        live(Front(room, tell), tell)

    with room_for() as room:
        return Child(work).told()


def survives_a_power_loss(crash: tuple[dict[str, bytes], list[Any]]) -> None:
    files, told = crash
    with room_for() as room:
        (room / "data").mkdir()
        for name, data in files.items():
            (room / "data" / name).write_bytes(data)
        lines = [json.dumps(line) + "\n" for _, name, line in told if name == "bank"]
        (room / "bank.jsonl").write_text("".join(lines))
        check(room, [said for said in told if said[1] != "bank"])


def states(torture: Torture) -> Iterator[Any]:
    return islice(crashes(story_on_disk(), every=torture.is_full), 0, None, torture.of(5, 1))


def test_a_power_loss_at_any_moment_of_an_order_s_story(torture: Torture) -> None:
    checked = spread(survives_a_power_loss, states(torture))
    count = sum(1 for _ in torture.each("states of a disk after a power loss in an order's story", checked))
    assert count > torture.of(25, 1000)


def broken_by_a_power_loss() -> bool:
    for crash in islice(crashes(story_on_disk()), 0, None, 5):
        try:
            survives_a_power_loss(crash)
        except AssertionError:
            return True
    return False


# ------------------------------------------------------------------------------------------------ a refund on its way
def asks_while_it_is_on_its_way(front: Front) -> list[Any]:
    """The owner asks once more while the first request is still at the platform; what he is told."""
    for deed in (place, begin, pay):
        deed(front)
    answers: list[Any] = []

    class Slow(Bank):
        def refund(self, *given: Any) -> RefundWord:
            answers.append(front.refunds.refund(front.found(), None, "key").standing)
            return super().refund(*given)

    front.bank.__class__ = Slow
    answers.append(front.refunds.refund(front.found(), None, "key").standing)
    return answers


def test_a_refund_that_another_request_just_asks_for_is_in_doubt_and_not_refused() -> None:
    with room_for() as room:
        front = Front(room)
        assert asks_while_it_is_on_its_way(front) == [RefundStanding.IN_DOUBT, RefundStanding.ACCEPTED]
        assert len(front.bank.refunds()) == 1
        assert front.found().of(Step.REFUND_REFUSED) == []


def cut_off(room: Path) -> Front:
    """The bank did it, and the process that had asked is gone; the shop as it opens then."""
    front = Front(room)
    for deed in (place, begin, pay):
        deed(front)

    class Killed(Bank):
        def refund(self, *given: Any) -> RefundWord:
            super().refund(*given)
            raise KeyboardInterrupt

    front.bank.__class__ = Killed
    with pytest.raises(KeyboardInterrupt):
        ask_for(PART, "part")(front)
    return Front(room)


def test_a_refund_whose_process_was_killed_is_found_out_by_the_outbox_alone() -> None:
    """Nobody asks again, and no notice comes: it is watched from before it was asked for."""
    with room_for() as room:
        again = cut_off(room)
        (watched,) = again.store.letterbox.waiting()
        assert watched.next_at is not None
        assert watched.next_at <= NOW + timedelta(minutes=1)
        again.settlement.ask(watched.about or "")
        assert again.settlement.account(again.found()).refunded == 2000


def test_a_refund_whose_process_was_killed_is_not_done_twice() -> None:
    with room_for() as room:
        come_back(cut_off(room))


# ------------------------------------------------------------------------------------------------ mutants
def promise_first(front: Front, tell: Tell) -> None:
    tell(["begin", "place", None])
    tell(["done", "place", ORDER.number])
    live(front, tell)


def test_mutant_an_order_that_is_promised_before_it_is_written() -> None:
    writes = [at for at, name in enumerate(calls_of_the_story()) if name == "write"]
    assert any(broken_by_a_kill((at, "before", 0.0), promise_first) for at in writes[:4])


def test_mutant_a_refund_that_is_asked_for_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    real = OrderRefunds._note

    def note(self: OrderRefunds, file: OrderFile, step: Step, *given: Any, **more: Any) -> None:
        if step is not Step.REFUND_ASKED:
            real(self, file, step, *given, **more)

    monkeypatch.setattr(OrderRefunds, "_note", note)
    with pytest.raises(AssertionError, match="refunded twice"):
        test_a_refund_whose_process_was_killed_is_not_done_twice()


def test_mutant_a_refund_in_doubt_that_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def again(self: Any, platform: Any, file: OrderFile, names: Any, asked: OrderLine) -> RefundWord:
        return platform.refund(file.order, names, asked.amount, asked.refund_id)

    monkeypatch.setattr(OrderRefunds, "_found", again)
    with pytest.raises(AssertionError, match="refunded twice"):
        test_a_refund_whose_process_was_killed_is_not_done_twice()


def test_mutant_an_order_book_that_is_not_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    real = log.ChainedLog.sync

    def sync(self: log.ChainedLog[Any]) -> None:
        if self.path.name != "orders.jsonl":
            real(self)

    monkeypatch.setattr(log.ChainedLog, "sync", sync)
    assert broken_by_a_power_loss()


def test_mutant_a_line_is_written_however_often_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OrderFile, "has", lambda self, line: False)
    with room_for() as room:
        (front := Front(room)).now = NOW
        for deed in (place, begin, pay, hear_payment, ask_for(PART, "part")):
            deed(front)
        with pytest.raises(AssertionError):
            come_back(front)
