"""/metrics, read as Prometheus reads it: by its own parser."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.storage.tallies import Tallies
from server.web.measured import COUNTERS, GAUGES, HISTOGRAMS
from tests import databases
from tests.conftest import OWNER_KEY, Shop, sale_ping


def told(shop: Shop) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels, in the order of their names."""
    answered = shop.client.get("/metrics", headers={"Authorization": f"Bearer {OWNER_KEY}"})
    assert (answered.status_code, answered.mimetype) == (200, "text/plain")
    families = list(text_string_to_metric_families(answered.text))
    assert all(family.name.startswith("keyledger_") and family.documentation for family in families)
    return {
        (
            sample.name.removeprefix("keyledger_"),
            *(sample.labels[label] for label in sorted(sample.labels)),
        ): sample.value
        for family in families
        for sample in family.samples
    }


def test_it_needs_the_owners_token(shop, tmp_path, clock):
    assert shop.client.get("/metrics").status_code == 401
    assert shop.client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert Shop(tmp_path / "off", clock, admin_api_key=None).client.get("/metrics").status_code == 404


def test_it_counts_webhooks_by_what_became_of_them(shop):
    shop.sale("s1")
    shop.refund("s1")
    shop.ping(sale_ping("s2", "ann@example.com", "G-NOBODY=="))
    shop.post(sale_ping("s3", "ann@example.com"), secret="wrong")
    shop.post({"resource_name": "sale", "email": "x" * 300})
    found = told(shop)
    counted = {name[1:]: value for name, value in found.items() if name[0] == "webhooks_total" and value}
    assert counted == {
        ("issued", "gumroad"): 1,
        ("revoked", "gumroad"): 1,
        ("unmapped", "gumroad"): 1,
        ("refused", "gumroad"): 1,
        ("malformed", "gumroad"): 1,
    }
    assert found["request_seconds_count", "webhooks.receive", "403"] == 1


def test_the_first_of_its_kind_is_seen_to_be_more_than_none(shop):
    found = told(shop)
    assert [found["webhooks_total", what, "gumroad"] for what in ("unmapped", "malformed", "failed")] == [0, 0, 0]


def test_what_cannot_be_read_and_is_not_proven_is_no_platforms_word(tmp_path, clock):
    names = ("store_id", "hash_key", "username", "password", "account")
    account = {f"easypaisa_{name}": "x" * 16 for name in names}
    other = Shop(tmp_path / "easypaisa", clock, **account)
    assert other.client.get("/api/v1/webhooks/easypaisa?url=junk").status_code == 400
    found = told(other)
    assert (found["webhooks_total", "malformed", "easypaisa"], found["webhooks_total", "refused", "easypaisa"]) == (
        0,
        1,
    )


def test_a_folder_of_counts_that_was_taken_away_is_made_anew(shop):
    shop.sale("s1")
    assert told(shop)["webhooks_total", "issued", "gumroad"] == 1
    shutil.rmtree(shop.folder / "metrics")
    shop.sale("s2")
    told(shop)
    assert told(shop)["metrics_complete",] == 1
    (kept,) = (shop.folder / "metrics").glob("of-*.json")
    assert kept.with_suffix(".lock").exists()  # by which the others know whether it is a living one's


@pytest.mark.files
def test_a_disk_that_is_full_is_told_before_a_sale_meets_it(shop, monkeypatch):
    assert told(shop)["check", "storage"] == 1
    shop.app.extensions.pop("keyledger.probed", None)
    monkeypatch.setattr("os.fsync", _no_space)
    assert told(shop)["check", "storage"] == 0


def test_it_counts_verdicts_of_every_door(shop):
    key = shop.sale()
    shop.code(key, hardware_id="pc-1")
    shop.code(key, hardware_id="pc-2")
    shop.ask("file", license_key="nobody", hardware_id="pc") if shop.services.signing.keys else shop.code("nobody")
    shop.client.post("/api/verify", json={"license": key})
    shop.client.post("/api/validate-license", json={"license_key": key, "email": "eve@example.com"})
    found = {name[1]: value for name, value in told(shop).items() if name[0] == "verdicts_total"}
    assert found == {"VALID": 2, "TOO_MANY_MACHINES": 1, "NOT_FOUND": 1, "USER_SCOPE_MISMATCH": 1}


def test_it_tells_latency_by_route_in_buckets_that_add_up(shop):
    for _ in range(3):
        shop.code("nobody")
    found = told(shop)
    assert found["request_seconds_count", "licenses.validate", "200"] == 3
    assert found["request_seconds_bucket", "+Inf", "licenses.validate", "200"] == 3
    assert 0 < found["request_seconds_sum", "licenses.validate", "200"] < 60
    steps = [v for k, v in found.items() if k[0] == "request_seconds_bucket" and "licenses.validate" in k]
    assert steps == sorted(steps)
    assert len(steps) == 13


