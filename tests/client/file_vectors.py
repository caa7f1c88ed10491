"""`client/vectors/license_files.json`: license files that are good here and now, and all the others."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from server.services.signing import SigningKey
from tests.client.answer_vectors import bent
from tests.client.till import HARDWARE, NOW, OTHER_HARDWARE, OTHERS, OURS, UPGRADED, Till, compact, rfc3339
from tests.license_files import FIRST, LAST, armoured, wrapper

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Given:
    """A file and where it is looked at. Without a key, the file alone is judged."""

    file: str
    now: datetime = NOW
    product: str = "wave"
    hardware_id: str = HARDWARE
    license_key: str | None = None


Case = tuple[str, Given, str]


def file_cases(till: Till) -> Iterator[dict[str, Any]]:
    good = Given(till.file("live", device_name="Ann\u2019s \u201cLaptop\u201d"))
    for name, given, expect in (*_good(till, good), *_elsewhere(till, good), *_bad_shape(good), *_forged(good)):
        case = {"name": name, "file": given.file, "product": given.product, "hardware_id": given.hardware_id}
        case |= {"license_key": given.license_key, "now": rfc3339(given.now), "expect": expect}
        yield case | ({"says": said(given.file)} if expect == "GOOD" else {})


def _good(till: Till, good: Given) -> Iterator[Case]:
    text, key = good.file, till.keys["live"]
    yield "a good file", good, "GOOD"
    yield "of this key", replace(good, license_key=key), "GOOD"
    yield "of this key, in small letters", replace(good, license_key=key.lower()), "GOOD"
    yield "a second before its end", replace(good, now=NOW + 30 * DAY - timedelta(seconds=1)), "GOOD"
    yield "the clock is a day behind", replace(good, now=NOW - DAY), "GOOD"
    yield "the device has another disk since", replace(good, hardware_id=UPGRADED), "GOOD"
    yield "of a membership, with its days of grace", Given(till.file("team"), NOW + DAY, "team"), "GOOD"
    ever, any_device = till.for_ever("live", any_device=False), till.for_ever("live", any_device=True)
    for name, given in (
        ("without an end", Given(ever)),
        ("without an end, after a lifetime", Given(ever, NOW + 36500 * DAY)),
        ("without an end, whatever the clock says", Given(ever, NOW - 9000 * DAY)),
        ("without an end and for any device", Given(any_device, hardware_id=OTHER_HARDWARE)),
    ):
        yield name, given, "GOOD"
    for name, changed in (
        ("lines end with CR LF", text.replace("\n", "\r\n")),
        ("no newline at the end", text.rstrip("\n")),
        ("spaces, tabs and empty lines", "\n \t" + text.replace("\n", " \t\n\n  ") + "\n\n"),
        ("all in one line", text.replace("\n", "")),
        ("a byte order mark", "\ufeff" + text),
        ("quoted in a letter", "> " + text.replace("\n", "\n> ")),
        ("in the midst of a letter", f"Dear Ann,\nhere is your file:\n\n{text}\nKind regards\n"),
    ):
        yield name, replace(good, file=changed), "GOOD"


def _elsewhere(till: Till, good: Given) -> Iterator[Case]:
    yield "the moment in which it ends", replace(good, now=NOW + 30 * DAY), "EXPIRED"
    yield "long over", replace(good, now=NOW + 3000 * DAY), "EXPIRED"
    yield (
        "issued more than a day from now: the clock is behind",
        replace(good, now=NOW - DAY - timedelta(seconds=1)),
        "NOT_YET",
    )
    yield "of another computer", replace(good, hardware_id=OTHER_HARDWARE), "OTHER_DEVICE"
    yield "of another product", replace(good, product="team"), "OTHER_PRODUCT"
    yield "of another key", replace(good, license_key=till.keys["team"]), "OTHER_LICENSE"
    ever = till.for_ever("live", any_device=False)
    yield "without an end, of another computer", Given(ever, hardware_id=OTHER_HARDWARE), "OTHER_DEVICE"
    yield "without an end, of another product", Given(ever, product="team"), "OTHER_PRODUCT"


def _bad_shape(good: Given) -> Iterator[Case]:
    text, inside = good.file, wrapper(good.file)
    whole = text.replace("\n", "").removeprefix(FIRST).removesuffix(LAST)
    for name, changed in (
        ("nothing", ""),
        ("no file at all", "hello"),
        ("without its first line", text.removeprefix(FIRST)),
        ("without its last line", text.replace(LAST, "")),
        ("cut off in the middle", text[: len(text) // 2]),
        ("nothing in it", f"{FIRST}\n{LAST}\n"),
        ("two files", text + text),
        ("a header in it", text.replace(FIRST, f"{FIRST}\nComment: mine")),
        ("another kind of file", text.replace("LICENSE FILE", "CERTIFICATE")),
        ("the alphabet of URLs", f"{FIRST}\n{whole[:-4]}-_==\n{LAST}\n"),
        ("padding in the middle", f"{FIRST}\n{whole[:64]}=={whole[64:]}\n{LAST}\n"),
        ("no JSON in it", f"{FIRST}\n{base64.b64encode(b'hello').decode()}\n{LAST}\n"),
        ("a list in it", f"{FIRST}\n{base64.b64encode(b'[]').decode()}\n{LAST}\n"),
        ("bytes that are no text", f"{FIRST}\n{base64.b64encode(bytes(range(128, 200))).decode()}\n{LAST}\n"),
        ("another algorithm", armoured(inside | {"alg": "hmac-sha256"})),
        ("its name in capitals", armoured(inside | {"alg": "ED25519"})),
        ("no algorithm", armoured({name: inside[name] for name in ("enc", "sig")})),
        ("no signature", armoured({name: inside[name] for name in ("enc", "alg")})),
        ("a signature that was cut off", armoured(inside | {"sig": inside["sig"][:-4]})),
        ("an empty signature", armoured(inside | {"sig": ""})),
        ("what it says is no base64", armoured(inside | {"enc": "{}"})),
        ("what it says is a number", armoured(inside | {"enc": 1})),  # type: ignore[dict-item]
    ):
        yield name, replace(good, file=changed), "UNREADABLE"


def _forged(good: Given) -> Iterator[Case]:
    inside, says = wrapper(good.file), said(good.file)

    def with_(changed: dict[str, Any], **more: Any) -> Given:
        return replace(good, file=signed_file(changed, **more))

    for name, changes in (
        ("an end that was moved", {"expires": "2099-12-31T00:00:00Z"}),
        ("no end any more", {"expires": None}),
        ("any device", {"hardware_id": None}),
        ("more features", {"features": ["batch", "api_access"]}),
    ):
        altered = inside | {"enc": _enc(says | changes)}
        yield f"what it says was changed: {name}", replace(good, file=armoured(altered)), "BAD_SIGNATURE"
    for name, raw in bent(base64.b64decode(inside["sig"])):
        forged = armoured(inside | {"sig": base64.b64encode(raw).decode()})
        yield name, replace(good, file=forged), "BAD_SIGNATURE"
    lines = good.file.split("\n")
    yield "a line is lost", replace(good, file="\n".join(lines[:3] + lines[4:])), "BAD_SIGNATURE"
    yield "signed without its context", with_(says, context=""), "BAD_SIGNATURE"
    yield "signed in the context of an answer", with_(says, context='"@status": 200\n'), "BAD_SIGNATURE"
    yield "signed over the text inside, not over its base64", _inner(good, says), "BAD_SIGNATURE"
    yield "another key under our name", with_(says, key=OTHERS), "BAD_SIGNATURE"
    yield "another key under its own name", with_(says | {"kid": OTHERS.kid}, key=OTHERS), "UNKNOWN_KEY"
    yield "our key under another name", with_(says | {"kid": OTHERS.kid}), "UNKNOWN_KEY"
    yield "a later format, well signed", with_(says | {"format": 2}), "UNKNOWN_FORMAT"
    yield "no format", with_(says | {"format": None}), "UNKNOWN_FORMAT"
    yield "well signed, but it says nothing", with_({"format": 1, "kid": OURS.kid}), "UNREADABLE"
    yield "well signed, but its end is no time", with_(says | {"expires": "soon"}), "UNREADABLE"
    yield "well signed, with a field that nobody knows", with_(says | {"new": 1}), "GOOD"


def said(text: str) -> dict[str, Any]:
    """What a file says, whoever signed it, in whatever letter it lies."""
    lines = text.partition(FIRST)[2].partition(LAST)[0].replace(">", "")
    inside = json.loads(base64.b64decode("".join(lines.split()), validate=True))
    return dict(json.loads(base64.b64decode(inside["enc"], validate=True)))


def _enc(says: dict[str, Any]) -> str:
    return base64.b64encode(compact(says).encode()).decode()


def signed_file(says: dict[str, Any], key: SigningKey = OURS, context: str = "license/") -> str:
    """As the server signs it, if not told otherwise; what is said may be anything."""
    enc = _enc({"format": 1, "kid": OURS.kid} | says)
    sig = base64.b64encode(key.sign((context + enc).encode())).decode()
    return armoured({"enc": enc, "sig": sig, "alg": "ed25519"})


def _inner(good: Given, says: dict[str, Any]) -> Given:
    sig = base64.b64encode(OURS.sign(b"license/" + compact(says).encode())).decode()
    return replace(good, file=armoured({"enc": _enc(says), "sig": sig, "alg": "ed25519"}))
