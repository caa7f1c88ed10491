"""Forked processes for tests, each ended by its id, and a hand on what the storage does to the disk."""

from __future__ import annotations

import json
import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from types import ModuleType
from typing import Any, TypeVar

import pytest

from server.storage import archive, backup, durable, flatfile, letterbox, log, usage, view

T = TypeVar("T")
Tell = Callable[[Any], None]
MODULES: tuple[ModuleType, ...] = (archive, backup, durable, flatfile, letterbox, log, usage, view)
CHANGES = ("open", "write", "fsync", "ftruncate", "replace", "close")


class Child:
    """A forked process that runs `work(tell)`. What it tells reaches its parent even if it is killed right after."""

    def __init__(self, work: Callable[[Tell], None]) -> None:
        self._pipe, out = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside the threads of other tests
            self.pid = os.fork()
        if self.pid == 0:
            os.close(self._pipe)
            _run(work, out)
        os.close(out)
        self._rest = b""
        self.status: int | None = None

    def hear(self) -> Any:
        """The next thing it tells; None when it has ended."""
        while b"\n" not in self._rest:
            data = os.read(self._pipe, 1 << 16)
            if not data:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def told(self) -> list[Any]:
        """All that it tells until it ends."""
        found = list(iter(self.hear, None))
        self.end()
        return found

    def end(self) -> None:
        """Wait for its end, or make it end if it is still running."""
        if self.status is None:
            self.status = os.waitpid(self.pid, 0)[1]
            os.close(self._pipe)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        if self.status is None:
            with suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self.end()


def _run(work: Callable[[Tell], None], out: int) -> None:
    def tell(thing: Any) -> None:
        data = json.dumps(thing).encode() + b"\n"
        while data:
            data = data[os.write(out, data) :]

    code = 1
    try:
        work(tell)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


@contextmanager
def children(works: Iterable[Callable[[Tell], None]]) -> Iterator[list[Child]]:
    started = [Child(work) for work in works]
    try:
        yield started
    finally:
        for child in started:
            child.kill()


def together(works: Iterable[Callable[[Tell, Callable[[], None]], None]]) -> list[list[Any]]:
    """What each of these processes tells. Each calls `begin` when it is ready; that comes back when all are there."""
    gate, opener = os.pipe()

    def waiting(work: Callable[[Tell, Callable[[], None]], None]) -> Callable[[Tell], None]:
        def run(tell: Tell) -> None:
            def begin() -> None:
                tell("ready")
                os.read(gate, 1)  # comes back when the last one who holds the other end lets go of it

            os.close(opener)
            work(tell, begin)

        return run

    with children(waiting(work) for work in works) as started:
        assert [child.hear() for child in started] == ["ready"] * len(started)
        os.close(opener)
        os.close(gate)
        told = [child.told() for child in started]
    assert [child.status for child in started] == [0] * len(started)
    return told


def spread(deed: Callable[[T], Any], things: Iterable[T]) -> Iterator[Any]:
    """What the deed makes of each thing, by as many forked workers as there are processors; what fails there fails
    here, and names the thing. Each worker runs through all the things and takes its share."""
    number = os.cpu_count() or 1

    def worker(place: int) -> Callable[[Tell], None]:
        def work(tell: Tell) -> None:
            for thing in islice(things, place, None, number):
                try:
                    tell([deed(thing), None])
                except BaseException:
                    tell([None, f"{str(thing)[:400]}\n{traceback.format_exc()}"])
                    return

        return work

    with children(worker(place) for place in range(number)) as started:
        for child in cycle(started):
            if (told := child.hear()) is None:  # then those behind it have no more either
                break
            assert told[1] is None, told[1]
            yield told[0]
        for child in started:
            assert child.hear() is None
            child.end()
        assert [child.status for child in started] == [0] * number, "a worker ended before its time"


class Tap:
    """`os` as the storage sees it: every call that changes the disk goes through `call`."""

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CHANGES:
            return real
        return lambda *given, **named: self.call(name, real, *given, **named)

    def call(self, name: str, real: Callable[..., Any], *given: Any, **named: Any) -> Any:
        return real(*given, **named)

    def install(self) -> None:
        """For good: in a process that ends with the test."""
        for module in MODULES:
            if hasattr(module, "os"):
                module.os = self  # type: ignore[attr-defined]

    def install_with(self, patch: pytest.MonkeyPatch) -> None:
        for module in MODULES:
            if hasattr(module, "os"):
                patch.setattr(module, "os", self)


class Killer(Tap):
    """kill -9 at one call: before it, after it, or in the middle of its bytes (`cut` of them are written)."""

    def __init__(self, at: int = -1, when: str = "before", cut: float = 0.5) -> None:
        self.at, self.when, self.cut = at, when, cut
        self.calls: list[str] = []

    def call(self, name: str, real: Callable[..., Any], *given: Any, **named: Any) -> Any:
        here = len(self.calls) == self.at
        self.calls.append(name)
        if here and self.when == "before":
            self.die()
        if here and self.when == "middle" and name == "write":
            descriptor, data = given
            real(descriptor, bytes(data)[: self.bytes_of(len(data))])
            self.die()
        try:
            return real(*given, **named)
        finally:
            if here:
                self.die()

    def bytes_of(self, length: int) -> int:
        """A share of the bytes, or all but so many of them."""
        return max(0, length + int(self.cut)) if self.cut < 0 else max(1, int(length * self.cut))

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def failing(number: int) -> Callable[..., None]:
    def fail(*given: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail
