"""licenses.py sunset: a file without an end for each device of each live license, once for all, and no mail."""

from __future__ import annotations

import base64
import csv

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from server.domain.keys import license_id
from server.services.license_files import LicenseFiles
from server.services.sunset import Sunset
from tests.conftest import Shop, sale_ping
from tests.license_files import opened
from tests.signed_answers import SEED

SIGNING_KEY = base64.b64encode(SEED).decode()


def table(folder):
    with (folder / "customers.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def sold(shop):
    """Two live licenses, one of them on two devices; one that was refunded, one that is a test."""
    two, one = shop.sale("s1", product="G-TEAM==", recurrence="monthly", subscription_id="sub"), shop.sale("s2")
    shop.code(two, hardware_id="hw1", device_name="Laptop")
    shop.code(two, hardware_id="hw2")
    shop.sale("s3")
    shop.ping(sale_ping("s3", "ann@example.com", resource="refund", refunded="true"))
    shop.sale("s4", test="true")
    return two, one


def sunset(shop, folder):
    services = Shop(shop.folder, shop.clock, signing_key=(SEED,)).services
    return Sunset(services.store, services.signing, services.files, services.clock).run(folder)


def test_each_device_of_each_live_license_gets_a_file_without_an_end(shop, sold, tmp_path):
    two, one = sold
    told, folder = sunset(shop, tmp_path / "out"), tmp_path / "out"
    assert (told.licenses, told.files, told.left_out) == (2, 4, 2)
    key = load_pem_public_key((folder / "public-key.pem").read_bytes()).public_bytes_raw()
    files = {path.relative_to(folder): opened(key, path.read_text()) for path in sorted(folder.glob("*/*"))}
    assert {(str(path.parent), path.name): said["hardware_id"] for path, said in files.items()} == {
        (license_id(two), "device-1.lic"): "hw1",
        (license_id(two), "device-2.lic"): "hw2",
        (license_id(two), "any-device.lic"): None,
        (license_id(one), "any-device.lic"): None,
    }
    assert {(said["expires"], said["offline_days"]) for said in files.values()} == {(None, None)}
    dates = {said["license"]["expiry_date"] for path, said in files.items() if str(path.parent) == license_id(two)}
    assert dates == {"2026-12-05T19:38:56Z"}  # told as it is: a file without an end does not make a license for life


def test_a_table_tells_whose_they_are(shop, sold, tmp_path):
    sunset(shop, tmp_path / "out")
    rows = {row["license_key"]: row for row in table(tmp_path / "out")}
    assert set(rows) == set(sold)
    told = rows[sold[0]]
    assert (told["folder"], told["email"], told["customer_name"]) == (
        license_id(sold[0]),
        "ann@example.com",
        "Jane Doe",
    )
    assert told["files"] == "device-1.lic device-2.lic any-device.lic"


def test_the_owner_signs_all_in_one_run_and_mails_nobody(shop, owner, tmp_path):
    key = owner.json("licenses", "issue", "--email", "ann@example.com", "--name", "Ann", "--product", "wave")
    letters = owner.json("outbox", "list")
    out = tmp_path / "out"
    told = owner.json("licenses", "sunset", "--out", str(out), SIGNING_KEY=SIGNING_KEY)
    assert told == {"folder": str(out), "licenses": 1, "files": 1, "left_out": 0}
    assert (out / license_id(key["license_key"]) / "any-device.lic").is_file()
    assert out.stat().st_mode & 0o077 == 0  # customers' names stand in it
    assert owner.json("outbox", "list") == letters
    said = owner.run("licenses", "sunset", SIGNING_KEY=SIGNING_KEY).stdout
    (beside,) = shop.folder.parent.glob("data-sunset-*")
    assert said.startswith(f"1 licenses, 1 files in {beside}; 0 not live\n")


def test_without_a_key_or_over_another_run_nothing_is_written(shop, sold, owner, tmp_path):
    out = tmp_path / "out"
    refused = owner.run("licenses", "sunset", "--out", str(out), code=1)
    assert ("SIGNING_KEY is not set" in refused.stderr, out.exists()) == (True, False)
    out.mkdir()
    (out / "mine").write_text("")
    refused = owner.run("licenses", "sunset", "--out", str(out), code=1, SIGNING_KEY=SIGNING_KEY)
    assert ("is there already" in refused.stderr, [path.name for path in out.iterdir()]) == (True, ["mine"])


def test_a_run_that_breaks_off_leaves_nothing(shop, sold, tmp_path, monkeypatch):
    whole = LicenseFiles.for_ever

    def breaks(self, key, license, device, now):
        if device is None:
            raise OSError("no space")
        return whole(self, key, license, device, now)

    monkeypatch.setattr(LicenseFiles, "for_ever", breaks)
    with pytest.raises(OSError, match="no space"):
        sunset(shop, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
