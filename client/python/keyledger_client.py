"""Keyledger in your app: one file, to be copied into it. It needs Python 3.9 or newer, and no package.

    client = LicenseClient("https://licenses.example.com", "my-product", "<public key>", state_dir)
    result = client.activate(key)         # what the customer typed
    if client.validate().valid: ...       # at each start; offline, the last license file counts

Ed25519 is checked by the package `cryptography` where it is there, else by this file. How to use it: README.md beside
this file. How it works: ../PROTOCOL.md and ../HARDWARE_ID.md.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ctypes
import email.utils
import hashlib
import hmac
import http.client
import importlib
import io
import ipaddress
import json
import os
import platform
import random
import re
import secrets
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

VERSION = "1.0.0"

DAY = timedelta(days=1)
CLOCK_MAY_DIFFER = timedelta(minutes=5)
CLOCK_MAY_JUMP = timedelta(days=366)  # further ahead than that is a wrong clock, not a program that nobody used
ATTEMPTS = 3
MOST_BYTES = 1024 * 1024
LOCK_PATIENCE = 10.0  # seconds
READING_TAKES, FIRST_READING_TAKES = 5.0, 25.0  # seconds for each program that is asked about the computer
ROUTE = "/api/v1/licenses/"


# ------------------------------------------------------------------------------------------------ what an app is told
@dataclass(frozen=True)
class Result:
    """The answer to every verb. `valid` says whether the app may run, `state` why, in one of five words:

    `unlicensed` no key was entered; `valid`; `grace` valid, but the server was not reached; `denied` the server said
    no, and only it can say yes again; `unreachable` there is no verdict, neither yes nor no.
    """

    valid: bool
    state: str
    code: str  # the server's, or one of REASONS
    detail: str  # for your log
    message: str  # for people, in English; translate by `code`
    source: str  # "online": the server said so just now; "offline": from what is kept
    license_id: str | None = None
    product_name: str | None = None
    tier: str | None = None
    features: tuple[str, ...] = ()
    expiry: datetime | None = None  # when the license ends; None: never, or not known
    grace_end: datetime | None = None  # until when it runs without the server; None: for ever, or not at all
    seats_used: int | None = None
    max_seats: int | None = None
    activated: bool = False  # a seat was taken just now
    clock_off: bool = False  # this computer's clock is wrong
    retry_after: int | None = None  # seconds for which the server wants to be left alone
    help_url: str | None = None  # a page on which the customer can help himself


REASONS = {
    "VALID": "Your license is valid.",
    "UNLICENSED": "Please enter your license key.",
    "NOT_A_KEY": "Please enter the license key as it stands in your e-mail.",
    "DEACTIVATED": "The license was released from this computer.",
    "NOT_FOUND": "There is no such license key. Please compare it with the one in your e-mail.",
    "BANNED": "This license was revoked, or replaced by a new key.",
    "SUSPENDED": "This license is paused: a payment was refunded, disputed or has failed.",
    "EXPIRED": "Your license has ended. It works again as soon as it is renewed.",
    "PRODUCT_SCOPE_MISMATCH": "This license key is for another product.",
    "USER_SCOPE_MISMATCH": "This license key belongs to another e-mail address.",
    "ENTITLEMENTS_MISSING": "A feature that is needed here is not in your license.",
    "TOO_MANY_MACHINES": "All seats of this license are taken. Release a computer that you no longer use.",
    "FINGERPRINT_SCOPE_MISMATCH": "This computer was released. Enter the license key to use it here again.",
    "NO_CONNECTION": "The license server could not be reached. Please check the internet connection.",
    "TIMED_OUT": "The license server did not answer in time. Please try again.",
    "PAUSED": "The license server is busy. Please try again a little later.",
    "NO_VERDICT": "The license server could not answer. Please try again later.",
    "UNSIGNED": "Something else answered in the place of the license server. Does this network want you to sign in?",
    "NO_FILE": "Please connect to the internet once, so that your license can be checked.",
    "CLOCK_BACK": "This computer's clock is behind. Please set it right, or connect to the internet once.",
    "NOT_READ": "This computer could not be read. Please try again in a moment.",
    "NOT_KEPT": "The folder of this program cannot be written to, and without it this computer is not known again.",
    "NOT_YET": "This computer's clock is behind. Please set it right, or connect to the internet once.",
    "UNREADABLE": "This is no license file, or not all of it.",
    "UNKNOWN_FORMAT": "This license file is for a newer version of the program.",
    "UNKNOWN_KEY": "This license file was signed with a key that this version of the program does not know.",
    "BAD_SIGNATURE": "This license file was changed, or does not come from the maker of this program.",
    "OTHER_DEVICE": "This license file is for another computer.",
    "OTHER_PRODUCT": "This license is for another product.",
    "OTHER_LICENSE": "This license file is for another license key.",
    "OLD_FILE": "This license file is older than the last word of the license server. Please get a new one.",
}


# ------------------------------------------------------------------------------------- the hardware id: its rules
JUNK = frozenset(
    """
    tobefilledbyoem tobefilledbyoemtobefilledbyoem defaultstring systemserialnumber systemproductname serialnumber
    baseboardserialnumber chassisserialnumber notspecified notapplicable notavailable notprovided notset noserial
    uninitialized unknown invalid default oemoem empty 123456 1234567 12345678 123456789 1234567890 0123456789
    123456789abcdef 0123456789abcdef 1234567890abcdef 123456789abcdef0 03000200040005000006000700080009
    00020003000400050006000700080009 12345678123456789012345678901234 1234567812345678123456789abcdef0
    12345678123456781234567890abcdef 123456781234567890abcddeefaabbcc 11111111222233334444555555555555
    00010203040506070809 000102030405060708090a0b0c0d0e0f
    """.split()
)
JUNK_DISKS = ("qm0000", "drivescsi", "driveide", "drivesata", "drivevirtio", "persistentdisk", "virtual")
JUNK_CARDS = frozenset(
    "001122334455 00e04c000001 00e04c680001 00e04c360000 00e04c534458 888888888788 123456789abc".split()
)


def make_hardware_id(
    product: str,
    machine_id: str | None = None,
    board: str | None = None,
    disk: str | None = None,
    cards: Iterable[str] = (),
    installation: str | None = None,
) -> str | None:
    """The id of these parts; None where nothing is left of them. `installation` counts only where it stands alone."""
    named = [("m", _plain(machine_id)), ("b", _plain(board)), ("d", _plain(disk, JUNK_DISKS))]
    found = [_part(product, letter, value) for letter, value in named if value]
    addresses = sorted({address for card in cards if (address := _address(card))})
    found += sorted(_part(product, "n", address) for address in addresses[:4])
    if not found and installation:
        found = [_part(product, "x", installation)]
    return ".".join(["kl1", *found]) if found else None


def same_machine(one: str, other: str) -> bool:
    """Two parts in common, one of them a disk or a network card: images and factories copy the other two."""
    if one == other or not (one.startswith("kl1.") and other.startswith("kl1.")):
        return one == other
    shared = set(one.split(".")) & set(other.split("."))
    return _is_enough(part for part in shared if len(part) == 17)


def _is_enough(parts: Iterable[str]) -> bool:
    told = [part for part in parts if part[:1] in ("m", "b", "d", "n")]
    return len(told) >= 2 and any(part[0] in "dn" for part in told)


def _part(product: str, letter: str, value: str) -> str:
    return letter + hashlib.sha256("\n".join(["kl1", product, letter, value]).encode()).hexdigest()[:16]


def _plain(value: str | None, junk_starts: tuple[str, ...] = ()) -> str | None:
    text = re.sub(r"[^a-z0-9]", "", (value or "").lower())
    is_junk = len(text) < 6 or len(set(text)) < 3 or text in JUNK or text.startswith(junk_starts)
    return None if is_junk else text


def _address(card: str) -> str | None:
    text = re.sub(r"[-:. ]", "", card.lower())
    if not re.fullmatch(r"[0-9a-f]{12}", text) or len(set(text)) < 3 or text in JUNK_CARDS:
        return None
    first = int(text[:2], 16)
    is_made_up = bool(first & 2) and not text.startswith("525400")
    return None if first & 1 or is_made_up else text


# ------------------------------------------------------------------------------------- the hardware id: this computer
VIRTUAL_DISK = re.compile(r"(vd|xvd|loop|zram|ram|nbd)")
VIRTUAL_MODEL = re.compile(r"qemu|vbox|vmware|virtual|amazon elastic block store", re.IGNORECASE)
CONTAINER = re.compile(r"docker|containerd|kubepods|libpod|lxc")
NO_CARD = re.compile(r"Hardware Port:.*(usb|bluetooth|thunderbolt|bridge)", re.IGNORECASE)
NETWORK_CLASS = "{4D36E972-E325-11CE-BFC1-08002BE10318}"


@dataclass(frozen=True)
class Machine:
    """The parts of a computer, as they stand. `failed` are the letters of those that could not be asked for this time:
    a program that was too slow once must not make another computer of this one. `again`: it may be told another time,
    which is not so where such a program is forbidden or not there."""

    machine_id: str | None = None
    board: str | None = None
    disk: str | None = None
    cards: tuple[str, ...] = ()
    failed: str = ""
    again: bool = False


class System:
    """What is asked of the operating system; tests put another one in its place."""

    name = sys.platform
    root = Path("/")
    environ: Mapping[str, str] = os.environ

    def run(self, *command: str, seconds: float = READING_TAKES) -> str:
        """Raises OSError or subprocess.SubprocessError."""
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=True, stdin=subprocess.DEVNULL)
        return done.stdout.decode("utf-8", "replace")

    def registry(self, key: str, name: str) -> str | None:
        winreg: Any = importlib.import_module("winreg")
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key, 0, winreg.KEY_READ | winreg.KEY_WOW64_64KEY) as opened:
                return str(winreg.QueryValueEx(opened, name)[0])
        except OSError:
            return None

    def system_disk(self) -> bytes:
        """The STORAGE_DEVICE_DESCRIPTOR of the disk that Windows is on; no rights are needed to ask for it."""
        kernel: Any = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore]
        kernel.CreateFileW.restype = ctypes.c_void_p
        drive = self.environ.get("SystemDrive", "C:")
        handle = kernel.CreateFileW(f"\\\\.\\{drive}", 0, 3, None, 3, 0, None)
        if handle in (None, ctypes.c_void_p(-1).value):
            return b""
        query, told, size = ctypes.create_string_buffer(12), ctypes.create_string_buffer(2048), ctypes.c_ulong(0)
        handed = (ctypes.c_void_p(handle), 0x2D1400, query, 12, told, len(told), ctypes.byref(size), None)
        try:
            return told.raw[: size.value] if kernel.DeviceIoControl(*handed) else b""
        finally:
            kernel.CloseHandle(ctypes.c_void_p(handle))

    def adapters(self) -> Iterator[AdapterInfo]:
        api: Any = ctypes.WinDLL("iphlpapi")  # type: ignore[attr-defined,unused-ignore]
        size = ctypes.c_ulong(64 * 1024)
        room = ctypes.create_string_buffer(size.value)
        if api.GetAdaptersInfo(room, ctypes.byref(size)) == 0:
            yield from adapters_in(ctypes.cast(room, ctypes.POINTER(AdapterInfo)))


class AdapterInfo(ctypes.Structure):
    """The beginning of Windows' IP_ADAPTER_INFO: https://learn.microsoft.com/windows/win32/api/iptypes/"""


