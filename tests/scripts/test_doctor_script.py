"""doctor.py as the owner runs it."""

from __future__ import annotations

import json

from tests.acceptance.servers import Server
from tests.tills import WHSEC, catalogue_of_three

CHANCE = {
    "SECRET_KEY": "gN3vQm8wXz1rTy6uIo4pLk7jHf2dSa9c",
    "LICENSE_SECRET": "bV5nMq0wEr8tYu3iOp6aSd1fGh4jKl7z",
    "ADMIN_API_KEY": "zX9cVb2nMl5kJh8gFd1sAp4oIu7yTr0e",
    "GUMROAD_WEBHOOK_SECRET": "qW4eRt7yUi0oPa3sDf6gHj9kLz2xCv5b",
    "JVZOO_WEBHOOK_SECRET": "mN2bVc5xZl8kJh1gFd4sAp7oIu0yTr3e",
    "JVZOO_SECRET_KEY": "key-of-jvzoo",
    "STRIPE_WEBHOOK_SECRET": WHSEC,
    "GUMROAD_API_BASE": "http://127.0.0.1:1",
    "STRIPE_API_BASE": "http://127.0.0.1:1",
}


def test_a_good_installation_ends_with_zero_and_tells_no_secret(owner, shop):
    shop.folder.chmod(0o700)
    said = owner.run("doctor", **CHANCE, PORT="1").stdout
    assert "✘" not in said
    assert "✔ locks" in said
    assert "- service" in said
    assert said.splitlines()[-1].startswith("0 wrong, ")
    assert not any(secret in said for name, secret in CHANCE.items() if not name.endswith("BASE"))
    assert "✔" not in owner.run("doctor", **CHANCE, PORT="1", PYTHONIOENCODING="ascii").stdout


def test_what_is_wrong_is_one_line_with_what_to_do_and_exit_code_one(owner, shop):
    shop.folder.chmod(0o755)
    lines = owner.run("doctor", code=1, **CHANCE, PORT="1").stdout.splitlines()
    assert f"✘ data folder: other users may look into {shop.folder} -> chmod 700 {shop.folder}" in lines
    found = {check["name"]: check for check in json.loads(owner.run("doctor", "--json", code=1, PORT="1").stdout)}
    assert found["data folder"]["status"] == "wrong"
    assert found["data folder"]["todo"] == f"chmod 700 {shop.folder}"


def test_settings_that_cannot_be_read_are_the_one_finding(owner):
    said = owner.run("doctor", code=1, PORT="many").stdout
    assert said.splitlines()[0].startswith("✘ settings: PORT is 'many'")


def test_beside_a_server_its_webhooks_are_tried_and_nothing_is_written(owner, tmp_path):
    (tmp_path / "served").mkdir(mode=0o700)
    (tmp_path / "served" / "products.json").write_text(json.dumps(catalogue_of_three()))
    server = Server(tmp_path / "served", workers=2, **CHANCE).start()
    try:
        ours = CHANCE | {"DATA_DIR": str(server.folder), "PORT": str(server.port)}
        found = {check["name"]: check for check in owner.json("doctor", "--webhooks", **ours)}
        told = {name: check["status"] for name, check in found.items() if "webhook" in name or name == "service"}
        assert set(told) == {"service", "gumroad webhook", "jvzoo webhook", "stripe webhook"}
        assert set(told.values()) == {"good"}, found
        assert not (server.folder / "purchases.jsonl").exists()
    finally:
        server.stop()
