"""The Python kit in an app: a license's life, what lies and what is late, clocks that move, disks that forget."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import keyledger_client as kit
import pytest

from server.services.signing import Signing
from tests.client.between import HTML, Between, Request, Trickle
from tests.client.computers import BOARD, GUID, PORTS, Mac, Windows, descriptor
from tests.conftest import NOW, Clock, Shop
from tests.signed_answers import OTHER_SEED, SEED

DAY = timedelta(days=1)
OURS, OTHERS = Signing([SEED]).get_key(), Signing([OTHER_SEED]).get_key()
PUBLIC, OTHER_PUBLIC = (base64.b64encode(key.public_key).decode() for key in (OURS, OTHERS))
KIT = Path(kit.__file__)


@dataclass
class Desk:
    """A customer's computer with the app on it."""

    between: Between
    folder: Path
    computer: Any = field(default_factory=Windows)
    clock: Clock = field(default_factory=Clock)

    def app(self, **more: Any) -> kit.LicenseClient:
        """The app, started anew."""
        options: dict[str, Any] = {
            "server": self.between.url,
            "product": "wave",
            "public_key": PUBLIC,
            "state_dir": self.folder,
            "device_name": "Ann's desk",
            "clock": self.clock,
            "system": self.computer,
            "timeout": 60,  # a busy machine is no server that is away
        }
        return kit.LicenseClient(**(options | more))

    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "license.json").read_text()))


@pytest.fixture
def shop(tmp_path, clock):
    return Shop(tmp_path / "data", clock, signing_key=(SEED,))


@pytest.fixture
def between(shop):
    standing = Between(shop)
    yield standing
    standing.stop()