AdapterInfo._fields_ = [
    ("next", ctypes.POINTER(AdapterInfo)),
    ("combo_index", ctypes.c_uint32),
    ("name", ctypes.c_char * 260),
    ("description", ctypes.c_char * 132),
    ("address_length", ctypes.c_uint32),
    ("address", ctypes.c_ubyte * 8),
]


def adapters_in(first: Any) -> Iterator[AdapterInfo]:
    while first:
        yield first.contents
        first = first.contents.next


def read_machine(system: System, seconds: float = READING_TAKES) -> Machine:
    """All parts that can be read. Never raises."""
    if system.name == "darwin":
        return _read_mac(system, seconds)
    readers = {"win32": _read_windows, "linux": _read_linux}
    return readers[system.name](system) if system.name in readers else Machine()


def _may_pass(problem: Exception) -> bool:
    lasting = (FileNotFoundError, PermissionError)
    return isinstance(problem, (OSError, subprocess.SubprocessError)) and not isinstance(problem, lasting)


def _read_windows(system: System) -> Machine:
    guid = system.registry(r"SOFTWARE\Microsoft\Cryptography", "MachineGuid")
    board = system.registry(r"SYSTEM\HardwareConfig", "LastConfig")
    failed, again, disk, cards = "", False, None, []
    try:
        disk = disk_serial(system.system_disk())
    except (OSError, AttributeError) as problem:
        failed, again = "d", _may_pass(problem)
    try:
        for adapter in system.adapters():
            key = rf"SYSTEM\CurrentControlSet\Control\Network\{NETWORK_CLASS}\{adapter.name.decode('ascii')}\Connection"
            if (system.registry(key, "PnpInstanceID") or "").upper().startswith("PCI\\"):
                cards.append(bytes(adapter.address)[: adapter.address_length].hex())
    except (OSError, AttributeError, ValueError) as problem:
        failed, again = failed + "n", again or _may_pass(problem)
    return Machine(guid, board, disk, tuple(cards), failed, again)


def disk_serial(descriptor: bytes) -> str | None:
    """From a STORAGE_DEVICE_DESCRIPTOR: offsets of texts that end with a zero; 0 where there is none."""

    def text(place: int) -> str:
        start = int.from_bytes(descriptor[place : place + 4], "little")
        return descriptor[start:].partition(b"\0")[0].decode("ascii", "replace").strip() if start else ""

    if len(descriptor) < 28 or VIRTUAL_MODEL.search(f"{text(12)} {text(16)}"):
        return None
    return text(24) or None


def _read_mac(system: System, seconds: float) -> Machine:
    failed, again, device, ports = "", False, "", ""
    try:
        device = system.run("/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice", seconds=seconds)
    except (OSError, subprocess.SubprocessError) as problem:
        failed, again = "mb", _may_pass(problem)
    try:
        ports = system.run("/usr/sbin/networksetup", "-listallhardwareports", seconds=seconds)
    except (OSError, subprocess.SubprocessError) as problem:
        failed, again = failed + "n", again or _may_pass(problem)

    def value(name: str) -> str | None:
        found = re.search(rf'"{name}" = "([^"]*)"', device)
        return found[1] if found else None

    own = [port for port in re.split(r"\n\s*\n", ports) if not NO_CARD.search(port)]
    cards = [found[1] for port in own if (found := re.search(r"Ethernet Address: ([0-9a-fA-F:]{17})", port))]
    return Machine(value("IOPlatformUUID"), value("IOPlatformSerialNumber"), None, tuple(cards), failed, again)


