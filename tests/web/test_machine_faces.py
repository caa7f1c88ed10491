"""A machine that changes keeps its seat: `client/HARDWARE_ID.md`, as an app sees it."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread

import pytest

from server.domain.hardware import same_machine
from server.domain.license import Claim
from server.services.sunset import Sunset
from tests.conftest import Shop, sale_ping
from tests.license_files import opened
from tests.signed_answers import SEED

PAIRS = json.loads((Path(__file__).parents[2] / "client" / "vectors" / "hardware_ids.json").read_text())["pairs"]


def machine(m: int, b: int, d: int, n: int) -> str:
    return ".".join(["kl1", *(f"{letter}{number:016x}" for letter, number in zip("mbdn", (m, b, d, n), strict=True))])


BOUND = machine(1, 1, 1, 1)
CHANGED = machine(1, 1, 2, 1)  # another disk
REINSTALLED = machine(2, 1, 2, 1)  # and then a new system
GONE_FAR = machine(2, 1, 2, 2)  # and another card: one part is left of the first
OTHER = machine(1, 9, 9, 9)  # a copy of its system on another computer


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["why"])
def test_the_server_judges_pairs_as_the_kits_do(pair):
    assert same_machine(pair["one"], pair["other"]) is pair["same"]


def device_log(shop: Shop) -> list[tuple[str, str]]:
    return [(line["event"], line.get("hardware_id")) for line in shop.device_log()]


@pytest.fixture
def key(shop):
    key = shop.sale()
    assert shop.ask("activate", license_key=key, hardware_id=BOUND, device_name="Desk")["activated"] is True
    return key


def test_a_machine_that_changes_piece_by_piece_keeps_its_seat(shop, key):
    for face in (CHANGED, REINSTALLED, GONE_FAR):
        answered = shop.ask("validate", license_key=key, hardware_id=face, device_name="Other name")
        assert (answered["code"], "activated" in answered, answered["license"]["devices_used"]) == ("VALID", False, 1)
        assert answered["device"] == {
            "hardware_id": face,
            "device_name": "Desk",
            "bound_at": "2026-11-20T12:00:00Z",
        }
    assert not same_machine(BOUND, GONE_FAR)
    record = shop.licenses()[key]
    assert (record["hardware_id"], "devices" in record) == (BOUND, False)


def test_each_face_is_written_down_once(shop, key):
    for face in (CHANGED, CHANGED, BOUND, REINSTALLED, CHANGED):
        assert shop.code(key, hardware_id=face) == "VALID"
    assert device_log(shop) == [("activation", BOUND), ("activation", CHANGED), ("activation", REINSTALLED)]


def test_a_copy_on_another_machine_gets_no_seat(shop, key):
    assert shop.code(key, hardware_id=OTHER) == "TOO_MANY_MACHINES"
    assert shop.code(key, hardware_id=OTHER, bind=False) == "TOO_MANY_MACHINES"


def test_two_machines_take_two_seats(shop):
    key = shop.sale(product="G-TEAM==")
    for place, hardware_id in enumerate((BOUND, OTHER)):
        assert shop.ask("activate", license_key=key, hardware_id=hardware_id)["license"]["devices_used"] == place + 1


def test_asking_alone_writes_nothing(shop, key):
    answered = shop.ask("validate", license_key=key, hardware_id=CHANGED, bind=False)
    assert (answered["code"], answered["device"]["hardware_id"]) == ("VALID", CHANGED)
    assert device_log(shop) == [("activation", BOUND)]


def test_a_denied_license_gets_no_face(shop, key):
    shop.ping(sale_ping("s1", "ann@example.com", resource="refund", refunded="true"))
    assert shop.code(key, hardware_id=CHANGED) == "SUSPENDED"
    assert device_log(shop) == [("activation", BOUND)]


def test_any_face_frees_the_seat(shop, key):
    shop.ask("validate", license_key=key, hardware_id=CHANGED)
    assert shop.ask("deactivate", license_key=key, hardware_id=REINSTALLED)["license"]["devices_used"] == 0
    assert device_log(shop)[-1] == ("deactivation", BOUND)
    assert shop.code(key, hardware_id=OTHER) == "VALID"
    assert shop.code(key, hardware_id=CHANGED) == "TOO_MANY_MACHINES"


def test_a_machine_that_was_released_is_bound_as_it_comes(shop, key):
    shop.ask("validate", license_key=key, hardware_id=CHANGED)
    shop.ask("deactivate", license_key=key, hardware_id=BOUND)
    answered = shop.ask("validate", license_key=key, hardware_id=REINSTALLED)
    assert (answered["activated"], answered["device"]["hardware_id"]) == (True, REINSTALLED)


def test_changes_are_no_moves(shop, clock):
    """Ten devices in ninety days; a machine that is taken apart eleven times and signs off each time is one."""
    key = shop.sale()
    for disk in range(1, 13):
        present = machine(1, 1, disk, 1)
        assert shop.ask("activate", license_key=key, hardware_id=present)["code"] == "VALID"
        shop.ask("deactivate", license_key=key, hardware_id=present)
    for place in range(10):
        expected = "VALID" if place < 9 else "TOO_MANY_MACHINES"
        assert shop.code(key, hardware_id=f"other-{place}") == expected
        shop.ask("deactivate", license_key=key, hardware_id=f"other-{place}")
    assert shop.code(key, hardware_id=machine(1, 1, 99, 1)) == "VALID"


def test_no_more_than_so_many_faces_are_written_down(shop, key):
    for disk in range(2, 60):
        assert shop.code(key, hardware_id=machine(1, 1, disk, 1)) == "VALID"
    assert len(device_log(shop)) == 32


def test_a_rebuild_keeps_faces(shop, key, clock):
    for face in (CHANGED, REINSTALLED):
        shop.code(key, hardware_id=face)
    before = shop.licenses()
    (shop.folder / "licenses.json").unlink(missing_ok=True)
    (shop.folder / "history.idx").unlink(missing_ok=True)
    again = Shop(shop.folder, clock)
    assert again.licenses()[key]["hardware_id"] == before[key]["hardware_id"] == BOUND
    assert again.code(key, hardware_id=GONE_FAR) == "VALID"
    assert again.code(key, hardware_id=OTHER) == "TOO_MANY_MACHINES"


def test_faces_that_come_at_once_take_one_seat(shop):
    key = shop.sale(product="G-TEAM==")
    faces = [machine(1, 1, disk, 1) for disk in range(1, 9)]
    askers = [Thread(target=shop.services.licenses.activate, args=(key, Claim(hardware_id=face))) for face in faces]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(20)
    assert shop.ask("validate", license_key=key)["license"]["devices_used"] == 1
    assert sorted(face for _, face in device_log(shop)) == sorted(faces)


def test_a_face_is_judged_again_under_the_lock(shop, key, clock, monkeypatch):
    """Another worker frees the seat and gives it away, just before."""
    other, begin = Shop(shop.folder, clock), shop.services.store.transaction

    def late() -> object:
        monkeypatch.undo()
        other.ask("deactivate", license_key=key, hardware_id=BOUND)
        assert other.code(key, hardware_id=OTHER) == "VALID"
        return begin()

    monkeypatch.setattr(shop.services.store, "transaction", late)
    assert shop.code(key, hardware_id=CHANGED) == "TOO_MANY_MACHINES"
    assert [hardware_id for _, hardware_id in device_log(shop)] == [BOUND, BOUND, OTHER]


def test_a_file_is_made_for_the_machine_as_it_is_now(tmp_path, clock):
    shop = Shop(tmp_path / "signing", clock, signing_key=(SEED,))
    key = shop.sale()
    shop.ask("activate", license_key=key, hardware_id=BOUND)
    answered = shop.ask("file", license_key=key, hardware_id=CHANGED)
    public = shop.services.signing.get_key().public_key
    assert opened(public, answered["license_file"])["hardware_id"] == answered["device"]["hardware_id"] == CHANGED
    services = shop.services
    Sunset(services.store, services.signing, services.files, clock).run(tmp_path / "files")
    (for_device,) = (tmp_path / "files").glob("lic_*/device-1.lic")
    assert opened(public, for_device.read_text())["hardware_id"] == CHANGED


def test_the_limit_lets_a_face_pass_as_it_lets_its_device(shop, key):
    seats = shop.services.licenses.seats
    assert [seats.has_seat(key, one) for one in (BOUND, CHANGED, OTHER)] == [True, True, False]


def test_the_story_tells_of_faces(shop, key, clock):
    shop.code(key, hardware_id=CHANGED)
    told = [
        (step.said, step.did) for step in shop.services.audit.explain(key, clock.now).steps if step.log == "devices"
    ]
    assert told == [
        (f"Desk ({BOUND}) was activated", ("1 device bound",)),
        (f"{CHANGED} is the same machine with other parts", ("1 device bound",)),
    ]
