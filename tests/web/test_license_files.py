"""License files: bound as activate binds, no longer than the license, checked by openssl alone."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from server.domain.keys import license_id
from tests.conftest import CATALOGUE, Shop, sale_ping
from tests.license_files import armoured, opened, wrapper
from tests.signed_answers import OTHER_SEED, SEED, Forged, public_keys

README = (Path(__file__).parents[2] / "README.md").read_text()
NEEDS_OPENSSL = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl on this machine")


@pytest.fixture
def shop(tmp_path, clock):
    return Shop(tmp_path / "data", clock, signing_key=(SEED,))


@pytest.fixture
def public_key(shop):
    (key,) = public_keys(shop.client.get("/api/v1/licenses/public-key").json).values()
    return key


def file_for(shop: Shop, key: str, hardware_id: str = "hw1", **more) -> str:
    return str(shop.ask("file", license_key=key, hardware_id=hardware_id, **more)["license_file"])


def test_what_a_file_says(shop, public_key):
    key = shop.sale()
    told = shop.ask("file", license_key=f" {key.lower()} ", hardware_id="hw1", device_name="Ann's laptop")
    assert opened(public_key, told["license_file"]) == {
        "format": 1,
        "kid": hashlib.sha256(public_key).hexdigest()[:16],
        "license": {
            "id": license_id(key),
            "key_sha256": hashlib.sha256(key.encode()).hexdigest(),
            "purchase_date": "2026-11-05T19:38:56Z",
            "expiry_date": None,
            "max_devices": 1,
        },
        "product": {"id": "wave", "name": "Wave"},
        "tier": "pro",
        "features": ["batch"],
        "hardware_id": "hw1",
        "device_name": "Ann's laptop",
        "issued": "2026-11-20T12:00:00Z",
        "expires": "2026-12-20T12:00:00Z",
        "offline_days": 30,
    }
    assert (told["issued"], told["expires"]) == ("2026-11-20T12:00:00Z", "2026-12-20T12:00:00Z")
    assert (told["valid"], told["code"], told["activated"]) == (True, "VALID", True)


def test_no_file_names_the_customer_or_the_key(shop, public_key):
    key = shop.sale(email="ann@example.com", full_name="Ann Lee")
    said = json.dumps(opened(public_key, file_for(shop, key))).lower()
    assert "ann" not in said
    assert key.lower() not in said


def test_a_file_ends_with_its_days_or_with_the_license_and_its_grace(shop, public_key, clock):
    key = shop.sale(product="G-TEAM==", subscription_id="sub", recurrence="monthly")  # paid through December 5th
    end = "2026-12-08T19:38:56Z"  # and three days of grace
    assert opened(public_key, file_for(shop, key))["expires"] == end
    clock.now = clock.now.replace(month=12, day=8)
    said = opened(public_key, file_for(shop, key))
    assert (said["expires"], said["license"]["expiry_date"]) == (end, "2026-12-05T19:38:56Z")
    products = {**CATALOGUE["products"], "team": {**CATALOGUE["products"]["team"], "offline_days": 1}}
    shop.write_catalogue({**CATALOGUE, "products": products})
    clock.now -= timedelta(days=7)
    said = opened(public_key, file_for(shop, key))
    assert (said["expires"], said["offline_days"]) == ("2026-12-02T12:00:00Z", 1)


def test_a_file_takes_a_seat_as_activate_does_and_a_second_one_takes_none(shop):
    key = shop.sale()
    file_for(shop, key)
    assert shop.licenses()[key]["hardware_id"] == "hw1"
    file_for(shop, key)
    refused = shop.ask("file", license_key=key, hardware_id="hw2", nonce="n")
    assert (refused["valid"], refused["code"], refused["nonce"]) == (False, "TOO_MANY_MACHINES", "n")
    assert not {"license_file", "issued", "expires"} & set(refused)
    assert shop.ask("validate", license_key=key)["license"]["devices_used"] == 1


def test_without_a_valid_license_there_is_no_file(shop):
    key = shop.sale()
    answers = [shop.ask("file", license_key="NO-SUCH-KEY", hardware_id="hw1")]
    answers.append(shop.ask("file", license_key=key, hardware_id="hw1", product="team"))
    shop.ping(sale_ping("s1", "ann@example.com", resource="refund", refunded="true"))
    answers.append(shop.ask("file", license_key=key, hardware_id="hw1"))
    assert [one["code"] for one in answers] == ["NOT_FOUND", "PRODUCT_SCOPE_MISMATCH", "SUSPENDED"]
    assert not any(one["valid"] or "license_file" in one for one in answers)
    assert shop.licenses()[key]["hardware_id"] is None


def test_a_file_needs_the_device(shop):
    answered = shop.client.post("/api/v1/licenses/file", json={"license_key": shop.sale()})
    assert (answered.status_code, "hardware_id" in answered.text) == (400, True)


@pytest.mark.parametrize("place", range(0, 600, 31))
def test_no_byte_of_a_file_can_be_changed(shop, public_key, place):
    inside = wrapper(file_for(shop, shop.sale()))
    said = bytearray(base64.b64decode(inside["enc"]))
    said[place % len(said)] ^= 1
    with pytest.raises(Forged):
        opened(public_key, armoured({**inside, "enc": base64.b64encode(said).decode()}))


def test_a_file_of_another_server_is_none(tmp_path, clock, public_key):
    other = Shop(tmp_path / "other", clock, signing_key=(OTHER_SEED,))
    with pytest.raises(Forged):
        opened(public_key, file_for(other, other.sale()))


def test_mutant_a_signature_over_the_content_alone_is_noticed(shop, public_key, monkeypatch):
    monkeypatch.setattr("server.services.license_files.CONTEXT", b"")
    with pytest.raises(Forged):
        opened(public_key, file_for(shop, shop.sale()))


# ---------------------------------------------------------------------------------------------------- openssl alone
def by_openssl(folder: Path, shop: Shop, text: str) -> subprocess.CompletedProcess[str]:
    """The README's own lines, run in a folder that has the file and the public key."""
    (block,) = [found for found in re.findall(r"```sh\n(.*?)```", README, re.S) if "pkeyutl" in found]
    (folder / "license.lic").write_text(text)
    (folder / "public.pem").write_text(shop.client.get("/api/v1/licenses/public-key").json["keys"][0]["pem"])
    return subprocess.run(["sh", "-ec", block], cwd=folder, capture_output=True, text=True, timeout=60)


@NEEDS_OPENSSL
def test_openssl_alone_can_check_a_file(tmp_path, shop, public_key):
    text = file_for(shop, shop.sale(), device_name="Küche")
    done = by_openssl(tmp_path, shop, text)
    assert (done.returncode, done.stderr) == (0, "")
    verdict, said = done.stdout.splitlines()
    assert verdict == "Signature Verified Successfully"
    assert json.loads(said) == opened(public_key, text)


@NEEDS_OPENSSL
def test_openssl_alone_sees_a_file_that_was_changed(tmp_path, shop):
    inside = wrapper(file_for(shop, shop.sale()))
    said = base64.b64decode(inside["enc"]).replace(b"hw1", b"hw2")
    done = by_openssl(tmp_path, shop, armoured({**inside, "enc": base64.b64encode(said).decode()}))
    assert (done.returncode != 0, "Verified Successfully" in done.stdout) == (True, False)