def _read_linux(system: System) -> Machine:
    root = system.root
    if _is_container(system):
        return Machine()
    machine_id = _text(root / "etc/machine-id") or _text(root / "var/lib/dbus/machine-id")
    if "microsoft" in (_text(root / "proc/sys/kernel/osrelease") or "").lower():
        return Machine(machine_id)  # WSL: another card with each start
    board = _text(root / "sys/class/dmi/id/product_uuid") or _text(root / "proc/device-tree/serial-number")
    disk, cards = None, list[str]()
    with contextlib.suppress(OSError):  # an app that is confined may not look there, today nor tomorrow
        disk = _linux_disk(root)
    with contextlib.suppress(OSError):
        cards.extend(_linux_cards(root))
    return Machine(machine_id, board, disk, tuple(cards))


def _is_container(system: System) -> bool:
    root, group = system.root, _text(system.root / "proc/1/cgroup") or ""
    if any(system.environ.get(name) for name in ("container", "KUBERNETES_SERVICE_HOST")):
        return True
    if any(os.path.exists(root / mark) for mark in (".dockerenv", "run/.containerenv")):  # never raises
        return True
    mount = _root_mount(root)  # containerd with cgroup v2 leaves no name of its own
    is_layered = group == "0::/" and mount is not None and mount[mount.index("-") + 1] == "overlay"
    return is_layered or bool(CONTAINER.search(group))


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().replace(b"\0", b"").decode("utf-8", "replace").strip() or None
    except OSError:
        return None


def _linux_disk(root: Path) -> str | None:
    """The serial number of the disk under `/`: through partitions, encryption and volumes down to the disk itself."""
    block = _root_block(root)
    for _ in range(8):
        if block is None:
            return None
        below = sorted((block / "slaves").iterdir()) if (block / "slaves").is_dir() else []
        if (block / "partition").exists():
            block = block.parent
        elif below:
            block = below[0].resolve()
        else:
            break
    if block is None or VIRTUAL_DISK.match(block.name) or VIRTUAL_MODEL.search(_text(block / "device/model") or ""):
        return None
    return next((told for name in ("serial", "wwid", "cid") if (told := _text(block / "device" / name))), None)


def _root_mount(root: Path) -> list[str] | None:
    """https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html: behind the hyphen are kind and source."""
    mounts = [line.split(" ") for line in (_text(root / "proc/self/mountinfo") or "").splitlines()]
    found = [fields for fields in mounts if len(fields) > 6 and fields[4] == "/" and "-" in fields[:-2]]
    return found[-1] if found else None


def _root_block(root: Path) -> Path | None:
    """Btrfs and others mount under a number that is no disk's: then the name of the device is what counts."""
    mount = _root_mount(root)
    if mount is None:
        return None
    by_number = root / "sys/dev/block" / mount[2]
    if by_number.exists():
        return by_number.resolve()
    source = mount[mount.index("-") + 2]
    by_name = root / "sys/class/block" / (root / source.lstrip("/")).resolve().name
    return by_name.resolve() if source.startswith("/dev/") and by_name.exists() else None


def _linux_cards(root: Path) -> Iterator[str]:
    folder = root / "sys/class/net"
    for card in sorted(folder.iterdir()) if folder.is_dir() else []:
        is_built_in = (card / "device").exists() and not re.search(r"/usb\d", str((card / "device").resolve()))
        address = _text(card / "phy80211/macaddress") or _text(card / "address")
        if is_built_in and address:
            yield address


def hardware_id_of(machine: Machine, product: str, known: str | None, installation: str | None) -> str | None:
    """The machine's present id. Parts that could not be asked for this time are as they were in `known`, if any other
    shows that it is the same computer."""
    parts = (machine.machine_id, machine.board, machine.disk, machine.cards)
    present = make_hardware_id(product, *parts, None if machine.failed and known else installation)
    had, have = (known or "").split(".")[1:], (present or "kl1").split(".")[1:]
    if not machine.failed or not (set(had) & set(have) or not have):
        return present
    have = [*{*have, *(part for part in had if part[:1] in machine.failed)}]
    return ".".join(["kl1", *sorted(have, key=lambda part: ("mbdnx".find(part[:1]), part))]) if have else present


# ------------------------------------------------------------------------------------------------ Ed25519, RFC 8032
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)
# The points whose multiples are few: a signature that has one of them fits more than one message.
EIGHTH = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
SMALL = frozenset((0, 1, P - 1, EIGHTH, P - EIGHTH))
Point = tuple[int, int, int, int]  # X, Y, Z, T: https://www.rfc-editor.org/rfc/rfc8032#section-5.1.4


