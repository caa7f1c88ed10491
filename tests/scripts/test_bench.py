"""The bench runs: each part measures what it names, on shops too small for the figures to mean anything."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
from click.testing import CliRunner

from scripts import bench
from scripts.bench_parts import peers, rows, run, selling, servers, shops
from server.domain.fold import fold
from server.storage.flatfile import FlatFileStore

TINY = run.Sizes(
    small=3, middles=(4,), large=20, validations=5, sales=6, lookups=5, rounds=1, starts=1, dashboard=20, visits=1
)


@pytest.fixture(autouse=True)
def _small_and_hasty(monkeypatch):
    monkeypatch.setattr(bench, "QUICK", TINY)
    monkeypatch.setattr(servers, "REST", 0.1)
    monkeypatch.setattr(selling, "TAKING_UP", 0.2)


def measured(*arguments):
    done = CliRunner(catch_exceptions=False).invoke(bench.main, ["--quick", "--json", "--no-fail", *arguments])
    assert done.exit_code == 0, done.output
    return {row["what"]: row for row in json.loads(done.stdout)}


@pytest.mark.slow
def test_sales_are_compared_with_a_route_that_appends_and_syncs():
    found = measured("sale")
    assert len(found) == 11
    assert all(row["value"] > 0 and row["goal"] for row in found.values())


def test_each_page_of_the_dashboard():
    found = measured("dashboard")
    assert len(found) > 20
    assert all(row["value"] > 0 and row["goal"] for row in found.values())


@pytest.mark.slow
def test_memory_and_the_owners_statistics():
    found = measured("memory", "audit")
    assert 5 < found["memory of an empty worker"]["value"] < 80
    assert found["audit.py stats, 20 lines"]["value"] > 0


@pytest.mark.slow
def test_what_a_user_would_pick_instead_answers_alike(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", tuple(peer for peer in peers.PEERS if not peer.needs))
    monkeypatch.setattr(bench, "QUICK", run.Sizes(small=3, middles=(), large=4, validations=3, sales=6))
    found = measured("peers")
    assert {row["goal"] for row in found.values()} == {None}
    assert len(found) == 16


@pytest.mark.slow
def test_both_stores_under_the_load_of_several_clients():
    found = measured("together")
    assert {row["goal"] for row in found.values()} == {None}
    for what in ("validations with 2 workers", "sales with 2 workers", "start to the first answer"):
        for store in ("flat files", "PostgreSQL"):
            rows_of = [row for name, row in found.items() if name.startswith(what) and name.endswith(f": {store}")]
            assert len(rows_of) == 2
            assert all(row["value"] > 0 for row in rows_of)


def test_a_peer_whose_packages_are_missing_is_left_out_in_words(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", (peers.Peer("A peer", "none", needs=("no_such_package",)),))
    (what,) = measured("peers")
    assert what == "A peer: left out, since no_such_package is not installed (requirements-bench.txt)"


@pytest.mark.slow
def test_every_goal_of_the_product_is_looked_at():
    found = measured(*(part for part in bench.PARTS if part not in ("dashboard", "together")))
    with_peer = 3 * (find_spec("fastapi") is not None)  # one for each size
    assert sum(row["goal"] is not None for row in found.values()) == 32 + with_peer


def test_a_shop_that_is_built_fast_is_one_that_was_sold(tmp_path, monkeypatch):
    """Only some sales of a batch are decided; the others must be what would have been decided."""
    monkeypatch.setattr(shops, "DECIDED", 2)
    built = shops.build_shop(tmp_path / "shop", 5)
    store = FlatFileStore(built.folder).open()
    entries = store.history([*built.keys])
    assert [entry.license_keys for entry in entries] == [(key,) for key in built.keys]
    assert len({entry.identity for entry in entries}) == 5
    assert all(len(fold([entry])) == 1 and store.find_license(entry.license_keys[0]) for entry in entries)
    assert [finding for finding in store.inspect() if not finding.is_note] == []
    store.close()


def test_a_missed_goal_is_an_exit_code(monkeypatch):
    missed = rows.Row("a thing", "3 s", "1 s", 3.0, 2.0, "s", (2.9, 3.1))
    monkeypatch.setattr(bench, "measure", lambda *_: [missed, rows.Row("told only", "3 s", "1 s", 3.0, None)])
    runner = CliRunner()
    assert runner.invoke(bench.main, []).exit_code == 1
    assert runner.invoke(bench.main, ["--no-fail"]).exit_code == 0
    shown = runner.invoke(bench.main, ["--no-fail"]).stdout
    assert "3.00 (2.90 to 3.10)" in shown
    assert shown.count("no ") == 1


def test_ratios_are_taken_round_by_round():
    """A machine that was slow in one round was slow for both."""
    row = rows.ratio_row("x", ours=[3e-6, 30e-6, 4e-6], limits=[2e-6, 20e-6, 2e-6], goal=1.6)
    assert (row.value, row.spread, row.met) == (1.5, (1.5, 2.0), True)
