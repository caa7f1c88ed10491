"""Logs: one JSON object a line on stderr, with whatever identifies a customer or opens a door masked."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache
from typing import TextIO

import msgspec

from server.services import trace

_ADDRESS = re.compile(r"[^\s\"'<>@,;:=&?]+@[^\s\"'<>@,;:&?]+\.[A-Za-z0-9-]+")
_KEY = re.compile(r"\b[0-9A-Za-z]{6}(?:-[0-9A-Za-z]{6}){4}\b")
_SECRET = re.compile(r"(?i)(secret|token|password|signature|authorization)(\"?[=:]\s*\"?(?:Bearer )?)[^\s&\"',}]+")
_LINK = re.compile(r"(/portal/sign-in/|[?&]claim=)[^\s/?&\"'#]+")
_SECRET_WORDS = ("secret", "token", "password", "signature", "authorization")
_KEY_HYPHENS = 4
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def masked(text: str) -> str:
    """The text without addresses, license keys and secrets: the last net, whoever wrote the line.

    The patterns are slow; what they look for cannot be where these quick looks find nothing.
    """
    lower = text.lower()
    if any(word in lower for word in _SECRET_WORDS):
        text = _SECRET.sub(r"\1\2***", text)
    if "sign-in/" in lower or "claim=" in lower:  # gunicorn names the address of a request that it could not answer
        text = _LINK.sub(r"\1***", text)
    if "@" in text:
        text = _ADDRESS.sub("***@***", text)
    return _KEY.sub("***", text) if text.count("-") >= _KEY_HYPHENS else text


_encode = msgspec.json.Encoder(enc_hook=str).encode


@lru_cache(4)
def _second(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return _line(record.created, record.levelname.lower(), record.name, record.getMessage(), fields)


def _line(moment: float, level: str, logger: str, message: str, fields: Mapping[str, object]) -> str:
    said: dict[str, object] = {"ts": _second(int(moment)), "level": level, "logger": logger, "message": message}
    if request_id := trace.request_id.get():
        said["request_id"] = request_id
    raw = _encode({**said, **fields})
    return masked(raw.decode() if raw.isascii() else json.dumps(msgspec.json.decode(raw), separators=(",", ":")))


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to whatever stderr is at that moment: hosts replace it after the start."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr

    def tell(self, logger: str, message: str, fields: Mapping[str, object]) -> None:
        try:
            line = _line(time.time(), "info", logger, message, fields) + self.terminator
            with self.lock or nullcontext():
                self.stream.write(line)
                self.flush()
        except Exception:  # as every handler does: a log that takes nothing stops no sale
            self.handleError(logging.makeLogRecord({"name": logger, "msg": message}))


_OURS = _Stderr()


def info(logger: logging.Logger, message: str, fields: Mapping[str, object]) -> None:
    """As `logger.info` with these as `extra`, for the lines of nearly every request: where nobody but our own handler
    hears them, no record is made and handed around, which costs more than the line."""
    if _only_ours_hears(logger) and logger.isEnabledFor(logging.INFO):
        _OURS.tell(logger.name, message, fields)
    else:
        logger.info(message, extra=fields)


def _only_ours_hears(logger: logging.Logger) -> bool:
    root = logger.parent
    if root is None or root.name != "server" or root.propagate or root.handlers != [_OURS]:
        return False
    return not (logger.handlers or logger.filters or _OURS.filters or _OURS.level)


def _mask_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = masked(record.getMessage()), ()
    return True


def set_up_logging() -> None:
    """Once a process; logging that the host has set up already is left alone but for our own loggers."""
    gunicorn = logging.getLogger("gunicorn.error")  # prints request lines that it cannot read, query and all
    if _mask_record not in gunicorn.filters:
        gunicorn.addFilter(_mask_record)
    # No line of ours tells these. https://docs.python.org/3/howto/logging.html#optimization
    logging.logThreads = logging.logMultiprocessing = False  # gunicorn's own lines tell the process
    logging._srcfile = None
    logger = logging.getLogger("server")
    if not logger.handlers:
        _OURS.setFormatter(JsonLines())
        logger.addHandler(_OURS)
        logger.setLevel(logging.INFO)
        logger.propagate = False