def verify_ed25519(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature fits. Never raises: what cannot be read does not fit."""
    if len(public_key) != 32 or len(signature) != 64 or int.from_bytes(signature[32:], "little") >= ORDER:
        return False
    if _is_small(public_key) or _is_small(signature[:32]):
        return False
    return _verify(public_key, message, signature)


def _is_small(encoded: bytes) -> bool:
    return (int.from_bytes(encoded, "little") & (2**255 - 1)) % P in SMALL


def verify_without_library(public_key: bytes, message: bytes, signature: bytes) -> bool:
    point = _decoded(public_key)
    if point is None:
        return False
    scalar = int.from_bytes(signature[32:], "little")
    challenge = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little") % ORDER
    x, y, z, t = point
    return _encoded(_sum_of_multiples(scalar, BASE, challenge, (P - x, y, z, P - t))) == signature[:32]


def _verify_with_library(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        return False
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # under FIPS it knows no Ed25519
        return verify_without_library(public_key, message, signature)
    return True


_verify = verify_without_library
try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    _verify = _verify_with_library
except (KeyboardInterrupt, SystemExit):
    raise
except BaseException:  # a broken installation of it is none; Rust's panics are no Exception
    _verify = verify_without_library


def _decoded(encoded: bytes) -> Point | None:
    """Section 5.1.3; None for what is no point, or not its only spelling."""
    whole = int.from_bytes(encoded, "little")
    y, sign = whole & (2**255 - 1), whole >> 255
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P == P - u:
        x = x * ROOT % P
    if v * x * x % P != u or (x == 0 and sign):
        return None
    x = x if x & 1 == sign else P - x
    return (x, y, 1, x * y % P)


def _encoded(point: Point) -> bytes:
    x, y, z, _ = point
    inverse: int = pow(z, P - 2, P)
    whole = y * inverse % P | (x * inverse % P & 1) << 255
    return whole.to_bytes(32, "little")


def _added(one: Point, other: Point) -> Point:
    a, b = (one[1] - one[0]) * (other[1] - other[0]) % P, (one[1] + one[0]) * (other[1] + other[0]) % P
    c, d = 2 * one[3] * other[3] * D % P, 2 * one[2] * other[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def _doubled(point: Point) -> Point:
    a, b, c = point[0] ** 2 % P, point[1] ** 2 % P, 2 * point[2] ** 2 % P
    h = a + b
    e, g = h - (point[0] + point[1]) ** 2 % P, a - b
    f = c + g
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def _sum_of_multiples(m: int, one: Point, n: int, other: Point) -> Point:
    """m * one + n * other, bit by bit. Nothing here is secret, so nothing need take the same time."""
    both, total = _added(one, other), (0, 1, 1, 0)
    for bit in range(max(m.bit_length(), n.bit_length()) - 1, -1, -1):
        total = _doubled(total)
        chosen = (m >> bit & 1) + 2 * (n >> bit & 1)
        if chosen:
            total = _added(total, (one, other, both)[chosen - 1])
    return total


BASE: Any = _decoded((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


# ------------------------------------------------------------------------------------------------ what is believed
class NotBelieved(Exception):
    """Says which rule of PROTOCOL.md failed. It is no answer: neither yes nor no."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True)
class Asked:
    """A request as it was sent. `machine` is the hardware id, None where none is asked about."""

    path: str
    license_key: str
    nonce: str
    machine: str | None
    product: str | None
    key_prefix: str = ""
    method: str = "POST"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return ", ".join(value.strip() for given, value in self.headers if given.lower() == name)


@dataclass(frozen=True)
class Verdict:
    """What the server has said, and by its clock when."""

    said: dict[str, Any]
    at: datetime

    @property
    def valid(self) -> bool:
        return bool(self.said["valid"])


COVERED = r'\("@status" "content-digest" "@method";req "@path";req\)'
SIGNED_INPUT = re.compile(
    rf'sig1=(?P<all>{COVERED};created=(?P<created>[0-9]{{1,15}});keyid="(?P<kid>[0-9a-f]{{16}})";alg="ed25519")',
    re.ASCII,
)
SIGNATURE = re.compile(r"sig1=:([A-Za-z0-9+/]{85}[AQgw]==):")
DIGEST = re.compile(r"sha-256=:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=:")


def believe(asked: Asked, answer: Answer, keys: Mapping[str, bytes]) -> Verdict:
    """What an answer says, once it is shown to be our server's answer to this very request. Raises NotBelieved."""
    if answer.status != 200:
        raise NotBelieved("NO_VERDICT")
    digest, given, signed = (answer.header(name) for name in ("content-digest", "signature-input", "signature"))
    if not (digest and given and signed):
        raise NotBelieved("UNSIGNED")
    told, signature = SIGNED_INPUT.fullmatch(given), SIGNATURE.fullmatch(signed)
    if not told or not signature or not DIGEST.fullmatch(digest):
        raise NotBelieved("UNREADABLE")
    if told["kid"] not in keys:
        raise NotBelieved("UNKNOWN_KEY")
    if digest != f"sha-256=:{base64.b64encode(hashlib.sha256(answer.body).digest()).decode()}:":
        raise NotBelieved("OTHER_BODY")
    base = (
        f'"@status": 200\n"content-digest": {digest}\n"@method";req: {asked.method}\n"@path";req: {asked.path}\n'
        f'"@signature-params": {told["all"]}'
    )
    if not verify_ed25519(keys[told["kid"]], base.encode(), base64.b64decode(signature[1])):
        raise NotBelieved("BAD_SIGNATURE")
    said = _verdict_in(answer.body)
    _check_subject(asked, said)
    return Verdict(said, _moment(int(told["created"])))


def _verdict_in(body: bytes) -> dict[str, Any]:
    said = _json(body)
    license = said.get("license") if isinstance(said, dict) else None
    is_license = (
        isinstance(license, dict) and isinstance(license.get("id"), str) and _are_texts(license.get("features"))
    )
    if (
        not isinstance(said, dict)
        or not isinstance(said.get("valid"), bool)
        or not isinstance(said.get("code"), str)
        or said["valid"] != (said["code"] == "VALID")
        or not (is_license or (license is None and not said["valid"]))
    ):
        raise NotBelieved("UNREADABLE")
    return said


def _check_subject(asked: Asked, said: dict[str, Any]) -> None:
    """The request is not signed: who sits in between can put another key or device into it."""
    if said.get("nonce") != asked.nonce:
        raise NotBelieved("OTHER_REQUEST")
    license, device = said.get("license"), said.get("device")
    if license is not None and license["id"] not in license_ids(asked.license_key, asked.key_prefix):
        raise NotBelieved("OTHER_LICENSE")
    is_of_product = (license or {}).get("product_id") == asked.product
    if said["code"] == "PRODUCT_SCOPE_MISMATCH" and is_of_product:
        raise NotBelieved("OTHER_PRODUCT")
    if not said["valid"]:
        return
    named = device.get("hardware_id") if isinstance(device, dict) else None
    if asked.machine is not None and not (isinstance(named, str) and same_machine(named, asked.machine)):
        raise NotBelieved("OTHER_DEVICE")
    if asked.product is not None and not is_of_product:
        raise NotBelieved("OTHER_PRODUCT")


SYMBOLS = frozenset("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
FORGIVE = str.maketrans("OIL", "011", " -\t\u2010\u2011\u2012\u2013\u2014")


def key_readings(typed: str, key_prefix: str = "") -> list[str]:
    """The keys that a typed text may mean, the text itself first; PROTOCOL.md, "The id of a key"."""
    found = [typed.strip()]
    plain = found[0].upper().translate(FORGIVE)
    head, body = plain[:-30], plain[-30:]
    if len(body) == 30 and SYMBOLS.issuperset(body):
        grouped = "-".join(body[at : at + 6] for at in range(0, 30, 6))
        found += [grouped] if not head else []
        found += (
            [f"{key_prefix}-{grouped}"] if key_prefix and head in ("", key_prefix.upper().translate(FORGIVE)) else []
        )
    return found


def license_ids(typed: str, key_prefix: str = "") -> set[str]:
    return {"lic_" + _sha256(key)[:20] for key in key_readings(typed, key_prefix)}


# ------------------------------------------------------------------------------------------------ license files
FILE = re.compile(r"-----BEGIN LICENSE FILE-----([A-Za-z0-9+/=> \t\r\n]*)-----END LICENSE FILE-----", re.ASCII)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", re.ASCII)


@dataclass(frozen=True)
class LicenseFile:
    """What stands in a file that was signed well."""

    says: dict[str, Any]
    issued: datetime
    expires: datetime | None

    def why_not(self, now: datetime) -> str | None:
        """None where the clock has nothing against it."""
        if self.expires is None:
            return None
        return "NOT_YET" if self.issued > now + DAY else "EXPIRED" if now >= self.expires else None


def read_file(
    text: str,
    keys: Mapping[str, bytes],
    product: str,
    machine: str,
    license_key: str | None = None,
    key_prefix: str = "",
) -> LicenseFile:
    """A file of this product, machine and, where one is named, key; its time is another matter. Raises NotBelieved."""
    file = _signed_file(text[:MOST_BYTES], keys)
    license, device = file.says["license"], file.says["hardware_id"]
    if file.says["product"]["id"] != product:
        raise NotBelieved("OTHER_PRODUCT")
    if device is not None and not same_machine(device, machine):
        raise NotBelieved("OTHER_DEVICE")
    if license_key and license["key_sha256"] not in map(_sha256, key_readings(license_key, key_prefix)):
        raise NotBelieved("OTHER_LICENSE")
    return file


def _signed_file(text: str, keys: Mapping[str, bytes]) -> LicenseFile:
    found = FILE.findall(text)
    inside = _json(_base64(re.sub(r"[> \t\r\n]", "", found[0]))) if len(found) == 1 else None
    if not isinstance(inside, dict) or inside.get("alg") != "ed25519":
        raise NotBelieved("UNREADABLE")
    enc, signature = inside.get("enc"), _base64(inside.get("sig"))
    says = _json(_base64(enc))
    if not isinstance(says, dict) or signature is None or len(signature) != 64:
        raise NotBelieved("UNREADABLE")
    if says.get("format") != 1 or isinstance(says["format"], bool):
        raise NotBelieved("UNKNOWN_FORMAT")
    if not isinstance(says.get("kid"), str) or says["kid"] not in keys:
        raise NotBelieved("UNKNOWN_KEY")
    if not verify_ed25519(keys[says["kid"]], f"license/{enc}".encode(), signature):
        raise NotBelieved("BAD_SIGNATURE")
    return _checked_file(says)


def _checked_file(says: dict[str, Any]) -> LicenseFile:
    license, product, device = says.get("license"), says.get("product"), says.get("hardware_id", 0)
    issued, expires = _time(says.get("issued")), _time(says.get("expires"))
    if (
        not isinstance(license, dict)
        or not isinstance(product, dict)
        or not (isinstance(license.get("id"), str) and isinstance(license.get("key_sha256"), str))
        or not (device is None or isinstance(device, str))
        or not _are_texts(says.get("features"))
        or issued is None
        or (expires is None and says.get("expires", 0) is not None)
    ):
        raise NotBelieved("UNREADABLE")
    return LicenseFile(says, issued, expires)


# ------------------------------------------------------------------------------------------------ device codes
def make_device_code(hardware_id: str, device_name: str, product: str) -> str:
    """What a customer pastes on the seller's pages to get a license file for this computer."""
    check = _sha256("device/" + "\0".join((hardware_id, device_name, product)))[:8]
    told = {"format": 1, "hardware_id": hardware_id, "device_name": device_name, "product": product, "check": check}
    text = base64.b64encode(json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN DEVICE CODE-----", *lines, "-----END DEVICE CODE-----", ""])


# ------------------------------------------------------------------------------------------------ what is kept
class Shelf:
    """One small file, always whole, and a second copy of it for the day on which a disk or a cleaner spoils the first.

    Both carry a hash that is keyed to the machine. It is no secret to who reads this file; it is there so that nobody
    turns time back or a refusal away with an editor. Where it does not fit, only the key that was entered is believed,
    and the server is asked again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = (folder / "license.json", folder / "license.backup.json")
        # Where the machine cannot be asked for once, all is believed and nothing written.
        self.secret: bytes | None = None
        # What could not be written, and in the place of what: it counts until the program ends, or another one writes.
        self.unwritten: tuple[dict[str, Any], dict[str, Any]] | None = None

    def read(self) -> dict[str, Any]:
        there, unwritten = self.on_disk(), self.unwritten
        return unwritten[1] if unwritten and unwritten[0] == there else there

    def on_disk(self) -> dict[str, Any]:
        found = [state for file in self.files if (state := _state_in(file)) is not None]
        for state in found:
            if self.secret is None or hmac.compare_digest(str(state.get("mac")).encode(), self._mac(state).encode()):
                return state
        kept = ("license_key", "installation")
        state = found[0] if found else {}
        return {"format": 1} | {name: state[name] for name in kept if isinstance(state.get(name), str)}

    def change(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Read, changed and written while other processes wait. A folder that cannot be written to takes no license
        away, and what it would have kept counts until the program ends."""
        with self._locked():
            state, there = self.read(), self.on_disk()
            new = {**state, **change(state)}
            if new != state or self.unwritten:
                self.unwritten = None if self._is_written(new) else (there, new)
            return new

    def _is_written(self, new: dict[str, Any]) -> bool:
        if self.secret is None:
            return False
        new["mac"] = self._mac(new)
        try:
            for file in self.files:
                _replace(file, json.dumps(new, indent=1).encode())
        except OSError:
            return False
        return True

    def _mac(self, state: dict[str, Any]) -> str:
        said = json.dumps({name: state[name] for name in sorted(state) if name != "mac"}, separators=(",", ":"))
        return hmac.new(self.secret or b"", said.encode(), hashlib.sha256).hexdigest()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Not for ever: who holds it that long hangs, and each file is whole at any moment anyway. Who holds it may
        take it again at once, so it is looked for often, and not in step."""
        handle = -1
        try:
            with contextlib.suppress(OSError):
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                handle = os.open(self.folder / "license.lock", os.O_RDWR | os.O_CREAT, 0o600)
                end = time.monotonic() + LOCK_PATIENCE
                while not _try_lock(handle) and time.monotonic() < end:
                    time.sleep(0.001 + 0.001 * random.random())
            yield
        finally:
            if handle >= 0:
                os.close(handle)


def _state_in(file: Path) -> dict[str, Any] | None:
    try:
        state = _json(file.read_bytes())
    except OSError:
        return None
    return state if isinstance(state, dict) and state.get("format") == 1 else None


def _try_lock(handle: int) -> bool:
    """A lock that the system takes back when its process ends."""
    try:
        if sys.platform == "win32":
            windows: Any = importlib.import_module("msvcrt")
            windows.locking(handle, windows.LK_NBLCK, 1)
        else:
            unix: Any = importlib.import_module("fcntl")
            unix.flock(handle, unix.LOCK_EX | unix.LOCK_NB)
    except BlockingIOError:
        return False
    except PermissionError:
        return False
    return True


def _replace(file: Path, text: bytes) -> None:
    handle, fresh = tempfile.mkstemp(dir=file.parent, prefix=f"{file.name}.")  # readable by its owner alone
    try:
        with os.fdopen(handle, "wb") as written:
            written.write(text)
            written.flush()
            os.fsync(written.fileno())
        for attempt in range(5):
            try:
                os.replace(fresh, file)
                return
            except PermissionError:  # Windows: a scanner has the old one open for a moment
                if attempt == 4:
                    raise
                time.sleep(0.05)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise


# ------------------------------------------------------------------------------------------------ the way out
class Deadline:
    """One time limit for all that a verb does on the network."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        """Raises TimeoutError when it is over."""
        if (left := self.end - time.monotonic()) <= 0:
            raise TimeoutError("the time limit is over")
        return left


class _TimedReader(io.RawIOBase):
    """Each read has what is left of the time limit: a server that sends a byte a second is late like any other."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self.sock, self.deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        self.sock.settimeout(self.deadline.left())
        return self.sock.recv_into(room)


class _TimedSocket:
    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self.sock, self.deadline = sock, deadline

    def sendall(self, data: Any) -> None:
        self.sock.settimeout(self.deadline.left())
        self.sock.sendall(data)

    def makefile(self, mode: str, *_: Any) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self.sock, self.deadline))

    def close(self) -> None:
        """Of what http.client does when it has read the headers; the body is still to come."""


def send(address: Address, path: str, body: bytes, deadline: Deadline, context: ssl.SSLContext | None) -> Answer:
    """One request, one answer. Raises OSError (TimeoutError among them) or http.client.HTTPException."""
    sock = _connected(address, deadline, context)
    try:
        connection = http.client.HTTPConnection(address.host, address.port)
        connection.sock = _TimedSocket(sock, deadline)
        headers = {
            "Host": address.authority,
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "User-Agent": f"keyledger-client-python/{VERSION}",
        }
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        told = response.read(MOST_BYTES + 1)
        if len(told) > MOST_BYTES:
            raise http.client.HTTPException("the answer is too long")
        return Answer(response.status, response.getheaders(), told)
    finally:
        sock.close()


@dataclass(frozen=True)
class Address:
    """Where the server is."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"https": 443, "http": 80}[self.scheme] else f"{host}:{self.port}"

    @property
    def base(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def address_of(server: str) -> Address:
    """Raises ValueError that says what is wrong with it."""
    try:
        parts = urlsplit(server)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    except ValueError:
        raise ValueError("server: is not an address, as https://licenses.example.com") from None
    host = parts.hostname or ""
    if not host or parts.scheme not in ("https", "http") or not server.isascii() or re.search(r"[\s\\]", server):
        raise ValueError("server: is not an address, as https://licenses.example.com")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("server: has a name, a query or a mark in it")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError("server: must begin with https://")
    return Address(parts.scheme, host, port, parts.path.rstrip("/"))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _connected(address: Address, deadline: Deadline, context: ssl.SSLContext | None) -> socket.socket:
    if address.scheme == "http":
        return _dialled(address.host, address.port, deadline)
    proxy = None if urllib.request.proxy_bypass(address.authority) else urllib.request.getproxies().get("https")
    sock = _tunnelled(proxy, address, deadline) if proxy else _dialled(address.host, address.port, deadline)
    try:
        sock.settimeout(deadline.left())
        return (context or ssl.create_default_context()).wrap_socket(sock, server_hostname=address.host)
    except BaseException:
        sock.close()
        raise


def _dialled(host: str, port: int, deadline: Deadline) -> socket.socket:
    """Each address of the host gets its share of the time, so that one that swallows all leaves some for the next."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    problem: OSError = OSError("the host has no address")
    for place, (family, kind, protocol, _, target) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(deadline.left() / (len(found) - place))
            sock.connect(target)
            return sock
        except OSError as error:
            sock.close()
            problem = error
    raise problem


def _tunnelled(proxy: str, address: Address, deadline: Deadline) -> socket.socket:
    """Through the proxy that the system or `https_proxy` names."""
    try:
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        host, port = parts.hostname or "", parts.port or 8080
    except ValueError:  # its text has a part of the password
        raise OSError("the proxy's address makes no sense") from None
    sock = _dialled(host, port, deadline)
    try:
        target = f"{address.host}:{address.port}" if ":" not in address.host else f"[{address.host}]:{address.port}"
        login = ""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            login = f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"
        timed: Any = _TimedSocket(sock, deadline)
        timed.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{login}\r\n".encode("latin-1"))
        response = http.client.HTTPResponse(timed, method="CONNECT")
        response.begin()
        if response.status != 200:
            raise OSError(f"the proxy refuses ({response.status})")
        return sock
    except BaseException:
        sock.close()
        raise


# ------------------------------------------------------------------------------------------------ the client
@dataclass(frozen=True)
class _Seen:
    """What is kept, and which computer this is. `problem` says why no seat can be bound to it."""

    state: dict[str, Any]
    machine: str
    problem: str | None = None


@dataclass(frozen=True)
class _Missed:
    """Why there is no answer, and whether it may be tried again at once."""

    code: str
    detail: str
    again: bool = False
    retry_after: int | None = None


_pause = time.sleep


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


class LicenseClient:
    """The verbs. Each answers with a Result, whatever the network, the server, the clock or the disk do; an exception
    is a mistake of the program that uses it. None asks the server for longer than `timeout` seconds but for a slow name
    server, and `status` asks nobody. May be used by several threads and processes at once."""

    def __init__(
        self,
        server: str,
        product: str,
        public_key: str | Iterable[str],
        state_dir: str | os.PathLike[str],
        *,
        device_name: str | None = None,
        key_prefix: str = "",
        timeout: float = 10.0,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], datetime] = _utc_now,
        system: System | None = None,
    ) -> None:
        """`public_key`: base64 or PEM; several, while you change it. `product`: its id. Raises ValueError."""
        if not product or len(product) > 128:
            raise ValueError("product: must be 1 to 128 characters")
        if timeout <= 0:
            raise ValueError("timeout: must be a number of seconds")
        self._address, self._product, self._keys = address_of(server), product, _keys_of(public_key)
        self._shelf = Shelf(Path(state_dir))
        name = platform.node() if device_name is None else device_name
        self._device_name = re.sub(r"[\x00-\x1f\x7f]", "", name)[:128]
        self._key_prefix, self._timeout, self._context, self._clock = key_prefix, timeout, ssl_context, clock
        self._system, self._machine, self._paused_until = system or System(), None, 0.0

    _machine: Machine | None

    @property
    def portal_url(self) -> str:
        """Where customers see their licenses, release a computer and get a license file."""
        return f"{self._address.base}/portal"

    # -------------------------------------------------------------------------------------------- the verbs
    def activate(self, license_key: str) -> Result:
        """Take a seat for this computer, and a license file for the days offline."""
        key = (license_key or "").strip()
        if not re.fullmatch(r"[^\x00-\x1f\x7f]{1,128}", key):
            return _no_verdict("NOT_A_KEY")
        seen = self._look_longer()
        if seen.problem:
            return _no_verdict(seen.problem)
        heard = self._ask("file", key, seen.machine, Deadline(self._timeout), device_name=self._device_name)
        if isinstance(heard, _Missed):
            return _no_verdict(heard.code, heard)
        if heard.valid:
            return self._accept(key, heard, seen)
        self._deny(key, heard, seen.machine)
        return self._refused(heard)

    def validate(self) -> Result:
        """Ask the server; where it cannot be reached, the last license file counts. To be called at each start."""
        seen = self._look()
        key = seen.state.get("license_key")
        if not key:
            return self._offline(seen)
        if (left := self._paused_until - time.monotonic()) > 0:
            return self._offline(seen, _Missed("PAUSED", "the server asked for a pause", retry_after=int(left) + 1))
        seen = self._look_longer(seen)
        if seen.problem:
            return self._offline(seen, _Missed(seen.problem, seen.problem))
        deadline = Deadline(self._timeout)
        heard = self._ask("validate", key, seen.machine, deadline, bind=False)
        if isinstance(heard, _Missed):
            state = self._shelf.change(lambda kept: {"missed": kept.get("missed") or _written(self._clock())})
            return self._offline(replace(seen, state=state), heard)
        if not heard.valid:
            self._deny(key, heard, seen.machine)
            return self._refused(heard)
        return self._accept(key, self._with_file(key, heard, seen, deadline), seen, is_new=False)

    def deactivate(self) -> Result:
        """Give this computer's seat back and forget the key: `state` is `unlicensed` then. Where the server was not
        reached, nothing is forgotten."""
        seen = self._look()
        if key := seen.state.get("license_key"):
            seen = self._look_longer(seen)
            if seen.problem:
                return self._offline(seen, _Missed(seen.problem, seen.problem))
            heard = self._ask("deactivate", key, seen.machine, Deadline(self._timeout))
            if isinstance(heard, _Missed):
                return self._offline(seen, heard)
        self._shelf.change(lambda kept: dict.fromkeys(("license_key", "file", "denied", "missed")))
        return replace(_no_verdict("DEACTIVATED"), state="unlicensed", source="online" if key else "offline")

    def status(self) -> Result:
        """What is known without asking anybody."""
        return self._offline(self._look())

    def device_code(self) -> str:
        """The text with which a customer gets a license file for this computer on another one. Empty where this
        computer could not be read, or would not be known again."""
        seen = self._look_longer()
        return "" if seen.problem else make_device_code(seen.machine, self._device_name, self._product)

    def install_file(self, text: str) -> Result:
        """Use a license file that the customer brought: its text."""
        seen, now = self._look_longer(), self._clock()
        if seen.problem == "NOT_READ":
            return _no_verdict(seen.problem)
        try:
            file = read_file(text, self._keys, self._product, seen.machine)
        except NotBelieved as problem:
            return _no_verdict(problem.why)
        if why := file.why_not(now):
            return _no_verdict(why)
        state, issued = seen.state, _written(file.issued)
        denied = state.get("denied") or {}
        key, of = state.get("license_key"), file.says["license"]
        is_of_key = key and of["key_sha256"] in map(_sha256, key_readings(key, self._key_prefix))
        is_refused = denied and (denied["license_id"] == of["id"] or (denied["license_id"] is None and is_of_key))
        if is_refused and issued <= denied["at"]:
            return _no_verdict("OLD_FILE")
        # A file that is newer than all before shows what time it is; an older one must not turn the time back.
        is_newer = issued > (state.get("issued") or "")
        known = max(now, file.issued) if is_newer else max(now, self._seen_time(state, now))
        changes = {
            "license_key": key if is_of_key else None,
            "last_id": seen.machine,
            "file": text,
            "issued": max(issued, state.get("issued") or ""),
            "denied": None,
            "missed": None,
            "seen": _written(known),
        }
        return self._offline(replace(seen, state=self._shelf.change(lambda kept: changes)))

    # -------------------------------------------------------------------------------------------- what follows
    def _accept(self, key: str, heard: Verdict, seen: _Seen, *, is_new: bool = True) -> Result:
        """What another window or process has entered or given back meanwhile stays so, unless the key is new."""
        text = heard.said.get("license_file")
        file = self._file_in(text, key, seen.machine)

        def changes(kept: dict[str, Any]) -> dict[str, Any]:
            if not is_new and kept.get("license_key") != key:
                return {}
            kept_file = {} if self._is_kept(key, kept, seen.machine) else {"file": None}
            return {
                "license_key": key,
                "last_id": seen.machine,
                "denied": None,
                "missed": None,
                "seen": _written(heard.at),
                "ahead": round((self._clock() - heard.at).total_seconds()),
                **({"file": text, "issued": _written(file.issued)} if file else kept_file),
            }

        state = self._shelf.change(changes)
        return self._granted(heard, file or self._file_in(state.get("file"), key, seen.machine))

    def _with_file(self, key: str, heard: Verdict, seen: _Seen, deadline: Deadline) -> Verdict:
        """A file of today is as good as one of this minute; an older one is renewed, so that all its days lie ahead.
        So is one that was made for the computer as it was before: the server hears of its new parts."""
        kept = self._file_in(seen.state.get("file"), key, seen.machine)
        is_fresh = kept and kept.why_not(heard.at) is None and (kept.expires is None or heard.at - kept.issued < DAY)
        if is_fresh and kept and kept.says["hardware_id"] in (None, seen.machine):
            return heard
        more = self._ask("file", key, seen.machine, deadline, device_name=self._device_name)
        return more if isinstance(more, Verdict) and more.valid else heard

    def _file_in(self, text: Any, key: str | None, machine: str) -> LicenseFile | None:
        try:
            return read_file(text, self._keys, self._product, machine, key, self._key_prefix) if text else None
        except NotBelieved:
            return None

    def _deny(self, key: str, heard: Verdict, machine: str) -> None:
        """Another key that is refused takes nothing from the one that is kept."""
        license = heard.said.get("license") or {}
        denied = {"code": heard.said["code"], "at": _written(heard.at), "license_id": license.get("id")}
        denied |= {"help_url": self._help_in(heard.said), "expiry": license.get("expiry_date")}
        changes = {"license_key": key, "denied": denied, "missed": None, "seen": _written(heard.at)}
        self._shelf.change(lambda kept: changes if self._is_kept(key, kept, machine) else {})

    def _is_kept(self, key: str, state: dict[str, Any], machine: str) -> bool:
        """A license that came as a file may have no key beside it: then it is the file that knows its key."""
        if kept := state.get("license_key"):
            return bool(license_ids(kept, self._key_prefix) & license_ids(key, self._key_prefix))
        return self._file_in(state.get("file"), key, machine) is not None

    def _offline(self, seen: _Seen, missed: _Missed | None = None) -> Result:
        """The verdict of what is kept. `missed` says why the server was not heard, where it was asked."""
        state = seen.state
        if denied := state.get("denied"):
            no = replace(_no_verdict(denied["code"], missed), state="denied", expiry=_time(denied["expiry"]))
            return replace(no, message=REASONS.get(denied["code"], REASONS["SUSPENDED"]), help_url=denied["help_url"])
        if not state.get("file"):
            return _no_verdict(
                (missed.code if missed else "NO_FILE") if state.get("license_key") else "UNLICENSED", missed
            )
        try:
            file = read_file(
                state["file"], self._keys, self._product, seen.machine, state.get("license_key"), self._key_prefix
            )
        except NotBelieved as problem:
            return _no_verdict(problem.why, missed)
        return self._filed(state, file, missed)

    def _filed(self, state: dict[str, Any], file: LicenseFile, missed: _Missed | None) -> Result:
        local = self._clock()
        now, is_back = self._time_of(state, local)
        if is_back and file.expires is not None:
            return _no_verdict("CLOCK_BACK", missed)
        why = file.why_not(now)
        self._remember_time(state, now, is_good=why is None)
        if why:
            no = _no_verdict(why, missed)
            over = "The time without the license server is over. Please connect to the internet once."
            return (
                replace(no, message=over, expiry=_time(file.says["license"].get("expiry_date")))
                if why == "EXPIRED"
                else no
            )
        return _filed_result(file, missed, is_grace=bool(missed or state.get("missed")), clock_off=is_back)

    # -------------------------------------------------------------------------------------------- the time
    def _seen_time(self, state: dict[str, Any], local: datetime) -> datetime:
        return _time(state.get("seen")) or local

    def _time_of(self, state: dict[str, Any], local: datetime) -> tuple[datetime, bool]:
        """What time it is offline: by the clock, or by the clock as far as it was off when the server was last heard;
        never before the latest time that is known. And whether the clock was put back by more than a day."""
        seen, times = self._seen_time(state, local), [local]
        with contextlib.suppress(OverflowError):
            times.append(local - timedelta(seconds=state.get("ahead") or 0))
        possible = [time for time in times if time >= seen - DAY]
        return (max(min(possible), seen), False) if possible else (seen, True)

    def _remember_time(self, state: dict[str, Any], now: datetime, *, is_good: bool) -> None:
        """Once an hour. What is far ahead and good for nothing is a wrong clock: it shall lock nobody out."""
        passed = now - self._seen_time(state, now)
        if not state.get("seen") or (passed > timedelta(hours=1) and (is_good or passed < CLOCK_MAY_JUMP)):
            self._shelf.change(lambda kept: {"seen": max(kept.get("seen") or "", _written(now))})

    # -------------------------------------------------------------------------------------------- this computer
    def _look(self) -> _Seen:
        machine = self._machine
        if machine is None or machine.failed:
            machine = self._read(READING_TAKES)
        return self._seen(machine)

    def _look_longer(self, seen: _Seen | None = None) -> _Seen:
        """Half of a computer is another computer at the next start: at first sight all of it is worth waiting for."""
        seen = seen or self._look()
        return self._seen(self._read(FIRST_READING_TAKES)) if seen.problem == "NOT_READ" else seen

    def _read(self, seconds: float) -> Machine:
        machine = self._machine = read_machine(self._system, seconds)
        secret = f"keyledger state\n{self._product}\n{machine.machine_id}".encode("utf-8", "replace")
        self._shelf.secret = None if machine.again and "m" in machine.failed else hashlib.sha256(secret).digest()
        return machine

    def _seen(self, machine: Machine) -> _Seen:
        state = self._shelf.read()
        known = state.get("last_id") or ""
        present = hardware_id_of(machine, self._product, known, state.get("installation"))
        if present is None:
            fresh = secrets.token_urlsafe(16)
            state = self._shelf.change(lambda kept: {"installation": kept.get("installation") or fresh})
            present = make_hardware_id(self._product, installation=state["installation"])
        assert present is not None
        is_half = machine.again and not same_machine(present, known) and not _is_enough(present.split("."))
        is_lost = present.startswith("kl1.x") and self._shelf.on_disk().get("installation") != state["installation"]
        return _Seen(state, present, "NOT_READ" if is_half else "NOT_KEPT" if is_lost else None)

    # -------------------------------------------------------------------------------------------- the server
    def _ask(self, verb: str, key: str, machine: str, deadline: Deadline, **more: Any) -> Verdict | _Missed:
        """What was lost is tried again; a verdict, whatever it says, is not."""
        for attempt in range(ATTEMPTS):
            heard = self._ask_once(verb, key, machine, deadline, more)
            if isinstance(heard, Verdict) or not heard.again:
                return heard
            pause = 2 ** (attempt - 1) * (0.5 + random.random()) if heard.retry_after is None else heard.retry_after
            if attempt == ATTEMPTS - 1 or time.monotonic() + pause >= deadline.end:
                self._paused_until = time.monotonic() + (heard.retry_after or 0)
                return heard
            _pause(pause)
        raise AssertionError("the last attempt returns")

    def _ask_once(
        self, verb: str, key: str, machine: str, deadline: Deadline, more: dict[str, Any]
    ) -> Verdict | _Missed:
        nonce, path = secrets.token_urlsafe(16), f"{self._address.path}{ROUTE}{verb}"
        product = None if verb == "deactivate" else self._product
        body = {"license_key": key, "hardware_id": machine, "nonce": nonce, "product": product} | more
        sent = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
        asked = Asked(path, key, nonce, machine if product else None, product, self._key_prefix)
        try:
            answer = send(self._address, path, sent, deadline, self._context)
            return believe(asked, answer, self._keys)
        except (TimeoutError, socket.timeout) as problem:
            return _Missed("TIMED_OUT", str(problem), again=True)
        except (OSError, http.client.HTTPException, UnicodeError) as problem:
            return _Missed("NO_CONNECTION", f"{type(problem).__name__}: {problem}", again=True)
        except NotBelieved as problem:
            return _refusal(answer) if problem.why == "NO_VERDICT" else _Missed("UNSIGNED", problem.why)

    # -------------------------------------------------------------------------------------------- results
    def _help_in(self, said: dict[str, Any]) -> str | None:
        """Where the server says, else the portal, if a seat is what is missing."""
        given = said.get("help_url")
        if isinstance(given, str) and re.match(r"https?://[^\s\x00-\x1f]+$", given):
            return given
        return self.portal_url if said["code"] == "TOO_MANY_MACHINES" else None

    def _refused(self, heard: Verdict) -> Result:
        said, license = heard.said, heard.said.get("license") or {}
        code, used, most = str(said["code"]), _number(license.get("devices_used")), _number(license.get("max_devices"))
        message = REASONS.get(code, f"The license server refused: {said.get('detail') or code}.")
        if code == "TOO_MANY_MACHINES" and used is not None and most is not None and used >= most:
            message = (
                f"All seats of this license are taken ({used} of {most}). Release a computer that you no longer use."
            )
        return self._told(heard, replace(_no_verdict(code), state="denied", message=message))

    def _granted(self, heard: Verdict, file: LicenseFile | None) -> Result:
        result = Result(True, "valid", "VALID", "is valid", REASONS["VALID"], "online")
        return replace(self._told(heard, result), grace_end=file.expires if file else None)

    def _told(self, heard: Verdict, result: Result) -> Result:
        said, license = heard.said, heard.said.get("license") or {}
        return replace(
            result,
            source="online",
            detail=str(said.get("detail") or said["code"]),
            license_id=license.get("id"),
            product_name=license.get("product_name"),
            tier=license.get("tier"),
            features=tuple(license.get("features") or ()),
            expiry=_time(license.get("expiry_date")),
            seats_used=_number(license.get("devices_used")),
            max_seats=_number(license.get("max_devices")),
            activated=said.get("activated") is True,
            clock_off=abs(self._clock() - heard.at) > CLOCK_MAY_DIFFER,
            help_url=self._help_in(said),
        )