@pytest.mark.files
def test_it_tells_the_books_and_the_letters(shop):
    shop.sale("s1")
    shop.sale("s2", email="bob@example.com")
    before = told(shop)
    assert (before["ledger_lines",], before["licenses",], before["view_lag_lines",]) == (2, 2, 2)
    assert before["book_bytes", "purchases.jsonl"] == (shop.folder / "purchases.jsonl").stat().st_size
    shop.services.store.tidy(force=True)
    shop.services.outbox.send_due()
    after = told(shop)
    assert (after["view_lag_lines",], after["letters", "sent"], after["letters_oldest_seconds",]) == (0, 2, 0)
    assert {name[1]: value for name, value in after.items() if name[0] == "check"} == {
        "storage": 1,
        "licenses_file": 1,
        "catalogue": 1,
        "mail": 1,
        "orders": 1,
        "limits": 1,
    }


def test_a_letter_that_waits_grows_old(shop, clock):
    shop.sale()
    shop.services.outbox.send_due(limit=0)
    clock.forward(hours=2)
    assert told(shop)["letters_oldest_seconds",] == 7200


def test_it_counts_what_a_limit_refused(tmp_path, clock):
    shop = Shop(tmp_path / "d", clock, rate_limit="2/hour")
    for _ in range(5):
        shop.client.post("/api/v1/licenses/validate", json={"license_key": "nobody"})
    found = told(shop)
    refused = found["rate_limited_total", "licenses.validate"]
    assert refused == found["request_seconds_count", "licenses.validate", "429"] >= 3


@pytest.mark.files
def test_it_counts_answers_that_could_not_be_written(shop, monkeypatch):
    assert told(shop)["storage_errors_total",] == 0
    monkeypatch.setattr("os.fsync", _no_space)
    assert shop.post(sale_ping("s1", "ann@example.com")).status_code == 503
    found = told(shop)
    assert found["storage_errors_total",] == 1
    assert found["webhooks_total", "not written", "gumroad"] == 1


