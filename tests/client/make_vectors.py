"""Writes `client/vectors/`: `.venv/bin/python -m tests.client.make_vectors`. Its keys are public, for tests."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from server.domain.keys import license_id, readings
from tests.client.answer_vectors import answer_cases
from tests.client.ed25519_vectors import ed25519_cases
from tests.client.file_vectors import file_cases
from tests.client.story_vectors import DAYS, PRIVATE_KEY, stories
from tests.client.till import KEYS, Till, opened

FOLDER = Path(__file__).parents[2] / "client" / "vectors"
ANSWERS = "Answers to an app, and whether it believes them: PROTOCOL.md. A header may stand more than once."
FILES = "License files, and whether they are good on this device at this time: PROTOCOL.md."
SIGNATURES = "Ed25519 in hexadecimal: RFC 8032 and what must be refused. For who has no library that does it."
STORIES = "What a client says step by step, by a stand-in of the server that signs with this private key: README.md."
SPELLINGS = "A key as it was typed, and the ids one of which its license must have."


def all_vectors() -> dict[str, str]:
    """The text of each file, by its name."""
    with opened() as till:
        answers = list(answer_cases(till))
    with opened() as till:
        files, spellings = list(file_cases(till)), list(spelling_cases(till))
    return {
        "signed_answers.json": _text({"about": ANSWERS, "public_keys": KEYS}, answers),
        "license_files.json": _text({"about": FILES, "public_keys": KEYS}, files),
        "ed25519.json": _text({"about": SIGNATURES}, ed25519_cases()),
        "stories.json": _text(
            {"about": STORIES, "public_keys": KEYS, "private_key": PRIVATE_KEY, "offline_days": DAYS}, stories()
        ),
        "key_spellings.json": _text({"about": SPELLINGS}, spellings),
    }


def spelling_cases(till: Till) -> Iterator[dict[str, Any]]:
    key, prefix = till.keys["live"], "Wave"
    bare = key.replace("-", "")
    for typed, given in (
        (key, None),
        (f"  {key}\n", None),
        (key.lower(), None),
        (bare, None),
        (key.replace("-", " "), None),
        (key.replace("-", "\u2013"), None),
        (key.replace("0", "O").replace("1", "I"), None),
        (key.replace("0", "o").replace("1", "l").lower(), None),
        (f"{prefix}-{key}", prefix),
        (f"{prefix}-{key}".lower(), prefix),
        (f"wave {bare}", prefix),
        (key, prefix),
        (f"other-{key}", prefix),
        ("85DB562A-C11D4B06-A2335A6B-8C079166", None),
        ("An imported key", None),
        ("Schl\u00fcssel-1", prefix),
    ):
        text = typed.strip()
        ids = [license_id(reading) for reading in readings(text, [given] if given else [])]
        yield {"typed": typed, "key_prefix": given, "license_ids": ids}


def _text(head: dict[str, Any], cases: Iterable[dict[str, Any]]) -> str:
    """A case a line, so that a change shows which."""
    lines = ",\n".join(json.dumps(case) for case in cases)
    return json.dumps(head)[:-1] + f', "cases": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    logging.disable()
    for name, text in all_vectors().items():
        (FOLDER / name).write_text(text)
