"""The check-up, each check on real parts: folders, processes, sockets, a mail server, the application itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

from server.services import doctor, doctor_settings
from server.services.doctor import Check, Examination, Patient, Status
from server.settings import ROOT, Settings
from server.storage import archive, backup, disk, durable
from server.storage.base import Letter
from server.storage.flatfile import FlatFileStore
from tests.conftest import NOW, Clock, Shop, settings_for
from tests.services.mail_room import PostOffice, free_port
from tests.tills import WHSEC, StripeTill, shop_of_three

CHANCE = {  # as ./scripts/server makes them
    "secret_key": ("gN3vQm8wXz1rTy6uIo4pLk7jHf2dSa9c",),
    "license_secret": "bV5nMq0wEr8tYu3iOp6aSd1fGh4jKl7z",
    "admin_api_key": "zX9cVb2nMl5kJh8gFd1sAp4oIu7yTr0e",
    "gumroad_webhook_secret": "qW4eRt7yUi0oPa3sDf6gHj9kLz2xCv5b",
}


def patient(folder: Path, now: datetime = NOW, **settings: Any) -> Patient:
    return Patient(settings_for(folder, **(CHANCE | settings)), FlatFileStore(folder), folder / ".env", now)


def told(examination: Examination, who: Patient) -> list[Check]:
    return list(doctor.run([examination], who))


def states(examination: Examination, who: Patient) -> dict[str, Status]:
    return {check.name: check.status for check in told(examination, who)}


def one(examination: Examination, who: Patient) -> Check:
    (check,) = told(examination, who)
    return check


# ------------------------------------------------------------------------------------------------ what was written
def test_a_private_env_file_with_known_names_is_good(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("PORT=8001\nSTRIPE_SECRET_KEY_FILE=/run/secrets/stripe\nPAYU_POS_ID=1\n")
    env.chmod(0o600)
    assert one(doctor_settings.env_file, patient(tmp_path)).status is Status.GOOD


def test_an_env_file_that_others_may_read_is_wrong(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=8001\n")
    (tmp_path / ".env").chmod(0o640)
    check = one(doctor_settings.env_file, patient(tmp_path))
    assert (check.status, check.todo) == (Status.WRONG, f"chmod 600 {tmp_path}/.env")


def test_a_name_that_is_no_setting_is_told(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("STRIPE_WEBHOK_SECRET=whsec_1\n")
    (tmp_path / ".env").chmod(0o600)
    check = one(doctor_settings.env_file, patient(tmp_path))
    assert check.status is Status.WARNING
    assert "STRIPE_WEBHOK_SECRET" in check.words
    assert "whsec_1" not in check.words


def test_without_an_env_file_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    assert one(doctor_settings.env_file, patient(tmp_path)).status is Status.SKIPPED


def test_every_setting_stands_in_the_example() -> None:
    names = set(doctor_settings._NAMES.findall((ROOT / ".env.example").read_text()))
    assert {field.name.upper() for field in fields(Settings)} <= names


@pytest.mark.parametrize(
    ("setting", "secret", "status"),
    [
        ("admin_api_key", "please-change-me-please-change-me", Status.WRONG),
        ("admin_api_key", "My-Example-Token-8471932847192384", Status.WRONG),
        ("admin_api_key", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Status.WRONG),
        ("admin_api_key", "zX9cVb2nMl5kJh8gFd1s", Status.WRONG),
        ("admin_api_key", CHANCE["gumroad_webhook_secret"], Status.WRONG),
        ("secret_key", ("zX9cVb2nMl5kJh8gFd1s", "older"), Status.WRONG),
        ("license_secret", "zX9cVb2nMl5kJh8gFd1s", Status.WARNING),
    ],
)
def test_a_secret_that_could_be_guessed_is_told_without_itself(
    tmp_path: Path, setting: str, secret: Any, status: Status
) -> None:
    checks = {check.name: check for check in told(doctor_settings.secrets, patient(tmp_path, **{setting: secret}))}
    assert checks[setting.upper()].status is status
    assert not any(part in str(checks) for part in ([secret] if isinstance(secret, str) else secret))


def test_secrets_made_by_chance_are_good(tmp_path: Path) -> None:
    assert states(doctor_settings.secrets, patient(tmp_path)) == {"secrets": Status.GOOD}


PUBLIC = {"app_url": "https://licenses.example.com"}


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (PUBLIC | {"trusted_proxies": 1}, {"addresses"}),
        (PUBLIC, {"TRUSTED_PROXIES"}),
        ({"app_url": "http://licenses.example.com"}, {"APP_URL"}),
        ({}, {"APP_URL"}),
        (PUBLIC | {"trusted_proxies": 1, "host": "0.0.0.0"}, {"HOST"}),
        ({"app_url": "http://licenses.example.com", "host": "::"}, {"APP_URL", "HOST"}),
        (PUBLIC | {"trusted_proxies": 1, "owner_email": None}, {"OWNER_EMAIL"}),
    ],
)
def test_addresses_that_do_not_fit_each_other(tmp_path: Path, settings: dict[str, Any], names: set[str]) -> None:
    found = states(doctor_settings.addresses, patient(tmp_path, **settings))
    assert set(found) == names
    assert set(found.values()) == {Status.GOOD if names == {"addresses"} else Status.WARNING}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gumroad_webhook_secret": None}, "none is on"),
        ({}, "not read back"),
        ({"jvzoo_secret_key": "k"}, "no second secret"),
        ({"jvzoo_secret_key": "k", "jvzoo_legacy_signature": "on"}, "JVZOO_LEGACY_SIGNATURE is on"),
        ({"stripe_webhook_secret": (WHSEC,), "stripe_secret_key": "sk_live_1"}, "may do everything"),
    ],
)
def test_a_platform_that_is_less_safe_than_it_could_be(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    found = told(doctor_settings.platforms, patient(tmp_path, **settings))
    assert any(words in check.words for check in found)
    assert {check.status for check in found} == {Status.WARNING}
    calm = {"gumroad_access_token": "t", "jvzoo_webhook_secret": "s"}
    safe = {"jvzoo_secret_key": "k", "stripe_webhook_secret": (WHSEC,), "stripe_secret_key": "rk_live_1"}
    assert told(doctor_settings.platforms, patient(tmp_path, **calm, **safe)) == []


@pytest.mark.parametrize(("key", "count"), [("rk_live_1", 0), ("rk_test_1", 1)])
def test_a_stripe_key_of_another_mode_than_the_events(tmp_path: Path, clock: Clock, key: str, count: int) -> None:
    shop = shop_of_three(tmp_path / "data", clock)
    StripeTill(shop).sale("s1")
    shop.sale("g1", test="true")
    who = patient(shop.folder, stripe_webhook_secret=(WHSEC,), stripe_secret_key=key, gumroad_access_token="t")
    assert [check.words for check in told(doctor_settings.platforms, who)] == [
        "its newest notice is of live mode, the key of test mode"
    ] * count


# ------------------------------------------------------------------------------------------------ the catalogue
def products(**more: Any) -> dict[str, Any]:
    return {"products": {"wave": {"name": "Wave", "platform_ids": {"gumroad": ["G"]}} | more}}


BAD = {
    "no JSON": ("{", Status.WRONG, "truncated"),
    "an unknown child": (products(bundle=["nobody"]), Status.WRONG, "no product 'nobody'"),
    "a circle": (products(bundle=["wave"]), Status.WRONG, "contains itself"),
    "an id of two": (
        {"products": {name: {"name": name, "platform_ids": {"gumroad": ["G"]}} for name in ("a", "b")}},
        Status.WRONG,
        "'G' already means 'a'",
    ),
    "an unknown default": (products() | {"default_product": "nobody"}, Status.WRONG, "no product 'nobody'"),
    "no ids": (products(platform_ids={}), Status.WARNING, "wave has no platform_ids"),
    "a typing error": (products(platform_ids={"gumrod": ["G"]}), Status.WARNING, "no platform 'gumrod'"),
    "a platform without a product": (products(platform_ids={"jvzoo": [1]}), Status.WARNING, "gumroad is on, but"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_catalogue_with_a_mistake(tmp_path: Path, kind: str) -> None:
    content, status, words = BAD[kind]
    (tmp_path / "products.json").write_text(content if isinstance(content, str) else json.dumps(content))
    found = told(doctor_settings.catalogue, patient(tmp_path))
    assert {check.status for check in found} == {status}
    assert any(words in check.words for check in found)


def test_a_default_product_beside_stripe_is_told(tmp_path: Path) -> None:
    (tmp_path / "products.json").write_text(json.dumps(products() | {"default_product": "wave"}))
    who = patient(tmp_path, stripe_webhook_secret=(WHSEC,))
    assert any("whatever Stripe sells" in check.words for check in told(doctor_settings.catalogue, who))


def test_a_good_catalogue_and_one_that_is_missing(shop: Shop) -> None:
    assert one(doctor_settings.catalogue, patient(shop.folder)).status is Status.GOOD
    (shop.folder / "products.json").unlink()
    assert one(doctor_settings.catalogue, patient(shop.folder)).status is Status.WRONG


# ------------------------------------------------------------------------------------------------ LICENSE_SECRET
def test_a_license_secret_that_did_not_make_the_keys_is_wrong(shop: Shop) -> None:
    ours = shop.services.settings.license_secret
    who = patient(shop.folder, license_secret=ours)
    assert one(doctor_settings.license_secret, who).status is Status.SKIPPED
    shop.sale("s1")
    shop.owner("POST", "/licenses", {"email": "a@example.com", "customer_name": "A", "product_id": "wave"})
    assert one(doctor_settings.license_secret, who).status is Status.GOOD
    check = one(doctor_settings.license_secret, patient(shop.folder))
    assert check.status is Status.WRONG
    assert CHANCE["license_secret"] not in str(check)


# ------------------------------------------------------------------------------------------------ folder and disk
@pytest.mark.parametrize("mode", [0o750, 0o705, 0o755])
def test_a_folder_that_others_may_look_into_is_wrong(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    assert one(doctor.data_folder, patient(tmp_path)).status is Status.WRONG
    tmp_path.chmod(0o700)
    assert one(doctor.data_folder, patient(tmp_path)).status is Status.GOOD


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    who = patient(tmp_path / "nowhere")
    assert [check.status for check in doctor.run(doctor.MACHINE[:3], who)] == [Status.WRONG]


def test_files_of_another_user_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "purchases.jsonl").touch()
    mine = tmp_path.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: mine + 1)
    assert "belongs to another user" in one(doctor.data_folder, patient(tmp_path)).words


def test_a_disk_that_does_what_it_should_is_left_as_it_was(tmp_path: Path) -> None:
    found = states(doctor.the_disk, patient(tmp_path))
    assert found == dict.fromkeys(["locks", "fsync", "append", "rename"], Status.GOOD)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def no_lock(self: durable.FolderLock, wait: bool = True) -> Iterator[None]:
    yield


def in_its_place(path: Path, pieces: list[bytes]) -> None:
    with path.open("wb", buffering=0) as file:
        for piece in pieces:
            file.write(piece[: len(piece) // 2])
            file.write(piece[len(piece) // 2 :])


def failing(*given: Any) -> None:
    raise OSError(5, "Input/output error")


BAD_DISKS: dict[str, tuple[str, Any]] = {
    "locks": ("FolderLock.held", no_lock),
    "fsync": ("append", failing),
    "append": ("append", lambda descriptor, data: None),
    "rename": ("replace", in_its_place),
}


@pytest.mark.parametrize("trial", BAD_DISKS)
def test_mutant_a_disk_that_cannot_do_one_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial: str) -> None:
    name, broken = BAD_DISKS[trial]
    monkeypatch.setattr(f"server.storage.durable.{name}", broken)
    if trial == "rename":  # until the other process looks in a bad moment
        monkeypatch.setattr(disk, "_REPLACEMENTS", 2000)
    assert states(doctor.the_disk, patient(tmp_path))[trial] is Status.WRONG


@pytest.mark.parametrize(
    ("free", "status"), [(1 << 20, Status.WRONG), (1 << 29, Status.WARNING), (1 << 34, Status.GOOD)]
)
def test_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: Status) -> None:
    usage = type(doctor.shutil.disk_usage(tmp_path))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(1 << 40, 0, free))
    assert one(doctor.disk_space, patient(tmp_path)).status is status


# ------------------------------------------------------------------------------------------------ clocks and mail
@contextmanager
def platform_at(moment: datetime) -> Iterator[str]:
    """A platform with a clock of its own; it answers 404 to everybody."""

    class Door(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def date_time_string(self, timestamp: Any = None) -> str:
            return f"{moment:%a, %d %b %Y %H:%M:%S} GMT"

        def log_message(self, *_: Any) -> None:
            return

    with running(HTTPServer(("127.0.0.1", 0), Door)) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running(server: HTTPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("seconds", "status"), [(5, Status.GOOD), (-60, Status.WARNING), (600, Status.WRONG), (-86400, Status.WRONG)]
)
def test_the_clock_against_a_platforms(tmp_path: Path, seconds: int, status: Status) -> None:
    with platform_at(NOW + timedelta(seconds=seconds)) as base:
        assert one(doctor.clock, patient(tmp_path, gumroad_api_base=base)).status is status


def test_being_offline_is_no_finding(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    who = patient(tmp_path, gumroad_api_base=nobody, stripe_webhook_secret=(WHSEC,), stripe_api_base=nobody)
    assert [check.status for check in told(doctor.clock, who)] == [Status.SKIPPED] * 2
    assert one(doctor.clock, patient(tmp_path, gumroad_webhook_secret=None)).status is Status.SKIPPED


@pytest.mark.parametrize(("password", "status"), [("right", Status.GOOD), ("wrong", Status.WRONG)])
def test_the_mail_server_is_asked_and_gets_no_letter(tmp_path: Path, password: str, status: Status) -> None:
    with PostOffice(auth_require_tls=False) as office:
        login = {"smtp_username": "shop", "smtp_password": password, "smtp_starttls": "false"}
        who = patient(tmp_path, email_backend="smtp", smtp_host="127.0.0.1", smtp_port=office.port, **login)
        check = one(doctor.mail, who)
        assert check.status is status
        assert set(office.logins) == {b"shop"}
        assert office.inbox == []
    assert password not in check.words


def test_no_mail_server_and_none_that_is_wanted(tmp_path: Path) -> None:
    who = patient(tmp_path, email_backend="smtp", smtp_host="127.0.0.1", smtp_port=free_port())
    assert one(doctor.mail, who).status is Status.WRONG
    assert one(doctor.mail, patient(tmp_path)).status is Status.WARNING


# ------------------------------------------------------------------------------------------------ the service
class Silent(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def serving(app: Any) -> Iterator[int]:
    with running(make_server("127.0.0.1", 0, app, WSGIServer, Silent)) as port:
        yield port


def test_a_service_that_is_well_and_one_that_is_not(shop: Shop) -> None:
    with serving(shop.app) as port:
        assert one(doctor.service, patient(shop.folder, port=port)).status is Status.GOOD
        (shop.folder / "products.json").write_text("{")
        check = one(doctor.service, patient(shop.folder, port=port, host="0.0.0.0"))
        assert (check.status, check.words) == (Status.WRONG, "not well: catalogue")


def test_a_service_that_cannot_write(shop: Shop) -> None:
    shop.sale("s1")
    shop.services.store.tidy(force=True)
    (shop.folder / "purchases.jsonl").write_bytes(b"not what it was\n")
    with serving(shop.app) as port:
        assert "503" in one(doctor.service, patient(shop.folder, port=port)).words


def test_a_service_of_another_version_and_something_else(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(shop.app) as port:
        monkeypatch.setattr(doctor, "__version__", "99")
        assert one(doctor.service, patient(shop.folder, port=port)).status is Status.WARNING

    def other(environ: Any, start: Callable[..., Any]) -> list[bytes]:
        start("200 OK", [("Content-Type", "application/json")])
        return [b"{}"]

    with serving(other) as port:
        assert "something else" in one(doctor.service, patient(shop.folder, port=port)).words


def test_a_service_that_does_not_run_is_no_finding(tmp_path: Path) -> None:
    who = patient(tmp_path, port=free_port())
    assert one(doctor.service, who).status is Status.SKIPPED
    assert one(doctor.webhooks, who).status is Status.SKIPPED


def test_every_webhook_takes_our_proof_and_nothing_is_written(tmp_path: Path, clock: Clock) -> None:
    shop = shop_of_three(tmp_path / "data", clock, jvzoo_webhook_secret="second-secret-of-jvzoo-1")
    shop.sale("s1")
    before = shop.ledger()
    with serving(shop.app) as port:
        ours = Patient(settings_for(shop.folder, port=port, **secrets_of(shop)), shop.services.store, tmp_path, NOW)
        assert states(doctor.webhooks, ours) == dict.fromkeys(
            ["gumroad webhook", "jvzoo webhook", "stripe webhook"], Status.GOOD
        )
        other = {"gumroad_webhook_secret": "another-secret-1234", "stripe_webhook_secret": ("whsec_other",)}
        others = settings_for(shop.folder, port=port, **(secrets_of(shop) | other | {"jvzoo_secret_key": "other"}))
        found = told(doctor.webhooks, Patient(others, shop.services.store, tmp_path, NOW))
        assert [check.words for check in found] == [
            "answers 403 BAD_SECRET",
            "answers 403 UNVERIFIED",
            "answers 400 BAD_SIGNATURE",
        ]
        assert {check.status for check in found} == {Status.WRONG}
    assert shop.ledger() == before


def secrets_of(shop: Shop) -> dict[str, Any]:
    names = ("gumroad_webhook_secret", "stripe_webhook_secret", "jvzoo_secret_key", "jvzoo_webhook_secret")
    return {name: getattr(shop.services.settings, name) for name in names}


def test_a_platform_that_is_off_there_is_told(shop: Shop) -> None:
    with serving(shop.app) as port:
        found = {
            check.name: check for check in told(doctor.webhooks, patient(shop.folder, port=port, jvzoo_secret_key="k"))
        }
    assert "404 PLATFORM_NOT_CONFIGURED" in found["jvzoo webhook"].words


# ------------------------------------------------------------------------------------------------ the books
def test_sound_books_and_damaged_ones(shop: Shop) -> None:
    shop.sale("s1")
    shop.sale("s2")
    assert one(doctor.ledger, patient(shop.folder)).status is Status.GOOD
    ledger = shop.folder / "purchases.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b"Jane", b"Jean", 1))
    check = told(doctor.ledger, patient(shop.folder))[0]
    assert (check.status, "purchases.jsonl line 1" in check.words) == (Status.WRONG, True)


@pytest.mark.parametrize(
    ("state", "age", "status"),
    [("sent", 9, Status.GOOD), ("failed", 0, Status.GOOD), ("failed", 2, Status.WARNING), ("dead", 9, Status.WRONG)],
)
def test_letters_in_trouble(tmp_path: Path, state: str, age: int, status: Status) -> None:
    who = patient(tmp_path)
    then = NOW - timedelta(days=age)
    who.store.letterbox.enqueue([Letter(id="1:delivery", kind="delivery", state=state, at=then, first_at=then)])
    assert one(doctor.outbox, who).status is status


def test_the_age_of_the_newest_backup(shop: Shop, tmp_path: Path) -> None:
    shop.sale("s1")
    assert one(doctor.backup, patient(shop.folder)).status is Status.WARNING
    backup.create(shop.folder, tmp_path / "backups", NOW)
    assert one(doctor.backup, patient(shop.folder, NOW + timedelta(days=6))).status is Status.GOOD
    assert one(doctor.backup, patient(shop.folder, NOW + timedelta(days=8))).status is Status.WARNING
    note = json.loads((shop.folder / archive.NOTE).read_text()) | {"is_sound": False}
    (shop.folder / archive.NOTE).write_text(json.dumps(note))
    assert one(doctor.backup, patient(shop.folder)).status is Status.WRONG


def test_a_check_that_fails_itself_is_a_finding_and_holds_up_no_other(tmp_path: Path) -> None:
    def broken(who: Patient) -> Iterator[Check]:
        raise OSError(5, "Input/output error")

    found = list(doctor.run([broken, doctor.outbox], patient(tmp_path)))
    assert [(check.name, check.status) for check in found] == [("broken", Status.WRONG), ("outbox", Status.GOOD)]
