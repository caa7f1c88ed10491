"""The written view: whatever is put in comes out, at every size and in every order of writing."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.domain import keys
from server.domain.license import License
from server.domain.purchase import name_hash
from server.storage import flatfile
from server.storage.flatfile import FlatFileStore
from server.storage.view import Books, EmptyView, View, ViewDamaged, write_view
from tests.storage.backroom import records, sold

WHEN = datetime(2026, 11, 20, tzinfo=UTC)
ODD = ['quote"d', "back\\slash", '": {"email":', "Schlüssel", "日本", "a,b", "{}", " spaced ", "x" * 128]


def license(number: int, name: str = "Ann") -> License:
    return License(
        email=f"c{number}@example.com",
        customer_name=name,
        created_date=WHEN,
        expiry_date=None,
        is_active=True,
        hardware_id=None,
        device_name=None,
        last_validation=None,
        validation_count=number,
        purchase_source="gumroad",
        purchase_id=f"s{number}",
    )


def written(path: Path, before: View | EmptyView, changed: dict[str, License]) -> View:
    write_view(path, before, changed, Books(count=len(changed)))
    return View(path)


@pytest.mark.parametrize("seed", range(40))
def test_views_written_one_over_the_other_hold_what_was_put_in(tmp_path, seed):
    chance = random.Random(seed)
    expected: dict[str, License] = {}
    view: View | EmptyView = EmptyView()
    for round_ in range(12):
        fresh = {
            keys.derive("s", "g", f"{seed}-{round_}-{n}", "p"): license(n) for n in range(chance.choice([0, 1, 2, 9]))
        }
        again = {key: license(round_, "Zoë, \n 😀") for key in chance.sample(sorted(expected), min(2, len(expected)))}
        changed = fresh | again | ({ODD[round_]: license(round_)} if round_ < len(ODD) else {})
        view = written(tmp_path / "licenses.json", view, changed)
        expected |= changed
        assert set(json.loads((tmp_path / "licenses.json").read_bytes())["licenses"]) == set(expected)
        assert dict(view.find_by_hash(0, 1 << 64)) == expected
        assert [view.find(key) for key in expected] == list(expected.values())
        assert [view.find(key + "x") for key in expected] == [None] * len(expected)
    order = [name_hash(key) for key, _ in view.find_by_hash(0, 1 << 64)]
    assert order == sorted(order)


def test_a_part_of_the_view_by_hash(tmp_path):
    all_ = {f"key-{n}": license(n) for n in range(50)}
    view = written(tmp_path / "licenses.json", EmptyView(), all_)
    half = 1 << 63
    below, above = dict(view.find_by_hash(0, half)), dict(view.find_by_hash(half, 1 << 64))
    assert below | above == all_
    assert max(map(name_hash, below)) < half <= min(map(name_hash, above))


def test_an_empty_view_is_whole(tmp_path):
    view = written(tmp_path / "licenses.json", EmptyView(), {})
    assert json.loads((tmp_path / "licenses.json").read_bytes())["licenses"] == {}
    assert view.find("any") is None
    assert written(tmp_path / "licenses.json", view, {"a": license(1)}).find("a") == license(1)


def test_every_changed_byte_and_every_cut_is_noticed(tmp_path):
    path = tmp_path / "licenses.json"
    written(path, EmptyView(), {f"key-{n}": license(n) for n in range(3)})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ViewDamaged):
            View(path)
        path.write_bytes(whole[:place])
        with pytest.raises(ViewDamaged):
            View(path)


def test_a_large_view_of_another_process_is_taken_up_outside_of_requests(tmp_path, monkeypatch):
    """To read and check it takes half a second at a million licenses, in which nobody who asks should wait."""
    monkeypatch.setattr(flatfile, "_READ_AT_ONCE", 0)
    one, other = (FlatFileStore(tmp_path, pace=0.0).open() for _ in range(2))
    with one.transaction() as books:
        books.append([sold(number) for number in range(5)])
    one.tidy(force=True)
    assert other.state().licenses == 5
    assert other._known.recent_lines == 5  # a request has seen that there is a newer view, and left it alone
    other.tidy()
    assert other._known.recent_lines == 0
    assert records(other) == records(one)
    assert other.tidy() is None
    one.close()
    other.close()
