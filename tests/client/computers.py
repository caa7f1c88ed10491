"""Computers for tests, as their systems describe them: files of Linux, what Macs' commands print, Windows' registry.

The texts have the form that the systems give them, with numbers that are made up: no real Windows or Mac was read.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path

from keyledger_client import AdapterInfo, System, adapters_in

IOREG = ("/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice")
PORTS = ("/usr/sbin/networksetup", "-listallhardwareports")

IOREG_SAYS = """\
+-o MacBookPro18,3  <class IOPlatformExpertDevice, id 0x10000022d, registered, matched, active, retain 43>
    {
      "IOPlatformSystemSleepPolicy" = <534c505402000a00000100>
      "compatible" = <"MacBookPro18,3","J314sAP","AppleARM">
      "IOPolledInterface" = "AppleARMWatchdogTimerHibernateHandler is not serializable"
      "IOPlatformUUID" = "0B5C8F0E-4C1D-5A7B-9E61-7F3C2D1A0B9E"
      "serial-number" = <4c564b4339>
      "IOPlatformSerialNumber" = "H4WFN0ABCD12"
      "manufacturer" = <"Apple Inc.">
    }
"""
PORTS_SAY = """\

Hardware Port: Ethernet Adapter (en4)
Device: en4
Ethernet Address: 3c:7c:3f:aa:bb:cc

Hardware Port: Thunderbolt Bridge
Device: bridge0
Ethernet Address: 36:57:3e:11:22:33

Hardware Port: Wi-Fi
Device: en0
Ethernet Address: a4:83:e7:01:23:45

Hardware Port: USB 10/100/1000 LAN
Device: en7
Ethernet Address: 00:e0:4c:68:12:34

Hardware Port: Bluetooth PAN
Device: en9
Ethernet Address: a4:83:e7:01:23:46

