"""A client that is made of /openapi.json alone, by another maker's generator, talks to a real server."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.acceptance.servers import BINARIES, Server
from tests.conftest import OWNER_KEY

NAME = "keyledger_client_of_the_tests"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("asked") / "data", workers=1).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def made(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The generator leaves out what it cannot read, and warns: then this fails."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "openapi.json").write_bytes(server.get("/openapi.json").body)
    (folder / "config.json").write_text(json.dumps({"post_hooks": []}))
    command = [str(BINARIES / "openapi-python-client"), "generate", "--fail-on-warning", "--meta", "none"]
    command += ["--path", "openapi.json", "--config", "config.json", "--output-path", NAME]
    done = subprocess.run(
        command, cwd=folder, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
    sys.path.insert(0, str(folder))
    yield importlib.import_module(NAME)
    sys.path.remove(str(folder))


def of(made: ModuleType, place: str) -> Any:
    return importlib.import_module(f"{made.__name__}.{place}")


@pytest.fixture
def app(made: ModuleType, server: Server) -> Any:
    return made.Client(base_url=f"http://127.0.0.1:{server.port}")


@pytest.fixture
def owner(made: ModuleType, server: Server) -> Any:
    return made.AuthenticatedClient(base_url=f"http://127.0.0.1:{server.port}", token=OWNER_KEY)


def test_it_has_every_route(made, server):
    told = server.get("/openapi.json").json
    names = {one["operationId"] for methods in told["paths"].values() for one in methods.values()}
    folder = Path(str(made.__file__)).parent / "api"
    assert {path.stem for path in folder.rglob("*.py") if path.stem != "__init__"} == {
        name.replace("-", "_").replace(".", "_") for name in names
    }


def test_an_app_validates_and_reads_the_verdict_as_values(made, server, app):
    key = server.sale("validated-by-it")
    validate, models = of(made, "api.desktop_apps.post_api_v1_licenses_validate"), of(made, "models")
    told = validate.sync(client=app, body=models.ValidateRequest(license_key=key, hardware_id="pc-1"))
    assert isinstance(told, models.VerdictAnswer)
    assert (told.valid, told.code, told.activated) == (True, models.Code.VALID, True)
    assert (told.license_.product_name, told.license_.devices_used, told.license_.expiry_date) == ("Wave", 1, None)
    assert isinstance(told.ts, datetime)
    assert told.ts.tzinfo == UTC
    second = validate.sync(client=app, body=models.ValidateRequest(license_key=key, hardware_id="pc-2"))
    assert second.code == models.Code.TOO_MANY_MACHINES


def test_what_is_refused_comes_as_the_described_error(made, app):
    validate, models = of(made, "api.desktop_apps.post_api_v1_licenses_validate"), of(made, "models")
    told = validate.sync_detailed(client=app, body=models.ValidateRequest(license_key="x" * 200))
    assert told.status_code == 400
    assert isinstance(told.parsed, models.Errors)
    assert told.parsed.errors[0].code == "BAD_REQUEST"
    assert "license_key" in told.parsed.errors[0].detail


def test_the_owner_issues_finds_and_revokes(made, owner, server):
    models, room = of(made, "models"), "api.the_owners_api"
    asked = models.IssueRequest(email="bob@example.com", customer_name="Bob", product_id="team", max_devices=3)
    issued = of(made, f"{room}.post_api_v1_licenses").sync(client=owner, body=asked)
    assert isinstance(issued, models.Issued)
    found = of(made, f"{room}.get_api_v1_licenses").sync(client=owner, email="bob@example.com")
    assert [(one.license_key, one.status) for one in found.licenses] == [(issued.license_key, "active")]
    revoked = of(made, f"{room}.post_api_v1_licenses_license_revoke").sync(issued.license_key, client=owner)
    assert revoked.outcome == models.Outcome.REVOKED
    page = of(made, f"{room}.get_api_v1_purchases").sync(client=owner, email="bob@example.com")
    assert [one.event for one in page.purchases] == [models.EventKind.OWNER_REVOKE, models.EventKind.OWNER_ISSUE]
    assert of(made, "api.the_service_itself.get_health").sync(client=owner).status == "ok"


def test_without_the_token_it_is_told_so(made, app):
    stats = of(made, "api.the_owners_api.get_api_v1_stats")
    stranger = made.AuthenticatedClient(base_url=app._base_url, token="wrong")
    told = stats.sync_detailed(client=stranger)
    assert (told.status_code, told.parsed.errors[0].code) == (401, "UNAUTHORIZED")
