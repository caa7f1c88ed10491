"""Logs: one JSON object a line on stderr, with whatever identifies a customer or opens a door masked."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import TextIO

from flask import g, has_request_context

_ADDRESS = re.compile(r"[^\s\"'<>@,;:=&?]+@[^\s\"'<>@,;:&?]+\.[A-Za-z0-9-]+")
_KEY = re.compile(r"\b[0-9A-Za-z]{6}(?:-[0-9A-Za-z]{6}){4}\b")
_SECRET = re.compile(r"(?i)(secret|token|password|signature|authorization)(\"?[=:]\s*\"?(?:Bearer )?)[^\s&\"',}]+")
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
    if "@" in text:
        text = _ADDRESS.sub("***@***", text)
    return _KEY.sub("***", text) if text.count("-") >= _KEY_HYPHENS else text


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, object] = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if has_request_context() and "request_id" in g:
            said["request_id"] = g.request_id
        said |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return masked(json.dumps(said, default=str, separators=(",", ":")))  # in ASCII, unlike msgspec's


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to whatever stderr is at that moment: hosts replace it after the start."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


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
        handler = _Stderr()
        handler.setFormatter(JsonLines())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
