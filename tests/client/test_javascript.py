"""The client for Electron and Node, by its own tests in `tests/client/javascript`, alone and with a real server.

`.ci/run` sets NODE_TESTS=required where there is a Node that is new enough: then they fail rather than being skipped.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.servers import Server, free_port
from tests.conftest import OWNER_KEY, sale_ping
from tests.signed_answers import SEED

FOLDER = Path(__file__).parent / "javascript"
KIT = Path(__file__).parents[2] / "client" / "javascript"
OLDEST = 18
IS_REQUIRED = os.environ.get("NODE_TESTS") == "required"


def node_version() -> int:
    if shutil.which("node") is None:
        return 0
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)\.", told)
    return int(found[1]) if found else 0


pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        not IS_REQUIRED and node_version() < OLDEST,
        reason=f"there is no node of version {OLDEST} or newer on this machine",
    ),
]


def run(*files: str, **env: str) -> None:
    command = ["node", "--test", *(str(FOLDER / file) for file in files)]
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"TMPDIR": folder} | env
        told = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
        left = [name for name in os.listdir(folder) if name.startswith("keyledger-")]
    assert told.returncode == 0, told.stdout + told.stderr
    assert left == []
    assert re.search(r"\bpass [1-9]", told.stdout), told.stdout  # that any ran


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "data", workers=1, SIGNING_KEY=base64.b64encode(SEED).decode()).start()
    yield running
    running.stop()


def test_the_vectors_and_three_systems():
    run("vectors.test.mjs", "machine.test.mjs")


def test_servers_networks_disks_and_clocks():
    run("client.test.mjs", "stories.test.mjs", "readme.test.mjs")


def test_with_a_real_server(server):
    sold = [server.sale("s1"), server.sale("s2"), server.sale("s3", product="G-TEAM==", subscription_id="sub")]
    server.ping(sale_ping("s2", "ann@example.com", resource="refund", refunded="true"))
    (key,) = server.get("/api/v1/licenses/public-key").json["keys"]
    told = {"server": f"http://127.0.0.1:{server.port}", "publicKey": key["pem"], "ownerKey": OWNER_KEY, "sold": sold}
    told |= {"nobody": f"http://127.0.0.1:{free_port()}"}
    run("live.mjs", LIVE=json.dumps(told))


def test_every_name_has_a_type():
    """Nobody's compiler runs here: what the module gives and what its types promise are the same names, at least."""
    export = re.compile(r"^export (?:declare )?(?:async )?(?:const|function|class) (\w+)", re.MULTILINE)
    code, types = (export.findall((KIT / f"keyledger-client.{kind}").read_text()) for kind in ("mjs", "d.mts"))
    assert sorted(code) == sorted(types)
