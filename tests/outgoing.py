"""Whether anything goes out of this process: connections and look-ups of names, as the interpreter tells them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_EVENTS = frozenset({"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"})
_watched: list[list[str]] = []
_hooked = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _watched and event in _EVENTS:
        for seen in _watched:
            seen.append(f"{event} {args[1:] if event.startswith('socket.connect') else args}")


@contextmanager
def watched() -> Iterator[list[str]]:
    """What went out within the block. An audit hook cannot be taken off again, so there is one for all."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    seen: list[str] = []
    _watched.append(seen)
    try:
        yield seen
    finally:
        _watched.remove(seen)
