"""The Python kit passes the vectors that all kits share; its own Ed25519 refuses what a careless one believes."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import sys
import types
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import keyledger_client as kit
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FOLDER = Path(__file__).parents[2] / "client" / "vectors"


def told(name: str) -> dict[str, Any]:
    return dict(json.loads((FOLDER / name).read_text()))


def keys_of(vectors: dict[str, Any]) -> dict[str, bytes]:
    return kit._keys_of(vectors["public_keys"].values())


def time_of(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


ANSWERS, FILES = told("signed_answers.json"), told("license_files.json")
SIGNATURES = told("ed25519.json")["cases"]


def named(case: dict[str, Any]) -> str:
    return str(case.get("name") or case.get("about") or case.get("typed"))


def test_the_keys_are_named_as_the_server_names_them():
    assert set(keys_of(ANSWERS)) == set(ANSWERS["public_keys"])


@pytest.mark.parametrize("case", ANSWERS["cases"], ids=named)
def test_answers(case):
    given = case["request"]
    is_about_device = not given["path"].endswith("/deactivate")
    asked = kit.Asked(
        path=given["path"],
        license_key=given["license_key"],
        nonce=given["nonce"],
        machine=given["hardware_id"] if is_about_device else None,
        product=given["product"] if is_about_device else None,
        method=given["method"],
    )
    body = case["answer"]["body"].encode()
    answer = kit.Answer(case["answer"]["status"], [tuple(pair) for pair in case["answer"]["headers"]], body)
    if case["expect"] == "BELIEVED":
        heard = kit.believe(asked, answer, keys_of(ANSWERS))
        assert (heard.said["code"], heard.valid) == (case["code"], case["valid"])
        assert (abs(time_of(case["now"]) - heard.at) > kit.CLOCK_MAY_DIFFER) is case["clock_off"]
    else:
        with pytest.raises(kit.NotBelieved) as refused:
            kit.believe(asked, answer, keys_of(ANSWERS))
        assert refused.value.why == case["expect"]


def judged(case: dict[str, Any]) -> tuple[str, Any]:
    try:
        file = kit.read_file(case["file"], keys_of(FILES), case["product"], case["hardware_id"], case["license_key"])
    except kit.NotBelieved as refused:
        return refused.why, None
    return file.why_not(time_of(case["now"])) or "GOOD", file.says


@pytest.mark.parametrize("case", FILES["cases"], ids=named)
def test_license_files(case):
    why, says = judged(case)
    assert why == case["expect"]
    if why == "GOOD":
        assert says == case["says"]


@pytest.mark.parametrize("case", told("key_spellings.json")["cases"], ids=named)
def test_spellings_of_keys(case):
    assert sorted(kit.license_ids(case["typed"], case["key_prefix"] or "")) == sorted(case["license_ids"])


@pytest.mark.parametrize("case", told("device_codes.json")["good"], ids=named)
def test_device_codes(case):
    assert kit.make_device_code(case["hardware_id"], case["device_name"], case["product"]) == case["code"]


# ------------------------------------------------------------------------------------------------ Ed25519
@pytest.fixture(params=["cryptography", "none"])
def library(request, monkeypatch):
    """With the package, and without it."""
    if request.param == "none":
        monkeypatch.setattr(kit, "_verify", kit.verify_without_library)
    return request.param


@pytest.mark.parametrize("case", SIGNATURES, ids=named)
def test_signatures(library, case):
    given = [bytes.fromhex(case[name]) for name in ("public_key", "message", "signature")]
    assert kit.verify_ed25519(*given) is case["valid"]


def spelled(y: int, sign: int = 0) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


SMALL_POINTS = [spelled(y, sign) for y in sorted(kit.SMALL) for sign in (0, 1)]
OTHER_SPELLINGS = [spelled(kit.P + y, sign) for y in (0, 1) for sign in (0, 1)]


def test_the_small_points_are_small():
    """Eight times each is the neutral one; and they are all: the curve has eight such points."""
    points = [point for encoded in SMALL_POINTS if (point := kit._decoded(encoded))]
    for point in points:
        for _ in range(3):
            point = kit._doubled(point)
        assert kit._encoded(point) == spelled(1)
    assert len({kit._encoded(point) for point in points}) == 8


@pytest.mark.parametrize("point", SMALL_POINTS + OTHER_SPELLINGS, ids=lambda point: point.hex()[:8] + point.hex()[-4:])
def test_a_key_whose_multiples_are_few_signs_nothing(library, point):
    """With it S = 0 and a small R fit every eighth message or so, and with the neutral point each one."""
    texts = [bytes([number]) for number in range(16)]
    assert not any(kit.verify_ed25519(point, text, r + bytes(32)) for text in texts for r in SMALL_POINTS)
    with pytest.raises(ValueError, match="public_key"):
        kit.LicenseClient("https://x.example", "wave", base64.b64encode(point).decode(), "unused")


def test_a_careless_reader_would_believe_it():
    """So the guard is what refuses them, not chance."""
    neutral = spelled(1)
    assert kit.verify_without_library(neutral, b"anything", neutral + bytes(32))


def test_the_number_of_a_signature_has_one_spelling(library):
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public, signature = private.public_key().public_bytes_raw(), private.sign(b"text")
    number = int.from_bytes(signature[32:], "little")
    turned = [signature[:32] + (number + turn * kit.ORDER).to_bytes(32, "little") for turn in range(8)]
    assert [kit.verify_ed25519(public, b"text", one) for one in turned] == [True] + [False] * 7


def test_both_ways_agree_on_any_signature():
    for number in range(40):
        private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(bytes([number])).digest())
        public, text = private.public_key().public_bytes_raw(), bytes(range(number))
        signature = bytearray(private.sign(text))
        assert kit.verify_without_library(public, text, bytes(signature))
        signature[number] ^= 1 << number % 8
        assert not kit.verify_without_library(public, text, bytes(signature))
        assert not kit._verify_with_library(public, text, bytes(signature))


@pytest.mark.parametrize("length", [0, 31, 33, 63, 65, 1000])
def test_wrong_lengths_are_refused(library, length):
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public, signature = private.public_key().public_bytes_raw(), private.sign(b"")
    assert not kit.verify_ed25519(public, b"", (signature * 16)[:length])
    assert not kit.verify_ed25519((public * 40)[:length], b"", signature)


# ------------------------------------------------------------------------------------------------ what is given
@pytest.mark.parametrize("server", [
    "", "licenses.example.com", "ftp://licenses.example.com", "http://licenses.example.com", "https://",
    "http://127.0.0.1.example.com", "https://ann:pw@licenses.example.com", "https://x.example/?a=b", "https://x.example/#a",
    "https://x.example:port", "https://x.example:99999", "https://x .example", "https://[::1", "https://x.example\\@y.example",
])  # fmt: skip
def test_an_address_that_makes_no_sense_is_a_mistake_of_the_program(server):
    with pytest.raises(ValueError, match="server: "):
        kit.address_of(server)


@pytest.mark.parametrize(("server", "base"), [
    ("https://licenses.example.com", "https://licenses.example.com"),
    ("https://licenses.example.com:443/shop/", "https://licenses.example.com/shop"),
    ("https://licenses.example.com:8443", "https://licenses.example.com:8443"),
    ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
    ("http://localhost:8000", "http://localhost:8000"),
    ("http://[::1]:8000", "http://[::1]:8000"),
])  # fmt: skip
def test_an_address(server, base):
    assert kit.address_of(server).base == base


@pytest.mark.parametrize("key", ["", "abc", base64.b64encode(bytes(31)).decode(), "-----BEGIN PUBLIC KEY-----", []])
def test_a_public_key_that_is_none_is_a_mistake_of_the_program(key):
    with pytest.raises(ValueError, match="public_key"):
        kit.LicenseClient("https://x.example", "wave", key, "unused")


@pytest.mark.parametrize(("told", "seconds"), [
    ("30", 30), ("0", 0), ("86400", 3600), ("-1", None), ("soon", None), ("", None), ("1e9", None),
    ("Thu, 01 Jan 1970 00:00:00 GMT", 0), ("Thu, 01 Jan 2099 00:00:00 GMT", 3600),
])  # fmt: skip
def test_a_pause_that_nobody_signed_is_an_hour_at_most(told, seconds):
    assert kit._pause_in(told) == seconds


def test_a_moment_is_written_so_that_texts_are_in_its_order():
    moments = [datetime(1999, 1, 1, tzinfo=UTC) + timedelta(days=97 * number) for number in range(200)]
    assert sorted(map(kit._written, moments)) == [kit._written(moment) for moment in moments]


class Panic(BaseException):
    """As Rust's panics come out of PyO3: no Exception."""