VLAN Configurations
===================
"""


class Mac(System):
    name = "darwin"

    def __init__(self) -> None:
        self.says = {IOREG: IOREG_SAYS, PORTS: PORTS_SAY}

    def run(self, *command: str, seconds: float = 5.0) -> str:
        if command not in self.says:
            raise subprocess.TimeoutExpired(command, seconds)
        return self.says[command]


GUID = r"SOFTWARE\Microsoft\Cryptography", "MachineGuid"
BOARD = r"SYSTEM\HardwareConfig", "LastConfig"
CONNECTION = (
    r"SYSTEM\CurrentControlSet\Control\Network\{4D36E972-E325-11CE-BFC1-08002BE10318}\%s\Connection",
    "PnpInstanceID",
)


def descriptor(vendor: str, model: str, revision: str, serial: str) -> bytes:
    """A STORAGE_DEVICE_DESCRIPTOR: twelve bytes, four offsets, the bus, and the texts behind them."""
    texts, offsets, place = b"", [], 40
    for text in (vendor, model, revision, serial):
        offsets.append(place + len(texts) if text else 0)
        texts += text.encode() + b"\0" if text else b""
    numbers = b"".join(number.to_bytes(4, "little") for number in (40, 40 + len(texts)))
    head = numbers + bytes([0, 0, 0, 1]) + b"".join(offset.to_bytes(4, "little") for offset in offsets)
    return head + (17).to_bytes(4, "little") + bytes(8) + texts


class Windows(System):
    name = "win32"

    def __init__(self) -> None:
        self.registered: dict[tuple[str, str], str] = {
            GUID: "9f2d6c1e-7b1a-4f0e-9c55-3c6a1d2e8f70",
            BOARD: "{4c4c4544-0042-3510-8054-b9c04f4e5932}",
        }
        self.disk = descriptor("", "Samsung SSD 980 PRO 1TB", "5B2QGXA7", "0025_38B9_1140_1C7A.")
        self.cards: list[AdapterInfo] = []
        self.add_card(
            "{11111111-AAAA-4F0E-9C55-3C6A1D2E8F70}", "a48e3f012345", r"PCI\VEN_8086&DEV_15B8&SUBSYS_06B91028"
        )
        self.add_card("{22222222-AAAA-4F0E-9C55-3C6A1D2E8F70}", "00155d010203", r"ROOT\VMS_MP\0000")
        self.add_card("{33333333-AAAA-4F0E-9C55-3C6A1D2E8F70}", "00e04c681234", r"USB\VID_0BDA&PID_8153\000001")
        self.add_card("{44444444-AAAA-4F0E-9C55-3C6A1D2E8F70}", "3c7c3faabbcc", r"pci\ven_8086&dev_2725")

    def add_card(self, name: str, address: str, instance: str) -> None:
        card = AdapterInfo(name=name.encode(), address_length=6, address=(ctypes.c_ubyte * 8)(*bytes.fromhex(address)))
        if self.cards:
            self.cards[-1].next = ctypes.pointer(card)
        self.cards.append(card)
        self.registered[(CONNECTION[0] % name, CONNECTION[1])] = instance

    def registry(self, key: str, name: str) -> str | None:
        return self.registered.get((key, name))

    def system_disk(self) -> bytes:
        return self.disk

    def adapters(self) -> Iterator[AdapterInfo]:
        return adapters_in(ctypes.pointer(self.cards[0]))


class Linux(System):
    """A laptop: an NVMe disk with a partition, LUKS and LVM on it; Wi-Fi, a card in a USB dock, Docker's bridge."""

    name = "linux"

    def __init__(self, root: Path) -> None:
        self.root, self.environ = root, {}
        self.write("etc/machine-id", "3d1219c7c4c5404aaa1f6d2a48adfda4\n")
        self.write("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n")
        self.write("proc/1/cgroup", "0::/init.scope\n")
        self.mounted("253:1", "/dev/mapper/vg-root", "ext4")
        disk = "sys/devices/pci0000:00/0000:00:1d.0/0000:3d:00.0/nvme/nvme0"
        self.write(f"{disk}/serial", "S4EWNX0M123456T     \n")
        self.write(f"{disk}/model", "SAMSUNG MZVLB512HBJQ-000L7              \n")
        self.write(f"{disk}/nvme0n1/nvme0n1p3/partition", "3\n")
        self.link(f"{disk}/nvme0n1/device", f"{disk}")
        for number, below in (("0", f"{disk}/nvme0n1/nvme0n1p3"), ("1", "sys/devices/virtual/block/dm-0")):
            self.link(f"sys/devices/virtual/block/dm-{number}/slaves/{Path(below).name}", below)
        self.link("sys/dev/block/253:1", "sys/devices/virtual/block/dm-1")
        self.card("wlp2s0", "pci0000:00/0000:00:14.3", "da:a1:19:00:00:01", wifi="a4:83:e7:01:23:45")
        self.card("enp0s31f6", "pci0000:00/0000:00:1f.6", "3c:7c:3f:aa:bb:cc")
        self.card("enx00e04c681234", "pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0", "00:e0:4c:68:12:34")
        self.write("sys/devices/virtual/net/docker0/address", "02:42:ac:11:00:01\n")
        self.link("sys/class/net/docker0", "sys/devices/virtual/net/docker0")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def link(self, name: str, target: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(self.root / target)

    def mounted(self, number: str, source: str, kind: str) -> None:
        self.write(
            "proc/self/mountinfo",
            f"22 27 0:21 / /proc rw,relatime - proc proc rw\n27 1 {number} / / rw shared:1 - {kind} {source} rw\n"
            "30 27 0:25 / /dev/shm rw,relatime - tmpfs tmpfs rw\n",
        )

    def card(self, name: str, place: str, address: str, wifi: str = "") -> None:
        self.write(f"sys/devices/{place}/net/{name}/address", f"{address}\n")
        self.link(f"sys/devices/{place}/net/{name}/device", f"sys/devices/{place}")
        self.link(f"sys/class/net/{name}", f"sys/devices/{place}/net/{name}")
        if wifi:
            self.write(f"sys/devices/{place}/ieee80211/phy0/macaddress", f"{wifi}\n")
            self.link(f"sys/devices/{place}/net/{name}/phy80211", f"sys/devices/{place}/ieee80211/phy0")