def _no_space(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def test_everything_of_the_table_is_told_and_names_nobody(shop):
    key = shop.sale()
    shop.code(key)
    shop.client.get("/nowhere/ann@example.com")
    text = shop.client.get("/metrics", headers={"Authorization": f"Bearer {OWNER_KEY}"}).text
    for name, (help_text, _) in (COUNTERS | GAUGES | HISTOGRAMS).items():
        assert f"# HELP keyledger_{name}" in text
        assert help_text in text
    assert key not in text
    assert "ann@" not in text


# ---------------------------------------------------------------------------------------------------- over processes
def counted(folder) -> dict[tuple[str, ...], list[float]]:
    return Tallies(folder).total()


def test_the_total_is_of_all_processes_also_of_those_that_ended(tmp_path):
    """Forked, as workers are: each counts and goes, the last one by kill -9."""
    for number in range(4):
        if (pid := os.fork()) == 0:
            tallies = Tallies(tmp_path)
            tallies.add("verdicts", "VALID", times=number)
            tallies.leave(force=True)
            os.kill(os.getpid(), 9)
        os.waitpid(pid, 0)
    mine = Tallies(tmp_path)
    mine.add("verdicts", "VALID", times=10)
    assert mine.total() == {("verdicts", "VALID"): [16.0]}
    assert counted(tmp_path) == mine.total() == {("verdicts", "VALID"): [16.0]}
    left = sorted(path.name.split("-")[0] for path in tmp_path.iterdir() if path.suffix == ".json")
    assert left == ["gone.json", "of"], "the files of ended processes are taken up into one"


def test_a_living_process_is_never_taken_up(tmp_path):
    living, asking = Tallies(tmp_path), Tallies(tmp_path)
    for number in (1, 2, 3):
        living.add("x")
        living.leave(force=True)
        assert asking.total() == {("x",): [float(number)]}


def test_who_was_killed_while_taking_up_counts_nothing_twice(tmp_path):
    """The ended one's file is still there, but its counts are in the common one."""
    (tmp_path / "of-1-a.json").write_text('{"counts": [[["x"], [2.0]]]}')
    (tmp_path / "of-1-a.lock").touch()
    (tmp_path / "gone.json").write_text('{"counts": [[["x"], [5.0]]], "taken": ["of-1-a.json"]}')
    assert counted(tmp_path) == {("x",): [5.0]}
    assert not (tmp_path / "of-1-a.json").exists()
    assert counted(tmp_path) == {("x",): [5.0]}


def test_machines_on_one_database_count_each_for_itself_and_tell_the_same_books(tmp_path, clock):
    url = databases.url_for(tmp_path)
    one, other = (Shop(tmp_path / name, clock, database_url=url) for name in ("one", "other"))
    key = one.sale()
    for shop in (one, other, other):
        shop.code(key)
    first, second = told(one), told(other)
    assert (first["verdicts_total", "VALID"], second["verdicts_total", "VALID"]) == (1, 2)
    assert (first["webhooks_total", "issued", "gumroad"], second["webhooks_total", "issued", "gumroad"]) == (1, 0)
    for found in (first, second):
        assert (found["ledger_lines",], found["licenses",], found["check", "storage"]) == (1, 1, 1)
    for shop in (one, other):
        shop.services.close()


def worker(folder, number: float) -> Tallies:
    tallies = Tallies(folder)
    tallies.add("x", times=number)
    tallies.leave(force=True)
    return tallies


def ended(folder, number: float, name: str) -> None:
    (folder / f"of-{name}.json").write_text(f'{{"counts": [[["x"], [{number}]]]}}')
    (folder / f"of-{name}.lock").touch()


def refusing(call, *names):
    """As on a disk that takes no bytes, or deletes nothing, of files with such names."""

    def refuse(path, *rest, **more):
        if any(name in str(path) for name in names):
            raise OSError(28, "No space left on device")
        return call(path, *rest, **more)

    return refuse


def test_no_count_goes_back_on_a_full_disk_whoever_is_asked(tmp_path, monkeypatch):
    """Two workers, and one that ended: nothing can be written any more, until it can."""
    ended(tmp_path, 100, "1-a")
    one, other = worker(tmp_path, 10), worker(tmp_path, 1)
    with monkeypatch.context() as full:
        full.setattr("os.open", refusing(os.open, ".tmp"))
        told = []
        for asked in (one, other, one, other):
            one.add("x", times=5)
            told.append(asked.total()[("x",)])
        assert told == [[111.0]] * 4
        assert one.trouble
    assert other.total() == {("x",): [111.0]}
    assert (one.total(), one.trouble) == ({("x",): [131.0]}, None)
    assert other.total() == {("x",): [131.0]}


def test_what_was_taken_up_and_cannot_be_deleted_is_counted_once(tmp_path, monkeypatch):
    ended(tmp_path, 100, "1-a")
    mine = worker(tmp_path, 1)
    with monkeypatch.context() as stubborn:
        stubborn.setattr("pathlib.Path.unlink", refusing(Path.unlink, "of-1-a.json"))
        assert [mine.total() for _ in range(3)] == [{("x",): [101.0]}] * 3
        (tmp_path / "of-1-a.lock").unlink()  # so that nobody can tell any more that it ended
        ended(tmp_path, 1000, "2-b")
        assert [mine.total() for _ in range(3)] == [{("x",): [1101.0]}] * 3
    assert mine.total() == {("x",): [1101.0]}
    assert len(list(tmp_path.glob("of-*.json"))) == 1


def test_what_cannot_be_read_for_a_moment_is_not_lost_for_good(tmp_path, monkeypatch):
    ended(tmp_path, 100, "1-a")
    mine = worker(tmp_path, 1)
    assert mine.total() == {("x",): [101.0]}
    ended(tmp_path, 1000, "2-b")
    for name in ("gone.json", "of-2-b.json", "total.lock"):
        with monkeypatch.context() as broken:
            broken.setattr("pathlib.Path.read_bytes", refusing(Path.read_bytes, name))
            broken.setattr("os.open", refusing(os.open, name))
            assert mine.total() is None, "rather nothing than less"
    assert mine.total() == {("x",): [1101.0]}


@pytest.mark.parametrize(
    "damage", [b"", b"\xff" * 100, b'{"counts": 1}', b'{"counts": [[["x"], [1.0]]], "bounds": [1.0]}']
)
def test_a_damaged_file_is_left_out(tmp_path, damage):
    (tmp_path / "gone.json").write_bytes(damage)
    mine = Tallies(tmp_path)
    mine.add("x")
    assert mine.total() == {("x",): [1.0]}


def test_what_cannot_be_written_stops_nobody(tmp_path, clock):
    """A file in the folder's place: no counts, and it is told that they are missing."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "metrics").write_text("in the way")
    shop = Shop(tmp_path / "d", clock)
    assert shop.code(shop.sale()) == "VALID"
    found = told(shop)
    assert found["metrics_complete",] == 0
    assert not [name for name in found if name[0].endswith(("_total", "_count"))]
    (tmp_path / "d" / "metrics").unlink()
    found = told(shop)
    assert (found["verdicts_total", "VALID"], found["metrics_complete",]) == (1, 1)
    assert json.loads(next((tmp_path / "d" / "metrics").glob("of-*.json")).read_text())["counts"]


def test_without_a_token_nothing_is_left_on_the_disk(tmp_path, clock):
    shop = Shop(tmp_path / "d", clock, admin_api_key=None)
    shop.code("nobody")
    shop.services.close()
    assert not (tmp_path / "d" / "metrics").exists()
