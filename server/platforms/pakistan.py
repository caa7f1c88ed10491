"""What the platforms of Pakistan share: its rupees, its time, its mobile numbers."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from server.domain.license import EARLIEST, LATEST
from server.errors import Unprocessable

RUPEES = "pkr"
PAKISTAN = timezone(timedelta(hours=5))  # no summer time
_MOBILE = re.compile(r"(?:\+92|0092|92|0)(3[0-9]{9})", re.ASCII)


def mobile_number(told: str) -> str:
    """03XXXXXXXXX, from that or from its international forms. Raises Unprocessable."""
    found = _MOBILE.fullmatch(re.sub(r"[ ()-]", "", told))
    if found is None:
        raise Unprocessable("phone: a Pakistani mobile number is needed, as 03001234567")
    return "0" + found[1]


def moment(told: str | None, form: str) -> datetime | None:
    """What a platform tells without an offset; None where it cannot be read: nothing is decided by it."""
    try:
        found = datetime.strptime(told or "", form).replace(tzinfo=PAKISTAN)
    except ValueError:
        return None
    return found.astimezone(UTC) if EARLIEST <= found <= LATEST else None
