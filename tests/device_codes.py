"""What an app without a network shows, written from the description alone: nothing of it is the server's."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

FIRST, LAST = "-----BEGIN DEVICE CODE-----", "-----END DEVICE CODE-----"


def check(hardware_id: str, device_name: str = "", product: str = "") -> str:
    told = "device/" + hardware_id + "\0" + device_name + "\0" + product
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def inside(hardware_id: str, device_name: str = "", product: str = "") -> str:
    fields = {
        "format": 1,
        "hardware_id": hardware_id,
        "device_name": device_name,
        "product": product,
        "check": check(hardware_id, device_name, product),
    }
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


def armoured(content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    text = base64.b64encode(data).decode()
    return "\n".join([FIRST, *(text[at : at + 64] for at in range(0, len(text), 64)), LAST, ""])


def device_code(hardware_id: str, device_name: str = "", product: str = "") -> str:
    return armoured(inside(hardware_id, device_name, product))


def vectors() -> dict[str, Any]:
    """All that `client/vectors/device_codes.json` holds, made anew."""
    devices = [
        ("a plain one", "0f1e2d3c4b5a69788796a5b4c3d2e1f0", "Studio PC", "imagewave"),
        ("no name and no product", "pc-1", "", ""),
        ("a name in other letters", "h:7c9f", "Zoë\u2019s MacBook 💻 für Büro", "imagewave"),
        ("a name with quotes and marks", 'a"b\\c', '<b>"Ann"</b> & Co\\', "x/y+z"),
        ("the longest", "f" * 256, "n" * 128, "p" * 128),
    ]
    good = [
        {
            "about": about,
            "hardware_id": hardware_id,
            "device_name": name,
            "product": product,
            "json": inside(hardware_id, name, product),
            "code": device_code(hardware_id, name, product),
        }
        for about, hardware_id, name, product in devices
    ]
    return {
        "about": "Device codes: server/domain/device_code.py defines them. `good` are written exactly so and read, "
        "`also_read` are read too, `bad` are refused.",
        "good": good,
        "also_read": _also_read(),
        "bad": _bad(),
    }


def _also_read() -> list[dict[str, str]]:
    hardware_id, name, product = "0f1e2d3c4b5a69788796a5b4c3d2e1f0", "Studio PC", "imagewave"
    code = device_code(hardware_id, name, product)
    fields = json.loads(inside(hardware_id, name, product))
    bare = {"format": 1, "hardware_id": "pc-1", "check": check("pc-1")}
    body = code.removeprefix(FIRST + "\n").removesuffix(LAST + "\n")
    texts = [
        ("Windows' line ends", code.replace("\n", "\r\n")),
        ("quoted in a letter", "".join(f"> {line}\n" for line in code.splitlines())),
        ("words around it", f"Hello,\nhere is mine:\n\n{code}\nThank you!\n"),
        ("one long line", code.replace("\n", " ")),
        ("other dashes", code.replace("-----", "\u2014\u2014-")),
        ("small letters in its lines", code.replace(FIRST, FIRST.lower()).replace(LAST, LAST.lower())),
        ("only what is inside", body),
        ("without its last line", FIRST + "\n" + body),
        ("with a byte order mark", "\ufeff" + code),
        (
            "more fields, other order, spaces",
            armoured(json.dumps({"later": [1], **dict(reversed(fields.items()))}, indent=1)),
        ),
        ("capitals in the check", armoured(json.dumps(fields | {"check": fields["check"].upper()}))),
    ]
    told = {"hardware_id": hardware_id, "device_name": name, "product": product}
    nothing = {"device_name": "", "product": ""}
    return [
        *({"about": about, "text": text, **told} for about, text in texts),
        {"about": "without what may be missing", "text": armoured(json.dumps(bare)), "hardware_id": "pc-1", **nothing},
        {"about": "a plain hardware id", "text": f"  {hardware_id}\n", "hardware_id": hardware_id, **nothing},
        {"about": "a short plain one", "text": "pc-1", "hardware_id": "pc-1", **nothing},
    ]


def _bad() -> list[dict[str, str]]:
    hardware_id, name, product = "0f1e2d3c4b5a69788796a5b4c3d2e1f0", "Studio PC", "imagewave"
    code = device_code(hardware_id, name, product)
    fields = json.loads(inside(hardware_id, name, product))

    def told(**changes: object) -> str:
        return armoured(json.dumps(fields | changes))

    texts = [
        ("nothing", ""),
        ("white space", " \n\t"),
        ("nothing between its lines", f"{FIRST}\n{LAST}\n"),
        ("cut in its middle", code[: len(code) // 2]),
        ("a letter of the base64 is missing", code.replace("eyJm", "eyJ", 1)),
        ("a sign that is not base64", code.replace("eyJm", "eyJ!", 1)),
        ("another hardware id, the same check", told(hardware_id="1f1e2d3c4b5a69788796a5b4c3d2e1f0")),
        ("another name, the same check", told(device_name="Studio PD")),
        ("another product, the same check", told(product="imagewove")),
        ("no check", armoured(json.dumps({k: v for k, v in fields.items() if k != "check"}))),
        ("no hardware id", armoured(json.dumps({k: v for k, v in fields.items() if k != "hardware_id"}))),
        ("an empty hardware id", armoured(inside(""))),
        ("a hardware id that is a number", told(hardware_id=17)),
        ("a hardware id that is too long", armoured(inside("f" * 257))),
        ("a name that is too long", armoured(inside("pc-1", "n" * 129))),
        ("a control character", armoured(inside("pc\x1b1").replace("\x1b", "\\u001b"))),
        ("a later format", told(format=2)),
        ("no JSON", armoured("hello")),
        ("a list", armoured("[1]")),
        ("no UTF-8", armoured(b'{"hardware_id":"\xff"}')),
        ("a sentence", "my computer is the grey one"),
        ("a license key", "1XSP9F-DA8C12-7AF57V-AA3V5F-G0MQMD"),
        ("a license file", "-----BEGIN LICENSE FILE-----\neyJlbmMiOiJhIn0=\n-----END LICENSE FILE-----\n"),
        ("a plain hardware id that is too long", "f" * 257),
        ("far too long", "f" * 9000),
    ]
    return [{"about": about, "text": text} for about, text in texts]
