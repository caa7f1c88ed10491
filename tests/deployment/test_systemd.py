"""The units of `deployment/systemd`, by systemd's own checks; what they run is run, with what of their hardening a test
can have without systemd."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.servers import BINARIES, ROOT, Server

UNITS = ROOT / "deployment" / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
PLACE = "/srv/keyledger"
EXPOSED = 20  # of 100, by systemd's own scale
PR_SET_MDWE = 65  # what MemoryDenyWriteExecute asks of newer kernels; older ones know nothing of it

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None and os.environ.get("SYSTEMD_TESTS") != "required",
    reason="no systemd-analyze here",
)


class Unit(configparser.RawConfigParser):
    """Of a setting that is given twice the last one counts here."""

    def __init__(self, name: str) -> None:
        super().__init__(strict=False)
        self.optionxform = str
        self.read(UNITS / name)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As they would be, were this checkout /srv/keyledger."""
    folder = tmp_path_factory.mktemp("units")
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(BINARIES / "python")
    for path in UNITS.iterdir():
        text = path.read_text().replace(f"{PLACE}/.venv/bin", str(folder / "bin")).replace(PLACE, str(ROOT))
        (folder / path.name).write_text(text)
    return folder


@pytest.mark.system
@needs_systemd
@pytest.mark.parametrize("name", [path.name.replace("@.", "@gumroad.") for path in sorted(UNITS.iterdir())])
def test_systemd_understands_every_line(installed, name):
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(installed / name)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.system
@needs_systemd
@pytest.mark.parametrize("name", SERVICES)
def test_systemd_finds_little_exposed(name):
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSED}", str(UNITS / name)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-500:]


def test_the_tasks_are_hardened_as_the_service_is():
    kept = {
        name: {key: value for key, value in Unit(name)["Service"].items() if key not in _OF_ITS_OWN}
        for name in SERVICES
    }
    assert len(kept) == 4
    assert len({json.dumps(settings, sort_keys=True) for settings in kept.values()}) == 1


_OF_ITS_OWN = set(
    "Type ExecStart ExecReload KillMode TimeoutStopSec Restart RestartSec ReadWritePaths WorkingDirectory".split()
)


def command_of(name: str) -> list[str]:
    words = Unit(name)["Service"]["ExecStart"].split()
    assert words[0] == f"{PLACE}/.venv/bin/python"
    return [sys.executable, *words[1:]]


WITHOUT_WRITABLE_CODE = [
    sys.executable,
    "-c",
    f"import ctypes, os, sys; ctypes.CDLL(None).prctl({PR_SET_MDWE}, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])",
]


def test_the_service_says_that_it_is_ready_and_works_with_memory_that_is_never_both_written_and_run(tmp_path):
    """`Type=notify` waits for a datagram; MemoryDenyWriteExecute is a promise about every library that is loaded."""
    command = [*WITHOUT_WRITABLE_CODE, *command_of("keyledger.service")]
    server = Server(tmp_path / "data", command, WEB_CONCURRENCY="2", SIGNING_KEY="A" * 43 + "=")
    server.env["PORT"], server.expected = str(server.port), 2
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        server.env["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        server.start()
        try:
            assert b"READY=1" in systemd.recv(4096)
            key = server.sale("s1")
            told = server.post("/api/v1/licenses/validate", {"license_key": key, "nonce": "n" * 20})
            assert told.headers["Signature"], "cryptography works under it"
        finally:
            server.stop()


def test_the_tasks_run_beside_the_service(tmp_path):
    server = Server(tmp_path / "data", workers=2).start()
    try:
        server.sale("s1")
        for name in ("keyledger-outbox.service", "keyledger-backup.service"):
            done = subprocess.run(
                [*WITHOUT_WRITABLE_CODE, *command_of(name)],
                cwd=ROOT,
                env=server.env,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
        assert server.owner("GET", "/outbox").json["summary"]["sent"] == 1
        assert len(list((tmp_path / "data-backups").glob("keyledger-*.tar.gz"))) == 1
    finally:
        server.stop()


def test_the_nightly_reconciliation_looks_back_sixty_days(tmp_path):
    """Run as systemd would, with `%i` and `%%` as it reads them; without a token the script says what it lacks."""
    words = Unit("keyledger-reconcile@.service")["Service"]["ExecStart"]
    command = words.replace("%%", "%").replace("%i", "gumroad").replace(".venv/bin/python", sys.executable)
    env = Server(tmp_path / "data", workers=1).env
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "GUMROAD_ACCESS_TOKEN" in done.stderr
