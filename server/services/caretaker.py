"""Work after the answer: a task that runs soon after it was poked, in a daemon thread where threads run.

A thread does not survive a fork, so it is started by the first poke in each process. Where the server runs without
threads (uWSGI by default, and so PythonAnywhere) the task runs in the poke itself, after the response was sent.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

Task = Callable[[], float | None]
_REST = 0.25  # seconds before a run, so that a burst is one run: each opens and locks files, however little is due


class Caretaker:
    """`task` does what is due and returns in how many seconds more is due, None when nothing is left."""

    def __init__(self, name: str, task: Task, threads: bool) -> None:
        self._name, self._task, self._threads = name, task, threads
        self._poked = threading.Event()
        self._pid = 0
        self._due = 0.0

    def poke(self) -> None:
        """Something may be due. Costs next to nothing, never raises, never waits where threads run."""
        if not self._threads:
            self._run_inline()
        elif not self._poked.is_set():
            self._ensure_thread()
            self._poked.set()

    def _run_inline(self) -> None:
        now = time.monotonic()
        if now >= self._due:
            pause = self._run()
            self._due = now + (pause or 0.0)

    def _ensure_thread(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._poked = threading.Event()
            threading.Thread(target=self._loop, name=self._name, daemon=True).start()

    def _loop(self) -> None:
        pause: float | None = None
        while True:
            self._poked.wait(pause)
            time.sleep(_REST)
            self._poked.clear()
            pause = self._run()
            if pause:
                time.sleep(min(pause, 1.0))
                self._poked.set() if pause <= 1.0 else None

    def _run(self) -> float | None:
        try:
            return self._task()
        except Exception:
            log.exception("%s failed; it will be tried again", self._name)
            return 5.0


def threads_run() -> bool:
    """Whether this server lets Python threads run. https://uwsgi-docs.readthedocs.io/en/latest/WSGIquickstart.html"""
    try:
        import uwsgi  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return True
    return bool(uwsgi.opt.get("enable-threads") or uwsgi.opt.get("threads"))