def _no_verdict(code: str, missed: _Missed | None = None) -> Result:
    """Neither yes nor no; or nothing was entered yet."""
    return Result(
        False,
        "unlicensed" if code == "UNLICENSED" else "unreachable",
        code,
        missed.detail if missed else code,
        REASONS.get(code, code),
        "offline",
        clock_off=code in ("CLOCK_BACK", "NOT_YET"),
        retry_after=missed.retry_after if missed else None,
    )


def _filed_result(file: LicenseFile, missed: _Missed | None, *, is_grace: bool, clock_off: bool) -> Result:
    says, license = file.says, file.says["license"]
    message = REASONS["VALID"]
    if is_grace and file.expires:
        message = f"Your license is valid. Without the license server the program works until {file.expires:%Y-%m-%d}."
    return Result(
        True,
        "grace" if is_grace else "valid",
        "VALID",
        missed.detail if missed else "is valid",
        message,
        "offline",
        license_id=license["id"],
        product_name=says["product"].get("name"),
        tier=says.get("tier"),
        features=tuple(says["features"]),
        expiry=_time(license.get("expiry_date")),
        grace_end=file.expires,
        max_seats=_number(license.get("max_devices")),
        clock_off=clock_off,
        retry_after=missed.retry_after if missed else None,
    )


