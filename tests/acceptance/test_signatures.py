"""Signed answers as they leave gunicorn, believed by a reader of our own and by another maker's library."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from http_message_signatures import HTTPMessageVerifier, InvalidSignature, MappingKeyResolver
from http_message_signatures.algorithms import ED25519

from tests.acceptance.servers import Server
from tests.license_files import opened
from tests.signed_answers import NONCE, SEED, Exchange, believe, public_keys

PATH = "/api/v1/licenses/"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "data", workers=2, SIGNING_KEY=base64.b64encode(SEED).decode()).start()
    yield running
    running.stop()


def test_what_gunicorn_sends_is_believed(server):
    answered = server.get(f"{PATH}public-key").json
    keys, key = public_keys(answered), server.sale("s1")
    body = {"license_key": key, "hardware_id": "hw1", "nonce": NONCE}
    for route in ("validate", "activate", "file", "deactivate"):
        told = server.post(PATH + route, body)
        seen = Exchange("POST", PATH + route, NONCE, told.status, told.headers, told.body)
        assert believe(keys, seen)["valid"] is True
        by_library(answered, seen)
        with pytest.raises(InvalidSignature):
            by_library(answered, Exchange("POST", f"{PATH}other", NONCE, told.status, told.headers, told.body))
        with pytest.raises(InvalidSignature):
            by_library(answered, Exchange("POST", PATH + route, NONCE, told.status, told.headers, told.body + b" "))
        if route == "file":
            (public,) = keys.values()
            assert opened(public, told.json["license_file"])["hardware_id"] == "hw1"


def by_library(answered, seen: Exchange) -> None:
    """As an app does that uses it: the request is what it has sent itself."""
    keys = {key["kid"]: key["pem"].encode() for key in answered["keys"]}
    resolver = MappingKeyResolver(public_keys=keys, private_keys={})
    request = SimpleNamespace(method=seen.method, url=f"http://127.0.0.1{seen.path}", headers={})
    message = SimpleNamespace(status_code=seen.status, headers=seen.headers, request=request)
    needed = ("@status", "content-digest", '"@method";req', '"@path";req')
    HTTPMessageVerifier(signature_algorithm=ED25519, key_resolver=resolver).verify(
        message, require_components=needed, body=seen.body
    )
