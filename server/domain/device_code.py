"""Device codes: what a program without a network shows, so that its license file can be made on the seller's pages.

A device code is a text that is copied, mailed or carried on a stick:

    -----BEGIN DEVICE CODE-----
    base64 (RFC 4648, with padding) in lines of 64 characters
    -----END DEVICE CODE-----

The base64 is that of a JSON object in UTF-8, written without spaces and with its fields in this order:

    {"format":1,"hardware_id":"…","device_name":"…","product":"…","check":"…"}

- `format` is 1. Fields that a reader does not know it passes over.
- `hardware_id` (1 to 256 characters) is what the program sends to the license server as such: the file is for it alone.
- `device_name` (at most 128) is how the customer knows the device; `product` (at most 128) is the product's id or slug,
  so that no file is made of a license for another one. Either is "" where it is not known, and may be missing.
- No text holds control characters other than tab and line breaks.
- `check` is the first 8 hex digits, in lower case, of SHA-256 over the UTF-8 of
  "device/" + hardware_id + NUL + device_name + NUL + product. It finds what was cut or mistyped; it proves nothing.

A reader takes what mail and word processors do to such a text: white space and `>` anywhere, other dashes, words around
it, either of the two lines missing, `check` in capitals. A text without them that is one word is a plain hardware id.
The vectors are `client/vectors/device_codes.json`.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64decode
from typing import Annotated

import msgspec

from server.domain import keys
from server.errors import BadRequest

MOST = 8192  # characters that are looked at
_PLAIN = r"^[^\x00-\x08\x0e-\x1f\x7f]*$"  # as in the API
_Name = Annotated[str, msgspec.Meta(max_length=128, pattern=_PLAIN)]
_BEGIN = re.compile(r"BEGIN\s+DEVICE\s+CODE", re.IGNORECASE)
_END = re.compile(r"END\s+DEVICE\s+CODE", re.IGNORECASE)
_ASIDE = re.compile(r"[\s>\u00ad\u200b-\u200d\u2060\ufeff\u2010-\u2015-]+")  # neither of these is base64
_OTHER_BLOCK = re.compile(r"(BEGIN|END)\s", re.IGNORECASE)


class DeviceCode(msgspec.Struct, frozen=True, kw_only=True):
    hardware_id: Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=_PLAIN)]
    device_name: _Name = ""
    product: _Name = ""


class _Written(DeviceCode, frozen=True, kw_only=True):
    format: int
    check: str


def read(text: str) -> DeviceCode:
    """Raises BadRequest that says in the customer's words what is wrong."""
    if len(text) > MOST:
        raise _wrong("that is far too long for a device code")
    begin, end = _BEGIN.search(text), _END.search(text)
    inside = _ASIDE.sub("", text[begin.end() if begin else 0 : end.start() if end else len(text)])
    if begin or end or inside.startswith("eyJ"):  # base64 of {"
        return _opened(inside)
    return DeviceCode(hardware_id=_plain(text.strip()))


def check_of(code: DeviceCode) -> str:
    told = "\0".join((code.hardware_id, code.device_name, code.product))
    return hashlib.sha256(f"device/{told}".encode()).hexdigest()[:8]


def _opened(inside: str) -> DeviceCode:
    try:
        found = msgspec.json.decode(b64decode(inside, validate=True), type=_Written)
        sound = found.check.lower() == check_of(found)
    except (msgspec.MsgspecError, binascii.Error, UnicodeError, RecursionError, ValueError):
        raise _wrong("the device code is not whole: copy all of it, from its first line to its last") from None
    if found.format != 1:
        raise _wrong("this device code is of a newer kind: the seller has to update the license server")
    if not sound:
        raise _wrong("something in the device code was changed: copy it once more")
    return DeviceCode(hardware_id=found.hardware_id, device_name=found.device_name, product=found.product)


def _plain(word: str) -> str:
    if not word:
        raise _wrong("paste the device code that the program shows, or choose the file that it saved")
    if keys.is_sound(keys.one_spelling(word)):
        raise _wrong("this is a license key: the device code is what the program shows on the device without a network")
    if _OTHER_BLOCK.search(word) or not word.isprintable() or " " in word or len(word) > 256:
        raise _wrong("this is no device code: copy all that the program shows, from BEGIN to END")
    return word


def _wrong(said: str) -> BadRequest:
    return BadRequest(f"device_code: {said}")
