"""PROTOCOL.md suffices: its commands, run as they stand by a shell and openssl, come to what the vectors say."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CLIENT = Path(__file__).parents[2] / "client"
ANSWER, FILE = re.findall(r"^```sh\n(.*?)^```", (CLIENT / "PROTOCOL.md").read_text(), re.MULTILINE | re.DOTALL)
# What the few commands look at; the rest (another key, device or product, a clock, odd spellings) needs a program.
IS_SEEN = {
    "BELIEVED": True,
    "NO_VERDICT": False,
    "UNSIGNED": False,
    "OTHER_BODY": False,
    "BAD_SIGNATURE": False,
    "OTHER_REQUEST": False,
    "GOOD": True,
}

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl on this machine")


MOST = pytest.mark.parametrize("most", [4, pytest.param(1000, marks=pytest.mark.slow)])


def cases(name: str, most: int) -> Iterator[dict[str, Any]]:
    """So many for each result."""
    told = json.loads((CLIENT / "vectors" / name).read_text())["cases"]
    for result in IS_SEEN:
        yield from [case for case in told if case["expect"] == result][:most]


@pytest.fixture
def folder(tmp_path):
    (key,) = json.loads((CLIENT / "vectors" / "license_files.json").read_text())["public_keys"].values()
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key))
    (tmp_path / "public.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return tmp_path


def shell(script: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", script]
    return subprocess.run(command, cwd=folder, env=env | {"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)


@MOST
def test_answers(folder, most):
    for case in cases("signed_answers.json", most):
        asked, answered = case["request"], case["answer"]
        headers = "".join(f"{name}: {value}\r\n" for name, value in answered["headers"])
        (folder / "headers.txt").write_text(f"HTTP/1.1 {answered['status']} OK\r\n{headers}\r\n", newline="")
        (folder / "body.json").write_bytes(answered["body"].encode())
        known = {name: asked[name] for name in ("method", "path", "nonce")}
        told = shell(ANSWER, folder, status=str(answered["status"]), **known)
        assert (told.returncode == 0) is IS_SEEN[case["expect"]], (case["name"], told.stdout, told.stderr)


@MOST
def test_license_files(folder, most):
    for case in cases("license_files.json", most):
        (folder / "license.lic").write_bytes(case["file"].encode())
        told = shell(FILE, folder)
        assert (told.returncode == 0) is IS_SEEN[case["expect"]], (case["name"], told.stdout, told.stderr)
        if case["expect"] == "GOOD":
            assert json.loads(told.stdout.partition("Signature Verified Successfully\n")[2]) == case["says"]
