"""A disk as weak as POSIX allows: what was not fsynced may be lost, torn or zeros after a power loss, and so may names.

`Recorder` tells each call that changes the disk; `WeakDisk` takes these calls and gives the folders that a power loss
at this moment may leave behind.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

from tests.torture.processes import Tap, Tell

Folder = dict[str, bytes]


class Recorder(Tap):
    """Tells every call after it was made; after so many of them that may change something the process is killed."""

    def __init__(self, tell: Tell, kill_after: int | None = None) -> None:
        self.tell, self.left = tell, kill_after

    def call(self, name: str, real: Callable[..., Any], *given: Any, **named: Any) -> Any:
        was_there = name == "open" and os.path.exists(given[0])
        result = real(*given, **named)
        if name == "open":
            self.tell([name, result, str(given[0]), not was_there, bool(given[1] & os.O_TRUNC)])
        elif name == "write":
            self.tell([name, given[0], bytes(given[1])[:result].hex()])
        else:
            self.tell([name, *(os.fspath(one) if isinstance(one, Path) else one for one in given)])
        if self.left is not None and name != "close":
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return result


class _File:
    def __init__(self) -> None:
        self.synced = self.now = b""

    def after_power_loss(self) -> list[bytes]:
        """Kept, lost, torn in several places, all zeros, and with a hole."""
        if not self.now.startswith(self.synced):
            return [self.now, self.synced]
        rest = self.now[len(self.synced) :]
        if not rest:
            return [self.now]
        half = len(rest) // 2
        cuts = (0, 1, half // 2, half, -2, -1)
        return [self.synced + end for end in (rest, *(rest[:cut] for cut in cuts), bytes(len(rest)))] + [
            self.synced + bytes(half) + rest[half:]
        ]

    def torn_anywhere(self) -> Iterator[bytes]:
        """Torn at every byte; with the rest zeros from every tenth one on; with a hole up to every tenth."""
        if self.now.startswith(self.synced):
            rest = self.now[len(self.synced) :]
            for cut in range(len(rest)):
                yield self.synced + rest[:cut]
            for cut in range(0, len(rest), 10):
                yield self.synced + rest[:cut] + bytes(len(rest) - cut)
                yield self.synced + bytes(cut) + rest[cut:]


class WeakDisk:
    def __init__(self) -> None:
        self._names: dict[str, _File] = {}  # as running processes see the folder
        self._durable: dict[str, _File] = {}  # as it was when the folder was last fsynced
        self._pending: list[tuple[str, str, _File]] = []  # since then: which name went, which one came, and whose it is
        self._open: dict[int, _File | None] = {}

    def restart(self) -> None:
        """The process is gone; what it wrote is still there."""
        self._open = {}

    def take(self, call: list[Any]) -> None:
        name, *given = call
        taken: dict[str, Callable[..., None]] = {
            "open": self._opened,
            "write": self._write,
            "ftruncate": self._ftruncate,
            "fsync": self._fsync,
            "replace": self._replace,
            "close": self._close,
        }
        taken[name](*given)

    def _opened(self, descriptor: int, path: str, is_new: bool, truncate: bool) -> None:
        if is_new:
            self._names[path] = _File()
            self._pending.append((path, path, self._names[path]))
        self._open[descriptor] = self._names.get(path)  # None: the folder itself
        if truncate:
            self._names[path].now = b""

    def _write(self, descriptor: int, data: str) -> None:
        file = self._open[descriptor]
        assert file is not None
        file.now += bytes.fromhex(data)

    def _ftruncate(self, descriptor: int, length: int) -> None:
        file = self._open[descriptor]
        assert file is not None
        file.now = file.now[:length]

    def _fsync(self, descriptor: int) -> None:
        file = self._open[descriptor]
        if file is None:
            self._durable, self._pending = dict(self._names), []
        else:
            file.synced = file.now

    def _replace(self, source: str, target: str) -> None:
        self._names[target] = self._names.pop(source)
        self._pending.append((source, target, self._names[target]))

    def _close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)

    def after_power_loss(self, every: bool = False) -> Iterator[Folder]:
        """All files suffered alike; or `every`: each as it likes, each torn at every byte, and any of the names."""
        for names in self._any_names() if every else self._name_choices():
            states = {path: file.after_power_loss() for path, file in names.items()}
            if every:
                yield from self._every_state(names, states)
            else:
                for choice in range(max(map(len, states.values()), default=1)):
                    yield {_name(path): _pick(found, choice) for path, found in states.items()}

    def _every_state(self, names: dict[str, _File], states: dict[str, list[bytes]]) -> Iterator[Folder]:
        for choice in product(*states.values()):
            yield dict(zip(map(_name, names), choice, strict=True))
        for path, file in names.items():
            for data in file.torn_anywhere():
                yield {_name(one): found[0] for one, found in states.items()} | {_name(path): data}

    def _name_choices(self) -> Iterator[dict[str, _File]]:
        """The folder's changes that were not fsynced: the first of them, up to all, or the last one alone."""
        for upto in range(len(self._pending) + 1):
            yield _renamed(self._durable, self._pending[:upto])
        if len(self._pending) > 1:
            yield _renamed(self._durable, self._pending[-1:])

    def _any_names(self) -> Iterator[dict[str, _File]]:
        """Any of the folder's changes that were not fsynced, in their order."""
        for many in range(len(self._pending) + 1):
            for some in combinations(self._pending, many):
                yield _renamed(self._durable, list(some))


def _renamed(names: dict[str, _File], changes: list[tuple[str, str, _File]]) -> dict[str, _File]:
    found = dict(names)
    for source, target, file in changes:
        found.pop(source, None)
        found[target] = file
    return found


def _name(path: str) -> str:
    return Path(path).name


def _pick(choices: list[bytes], choice: int) -> bytes:
    return choices[min(choice, len(choices) - 1)]