@pytest.fixture
def desk(between, tmp_path, clock):
    return Desk(between, tmp_path / "desk", clock=clock)


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between attempts; nobody waits for them."""
    taken: list[float] = []
    monkeypatch.setattr(kit, "_pause", taken.append)
    return taken


def another_desk(desk: Desk, name: str) -> Desk:
    other = Desk(desk.between, desk.folder.parent / name, clock=desk.clock)
    other.computer.registered |= {GUID: f"guid-of-{name}", BOARD: f"board-of-{name}"}
    other.computer.disk = descriptor("", "Samsung", "1", f"disk-of-{name}")
    other.computer.cards[0].address[5] ^= len(name)
    other.computer.cards[3].address[5] ^= len(name)
    return other


def away(desk: Desk) -> None:
    """No network: what is asked gets no answer."""
    desk.between.says = lambda request: (503, [], b"")


# ------------------------------------------------------------------------------------------------ the life of a license
def test_before_anything_was_entered(desk):
    for result in (desk.app().status(), desk.app().validate()):
        assert (result.valid, result.state, result.code) == (False, "unlicensed", "UNLICENSED")
    assert desk.between.heard == []


def test_a_key_is_activated_by_one_request(desk, shop):
    key = shop.sale()
    result = desk.app().activate(f"  {key.lower().replace('-', ' ')} ")
    assert result == kit.Result(
        valid=True,
        state="valid",
        code="VALID",
        detail="is valid",
        message="Your license is valid.",
        source="online",
        license_id=result.license_id,
        product_name="Wave",
        tier="pro",
        features=("batch",),
        expiry=None,
        grace_end=NOW + 30 * DAY,
        seats_used=1,
        max_seats=1,
        activated=True,
    )
    assert desk.between.verbs() == ["file"]
    assert desk.between.heard[0].body["device_name"] == "Ann's desk"
    assert desk.app().activate(key).activated is False


def test_offline_the_file_counts_until_its_end(desk, shop, pauses):
    desk.app().activate(shop.sale())
    assert (desk.app().status().state, desk.app().status().source) == ("valid", "offline")
    away(desk)
    desk.clock.forward(days=29)
    result = desk.app().validate()
    assert (result.valid, result.state, result.source, result.code) == (True, "grace", "offline", "VALID")
    assert (result.grace_end, result.features, result.tier) == (NOW + 30 * DAY, ("batch",), "pro")
    assert "until 2026-12-20" in result.message
    assert desk.app().status().state == "grace"
    desk.clock.forward(days=1)
    for result in (desk.app().validate(), desk.app().status()):
        assert (result.valid, result.state, result.code) == (False, "unreachable", "EXPIRED")
        assert "connect to the internet" in result.message
    desk.between.says = None
    assert desk.app().validate().state == "valid"
    assert desk.app().status().state == "valid"


def test_the_file_is_renewed_once_a_day(desk, shop):
    desk.app().activate(shop.sale())
    desk.clock.forward(hours=23)
    assert desk.app().validate().grace_end == NOW + 30 * DAY
    desk.clock.forward(hours=1)
    assert desk.app().validate().grace_end == NOW + 31 * DAY
    assert desk.app().status().grace_end == NOW + 31 * DAY
    assert desk.between.verbs() == ["file", "validate", "validate", "file"]


def test_a_denial_ends_the_days_offline_and_is_not_asked_twice(desk, shop, pauses):
    desk.app().activate(shop.sale("s1"))
    shop.refund("s1")
    asked = len(desk.between.heard)
    result = desk.app().validate()
    assert (result.valid, result.state, result.code, result.source) == (False, "denied", "SUSPENDED", "online")
    assert (len(desk.between.heard) - asked, pauses) == (1, [])
    away(desk)
    for result in (desk.app().validate(), desk.app().status()):
        assert (result.valid, result.state, result.code, result.source) == (False, "denied", "SUSPENDED", "offline")


def test_a_membership_ends_and_is_renewed(desk, shop):
    key = shop.sale("s1", product="G-TEAM==", subscription_id="sub1", sale_timestamp="2026-11-20T12:00:00Z")
    app = desk.app(product="team")
    assert app.activate(key).expiry == NOW + 30 * DAY
    desk.clock.forward(days=34)
    result = app.validate()
    assert (result.code, result.state, result.expiry) == ("EXPIRED", "denied", NOW + 30 * DAY)
    assert "as soon as it is renewed" in result.message
    assert app.status().expiry == NOW + 30 * DAY
    shop.sale("s2", product="G-TEAM==", subscription_id="sub1", is_recurring_charge="true",
              sale_timestamp="2026-12-24T12:00:00Z")  # fmt: skip
    result = app.validate()
    assert (result.code, result.valid, result.source) == ("VALID", True, "online")
    assert result.expiry > desk.clock.now
    assert app.status().valid


def test_a_key_that_is_refused_takes_nothing_from_the_one_that_works(desk, shop):
    key = shop.sale()
    desk.app().activate(key)
    result = desk.app().activate("NO-SUCH-KEY-AT-ALL")
    assert (result.valid, result.code, result.state) == (False, "NOT_FOUND", "denied")
    assert desk.app().status().valid
    shop.refund("s1")
    assert desk.app().activate(key).code == "SUSPENDED"
    assert desk.app().status().state == "denied"


@pytest.mark.parametrize("typed", ["", "   ", None, "x" * 129, "a\nb", "\x00"])
def test_what_cannot_be_a_key_is_not_asked_about(desk, typed):
    assert desk.app().activate(typed).code == "NOT_A_KEY"
    assert desk.between.heard == []


def test_all_seats_are_taken_and_where_to_release_one(desk, shop):
    key = shop.sale()
    desk.app().activate(key)
    result = another_desk(desk, "laptop").app().activate(key)
    assert (result.code, result.state, result.seats_used, result.max_seats) == ("TOO_MANY_MACHINES", "denied", 1, 1)
    assert "(1 of 1)" in result.message
    assert result.help_url.startswith(("http://", "https://"))
    assert "/portal" in result.help_url


def test_a_seat_that_was_released_is_not_taken_again_by_itself(desk, shop):
    key = shop.sale()
    desk.app().activate(key)
    shop.ask("deactivate", license_key=key, hardware_id=desk.between.heard[0].body["hardware_id"])
    result = desk.app().validate()
    assert (result.valid, result.code, result.state) == (False, "FINGERPRINT_SCOPE_MISMATCH", "denied")
    assert shop.ask("validate", license_key=key)["license"]["devices_used"] == 0
    assert desk.app().activate(key).valid


def test_a_seat_is_given_back(desk, shop):
    key = shop.sale()
    desk.app().activate(key)
    result = desk.app().deactivate()
    assert (result.valid, result.state, result.code) == (False, "unlicensed", "DEACTIVATED")
    assert desk.app().status().code == "UNLICENSED"
    assert key not in (desk.folder / "license.json").read_text()
    assert another_desk(desk, "laptop").app().activate(key).valid
    assert desk.app().deactivate().state == "unlicensed"


def test_a_seat_is_kept_where_it_cannot_be_given_back(desk, shop, pauses):
    desk.app().activate(shop.sale())
    away(desk)
    result = desk.app().deactivate()
    assert (result.valid, result.state) == (True, "grace")
    assert desk.app().status().valid


@pytest.mark.parametrize("answer", ["VALID", "SUSPENDED"])
@pytest.mark.parametrize("entered", [None, "ANOTHER-KEY"])
def test_what_was_given_back_meanwhile_stays_given_back(desk, shop, answer, entered):
    """Another window gives the seat back, or enters another key, while this one waits for its answer."""
    app = desk.app()
    app.activate(shop.sale("s1"))
    if answer == "SUSPENDED":
        shop.refund("s1")

    def says(request: Request) -> None:
        app._shelf.change(lambda kept: {"license_key": entered, "file": None})

    desk.between.says = says
    assert app.validate().code == answer
    assert (desk.state()["license_key"], desk.state()["denied"]) == (entered, None)


# ------------------------------------------------------------------------------------------------ the computer
def test_another_disk_keeps_the_seat_and_the_server_hears_of_it(desk, shop):
    desk.app().activate(shop.sale())
    desk.computer.disk = descriptor("", "Crucial", "1", "2027E5C0F1A7")
    assert desk.app().status().valid
    assert (desk.app().validate().valid, desk.app().validate().seats_used) == (True, 1)
    assert desk.between.verbs() == ["file", "validate", "file", "validate"]
    bound, *_, face = (request.body["hardware_id"] for request in desk.between.heard)
    lines = [json.loads(line) for line in (shop.folder / "activity.jsonl").read_text().splitlines()]
    assert [line["hardware_id"] for line in lines] == [bound, face]


def test_a_computer_that_was_changed_piece_by_piece_and_installed_anew_keeps_its_seat(desk, shop):
    key = shop.sale()
    desk.app().activate(key)
    desk.computer.disk = descriptor("", "Crucial", "1", "2027E5C0F1A7")
    assert desk.app().validate().valid
    for card in desk.computer.cards:
        card.address[3] ^= 1
    assert desk.app().validate().valid
    shutil.rmtree(desk.folder)
    desk.computer.registered[GUID] = "11c3a0de-9f00-4d7c-8a21-77aa10e2b9d4"
    result = desk.app().activate(key)
    assert (result.valid, result.activated, result.seats_used) == (True, False, 1)
    assert desk.app().status().valid


def test_a_copy_of_the_system_on_another_computer_runs_nowhere(desk, shop):
    """The folder is copied with it. Its file is for another computer, and the server knows that one, too."""
    desk.app().activate(shop.sale())
    copy = another_desk(desk, "copy")
    copy.computer.registered[GUID] = desk.computer.registered[GUID]
    shutil.copytree(desk.folder, copy.folder)
    assert (copy.app().status().valid, copy.app().status().code) == (False, "OTHER_DEVICE")
    assert (copy.app().validate().valid, copy.app().validate().code) == (False, "TOO_MANY_MACHINES")


def test_a_container_is_what_its_folder_says(desk, shop):
    desk.computer.name = "container"
    key = shop.sale()
    assert desk.app().activate(key).valid
    assert desk.app().validate().valid
    assert desk.between.heard[0].body["hardware_id"].startswith("kl1.x")
    assert len({request.body["hardware_id"] for request in desk.between.heard}) == 1
    other = Desk(desk.between, desk.folder.parent / "other", desk.computer, desk.clock)
    assert other.app().activate(key).code == "TOO_MANY_MACHINES"


class SlowMac(Mac):
    """Its list of network cards takes longer than `needs` seconds."""

    def __init__(self, needs: float) -> None:
        super().__init__()
        self.needs = needs

    def run(self, *command: str, seconds: float = 5.0) -> str:
        if command == PORTS and seconds <= self.needs:
            raise subprocess.TimeoutExpired(command, seconds)
        return super().run(*command, seconds=seconds)


@pytest.mark.parametrize("needs", [5, 25])
def test_a_computer_that_is_slow_at_the_first_activation(desk, shop, needs):
    """Half of it is another computer at the next start: no seat may be bound to that."""
    key, desk.computer = shop.sale(), SlowMac(needs)
    app = desk.app()
    result = app.activate(key)
    if needs == 25:
        assert (result.valid, result.state, result.code) == (False, "unreachable", "NOT_READ")
        assert (app.device_code(), app.install_file("").code, desk.between.heard) == ("", "NOT_READ", [])
    else:
        assert result.valid
    desk.computer = Mac()
    result = desk.app().activate(key)
    assert (result.valid, result.seats_used) == (True, 1)
    desk.computer = SlowMac(1000)
    assert desk.app().validate().state == "valid"


def test_a_computer_part_of_which_may_never_be_asked_for(desk, shop):
    """It says the same at each start, so that its half is all of it."""

    class Confined(Mac):
        def run(self, *command: str, seconds: float = 5.0) -> str:
            raise PermissionError(1, "Operation not permitted", command[0])

    key, desk.computer = shop.sale(), Confined()
    assert desk.app().activate(key).valid
    assert desk.app().activate(key).seats_used == 1
    assert desk.app().validate().state == "valid"


# ------------------------------------------------------------------------------------------------ without a network
def file_from(desk: Desk, key: str, **more: Any) -> str:
    """As the seller's pages make one of a device code."""
    inside = "".join(desk.app().device_code().split("\n")[1:-2])
    told = json.loads(base64.b64decode(inside))
    body = {"hardware_id": told["hardware_id"], "device_name": told["device_name"]} | more
    return str(desk.between.shop.ask("file", license_key=key, **body)["license_file"])


