"""Signed answers: what an app that has the public key alone can check, and what nobody can change."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from server.web import signatures
from tests.conftest import Shop, sale_ping
from tests.signed_answers import NONCE, OTHER_SEED, SEED, Exchange, Forged, believe, public_keys, signature_base, verify

ROOT = Path(__file__).parents[2]
ROUTES = ["validate", "activate", "deactivate", "file"]
SIGNED = {"Content-Digest", "Signature-Input", "Signature"}


@pytest.fixture
def shop(tmp_path, clock):
    return Shop(tmp_path / "data", clock, signing_key=(SEED,))


@pytest.fixture
def keys(shop):
    return public_keys(shop.client.get("/api/v1/licenses/public-key").json)


def asked(shop: Shop, route: str, nonce: str | None = NONCE, path: str | None = None, **body) -> Exchange:
    path = path or f"/api/v1/licenses/{route}"
    body = {"license_key": "NO-SUCH-KEY", "hardware_id": "hw1", "nonce": nonce} | body
    answered = shop.client.post(path, json={name: value for name, value in body.items() if value is not None})
    return Exchange("POST", path, nonce or "", answered.status_code, dict(answered.headers), answered.data)


def test_the_base_is_the_one_of_the_rfc():
    """Appendix B.2.6, so that what checks our signatures here is not made to fit them."""
    values = {
        '"date"': "Tue, 20 Apr 2021 02:07:55 GMT",
        '"@method"': "POST",
        '"@path"': "/foo",
        '"@authority"': "example.com",
        '"content-type"': "application/json",
        '"content-length"': "18",
    }
    params = f'({" ".join(values)});created=1618884473;keyid="test-key-ed25519"'
    key = base64.b64decode("JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=")
    signature = "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
    verify(key, signature_base(list(values), values, params), base64.b64decode(signature))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("is_sold", [True, False])
def test_an_answer_to_a_nonce_is_signed_whatever_the_verdict(shop, keys, route, is_sold):
    seen = asked(shop, route, license_key=shop.sale() if is_sold else "NO-SUCH-KEY")
    told = believe(keys, seen)
    assert (told["valid"], told["nonce"]) == (is_sold, NONCE)


def test_the_headers_are_as_they_are_promised(shop, keys):
    seen = asked(shop, "validate")
    (kid,) = keys
    assert seen.headers["Content-Digest"].startswith("sha-256=:")
    assert seen.headers["Signature-Input"] == (
        'sig1=("@status" "content-digest" "@method";req "@path";req)'
        f';created={int(shop.clock.now.timestamp())};keyid="{kid}";alg="ed25519"'
    )


@pytest.mark.parametrize("nonce", [None, ""])
@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_without_a_nonce_is_not_signed(shop, route, nonce):
    assert not SIGNED & set(asked(shop, route, nonce, license_key=shop.sale()).headers)


def test_what_says_nothing_about_a_license_is_not_signed(shop):
    assert not SIGNED & set(asked(shop, "validate", license_key="").headers)


CHANGES = {
    "a byte of the body": lambda seen: replace(seen, body=seen.body.replace(b'"valid":false', b'"valid":true ')),
    "the status": lambda seen: replace(seen, status=201),
    "the path": lambda seen: replace(seen, path="/api/v1/licenses/activate"),
    "the method": lambda seen: replace(seen, method="PUT"),
    "an older answer": lambda seen: replace(seen, nonce="another-one"),
    "the time": lambda seen: seen.with_header("Signature-Input", "created=1", "created=2"),
    "what is covered": lambda seen: seen.with_header("Signature-Input", ' "content-digest"', ""),
    "their order": lambda seen: seen.with_header(
        "Signature-Input", '"@status" "content-digest"', '"content-digest" "@status"'
    ),
    "without a signature": lambda seen: replace(seen, headers={}),
    "a byte of the signature": lambda seen: seen.with_header("Signature", "==:", "=="[::-1] + ";"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_of_it_can_be_changed(shop, keys, change):
    seen = asked(shop, "validate")
    believe(keys, seen)
    with pytest.raises(Forged):
        believe(keys, CHANGES[change](seen))


def test_the_body_cannot_be_changed_with_its_digest(shop, keys):
    seen = asked(shop, "validate")
    body = seen.body.replace(b'"valid":false', b'"valid":true ')
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    told = {**seen.headers, "Content-Digest": f"sha-256=:{digest}:"}
    with pytest.raises(Forged, match="does not fit"):
        believe(keys, replace(seen, body=body, headers=told))


@pytest.mark.parametrize("bit", range(0, 512, 37))
def test_no_bit_of_the_signature_can_be_changed(shop, keys, bit):
    seen = asked(shop, "validate")
    raw = bytearray(base64.b64decode(seen.headers["Signature"].removeprefix("sig1=:").removesuffix(":")))
    raw[bit // 8] ^= 1 << bit % 8
    told = {**seen.headers, "Signature": f"sig1=:{base64.b64encode(raw).decode()}:"}
    with pytest.raises(Forged, match="does not fit"):
        believe(keys, replace(seen, headers=told))


def test_another_servers_key_is_not_ours(tmp_path, clock, shop, keys):
    seen = asked(Shop(tmp_path / "other", clock, signing_key=(OTHER_SEED,)), "validate")
    with pytest.raises(Forged, match="not a key of ours"):
        believe(keys, seen)
    (ours,), theirs = keys, seen.headers["Signature-Input"].partition('keyid="')[2][:16]
    with pytest.raises(Forged, match="does not fit"):
        believe(keys, seen.with_header("Signature-Input", theirs, ours))


@pytest.mark.parametrize(
    "left_out", ['"@status": 200\n', '"content-digest": ', '"@method";req: POST\n', '"@path";req: ']
)
def test_mutant_a_component_that_is_named_but_not_signed_is_noticed(shop, keys, monkeypatch, left_out):
    base = signatures._base
    monkeypatch.setattr(signatures, "_base", lambda *given: base(*given).replace(left_out, ""))
    with pytest.raises(Forged, match="does not fit"):
        believe(keys, asked(shop, "validate"))


@pytest.mark.parametrize(
    "path", ["/api/v1/licenses/validate/", "/api/v1/licenses/v%61lidate", "/api/v1/licenses/validate"]
)
@pytest.mark.parametrize("query", ["", "?x=1"])
def test_the_path_is_signed_as_it_was_sent(shop, keys, path, query):
    seen = asked(shop, "validate", path=path + query)
    believe(keys, replace(seen, path=path))


def test_below_a_folder_the_whole_path_is_signed(shop, keys):
    """Where no server tells the path as it was sent, as WSGI itself does not."""
    body = json.dumps({"license_key": "NO-SUCH-KEY", "nonce": NONCE}).encode()
    answered = shop.client.post(
        "/api/v1/licenses/validate",
        data=body,
        environ_overrides={"SCRIPT_NAME": "/kéy".encode().decode("latin-1"), "RAW_URI": "", "REQUEST_URI": ""},
    )
    path = quote("/kéy/api/v1/licenses/validate")
    believe(keys, Exchange("POST", path, NONCE, answered.status_code, dict(answered.headers), answered.data))


def test_who_asks_without_a_nonce_does_not_pay_for_signatures(shop):
    """Neither time nor memory: the library is loaded with the first signature."""
    code = (
        "import sys, tests.conftest as t; from pathlib import Path; from server.web.app import make_app; "
        "from server.wiring import build; "
        f"ask = make_app(build(t.settings_for(Path(sys.argv[1]), signing_key=({SEED!r},)))).test_client().post; "
        "body = {'license_key': 'NO-SUCH-KEY', 'nonce': sys.argv[2]}; "
        "assert ask('/api/v1/licenses/validate', json=body).status_code == 200; print('cryptography' in sys.modules)"
    )
    for nonce, is_loaded in (("", "False"), (NONCE, "True")):
        told = subprocess.check_output([sys.executable, "-c", code, shop.folder, nonce], cwd=ROOT, text=True)
        assert told.splitlines()[-1] == is_loaded


def test_without_a_key_nothing_is_signed_and_all_else_goes_on(tmp_path, clock):
    shop = Shop(tmp_path / "data", clock)
    key = shop.sale()
    seen = asked(shop, "validate", license_key=key)
    assert (seen.status, json.loads(seen.body)["nonce"], SIGNED & set(seen.headers)) == (200, NONCE, set())
    assert shop.client.get("/api/v1/licenses/public-key").json == {"keys": []}
    refused = shop.client.post("/api/v1/licenses/file", json={"license_key": key, "hardware_id": "hw2"})
    assert (refused.status_code, refused.json["errors"][0]["code"]) == (404, "SIGNING_NOT_CONFIGURED")
    assert shop.licenses()[key]["hardware_id"] == "hw1"  # no seat was taken for a file that nobody got


def test_the_public_key_is_told_in_two_forms(shop):
    answered = shop.client.get("/api/v1/licenses/public-key")
    (key,) = answered.json["keys"]
    assert (key.keys(), key["alg"]) == ({"kid", "alg", "public_key", "pem"}, "Ed25519")
    raw = base64.b64decode(key["public_key"])
    assert raw == load_pem_public_key(key["pem"].encode()).public_bytes_raw()
    assert key["kid"] == hashlib.sha256(raw).hexdigest()[:16]
    assert answered.headers["Cache-Control"] == "public, max-age=300"
    assert (
        shop.client.get("/api/v1/licenses/public-key", headers={"If-None-Match": answered.headers["ETag"]}).data == b""
    )


def test_of_several_keys_the_first_one_signs_and_all_are_told(tmp_path, clock, shop, keys):
    both = Shop(tmp_path / "both", clock, signing_key=(OTHER_SEED, SEED, OTHER_SEED))
    told = public_keys(both.client.get("/api/v1/licenses/public-key").json)
    assert (len(told), set(keys) < set(told)) == (2, True)
    seen = asked(both, "validate")
    believe(told, seen)
    with pytest.raises(Forged):
        believe(keys, seen)
    believe(told, asked(shop, "validate"))  # what the old one signed is still believed


def test_a_browser_of_another_origin_may_read_the_signature(tmp_path, clock):
    shop = Shop(tmp_path / "data", clock, allowed_origins=("https://app.example",))
    answered = shop.client.get("/api/v1/licenses/public-key", headers={"Origin": "https://app.example"})
    assert set(answered.headers["Access-Control-Expose-Headers"].split(", ")) >= SIGNED


def test_a_signed_answer_names_no_customer(shop, keys):
    key = shop.sale(email="ann@example.com", full_name="Ann Lee")
    for route in ROUTES:
        assert "ann" not in json.dumps(believe(keys, asked(shop, route, license_key=key))["license"]).lower()


def test_a_refused_license_is_told_so_signed(shop, keys):
    key = shop.sale()
    shop.ping(sale_ping("s1", "ann@example.com", resource="refund", refunded="true"))
    assert believe(keys, asked(shop, "validate", license_key=key))["code"] == "SUSPENDED"
