"""Device codes: what is written and read, by the vectors that the apps share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.domain.device_code import DeviceCode, read
from server.errors import BadRequest
from tests import device_codes

FILE = Path(__file__).parents[2] / "client" / "vectors" / "device_codes.json"
VECTORS = json.loads(FILE.read_text())


def test_the_vectors_are_what_their_description_says():
    """To make them anew: python -m tests.domain.test_device_code"""
    assert device_codes.vectors() == VECTORS
    assert (len(VECTORS["good"]), len(VECTORS["also_read"]), len(VECTORS["bad"])) == (5, 14, 25)


@pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda v: v["about"])
def test_what_is_written_is_read(vector):
    told = DeviceCode(hardware_id=vector["hardware_id"], device_name=vector["device_name"], product=vector["product"])
    assert read(vector["code"]) == told


@pytest.mark.parametrize("vector", VECTORS["also_read"], ids=lambda v: v["about"])
def test_what_mail_did_to_it_is_read(vector):
    told = DeviceCode(hardware_id=vector["hardware_id"], device_name=vector["device_name"], product=vector["product"])
    assert read(vector["text"]) == told


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda v: v["about"])
def test_what_is_no_code_is_refused_by_the_fields_name(vector):
    with pytest.raises(BadRequest, match=r"^device_code: "):
        read(vector["text"])


def test_each_single_letter_that_changes_is_noticed():
    """What a customer types from a screen: one letter of the base64 replaced, at every place."""
    lines = device_codes.device_code("0f1e2d3c4b5a69788796a5b4c3d2e1f0", "Studio PC", "imagewave").splitlines()
    body = "".join(lines[1:-1])
    for place, letter in enumerate(body.rstrip("=")):
        other = "B" if letter == "A" else "A"
        text = "\n".join([lines[0], body[:place] + other + body[place + 1 :], lines[-1]])
        with pytest.raises(BadRequest):
            read(text)


if __name__ == "__main__":
    FILE.write_text(json.dumps(device_codes.vectors(), indent=1, ensure_ascii=False) + "\n")
