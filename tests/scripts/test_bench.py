"""The bench runs: each part measures what it names, on shops too small for the figures to mean anything."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from scripts import bench

TINY = bench.Sizes(small=3, middle=4, large=20, validations=5, sales=5, lookups=5, rounds=1, starts=1)


@pytest.fixture(autouse=True)
def _small_and_hasty(monkeypatch):
    monkeypatch.setattr(bench, "QUICK", TINY)
    monkeypatch.setattr(bench, "REST", 0.1)


def run(*arguments):
    done = CliRunner(catch_exceptions=False).invoke(bench.main, ["--quick", "--json", "--no-fail", *arguments])
    assert done.exit_code == 0, done.output
    return {row["what"]: row for row in json.loads(done.stdout)}


def test_sales_are_compared_with_a_route_that_appends_and_syncs():
    rows = run("sale")
    assert len(rows) == 10
    assert all(row["value"] > 0 and row["goal"] for row in rows.values())


def test_memory_and_the_owners_statistics():
    rows = run("memory", "audit")
    assert 5 < rows["memory of an empty worker"]["value"] < 80
    assert rows["audit.py stats, 20 lines"]["met"]


@pytest.mark.slow
def test_all_parts():
    assert len(run()) == 26


def test_a_missed_goal_is_an_exit_code(monkeypatch):
    missed = bench.Row("a thing", "3 s", "1 s", 3.0, 2.0, "s", (2.9, 3.1))
    monkeypatch.setattr(bench, "measure", lambda *_: [missed])
    runner = CliRunner()
    assert runner.invoke(bench.main, []).exit_code == 1
    assert runner.invoke(bench.main, ["--no-fail"]).exit_code == 0
    shown = runner.invoke(bench.main, ["--no-fail"]).stdout
    assert "3.00 (2.90 to 3.10)" in shown
    assert "no" in shown


def test_ratios_are_taken_round_by_round():
    """A machine that was slow in one round was slow for both."""
    row = bench._validation_row("x", ours=[3e-6, 30e-6, 4e-6], limits=[2e-6, 20e-6, 2e-6], goal=1.6)
    assert (row.value, row.spread, row.met) == (1.5, (1.5, 2.0), True)
