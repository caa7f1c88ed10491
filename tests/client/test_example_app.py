"""The example app under Xvfb, driven by the keyboard against a shop. EXAMPLE_SHOTS=folder keeps the screenshots."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from server.services.signing import Signing
from tests.client.between import HTML, Between
from tests.conftest import Clock, Shop
from tests.signed_answers import SEED

PUBLIC = base64.b64encode(Signing([SEED]).get_key().public_key).decode()
DRIVER = Path(__file__).with_name("drive_example.py")
pytestmark = pytest.mark.system
PYTHONS = (sys.executable, "/usr/bin/python3", "python3")  # not every Python has Tkinter; the kit runs on any


def missing(what: str, package: str) -> None:
    """Where it can be installed it must be: `.ci/run` sees to that, and says so by DESKTOP_TESTS."""
    if os.environ.get("DESKTOP_TESTS") == "required":
        pytest.fail(f"there is no {what}, and DESKTOP_TESTS=required")
    pytest.skip(f"there is no {what} here (Debian: apt install {package})")


def find_python() -> str:
    for python in PYTHONS:
        found = shutil.which(python)
        asked = [found, "-c", "import tkinter; assert tkinter.TkVersion >= 8.6"]
        if found and subprocess.run(asked, capture_output=True, check=False).returncode == 0:  # type: ignore[arg-type]
            return found
    missing("Python with Tkinter", "python3-tk")
    raise AssertionError


@pytest.fixture(scope="module")
def screen(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """A display of its own, and the file in which it keeps what it shows."""
    if not (xvfb := shutil.which("Xvfb")):
        missing("Xvfb", "xvfb")
    folder = tmp_path_factory.mktemp("screen")
    reading, writing = os.pipe()
    command = [
        xvfb,
        "-displayfd",
        str(writing),
        "-screen",
        "0",
        "900x700x24",
        "-fbdir",
        str(folder),
        "-nolisten",
        "tcp",
    ]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, pass_fds=[writing], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    os.close(writing)
    with os.fdopen(reading) as told:
        number = told.readline().strip()
    assert number, (folder / "log").read_text()
    yield f":{number}", folder / "Xvfb_screen0"
    running.terminate()
    running.wait(60)


class Window:
    """The app on the customer's screen."""

    def __init__(self, server: str, state: Path, screen: tuple[str, Path], product: str) -> None:
        environ = {"DISPLAY": screen[0], "PATH": os.environ["PATH"], "HOME": str(state.parent), "LC_ALL": "C.UTF-8"}
        command = [find_python(), "-W", "error", str(DRIVER), server, product, PUBLIC, str(state), str(screen[1])]
        self.shots = Path(os.environ.get("EXAMPLE_SHOTS") or state.parent)
        self.log = state.parent / "app.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environ
            )

    def do(self, do: str, **more: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do} | more) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        told = json.loads(line) if line else {}
        assert told, self.log.read_text()
        assert "failed" not in told, self.log.read_text()
        return told

    def page(self, page: str, heading: str = "") -> Any:
        """What is on it, once it is there; each is looked at."""
        seen = self.do("wait", page=page, heading=heading)
        assert seen["page"] == page, seen
        assert heading in seen["heading"], seen
        assert seen["fits"], seen
        return seen

    def shot(self, name: str) -> None:
        path = self.shots / f"{name}.png"
        assert self.do("shot", path=str(path))["is_drawn"]
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    def go_to(self, button: str) -> None:
        """By the tabulator alone."""
        for _ in range(10):
            if self.do("look")["focus"] == button:
                return
            self.do("press", key="Tab")
        raise AssertionError(f"{button} cannot be reached by the keyboard: {self.do('look')}")

    def choose(self, button: str, key: str = "Return") -> None:
        self.go_to(button)
        self.do("press", key=key)

    def enter(self, license_key: str) -> None:
        assert self.page("key")["focus"] == "TEntry"
        self.do("type", text=license_key)
        self.do("press", key="Return")

    def close(self) -> None:
        self.process.communicate(timeout=60)


@pytest.fixture
def shop(tmp_path):
    clock = Clock()
    clock.now = datetime.now(UTC).replace(microsecond=0)  # the app has the machine's clock
    return Shop(tmp_path / "data", clock, signing_key=(SEED,))


@pytest.fixture
def between(shop):
    standing = Between(shop)
    yield standing
    standing.stop()


