"""The tables at the end say what the reports say, whichever process ran the tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.torture.account import mutants, tortures

HERE = "tests/torture/test_power_loss.py::test_"


def report(name: str, *tried: tuple[str, int, int], failed: bool = False) -> Any:
    properties = [("tried", list(one)) for one in tried]
    return SimpleNamespace(
        nodeid=f"{HERE}{name}", user_properties=properties, failed=failed, passed=not failed, duration=2.4
    )


def test_what_was_tried_is_counted_together_under_its_torture() -> None:
    reports = [
        report("one[full]", ("states", 20_000, 0), ("kills", 3, 0)),
        report("other[full-x]", ("states", 100, 0)),
        report("it_opens[full]"),
        report("mutant_no_fsync_is_caught[full]"),
    ]
    assert tortures(reports) == [
        ("power loss", "it opens", "1", "0", "2"),
        ("power loss", "kills", "3", "0", ""),
        ("power loss", "states", "20,100", "0", "5"),
    ]


def test_a_test_that_failed_is_a_violation_however_far_it_came() -> None:
    reports = [report("one[full]", ("states", 17, 0), failed=True), report("it_opens[full]", failed=True)]
    assert [row[1:4] for row in tortures(reports)] == [("it opens", "1", "1"), ("states", "17", "1")]


def test_a_mutant_is_killed_by_the_torture_that_caught_it_in_every_form() -> None:
    reports = [
        report("mutant_no_fsync_is_caught[full]"),
        report("mutant_letters_are_caught[full]"),
        report("mutant_letters_are_caught[quick]", failed=True),
    ]
    assert mutants(reports) == [("letters", "NOT KILLED"), ("no fsync", "power loss")]
