"""`client/vectors/stories.json`: what a client says step by step, while server, network and clock do as told."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from server.domain.keys import license_id
from tests.client.file_vectors import signed_file
from tests.client.till import NOW, OTHERS, rfc3339
from tests.signed_answers import SEED

KEY, OTHER_KEY = "1K9C2F-EHEYAF-CBGKE4-FPRWP6-G57X10", "AN-IMPORTED-KEY"
DAYS = 30
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
PRIVATE_KEY = base64.b64encode(SEED).decode()
DENIALS = (
    "NOT_FOUND BANNED SUSPENDED EXPIRED PRODUCT_SCOPE_MISMATCH TOO_MANY_MACHINES FINGERPRINT_SCOPE_MISMATCH".split()
)
# What comes in the place of an answer, and what a client says of it that has nothing kept.
NO_ANSWERS = {
    "silent": "NO_VERDICT",
    "unsigned": "UNSIGNED",
    "forged": "UNSIGNED",
    "replayed": "UNSIGNED",
    "altered": "UNSIGNED",
    "page": "UNSIGNED",
    "redirect": "NO_VERDICT",
}


class Story:
    """Steps in a row on one computer. `at` is the time that it is, `off` by how much the computer's clock is wrong."""

    def __init__(self, name: str) -> None:
        self.name, self.steps = name, list[dict[str, Any]]()
        self.server, self.at, self.off = "VALID", NOW, timedelta()

    def later(self, server: str | None = None, at: timedelta | None = None, off: timedelta | None = None) -> Story:
        self.server = server or self.server
        self.at = self.at if at is None else NOW + at
        self.off = self.off if off is None else off
        return self

    def does(self, verb: str, state: str, code: str, end: timedelta | None = None, **more: Any) -> Story:
        """`end`: until when it runs without the server, counted from the story's first day."""
        is_valid = state in ("valid", "grace")
        expect = {"valid": is_valid, "state": state, "code": code, "grace_end": rfc3339(NOW + end) if end else None}
        given = {"license_key": KEY} if verb == "activate" else {}
        clock = rfc3339(self.at + self.off)
        step = {"server": self.server, "at": rfc3339(self.at), "clock": clock, "do": verb, **given, **more}
        self.steps.append(step | {"expect": expect})
        return self

    def activated(self) -> Story:
        return self.does("activate", "valid", "VALID", self.at - NOW + DAYS * DAY)


def stories() -> Iterator[dict[str, Any]]:
    for story in (*_plain(), *map(_denied, DENIALS), *map(_unheard, NO_ANSWERS), *_clocks(), *_files(), *_keys()):
        yield {"name": story.name, "steps": story.steps}


def _plain() -> Iterator[Story]:
    month = DAYS * DAY
    yield (
        Story("the days offline, and their end")
        .does("status", "unlicensed", "UNLICENSED")
        .does("validate", "unlicensed", "UNLICENSED")
        .activated()
        .does("status", "valid", "VALID", month)
        .later("silent", at=month - SECOND)
        .does("validate", "grace", "VALID", month)
        .does("status", "grace", "VALID", month)
        .later(at=month)
        .does("validate", "unreachable", "EXPIRED")
        .later("VALID")
        .does("validate", "valid", "VALID", 2 * month)
    )
    yield (
        Story("a file that is a day old is renewed, a younger one is not")
        .activated()
        .later(at=DAY - SECOND)
        .does("validate", "valid", "VALID", month)
        .later(at=DAY)
        .does("validate", "valid", "VALID", month + DAY)
    )


def _denied(code: str) -> Story:
    return (
        Story(f"a signed {code} ends the days offline, until the server says yes")
        .activated()
        .later(code, at=DAY)
        .does("validate", "denied", code)
        .does("status", "denied", code)
        .later("silent")
        .does("validate", "denied", code)
        .later("VALID")
        .does("validate", "valid", "VALID", (DAYS + 1) * DAY)
        .later("silent")
        .does("validate", "grace", "VALID", (DAYS + 1) * DAY)
    )


def _unheard(server: str) -> Story:
    """Twice, since an earlier answer can only be told again when there was one."""
    month = DAYS * DAY
    return (
        Story(f"no answer is no denial: {server}")
        .activated()
        .does("validate", "valid", "VALID", month)
        .later(server)
        .does("validate", "grace", "VALID", month)
        .does("validate", "grace", "VALID", month)
        .does("activate", "unreachable", NO_ANSWERS[server])
        .does("status", "grace", "VALID", month)
        .does("deactivate", "grace", "VALID", month)
        .later("VALID")
        .does("validate", "valid", "VALID", month)
        .does("status", "valid", "VALID", month)
    )


