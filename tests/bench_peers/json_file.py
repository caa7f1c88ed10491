"""What many begin with: all licenses in one JSON file, read at each request and rewritten under a lock by each sale."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flask import Flask, jsonify, request


def fill(folder: Path, licenses: list[tuple[str, str]]) -> None:
    records = {key: {"sale_id": key, "email": "", "active": True, "devices": [device]} for key, device in licenses}
    (folder / "licenses.json").write_text(json.dumps(records))


def app() -> Flask:
    made = Flask("json_file")
    path = Path(os.environ["PEER_FOLDER"]) / "licenses.json"

    @made.get("/health")
    def health():
        return "ok"

    @made.post("/validate")
    def validate():
        asked = request.get_json()
        record = json.loads(path.read_bytes()).get(asked["license_key"])
        valid = bool(record and record["active"] and asked["hardware_id"] in record["devices"])
        return jsonify(valid=valid, license=record)

    @made.post("/sale")
    def sale():
        told = request.get_json()
        key = hashlib.sha256(told["sale_id"].encode()).hexdigest()[:30]
        with locked(path.with_suffix(".lock")):
            records = json.loads(path.read_bytes())
            records.setdefault(key, {"sale_id": told["sale_id"], "email": told["email"], "active": True, "devices": []})
            rewrite(path, json.dumps(records).encode())
        return jsonify(received=True, outcome="issued", license_keys=[key])

    return made


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def rewrite(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(".tmp")
    with open(fresh, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