def test_a_computer_that_never_had_a_network(desk, shop):
    key = shop.sale()
    result = desk.app().install_file(file_from(desk, key).replace("\n", "\r\n"))
    assert (result.valid, result.state, result.source, result.grace_end) == (True, "valid", "offline", NOW + 30 * DAY)
    desk.clock.forward(days=29)
    assert desk.app().validate().valid
    assert desk.between.heard == []
    desk.clock.forward(days=2)
    assert desk.app().status().code == "EXPIRED"
    assert desk.app().install_file(file_from(desk, key)).valid


def test_files_that_are_not_for_this_app(desk, shop):
    key, team = shop.sale("s1"), shop.sale("s2", product="G-TEAM==")
    good = file_from(desk, key)
    inside = json.loads(base64.b64decode("".join(good.split("\n")[1:-2])))
    says = json.loads(base64.b64decode(inside["enc"])) | {"expires": None}
    enc = base64.b64encode(json.dumps(says).encode()).decode()
    altered = base64.b64encode(json.dumps(inside | {"enc": enc}).encode()).decode()
    for text, code in (
        ("", "UNREADABLE"),
        (good[:-40], "UNREADABLE"),
        (f"-----BEGIN LICENSE FILE-----\n{altered}\n-----END LICENSE FILE-----\n", "BAD_SIGNATURE"),
        (file_from(desk, team), "OTHER_PRODUCT"),
        (file_from(another_desk(desk, "laptop"), shop.sale("s3")), "OTHER_DEVICE"),
    ):
        result = desk.app().install_file(text)
        assert (result.valid, result.code, result.state) == (False, code, "unreachable")
        assert desk.app().status().code == "UNLICENSED"
    assert desk.app().install_file(good).valid