def _clocks() -> Iterator[Story]:
    month = DAYS * DAY
    yield (
        Story("who puts the clock back gains nothing; an answer mends it")
        .activated()
        .later("silent", at=month + DAY / 4)
        .does("validate", "unreachable", "EXPIRED")
        .later(off=-2 * DAY)
        .does("validate", "unreachable", "CLOCK_BACK")
        .later(off=-DAY / 2)
        .does("validate", "unreachable", "EXPIRED")
        .later("VALID", off=-2 * DAY)
        .does("validate", "valid", "VALID", 2 * month + DAY / 4)
        .later("silent")
        .does("validate", "grace", "VALID", 2 * month + DAY / 4)
    )
    yield (
        Story("a clock that is a day behind is within bounds; a second more is not")
        .activated()
        .later(off=-DAY)
        .does("status", "valid", "VALID", month)
        .later(off=-DAY - SECOND)
        .does("status", "unreachable", "CLOCK_BACK")
        .later(off=timedelta())
        .does("status", "valid", "VALID", month)
    )
    yield (
        Story("an answer mends a clock that ran ahead for a while")
        .activated()
        .later("silent", off=20 * DAY)
        .does("validate", "grace", "VALID", month)
        .later(at=2 * DAY, off=timedelta())
        .does("validate", "unreachable", "CLOCK_BACK")
        .later("VALID")
        .does("validate", "valid", "VALID", month + 2 * DAY)
        .later("silent")
        .does("validate", "grace", "VALID", month + 2 * DAY)
    )
    for name, off in (("behind", -3650 * DAY), ("ahead", 3650 * DAY)):
        yield (
            Story(f"a clock that is ten years {name}, always")
            .later(off=off)
            .activated()
            .later("silent", at=29 * DAY)
            .does("validate", "grace", "VALID", month)
            .later(at=month)
            .does("validate", "unreachable", "EXPIRED")
        )
    yield (
        Story("a clock that once was years ahead, when all was over by it")
        .activated()
        .later("silent", at=DAY, off=3650 * DAY)
        .does("validate", "unreachable", "EXPIRED")
        .later(off=timedelta())
        .does("validate", "grace", "VALID", month)
    )


def _files() -> Iterator[Story]:
    ever = {"expires": None, "offline_days": None}
    yield (
        Story("a file is brought to a computer without a network")
        .later("silent")
        .does("install", "valid", "VALID", DAYS * DAY, file=brought(NOW))
        .does("validate", "valid", "VALID", DAYS * DAY)
        .later(at=DAYS * DAY)
        .does("status", "unreachable", "EXPIRED")
        .does("install", "valid", "VALID", 2 * DAYS * DAY, file=brought(NOW + DAYS * DAY))
    )
    yield (
        Story("a file without an end, whatever the clock says")
        .later("silent")
        .does("install", "valid", "VALID", file=brought(NOW, **ever))
        .later(at=36500 * DAY)
        .does("status", "valid", "VALID")
        .later(off=-45000 * DAY)
        .does("status", "valid", "VALID")
    )
    yield (
        Story("what is no good file changes nothing")
        .activated()
        .does("install", "unreachable", "UNREADABLE", file="")
        .does("install", "unreachable", "UNREADABLE", file="-----BEGIN LICENSE FILE-----\n")
        .does("install", "unreachable", "UNKNOWN_KEY", file=brought(NOW, key=OTHERS, kid=OTHERS.kid))
        .does("install", "unreachable", "BAD_SIGNATURE", file=brought(NOW, key=OTHERS))
        .does("install", "unreachable", "OTHER_DEVICE", file=brought(NOW, hardware_id="kl1.m0000000000000000"))
        .does("install", "unreachable", "OTHER_PRODUCT", file=brought(NOW, product={"id": "team", "name": "Team"}))
        .does("install", "unreachable", "EXPIRED", file=brought(NOW - 31 * DAY))
        .does("install", "unreachable", "NOT_YET", file=brought(NOW + 2 * DAY))
        .does("install", "unreachable", "UNKNOWN_FORMAT", file=brought(NOW, format=2))
        .does("status", "valid", "VALID", DAYS * DAY)
    )
    yield (
        Story("a file from before a denial does not undo it; a later one does")
        .activated()
        .later("SUSPENDED", at=DAY)
        .does("validate", "denied", "SUSPENDED")
        .later("silent", at=2 * DAY)
        .does("install", "unreachable", "OLD_FILE", file=brought(NOW + DAY))
        .does("status", "denied", "SUSPENDED")
        .does("install", "valid", "VALID", DAY + SECOND + DAYS * DAY, file=brought(NOW + DAY + SECOND))
    )
    yield (
        Story("a denial counts for a license that came as a file")
        .later("silent")
        .does("install", "valid", "VALID", DAYS * DAY, file=brought(NOW))
        .later("SUSPENDED", at=DAY)
        .does("activate", "denied", "SUSPENDED", license_key=OTHER_KEY)
        .does("status", "valid", "VALID", DAYS * DAY)
        .does("activate", "denied", "SUSPENDED", license_key=KEY.lower())
        .does("status", "denied", "SUSPENDED")
        .later("silent")
        .does("validate", "denied", "SUSPENDED")
        .does("install", "unreachable", "OLD_FILE", file=brought(NOW))
        .later("VALID")
        .does("validate", "valid", "VALID", (DAYS + 1) * DAY)
    )
    yield (
        Story("a denial that names no license counts for the one that came as a file")
        .later("silent")
        .does("install", "valid", "VALID", DAYS * DAY, file=brought(NOW))
        .later("NOT_FOUND", at=DAY)
        .does("activate", "denied", "NOT_FOUND")
        .does("status", "denied", "NOT_FOUND")
        .does("install", "unreachable", "OLD_FILE", file=brought(NOW))
        .does("status", "denied", "NOT_FOUND")
    )
    yield (
        Story("a file from before a denial that names no license does not undo it; a later one does")
        .activated()
        .later("NOT_FOUND", at=DAY)
        .does("validate", "denied", "NOT_FOUND")
        .later("silent", at=2 * DAY)
        .does("install", "unreachable", "OLD_FILE", file=brought(NOW + DAY))
        .does("status", "denied", "NOT_FOUND")
        .does("install", "valid", "VALID", DAY + SECOND + DAYS * DAY, file=brought(NOW + DAY + SECOND))
    )
    yield (
        Story("a denial that names no license says nothing of a file of another one")
        .activated()
        .later("NOT_FOUND", at=DAY)
        .does("validate", "denied", "NOT_FOUND")
        .later("silent")
        .does("install", "valid", "VALID", DAYS * DAY, file=brought(NOW, license=whose(OTHER_KEY)))
    )
    yield (
        Story("a new file mends a clock that ran ahead for a while")
        .activated()
        .later("silent", off=20 * DAY)
        .does("validate", "grace", "VALID", DAYS * DAY)
        .later(at=5 * DAY, off=timedelta())
        .does("validate", "unreachable", "CLOCK_BACK")
        .does("install", "valid", "VALID", 35 * DAY, file=brought(NOW + 5 * DAY))
        .does("validate", "grace", "VALID", 35 * DAY)
    )

    yield (
        Story("an older file does not turn the time back")
        .later(at=DAY)
        .activated()
        .later("silent", at=20 * DAY)
        .does("validate", "grace", "VALID", 31 * DAY)
        .later(off=-10 * DAY)
        .does("install", "unreachable", "CLOCK_BACK", file=brought(NOW))
        .does("status", "unreachable", "CLOCK_BACK")
        .later(off=timedelta())
        .does("status", "valid", "VALID", 30 * DAY)
    )