@pytest.fixture
def window(tmp_path, between, screen):
    opened: list[Window] = []

    def start(name: str = "desk", product: str = "wave") -> Window:
        opened.append(Window(between.url, tmp_path / name, screen, product))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def days_ago(shop: Shop, days: int) -> str:
    return (shop.clock.now - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_key_is_entered_and_the_seat_is_given_back(window, shop, between):
    key, app = shop.sale(), window()
    seen = app.page("key")
    assert (seen["heading"], seen["note"]) == ("Welcome to Wave", "")
    assert sorted(seen["buttons"]) == ["Activate", "This computer is offline"]
    app.shot("1-enter-key")
    app.enter("NO-SUCH-KEY")
    seen = app.page("key", "This did not work")
    assert seen["typed"] == "NO-SUCH-KEY"
    assert "compare it with the one in your e-mail" in seen["message"]
    app.shot("2-wrong-key")
    app.do("press", key="BackSpace")
    app.enter(key)
    seen = app.page("valid")
    assert (seen["heading"], seen["focus"]) == ("Your license is valid", "Continue")
    assert {"Wave", "Pro", "batch", "for ever", "1 of 1"} <= set(seen["texts"])
    app.shot("3-valid")
    app.choose("Release this computer", "space")
    assert app.page("key")["heading"] == "Welcome to Wave"
    assert shop.ask("validate", license_key=key)["license"]["devices_used"] == 0


def test_the_server_is_away_and_the_app_runs_on(window, shop, between):
    key, app = shop.sale(), window()
    app.enter(key)
    app.page("valid")
    app.close()
    between.says = lambda request: (404, HTML, b"<h1>Welcome to the hotel</h1>")
    app = window()
    seen = app.page("valid", "The license server was not reached")
    assert "Without the license server the program works until" in seen["message"]
    app.shot("4-offline")
    shop.refund("s1")
    between.says = None
    app.close()
    app = window()
    seen = app.page("key", "Your license cannot be used")
    assert seen["focus"] == "TEntry"
    assert "This license is paused" in seen["message"]
    assert "Check again" in seen["buttons"]
    app.shot("5-paused")


def test_all_seats_are_taken(window, shop, between):
    key, app = shop.sale(), window()
    shop.ask("activate", license_key=key, hardware_id="another-pc")
    app.enter(key)
    seen = app.page("seats")
    assert (seen["heading"], seen["focus"]) == ("All seats are taken", "Release a computer on your license's page")
    assert "(1 of 1)" in seen["message"]
    app.shot("6-seats-taken")
    app.do("press", key="Return")
    (page,) = app.do("look")["opened"]
    assert "/portal" in page
    assert page in seen["texts"]
    shop.ask("deactivate", license_key=key, hardware_id="another-pc")
    app.choose("Try again")
    assert app.page("valid")["heading"] == "Your license is valid"


def test_a_license_ends_and_is_renewed(window, shop, between):
    sold = {"product": "G-TEAM==", "subscription_id": "sub1"}
    key = shop.sale("s1", **sold, sale_timestamp=days_ago(shop, 40))
    app = window(product="team")
    app.enter(key)
    seen = app.page("expired")
    assert seen["heading"] == "Your license has ended"
    assert f"It ended on {days_ago(shop, 10)[:10]}, and works again" in seen["message"]
    app.shot("7-expired")
    shop.sale("s2", **sold, sale_timestamp=days_ago(shop, 0), is_recurring_charge="true")
    app.choose("Check again")
    seen = app.page("renewed")
    assert seen["heading"] == "Thank you: your license is renewed"
    app.shot("8-renewed")


def test_a_computer_without_a_network(window, shop, between, tmp_path):
    key = shop.sale()
    between.says = lambda request: (502, [], b"")
    app = window()
    app.page("key")
    app.choose("This computer is offline")
    seen = app.page("offline")
    assert seen["focus"] == "Load license file…"
    assert seen["code"].startswith("-----BEGIN DEVICE CODE-----")
    app.shot("9-offline-activation")
    app.choose("Copy code")
    assert app.do("clipboard")["text"].strip() == seen["code"]
    told = json.loads(base64.b64decode("".join(seen["code"].split("\n")[1:-1])))
    file = tmp_path / "wave.lic"
    file.write_text("this is none")
    app.do("choose", path=str(file))
    app.choose("Load license file…")
    app.page("offline", "This file cannot be used")
    app.shot("10-bad-file")
    body = {"license_key": key, "hardware_id": told["hardware_id"], "device_name": told["device_name"]}
    file.write_text(shop.ask("file", **body)["license_file"])
    app.choose("Load license file…")
    seen = app.page("valid")
    assert {"Wave", "Pro", "batch"} <= set(seen["texts"])
    app.shot("11-valid-by-file")


def test_escape_closes_the_window(window):
    app = window()
    app.page("key")
    app.do("press", key="Escape")
    assert app.process.wait(60) == 0
