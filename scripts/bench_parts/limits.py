"""The limits: bare Flask routes of the same sizes, and bare passes of msgspec over the same files."""

from __future__ import annotations

import json
import os

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flask import Flask, Response, jsonify, request


def bare() -> Flask:
    """The application that gunicorn runs as the limit."""
    app = Flask("bare")
    answer, line = json.loads(os.environ["BENCH_ANSWER"]), b"x" * int(os.environ["BENCH_APPEND"])
    descriptor = os.open(os.environ["BENCH_FILE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    key, base = Ed25519PrivateKey.generate(), b"x" * 300

    @app.post("/")
    def plain() -> Response:
        request.get_json()
        return jsonify(answer)

    @app.post("/append")
    def append() -> Response:
        request.get_json()
        os.write(descriptor, line)
        os.fsync(descriptor)
        return jsonify(answer)

    @app.post("/sign")
    def sign() -> Response:
        request.get_json()
        key.sign(base)
        return jsonify(answer)

    @app.get("/health")
    def health() -> str:
        return "ok"

    return app


LEDGER_PASS = """
import sys, msgspec
line = msgspec.defstruct("Line", [("event", str), ("source", str), ("price", str | None), ("currency", str | None)])
decode = msgspec.json.Decoder(line).decode
with open(sys.argv[1], "rb") as file:
    print(sum(decode(raw).event == "sale" for raw in file))
"""

LICENSES_DECODE = """
import sys, time
from server.domain.license import License
import msgspec
decode = msgspec.json.Decoder(msgspec.defstruct("File", [("licenses", dict[str, License])])).decode
began = time.perf_counter()
with open(sys.argv[1], "rb") as file:
    found = decode(file.read())
print(time.perf_counter() - began)
"""
