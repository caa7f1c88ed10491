"""The vectors of `client/` are what the server's own code makes today, and each says what it claims to say."""

from __future__ import annotations

import base64
import json

import pytest

from tests.client.make_vectors import FOLDER, all_vectors
from tests.license_files import opened
from tests.signed_answers import Exchange, Forged, believe


@pytest.fixture(scope="module")
def made():
    return all_vectors()


def cases(name):
    return json.loads((FOLDER / name).read_text())["cases"]


MADE = ["signed_answers.json", "license_files.json", "ed25519.json", "key_spellings.json", "stories.json"]


@pytest.mark.parametrize("name", MADE)
def test_the_vectors_are_what_the_server_makes(made, name):
    """If this fails, the server's answers have changed and apps in the field may not read them any more. If that is
    meant: `.venv/bin/python -m tests.client.make_vectors`."""
    assert (FOLDER / name).read_text() == made[name]


@pytest.mark.parametrize("name", ["signed_answers.json", "license_files.json", "ed25519.json", "stories.json"])
def test_no_case_has_the_name_of_another(name):
    names = [case["name"] for case in cases(name)]
    assert len(names) == len(set(names))


def test_every_result_has_a_case():
    assert {case["expect"] for case in cases("signed_answers.json")} == set(
        "BELIEVED NO_VERDICT UNSIGNED UNREADABLE UNKNOWN_KEY OTHER_BODY BAD_SIGNATURE OTHER_REQUEST OTHER_LICENSE"
        " OTHER_DEVICE OTHER_PRODUCT".split()
    )
    assert {case["expect"] for case in cases("license_files.json")} == set(
        "GOOD EXPIRED NOT_YET OTHER_DEVICE OTHER_PRODUCT OTHER_LICENSE UNREADABLE UNKNOWN_FORMAT UNKNOWN_KEY"
        " BAD_SIGNATURE".split()
    )
    assert {case.get("code") for case in cases("signed_answers.json")} - {None} == set(
        "VALID NOT_FOUND BANNED SUSPENDED EXPIRED PRODUCT_SCOPE_MISMATCH USER_SCOPE_MISMATCH ENTITLEMENTS_MISSING"
        " TOO_MANY_MACHINES FINGERPRINT_SCOPE_MISMATCH".split()
    )


def test_another_reader_comes_to_the_same():
    """That of our own tests: it knows RFC 9421 and the nonce, and nothing of what the answer should be about."""
    told = json.loads((FOLDER / "signed_answers.json").read_text())
    keys = {kid: base64.b64decode(key) for kid, key in told["public_keys"].items()}
    for case in told["cases"]:
        asked, answered = case["request"], case["answer"]
        body, headers = answered["body"].encode(), dict(answered["headers"])
        seen = Exchange(asked["method"], asked["path"], asked["nonce"], answered["status"], headers, body)
        if case["expect"] in ("BELIEVED", "OTHER_LICENSE", "OTHER_DEVICE", "OTHER_PRODUCT"):
            believe(keys, seen)
        elif case["expect"] in ("UNSIGNED", "UNKNOWN_KEY", "OTHER_BODY", "BAD_SIGNATURE", "OTHER_REQUEST"):
            with pytest.raises(Forged):
                believe(keys, seen)


def test_another_reader_opens_the_same_files():
    """What is well signed says what the vector says; what is not, it does not open either."""
    told = json.loads((FOLDER / "license_files.json").read_text())
    (key,) = (base64.b64decode(key) for key in told["public_keys"].values())
    plain = [
        case for case in told["cases"] if case["file"].startswith("-----BEGIN") and case["file"].endswith("-----\n")
    ]
    for case in plain:
        if case["expect"] == "GOOD" and "\r" not in case["file"]:
            assert opened(key, case["file"]) == case["says"]
        elif case["expect"] == "BAD_SIGNATURE":
            with pytest.raises(Forged):
                opened(key, case["file"])
    assert len(plain) > 40