def test_an_older_file_does_not_undo_a_denial(desk, shop):
    key = shop.sale("s1")
    old = file_from(desk, key)
    desk.app().activate(key)
    shop.refund("s1")
    desk.app().validate()
    assert desk.app().install_file(old).code == "OLD_FILE"
    assert desk.app().status().state == "denied"


def test_a_file_for_ever_needs_no_clock(desk, shop):
    key = shop.sale()
    desk.app().activate(key)
    license = shop.services.store.find_license(key)
    text = shop.services.files.for_ever(key, license, None, NOW)
    assert desk.app().install_file(text).grace_end is None
    for year in (1980, 2199):
        desk.clock.now = datetime(year, 1, 1, tzinfo=UTC)
        assert desk.app().status().valid


# ------------------------------------------------------------------------------------------------ lies and late answers
def signed_by_others(request: Request) -> Any:
    return LIAR.forward(request)


LIAR: Between = None  # type: ignore[assignment]  # a server with another key, set by its fixture


@pytest.fixture
def liar(tmp_path, clock):
    global LIAR
    shop = Shop(tmp_path / "liar", clock, signing_key=(OTHER_SEED,))
    LIAR = Between(shop)
    yield LIAR
    LIAR.stop()


BODY = b'{"valid": %s, "code": "%s", "detail": "", "license": null, "device": null, "nonce": ""}'
LIES = {
    "an unsigned yes": lambda request: (200, [], BODY % (b"true", b"VALID")),
    "an unsigned no": lambda request: (200, [], BODY % (b"false", b"BANNED")),
    "signed by another key": signed_by_others,
    "a page that wants a sign-in": lambda request: (200, HTML, b"<!doctype html><title>Welcome to the hotel</title>"),
    "the way to such a page": lambda request: (302, [("Location", "http://127.0.0.1:1/")], b""),
    "a page that says no": lambda request: (403, HTML, b"<h1>Forbidden</h1>"),
    "a wish for a password": lambda request: (511, HTML, b"<h1>Network Authentication Required</h1>"),
    "no body": lambda request: (200, [], b""),
    "a body without an end": lambda request: (200, [], b"x" * (kit.MOST_BYTES + 1)),
    "an error of the server": lambda request: (500, [], b'{"errors": []}'),
    "a proxy whose server is away": lambda request: (502, HTML, b"<h1>Bad Gateway</h1>"),
    "a mistake of ours": lambda request: (400, [], b'{"errors": [{"code": "BAD_REQUEST"}]}'),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_the_servers_word_is_neither_yes_nor_no(desk, shop, liar, pauses, lie):
    key = shop.sale()
    desk.between.says = LIES[lie]
    result = desk.app().activate(key)
    assert (result.valid, result.state) == (False, "unreachable")
    desk.between.says = None
    desk.app().activate(key)
    desk.between.says = LIES[lie]
    result = desk.app().validate()
    assert (result.valid, result.state, result.source) == (True, "grace", "offline")
    shop.refund("s1")
    desk.between.says = None
    desk.app().validate()
    desk.between.says = LIES[lie]
    assert (desk.app().validate().valid, desk.app().validate().state) == (False, "denied")


@pytest.mark.parametrize("is_yes", [True, False])
def test_an_answer_that_is_told_again_says_nothing(desk, shop, is_yes):
    key = shop.sale("s1")
    desk.app().activate(key)
    other = shop.sale("s2")
    if not is_yes:
        shop.refund("s1")
    kept = desk.between.forward(
        Request("/api/v1/licenses/validate", {}, json.dumps(desk.between.heard[0].body).encode())
    )
    desk.between.says = lambda request: kept
    assert desk.app().validate().state == "grace"
    assert (desk.app().activate(other).valid, desk.app().activate(other).state) == (False, "unreachable")


def test_an_answer_about_another_key_or_device_says_nothing(desk, shop):
    """Who sits in between puts what he has into the request: the answer is the server's own, and fresh."""
    key, other = shop.sale("s1"), shop.sale("s2")
    elsewhere = another_desk(desk, "laptop")
    elsewhere.app().activate(other)
    theirs = desk.between.heard[0].body["hardware_id"]
    for change in ({"license_key": other}, {"license_key": other, "hardware_id": theirs}):
        desk.between.says = lambda request, change=change: desk.between.forward(
            Request(request.path, {}, json.dumps(request.body | change).encode())
        )
        assert (desk.app().activate(key).valid, desk.app().activate(key).state) == (False, "unreachable")
    desk.between.says = lambda request: desk.between.forward(
        Request(request.path, {}, json.dumps(request.body | {"hardware_id": theirs}).encode())
    )
    assert (desk.app().activate(other).valid, desk.app().activate(other).state) == (False, "unreachable")


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_what_passes_by_is_tried_three_times(desk, shop, pauses, status):
    desk.app().activate(shop.sale())
    desk.between.heard.clear()
    desk.between.says = lambda request: (status, [], b"")
    assert desk.app().validate().state == "grace"
    assert desk.between.verbs() == ["validate"] * 3
    assert len({request.body["nonce"] for request in desk.between.heard}) == 3
    assert 0.25 <= pauses[0] <= 0.75
    assert 0.5 <= pauses[1] <= 1.5


def test_a_second_try_that_works_is_no_trouble(desk, shop, pauses):
    key = shop.sale()
    desk.between.says = lambda request: (503, [("Retry-After", "1")], b"") if len(desk.between.heard) == 1 else None
    assert desk.app().activate(key).state == "valid"
    assert pauses == [1]


def test_a_server_that_wants_to_be_left_alone_is_left_alone(desk, shop, pauses):
    app = desk.app()
    app.activate(shop.sale())
    desk.between.heard.clear()
    desk.between.says = lambda request: (429, [("Retry-After", "300")], b"")
    result = app.validate()
    assert (result.valid, result.retry_after, pauses) == (True, 300, [])
    desk.between.says = None
    result = app.validate()
    assert (result.valid, result.state, len(desk.between.heard)) == (True, "grace", 1)
    assert 200 <= result.retry_after <= 300


@pytest.mark.parametrize(
    "first", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"]
)
def test_a_server_that_sends_a_byte_now_and_then_is_late(desk, shop, first):
    desk.app().activate(shop.sale())
    slow = Trickle(first)
    try:
        result = desk.app(server=slow.url, timeout=0.3).validate()
        assert (result.valid, result.state) == (True, "grace")
        assert "TimeoutError" in result.detail or "time" in result.detail
        assert not slow.is_over.is_set()
    finally:
        slow.stop()


def test_nobody_there_and_no_such_name(desk, shop, pauses, monkeypatch):
    desk.app().activate(shop.sale())
    with socket.socket() as deaf:  # it has the port, so that nobody else gets it, and does not listen
        deaf.bind(("127.0.0.1", 0))
        result = desk.app(server=f"http://127.0.0.1:{deaf.getsockname()[1]}").validate()
    assert (result.valid, result.state) == (True, "grace")
    assert "ConnectionRefusedError" in result.detail

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(kit.socket, "getaddrinfo", unknown)
    result = desk.app(server="https://licenses.example.com").activate("ANY-KEY")
    assert (result.valid, result.state, result.code) == (False, "unreachable", "NO_CONNECTION")


def test_what_is_no_http_at_all(desk, shop, pauses):
    desk.app().activate(shop.sale())
    slow = Trickle(b"SSH-2.0-OpenSSH_9.2\r\n")
    try:
        assert desk.app(server=slow.url, timeout=0.5).validate().state == "grace"
    finally:
        slow.stop()


# ------------------------------------------------------------------------------------------------ keys
def test_an_app_with_both_keys_lives_through_the_change_of_keys(desk, shop, tmp_path, clock):
    key = shop.sale()
    desk.app().activate(key)
    desk.between.shop = Shop(shop.folder, clock, signing_key=(OTHER_SEED, SEED))
    clock.forward(days=2)
    assert desk.app(public_key=[PUBLIC, OTHERS.pem]).validate().state == "valid"
    assert desk.app(public_key=[PUBLIC, OTHERS.pem]).status().grace_end == clock.now + 30 * DAY
    result = desk.app(public_key=PUBLIC).validate()
    assert (result.valid, result.state, result.code) == (False, "unreachable", "UNKNOWN_KEY")
    assert desk.app(public_key=[OTHER_PUBLIC]).status().valid


# ------------------------------------------------------------------------------------------------ clocks
@pytest.mark.parametrize("off", [3653 * DAY, -3653 * DAY, timedelta(hours=5)])
def test_a_clock_that_is_wrong_locks_nobody_out(desk, shop, pauses, off):
    """Neither online nor offline, nor when it is set right later."""
    desk.clock = Clock()
    desk.clock.now = NOW + off
    result = desk.app().activate(shop.sale())
    assert (result.valid, result.state, result.clock_off) == (True, "valid", True)
    away(desk)
    for days, is_valid in ((0, True), (29, True), (30, False)):
        desk.clock.now = NOW + off + days * DAY
        assert desk.app().validate().valid is is_valid, days
    desk.between.says = None
    assert desk.app().validate().valid
    away(desk)
    desk.clock.now = NOW + 5 * DAY
    assert desk.app().validate().valid


def test_a_clock_that_was_set_back_is_noticed_and_mended_online(desk, shop, pauses):
    desk.app().activate(shop.sale())
    away(desk)
    desk.clock.forward(days=20)
    assert desk.app().validate().valid
    desk.clock.now = NOW - 30 * DAY
    result = desk.app().validate()
    assert (result.valid, result.state, result.code, result.clock_off) == (False, "unreachable", "CLOCK_BACK", True)
    desk.clock.now = NOW + 20 * DAY
    assert desk.app().status().valid
    desk.clock.now = NOW - 30 * DAY
    desk.between.says = None
    desk.between.shop.clock.now = NOW + 20 * DAY
    assert desk.app().validate().valid


def test_a_day_of_difference_is_no_fraud(desk, shop, pauses):
    desk.app().activate(shop.sale())
    away(desk)
    desk.clock.forward(days=10)
    desk.app().validate()
    desk.clock.forward(hours=-20)
    assert desk.app().validate().valid


@pytest.mark.parametrize("back", [timedelta(hours=4), timedelta(hours=20), 3 * DAY, 31 * DAY])
def test_time_that_has_passed_once_does_not_come_back(desk, shop, pauses, back):
    """The end of the file was seen; a clock that is set to the day before does not bring that day back."""
    desk.app().activate(shop.sale())
    away(desk)
    desk.clock.forward(days=29)
    assert desk.app().status().valid
    desk.clock.forward(days=1, hours=2)
    assert desk.app().status().code == "EXPIRED"
    desk.clock.now -= back
    assert desk.app().status().code in ("EXPIRED", "CLOCK_BACK")


def test_a_clock_that_was_in_the_far_future_for_once_locks_nobody_out(desk, shop, pauses):
    desk.app().activate(shop.sale())
    away(desk)
    desk.clock.now = datetime(2099, 1, 1, tzinfo=UTC)
    assert desk.app().status().code == "EXPIRED"
    desk.clock.now = NOW + DAY
    assert desk.app().status().valid


def test_a_new_file_shows_what_time_it_is_and_an_old_one_does_not(desk, shop):
    """For a computer without a network, the clock of which was a month ahead for once."""
    key = shop.sale()
    server_clock = desk.clock
    desk.clock = Clock()
    first = file_from(desk, key)
    desk.app().install_file(first)
    desk.clock.forward(days=40)
    assert desk.app().status().code == "EXPIRED"
    desk.clock.now = NOW + 2 * DAY
    assert not desk.app().install_file(first).valid
    server_clock.forward(days=2)
    assert desk.app().install_file(file_from(desk, key)).valid


# ------------------------------------------------------------------------------------------------ what is kept
def both(desk: Desk) -> list[Path]:
    return [desk.folder / "license.json", desk.folder / "license.backup.json"]


SAMPLED = pytest.mark.parametrize("step", [41, pytest.param(1, marks=pytest.mark.slow)])


@SAMPLED
def test_one_damaged_file_does_no_harm(desk, shop, step):
    desk.app().activate(shop.sale())
    for file in both(desk):
        whole = file.read_bytes()
        for place in range(0, len(whole), step):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            assert desk.app().status().valid, place
        for end in range(0, len(whole), 10 * step):
            file.write_bytes(whole[:end])
            assert desk.app().status().valid, end
        file.unlink()
        assert desk.app().status().valid
        file.write_bytes(whole)


@SAMPLED
def test_damage_to_both_files_gives_nothing_away_and_is_mended_online(desk, shop, pauses, step):
    key = shop.sale()
    desk.app().activate(key)
    whole = both(desk)[0].read_bytes()
    kept, healed = desk.state(), 0
    for place in range(0, len(whole), step):
        for file in both(desk):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        result = desk.app().status()
        assert not result.valid or desk.state() == kept, place  # white space says nothing
        result = desk.app().validate()
        healed += result.valid
        assert result.state in ("valid", "unlicensed", "denied"), place
        assert desk.app().activate(key).valid
    assert healed > len(whole) / step * 0.6


@pytest.mark.parametrize("trick", [
    {"denied": None}, {"seen": "2000-01-01T00:00:00Z"}, {"ahead": 10**9}, {"last_id": "kl1.m0123456789abcdef"},
    {"missed": []}, {"issued": 5}, {"denied": "x"},
])  # fmt: skip
def test_what_was_changed_with_an_editor_does_not_count(desk, shop, pauses, trick):
    key = shop.sale("s1")
    desk.app().activate(key)
    for file in both(desk):
        file.write_text(json.dumps(desk.state() | trick))
    if trick == {"denied": None}:
        assert desk.app().status().valid  # nothing was changed
    else:
        result = desk.app().status()
        assert (result.valid, result.code, result.state) == (False, "NO_FILE", "unreachable")
    assert desk.app().validate().valid
    assert desk.app().status().valid


def test_a_denial_is_not_taken_away_with_an_editor(desk, shop, pauses):
    desk.app().activate(shop.sale("s1"))
    shop.refund("s1")
    desk.app().validate()
    for file in both(desk):
        file.write_text(json.dumps(desk.state() | {"denied": None}))
    away(desk)
    assert not desk.app().validate().valid


def test_a_folder_that_cannot_be_written_to(desk, shop, tmp_path):
    (tmp_path / "file").write_text("")
    nowhere = tmp_path / "file" / "folder"
    app = desk.app(state_dir=nowhere)
    assert app.activate(shop.sale()).valid
    assert [app.status().state, app.validate().state] == ["valid", "valid"]
    away(desk)
    assert app.validate().state == "grace"
    assert desk.app(state_dir=nowhere).status().code == "UNLICENSED"
    desk.between.says = None
    assert app.deactivate().state == "unlicensed"
    assert app.status().code == "UNLICENSED"


def test_what_could_not_be_written_is_written_as_soon_as_it_can_be(desk, shop, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    app = desk.app(state_dir=blocked / "folder")
    assert app.activate(shop.sale()).valid
    blocked.unlink()
    assert desk.app(state_dir=blocked / "folder").status().code == "UNLICENSED"
    assert app.validate().valid  # nothing new is heard, and nothing would be to be written
    assert desk.app(state_dir=blocked / "folder").status().valid


def test_what_could_not_be_written_gives_way_to_what_another_process_wrote(desk, shop, pauses):
    app = desk.app()
    app.activate(shop.sale())
    desk.folder.rename(desk.folder.with_name("aside"))
    desk.folder.write_text("")
    away(desk)
    assert app.validate().state == "unlicensed"
    desk.between.says = None
    assert app.activate(shop.sale("s2")).valid
    assert app.status().valid
    desk.folder.unlink()
    desk.folder.with_name("aside").rename(desk.folder)
    desk.app().deactivate()
    assert app.status().code == "UNLICENSED"


def test_a_container_that_keeps_nothing_takes_no_seat(desk, shop, tmp_path):
    """It would be another computer with each start."""
    desk.computer.name = "container"
    (tmp_path / "file").write_text("")
    app, key = desk.app(state_dir=tmp_path / "file" / "folder"), shop.sale()
    for _ in range(2):
        result = app.activate(key)
        assert (result.valid, result.state, result.code) == (False, "unreachable", "NOT_KEPT")
    assert (app.device_code(), app.status().code, desk.between.heard) == ("", "UNLICENSED", [])


def test_what_is_kept_is_for_the_owners_eyes_alone_and_no_result_names_the_key(desk, shop, pauses, capfd):
    key = shop.sale()
    app = desk.app()
    results = [app.activate(key), app.validate(), app.status(), app.activate("NO-SUCH-KEY-AT-ALL")]
    away(desk)
    results.append(app.validate())
    for file in both(desk):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(desk.folder.stat().st_mode) == 0o700
    told = f"{results} {app!r} {capfd.readouterr()}"
    assert key not in told
    assert sorted(path.name for path in desk.folder.iterdir()) == [
        "license.backup.json", "license.json", "license.lock",
    ]  # fmt: skip


COUNT = """
import random, sys, time
sys.path.insert(0, sys.argv[1])
import keyledger_client as kit
kit.LOCK_PATIENCE = 60
shelf = kit.Shelf(kit.Path(sys.argv[2]))
shelf.secret = b"s"
for _ in range(20):
    shelf.change(lambda kept: {"count": kept.get("count", 0) + 1})
    time.sleep(0.01 * random.random())  # as an app does: none writes without a pause
"""


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    command = [sys.executable, "-I", "-S", "-c", COUNT, str(KIT.parent), str(tmp_path / "state")]
    running = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(90) for process in running] == [0] * 3
    shelf = kit.Shelf(tmp_path / "state")
    shelf.secret = b"s"
    assert shelf.read()["count"] == 60


WITHOUT = """
import sys
sys.path.insert(0, sys.argv[1])
import keyledger_client as kit
assert "cryptography" not in sys.modules
client = kit.LicenseClient(sys.argv[2], "wave", sys.argv[3], sys.argv[4], timeout=60)
for result in (client.activate(sys.argv[5]), client.validate(), client.status(), client.deactivate()):
    print(result.state, result.valid)
"""


def test_the_standard_library_is_enough(desk, shop):
    """No package can be imported there, and no setting of Python's reaches it."""
    given = [str(KIT.parent), desk.between.url, PUBLIC, str(desk.folder), shop.sale()]
    command = [sys.executable, "-I", "-S", "-W", "error", "-c", WITHOUT, *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert (done.stdout, done.stderr) == ("valid True\nvalid True\nvalid True\nunlicensed False\n", "")


def test_python_3_9_can_read_it():
    import ast

    ast.parse(KIT.read_text(), feature_version=(3, 9))


def test_the_readme_leaves_nobody_without_a_field_for_a_key(desk, shop, monkeypatch):
    """The owner gave out a new key: the old one is refused for ever, and the customer has the new one in his mail."""
    old = shop.sale("s1")
    app = desk.app()
    app.activate(old)
    shop.refund("s1")
    new = shop.sale("s2")
    example = re.findall(r"^```python\n(.*?)^```", (KIT.parent / "README.md").read_text(), re.MULTILINE | re.DOTALL)[0]
    monkeypatch.setattr(kit, "LicenseClient", lambda *_: app)
    told: list[Any] = []
    given = {"ask_for_key": lambda why="": told.append(why) or new, "start": told.append, "show": print}
    exec(compile(example, "README.md", "exec"), given)
    assert told == ["This license is paused: a payment was refunded, disputed or has failed.", ("batch",)]