def _keys() -> Iterator[Story]:
    month = DAYS * DAY
    yield (
        Story("another key that is refused takes nothing away; the own key, if refused, does")
        .activated()
        .later("SUSPENDED")
        .does("activate", "denied", "SUSPENDED", license_key=OTHER_KEY)
        .does("status", "valid", "VALID", month)
        .does("activate", "denied", "SUSPENDED", license_key=KEY.lower().replace("-", " "))
        .does("status", "denied", "SUSPENDED")
    )
    yield (
        Story("another key that is good takes its place")
        .activated()
        .later(at=2 * DAY)
        .does("activate", "valid", "VALID", month + 2 * DAY, license_key=OTHER_KEY)
        .later("silent")
        .does("validate", "grace", "VALID", month + 2 * DAY)
    )
    yield (
        Story("a file of another license takes the place of the key")
        .activated()
        .later("silent")
        .does("install", "valid", "VALID", month, file=brought(NOW, license=whose(OTHER_KEY)))
        .does("validate", "valid", "VALID", month)
    )
    yield (
        Story("what is no key is asked of nobody")
        .does("activate", "unreachable", "NOT_A_KEY", license_key=" \n")
        .does("activate", "unreachable", "NOT_A_KEY", license_key="k" * 129)
        .does("status", "unlicensed", "UNLICENSED")
    )
    yield (
        Story("a seat is given back, and the key forgotten")
        .activated()
        .does("deactivate", "unlicensed", "DEACTIVATED")
        .does("status", "unlicensed", "UNLICENSED")
        .does("deactivate", "unlicensed", "DEACTIVATED")
    )


def whose(key: str) -> dict[str, str]:
    return {"id": license_id(key), "key_sha256": hashlib.sha256(key.encode()).hexdigest()}


def brought(issued: datetime, key: Any = None, **changes: Any) -> str:
    says = {
        "license": {
            **whose(KEY),
            "purchase_date": rfc3339(NOW),
            "expiry_date": None,
            "max_devices": 1,
        },
        "product": {"id": "wave", "name": "Wave"},
        "tier": "pro",
        "features": ["batch"],
        "hardware_id": None,
        "device_name": None,
        "issued": rfc3339(issued),
        "expires": rfc3339(issued + DAYS * DAY),
        "offline_days": DAYS,
    }
    return signed_file(says | changes, **({"key": key} if key else {}))
