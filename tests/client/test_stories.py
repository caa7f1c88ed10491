"""The stories of `client/vectors/stories.json`, as the Python client tells them. The other clients tell the same."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import keyledger_client as kit
import pytest

from server.domain.keys import license_id
from tests.client.answer_vectors import signed_answer
from tests.client.between import HTML, Between, Request, Told
from tests.client.computers import Windows
from tests.client.make_vectors import FOLDER
from tests.client.story_vectors import KEY, brought
from tests.client.till import OTHERS, OURS, Answered, compact, rfc3339

TOLD = json.loads((FOLDER / "stories.json").read_text())
(PUBLIC,) = TOLD["public_keys"].values()


class StandIn:
    """The server of a story: it does as the step says."""

    def __init__(self) -> None:
        self.step: dict[str, Any] = {}
        self.earlier: dict[str, Told] = {}

    def __call__(self, request: Request) -> Told:
        mode = self.step["server"]
        if mode == "silent":
            return 500, [], b""
        if mode == "page":
            return 200, HTML, b"<!doctype html><title>Welcome to our hotel</title>"
        if mode == "redirect":
            return 302, [("Location", "/sign-in")], b""
        if mode == "replayed" and self.earlier:
            return self.earlier.get(request.verb) or next(iter(self.earlier.values()))
        return self._answered(request, mode)

    def _answered(self, request: Request, mode: str) -> Told:
        now = datetime.fromisoformat(self.step["at"])
        asked = request.body
        code = mode if mode.isupper() else "VALID"
        body = compact(self._verdict(request.verb, asked, code, now))
        seen = Answered(request.path, asked["license_key"], asked["nonce"], 200, (), body)
        told = signed_answer(seen, OTHERS if mode == "forged" else OURS, now=now)
        raw = body.replace('"pro"', '"ace"').encode() if mode == "altered" else body.encode()
        answer = 200, [] if mode == "unsigned" else list(told.headers), raw
        self.earlier.setdefault(request.verb, answer)
        return answer

    def _verdict(self, verb: str, asked: dict[str, Any], code: str, now: datetime) -> dict[str, Any]:
        key, hardware_id, is_valid = asked["license_key"], asked["hardware_id"], code == "VALID"
        exact = KEY if kit.license_ids(key) & {license_id(KEY)} else key
        product = "team" if code == "PRODUCT_SCOPE_MISMATCH" else "wave"
        license = {"id": license_id(exact), "product_id": product, "product_name": "Wave", "tier": "pro"}
        license |= {"features": ["batch"], "expiry_date": None, "status": "active"}
        verdict = {
            "valid": is_valid,
            "code": code,
            "detail": "as told",
            "license": None if code == "NOT_FOUND" else license,
            "device": {"hardware_id": hardware_id} if is_valid and verb != "deactivate" else None,
            "nonce": asked["nonce"],
            "ts": rfc3339(now),
        }
        if is_valid and verb == "file":
            whose = {"id": license_id(exact), "key_sha256": kit._sha256(exact), "expiry_date": None}
            verdict["license_file"] = brought(now, hardware_id=hardware_id, license=whose)
            verdict |= {"issued": rfc3339(now), "expires": rfc3339(now + timedelta(days=TOLD["offline_days"]))}
        return verdict


@pytest.fixture(scope="module")
def stage():
    server = Between(None)  # type: ignore[arg-type]  # all is said by the stand-in
    yield server
    server.stop()


def done(client: kit.LicenseClient, step: dict[str, Any]) -> kit.Result:
    if step["do"] == "activate":
        return client.activate(step["license_key"])
    if step["do"] == "install":
        return client.install_file(step["file"])
    return getattr(client, step["do"])()


@pytest.mark.parametrize("story", TOLD["cases"], ids=lambda story: story["name"])
def test_story(story, stage, tmp_path, monkeypatch):
    monkeypatch.setattr(kit, "_pause", lambda seconds: None)
    stage.says = told = StandIn()
    computer = Windows()
    for number, step in enumerate(story["steps"], 1):
        told.step = step
        clock = datetime.fromisoformat(step["clock"]).astimezone(UTC)
        options = {"clock": lambda clock=clock: clock, "system": computer, "device_name": "PC", "timeout": 60}
        client = kit.LicenseClient(stage.url, "wave", PUBLIC, tmp_path, **options)
        result = done(client, step)
        end = result.grace_end and rfc3339(result.grace_end)
        said = {"valid": result.valid, "state": result.state, "code": result.code, "grace_end": end}
        assert said == step["expect"], (number, step["do"], result)