def _refusal(answer: Answer) -> _Missed:
    """429 and 5xx pass by; another error is one of the app, or of what answered in the server's place."""
    again = answer.status == 429 or answer.status >= 500
    return _Missed(
        "NO_VERDICT", f"status {answer.status}", again, _pause_in(answer.header("retry-after")) if again else None
    )


def _pause_in(told: str) -> int | None:
    """Seconds, or a date. Nobody signed it, so it is believed for an hour at most."""
    if re.fullmatch(r"[0-9]{1,9}", told):
        return min(int(told), 3600)
    try:
        moment = email.utils.parsedate_to_datetime(told)
        return min(max(0, round(moment.timestamp() - time.time())), 3600)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


# ------------------------------------------------------------------------------------------------ small things
SPKI = bytes.fromhex("302a300506032b6570032100")  # what stands before the 32 bytes in a PEM


def _keys_of(given: str | Iterable[str]) -> dict[str, bytes]:
    keys = [_key_of(one) for one in ([given] if isinstance(given, str) else given)]
    if not keys:
        raise ValueError("public_key: is missing")
    return {hashlib.sha256(key).hexdigest()[:16]: key for key in keys}


def _key_of(text: str) -> bytes:
    raw = _base64(re.sub(r"-----[A-Z ]+-----|\s", "", text)) or b""
    key = raw[12:] if len(raw) == 44 and raw.startswith(SPKI) else raw
    if len(key) != 32 or _is_small(key) or _decoded(key) is None:
        raise ValueError("public_key: is not the base64 or the PEM of an Ed25519 key")
    return key


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _base64(text: Any) -> bytes | None:
    """None for what is not base64 exactly as it is written: with its padding, and no loose bits."""
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        return None
    return raw if raw and base64.b64encode(raw).decode() == text else None


def _json(raw: bytes | None) -> Any:
    try:
        return json.loads(raw.decode("utf-8")) if raw else None
    except (ValueError, RecursionError):
        return None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _moment(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        raise NotBelieved("UNREADABLE") from None


def _time(text: Any) -> datetime | None:
    if not isinstance(text, str) or not TIME.fullmatch(text):
        return None
    try:
        return datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def _written(moment: datetime) -> str:
    """In one spelling of fixed length, so that texts are in the order of their times."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
