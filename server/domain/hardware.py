"""Hardware ids that are made of parts, as the kits for apps send them: `client/HARDWARE_ID.md`."""

from __future__ import annotations

KIND = "kl1."
_PART = 17  # a letter and 16 hex digits


def same_machine(one: str, other: str) -> bool:
    """Two parts in common, one of them a disk or a network card: images and factories copy the other two, the system's
    own id and the board's. Ids of any other kind are equal or not."""
    if one == other or not (one.startswith(KIND) and other.startswith(KIND)):
        return one == other
    shared = set(one.split(".")) & set(other.split("."))
    common = [part for part in shared if len(part) == _PART and part[0] in "mbdn"]
    return len(common) >= 2 and any(part[0] in "dn" for part in common)
