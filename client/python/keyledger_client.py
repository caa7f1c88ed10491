"""Keyledger in your app: one file, to be copied into it. Nothing but Python's standard library is needed.

    client = LicenseClient("https://licenses.example.com", "my-product", "<public key>", state_dir)
    result = client.activate(key)      # what the customer typed
    if client.validate().valid: ...    # at each start; offline, the last license file counts

Ed25519 is checked by the package `cryptography` where it is there, else by this file. How it works: README.md beside
it, ../PROTOCOL.md, ../HARDWARE_ID.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

# ------------------------------------------------------------------------------------- the hardware id: its rules
JUNK = frozenset(
    """
    tobefilledbyoem tobefilledbyoemtobefilledbyoem defaultstring systemserialnumber systemproductname serialnumber
    baseboardserialnumber chassisserialnumber notspecified notapplicable notavailable notprovided notset noserial
    uninitialized unknown invalid default oemoem empty 123456 1234567 12345678 123456789 1234567890 0123456789
    123456789abcdef 0123456789abcdef 1234567890abcdef 123456789abcdef0 03000200040005000006000700080009
    00020003000400050006000700080009 12345678123456789012345678901234 1234567812345678123456789abcdef0
    12345678123456781234567890abcdef 123456781234567890abcddeefaabbcc 11111111222233334444555555555555
    00010203040506070809 000102030405060708090a0b0c0d0e0f
    """.split()
)
JUNK_DISKS = ("qm0000", "drivescsi", "driveide", "drivesata", "drivevirtio", "persistentdisk", "virtual")
JUNK_CARDS = frozenset(
    "001122334455 00e04c000001 00e04c680001 00e04c360000 00e04c534458 888888888788 123456789abc".split()
)


def make_hardware_id(
    product: str,
    machine_id: str | None = None,
    board: str | None = None,
    disk: str | None = None,
    cards: Iterable[str] = (),
    installation: str | None = None,
) -> str | None:
    """The id of these parts; None where nothing is left of them. `installation` counts only where it stands alone."""
    named = [("m", _plain(machine_id)), ("b", _plain(board)), ("d", _plain(disk, JUNK_DISKS))]
    found = [_part(product, letter, value) for letter, value in named if value]
    addresses = sorted({address for card in cards if (address := _address(card))})
    found += sorted(_part(product, "n", address) for address in addresses[:4])
    if not found and installation:
        found = [_part(product, "x", installation)]
    return ".".join(["kl1", *found]) if found else None


def same_machine(one: str, other: str) -> bool:
    """Two parts in common, one of them a disk or a network card: images and factories copy the other two."""
    if one == other or not (one.startswith("kl1.") and other.startswith("kl1.")):
        return one == other
    shared = set(one.split(".")) & set(other.split("."))
    common = [part for part in shared if len(part) == 17 and part[0] in "mbdn"]
    return len(common) >= 2 and any(part[0] in "dn" for part in common)


def _part(product: str, letter: str, value: str) -> str:
    return letter + hashlib.sha256("\n".join(["kl1", product, letter, value]).encode()).hexdigest()[:16]


def _plain(value: str | None, junk_starts: tuple[str, ...] = ()) -> str | None:
    text = re.sub(r"[^a-z0-9]", "", (value or "").lower())
    is_junk = len(text) < 6 or len(set(text)) < 3 or text in JUNK or text.startswith(junk_starts)
    return None if is_junk else text


def _address(card: str) -> str | None:
    text = re.sub(r"[-:. ]", "", card.lower())
    if not re.fullmatch(r"[0-9a-f]{12}", text) or len(set(text)) < 3 or text in JUNK_CARDS:
        return None
    first = int(text[:2], 16)
    is_made_up = bool(first & 2) and not text.startswith("525400")
    return None if first & 1 or is_made_up else text
