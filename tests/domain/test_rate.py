"""GCRA: a bucket that holds the limit, fills evenly, and cannot be broken by a number that is none of its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.rate import Rate

SECOND = 1_000_000_000
NOW = 500 * SECOND


def rate(text: str) -> Rate:
    found = Rate.of(text)
    assert found is not None
    return found


def granted(of: Rate, moments: list[int]) -> list[bool]:
    full_at, told = 0, []
    for now in moments:
        allowance = of.take(full_at, now)
        full_at = allowance.full_at
        told.append(allowance.granted)
    return told


@pytest.mark.parametrize("text", ["1/second", "7/minute", "120/minute", "9999999/second", "1000/hour"])
def test_the_burst_is_the_limit_exactly(text):
    of = rate(text)
    limit = min(of.limit, 5000)
    full_at = NOW + (of.limit - limit) * (of.period // of.limit)  # as if the others had been used
    for left in reversed(range(limit)):
        allowance = of.take(full_at, NOW)
        assert (allowance.granted, allowance.remaining) == (True, left)
        full_at = allowance.full_at
    assert not of.take(full_at, NOW).granted


@given(st.integers(1, 20), st.lists(st.integers(0, 20 * SECOND), max_size=80))
def test_never_more_than_the_limit_and_what_came_back_since(limit, gaps):
    of = Rate(limit, 60 * SECOND)
    moments = [NOW + sum(gaps[:number]) for number in range(len(gaps))]
    passed = [now for now, ok in zip(moments, granted(of, moments), strict=True) if ok]
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            assert last - first + 1 <= limit + (passed[last] - passed[first]) // (60 * SECOND // limit) + 1
    assert len(passed) >= min(limit, len(moments))


def test_what_was_used_comes_back_evenly():
    of = rate("6/minute")
    assert granted(of, [NOW] * 7) == [True] * 6 + [False]
    assert granted(of, [NOW] * 6 + [NOW + 10 * SECOND - 1]) == [True] * 6 + [False]
    assert granted(of, [NOW] * 6 + [NOW + 10 * SECOND] * 2) == [True] * 7 + [False]
    assert granted(of, [NOW] * 6 + [NOW + 60 * SECOND] * 7) == [True] * 12 + [False]


def test_a_refusal_costs_nothing_and_says_how_long_to_wait():
    of = rate("6/minute")
    empty = NOW + 60 * SECOND
    refused = of.take(empty, NOW + SECOND)
    assert (refused.granted, refused.full_at) == (False, empty)
    assert (refused.retry_after, refused.reset, refused.remaining) == (9, 59, 0)
    assert of.take(empty, NOW + SECOND + refused.wait).granted
    assert not of.take(empty, NOW + SECOND + refused.wait - 1).granted


def test_seconds_are_told_in_full():
    """A client that waits for as long as it was told is not refused again for a part of a second."""
    refused = rate("6/minute").take(NOW + 60 * SECOND, NOW + SECOND // 2)
    assert (refused.retry_after, refused.reset) == (10, 60)


@pytest.mark.parametrize("strange", [0, NOW - 1, NOW + 60 * SECOND + 1, NOW + 10**15, 2**64 - 1])
def test_a_moment_that_cannot_be_shuts_nobody_out(strange):
    """A clock that began anew after a reboot, one that was set back, garbage."""
    allowance = rate("6/minute").take(strange, NOW)
    assert (allowance.granted, allowance.remaining) == (True, 5)


def test_a_share_is_one_request_at_least():
    assert rate("120/minute").part(10) == rate("12/minute")
    assert rate("5/minute").part(10) == rate("1/minute")
    assert Rate.of("off") is None
