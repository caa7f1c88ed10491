"""What an app does with a license file, written from its description alone: nothing of it is the server's."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.signed_answers import verify

FIRST, LAST = "-----BEGIN LICENSE FILE-----", "-----END LICENSE FILE-----"


def wrapper(text: str) -> dict[str, str]:
    first, *lines, last, end = text.split("\n")
    assert (first, last, end) == (FIRST, LAST, "")
    assert all(len(line) == 64 for line in lines[:-1])
    return dict(json.loads(base64.b64decode("".join(lines), validate=True)))


def armoured(inside: dict[str, str]) -> str:
    """Any content in the shape of a file."""
    text = base64.b64encode(json.dumps(inside, separators=(",", ":")).encode()).decode()
    return "\n".join([FIRST, *(text[at : at + 64] for at in range(0, len(text), 64)), LAST, ""])


def opened(public_key: bytes, text: str) -> dict[str, Any]:
    """What the file says. Raises Forged."""
    inside = wrapper(text)
    assert (set(inside), inside["alg"]) == ({"enc", "sig", "alg"}, "ed25519")
    verify(public_key, "license/" + inside["enc"], base64.b64decode(inside["sig"], validate=True))
    return dict(json.loads(base64.b64decode(inside["enc"], validate=True)))
