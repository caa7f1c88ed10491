"""What a careful developer writes: Flask with sqlite3, write-ahead log, every commit synced."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from pathlib import Path

from flask import Flask, jsonify, request

SCHEMA = """
create table licenses (
    key text primary key, sale_id text unique, email text, active integer not null default 1, created text
) without rowid;
create table devices (key text, hardware_id text, primary key (key, hardware_id)) without rowid;
create table purchases (seq integer primary key, event_id text unique, body text not null);
"""


def connected(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "licenses.db", isolation_level=None, timeout=5)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    return connection


def fill(folder: Path, licenses: list[tuple[str, str]]) -> None:
    connection = connected(folder)
    connection.executescript(SCHEMA)
    connection.execute("begin")
    connection.executemany(
        "insert into licenses (key, sale_id, email) values (?, ?, '')", [(k, k) for k, _ in licenses]
    )
    connection.executemany("insert into devices values (?, ?)", licenses)
    connection.execute("commit")
    connection.close()


def app() -> Flask:
    made = Flask("flask_sqlite")
    database = connected(Path(os.environ["PEER_FOLDER"]))

    @made.get("/health")
    def health():
        return "ok"

    @made.post("/validate")
    def validate():
        asked = request.get_json()
        found = database.execute(
            "select active, email, created from licenses join devices using (key) where key = ? and hardware_id = ?",
            (asked["license_key"], asked["hardware_id"]),
        ).fetchone()
        return jsonify(
            valid=bool(found and found[0]), license={"email": found[1], "created": found[2]} if found else None
        )

    @made.post("/sale")
    def sale():
        told = request.get_json()
        key = hashlib.sha256(told["sale_id"].encode()).hexdigest()[:30]
        database.execute("begin immediate")
        database.execute(
            "insert into purchases (event_id, body) values (?, ?) on conflict do nothing",
            (told["sale_id"], json.dumps(told)),
        )
        database.execute(
            "insert into licenses (key, sale_id, email) values (?, ?, ?) on conflict do nothing",
            (key, told["sale_id"], told["email"]),
        )
        database.execute("commit")
        return jsonify(received=True, outcome="issued", license_keys=[key])

    return made
