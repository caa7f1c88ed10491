"""The doors that nearly every request is for, answered without Flask: its contexts, routing and response objects cost
more than a look-up in the books.

Here goes what goes well. Every error, and whatever is out of the ordinary, is left to Flask and to its one table of
errors, so that both ways say the same.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from server.services import trace
from server.web.measured import TIMED
from server.web.responses import STATUS_LINES, Answered
from server.wiring import Services

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

BEGAN, FAILED = "keyledger.began", "keyledger.failed"  # in the environ: when, and the error that Flask is to tell
_NAMED = "keyledger.request_id"
_GIVEN = re.compile(r"[A-Za-z0-9._-]{8,64}")
_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,253}")


class Door(NamedTuple):
    """`endpoint` is the name of Flask's view for the same, which measures go by."""

    endpoint: str
    answer: Callable[[Services, WSGIEnvironment], Answered]


class BusyDoors:
    def __init__(
        self,
        flask: WSGIApplication,
        services: Services,
        doors: Mapping[str, Door],
        after: Callable[[bool], None],
    ) -> None:
        """`doors` by their paths. `after` is called when an answer has gone out, with whether a letter may be owed."""
        self._flask, self._services, self._doors, self._after = flask, services, doors, after

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        door = self._doors.get(environ.get("PATH_INFO", ""))
        if door is None or not _is_plain(environ):
            return self._flask(environ, start_response)
        environ[BEGAN] = began = time.perf_counter()
        request_id = request_id_of(environ)
        try:
            answered = door.answer(self._services, environ)
        except Exception as error:
            environ[FAILED] = error
            return self._flask(environ, start_response)
        headers = [
            ("Content-Type", answered.content_type),
            ("Content-Length", str(len(answered.body))),
            *answered.headers,
            ("X-Request-Id", request_id),
            NOSNIFF,
        ]
        start_response(STATUS_LINES[answered.status], headers)
        self._services.tallies.time(time.perf_counter() - began, TIMED, door.endpoint, str(answered.status))
        return _Sent(answered, self._after)


NOSNIFF = ("X-Content-Type-Options", "nosniff")  # a verdict repeats a device's name: never a page


class _Sent:
    """The body, and what is done when it has gone out."""

    __slots__ = ("_after", "_answered")

    def __init__(self, answered: Answered, after: Callable[[bool], None]) -> None:
        self._answered, self._after = answered, after

    def __iter__(self) -> Iterator[bytes]:
        yield self._answered.body

    def close(self) -> None:
        self._after(self._answered.owes_letter)


def _is_plain(environ: WSGIEnvironment) -> bool:
    """A POST from no page of another origin (those are flask-cors' matter), under a name that a host may have."""
    return (
        environ["REQUEST_METHOD"] == "POST"
        and "HTTP_ORIGIN" not in environ
        and _is_host(environ.get("HTTP_HOST", "localhost"))
    )


@lru_cache(64)
def _is_host(name: str) -> bool:
    return _HOST.fullmatch(name) is not None


def request_id_of(environ: WSGIEnvironment) -> str:
    """The name that whoever asks gave the request, or a new one; the same one whenever it is asked for."""
    known: str | None = environ.get(_NAMED)
    if known is None:
        given = environ.get("HTTP_X_REQUEST_ID")
        environ[_NAMED] = known = given if given and _GIVEN.fullmatch(given) else _new_request_id()
        trace.request_id.set(known)
    return known


def _new_request_id() -> str:
    """A name, no secret: so it need not cost a system call, and Python seeds `random` anew in each forked worker."""
    return f"{random.getrandbits(64):016x}"
