"""A rate limit that needs one number a subject: the moment at which its bucket will be full again.

This is GCRA, https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm. A bucket holds `limit` requests and fills
evenly; each request moves the moment by one interval. All times are nanoseconds of one clock.
"""

from __future__ import annotations

import msgspec

_SECOND = 1_000_000_000
_PERIODS = {"second": _SECOND, "minute": 60 * _SECOND, "hour": 3600 * _SECOND}


class Allowance(msgspec.Struct, frozen=True, gc=False):
    """What a bucket says to one request: `wait` is for how long a refused one should, `full_in` until all is back."""

    granted: bool
    limit: int
    remaining: int
    full_at: int
    full_in: int
    wait: int = 0

    @property
    def reset(self) -> int:
        return _whole_seconds(self.full_in)

    @property
    def retry_after(self) -> int:
        return max(1, _whole_seconds(self.wait))


class Rate(msgspec.Struct, frozen=True):
    limit: int
    period: int

    @classmethod
    def of(cls, text: str) -> Rate | None:
        """As the setting has it: `120/minute`; None for `off`."""
        if text == "off":
            return None
        limit, _, period = text.partition("/")
        return cls(int(limit), _PERIODS[period])

    def part(self, share: int, periods: int = 1) -> Rate:
        """A smaller limit over so many periods; one request at least."""
        return Rate(max(1, self.limit // share), self.period * periods)

    def take(self, full_at: int, now: int) -> Allowance:
        """One request more. A moment further ahead than a whole bucket is none of ours (a clock that began anew,
        damage): it counts as full, since nobody may be shut out by it."""
        interval = self.period // self.limit
        burst = self.limit * interval
        if not now < full_at <= now + burst:
            full_at = now
        later = full_at + interval
        if later > now + burst:
            return Allowance(False, self.limit, 0, full_at, full_at - now, later - now - burst)
        return Allowance(True, self.limit, (now + burst - later) // interval, later, later - now)


def _whole_seconds(nanoseconds: int) -> int:
    return -(-nanoseconds // _SECOND)