class Broken(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Panic(name)


GOOD_OR_NOT = [*filter(lambda case: case["valid"], SIGNATURES), *filter(lambda case: not case["valid"], SIGNATURES)]


def agree(loaded: Any) -> None:
    for case in (GOOD_OR_NOT[0], GOOD_OR_NOT[-1]):
        given = [bytes.fromhex(case[name]) for name in ("public_key", "message", "signature")]
        assert loaded.verify_ed25519(*given) is case["valid"]


def test_a_damaged_installation_of_cryptography_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", Broken("cryptography.exceptions"))
    spec = importlib.util.spec_from_file_location("kit_beside_damage", kit.__file__)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, loaded)
    spec.loader.exec_module(loaded)
    assert loaded._verify is loaded.verify_without_library
    agree(loaded)


@pytest.mark.parametrize("problem", [UnsupportedAlgorithm("ed25519 is not supported"), Panic()])
def test_a_cryptography_that_may_not_do_ed25519_is_not_asked(monkeypatch, problem):
    """As under FIPS."""

    class Forbidden:
        @staticmethod
        def from_public_bytes(_: bytes) -> Any:
            raise problem

    monkeypatch.setattr(kit, "Ed25519PublicKey", Forbidden)
    assert kit._verify is kit._verify_with_library
    agree(kit)
