"""What the Python kit reads of a computer: Windows and macOS by faithful stand-ins, Linux by its files."""

from __future__ import annotations

import ctypes
import dataclasses
import shutil
import sys

import keyledger_client as kit
import pytest

from tests.client.computers import IOREG, PORTS, Linux, Mac, Windows, descriptor


@pytest.fixture
def linux(tmp_path):
    return Linux(tmp_path / "root")


def test_windows():
    assert kit.read_machine(Windows()) == kit.Machine(
        machine_id="9f2d6c1e-7b1a-4f0e-9c55-3c6a1d2e8f70",
        board="{4c4c4544-0042-3510-8054-b9c04f4e5932}",
        disk="0025_38B9_1140_1C7A.",
        cards=("a48e3f012345", "3c7c3faabbcc"),
    )


@pytest.mark.parametrize("model", ["QEMU HARDDISK", "VBOX HARDDISK", "VMware Virtual S", "Virtual Disk"])
def test_a_virtual_disk_is_none(model):
    assert kit.disk_serial(descriptor("", model, "1", "1234567890ABC")) is None
    assert kit.disk_serial(descriptor(model, "", "1", "1234567890ABC")) is None


def test_descriptors_that_say_nothing():
    whole = descriptor("", "Samsung", "1", "S4EWNX0M123456T")
    assert kit.disk_serial(whole) == "S4EWNX0M123456T"
    assert kit.disk_serial(descriptor("", "Samsung", "1", "")) is None
    for end in range(len(whole)):
        assert kit.disk_serial(whole[:end]) in (None, "S4EWNX0M123456T"[: end - len(whole) + 16] or None)


def test_the_shape_of_windows_structure_is_what_its_header_says():
    """iptypes.h: a pointer, a number, 260 and 132 characters, the length, 8 bytes."""
    pointer = ctypes.sizeof(ctypes.c_void_p)
    place = {name: getattr(kit.AdapterInfo, name).offset for name in ("name", "address_length", "address")}
    assert place == {"name": pointer + 4, "address_length": pointer + 4 + 260 + 132, "address": pointer + 400}


def test_a_windows_that_answers_nothing_for_once():
    class Broken(Windows):
        def system_disk(self):
            raise OSError

        def adapters(self):
            raise OSError

    machine = kit.read_machine(Broken())
    assert (machine.board, machine.disk, machine.cards, machine.failed) == (
        "{4c4c4544-0042-3510-8054-b9c04f4e5932}",
        None,
        (),
        "dn",
    )
    whole = kit.hardware_id_of(kit.read_machine(Windows()), "wave", None, None)
    assert kit.hardware_id_of(machine, "wave", whole, None) == whole


def test_macos():
    assert kit.read_machine(Mac()) == kit.Machine(
        machine_id="0B5C8F0E-4C1D-5A7B-9E61-7F3C2D1A0B9E",
        board="H4WFN0ABCD12",
        cards=("3c:7c:3f:aa:bb:cc", "a4:83:e7:01:23:45"),
    )


@pytest.mark.parametrize(("silent", "letters"), [([IOREG], "mb"), ([PORTS], "n"), ([IOREG, PORTS], "mbn")])
def test_a_mac_whose_commands_were_too_slow_once_is_the_same_mac(silent, letters):
    mac = Mac()
    whole = kit.hardware_id_of(kit.read_machine(mac), "wave", None, None)
    for command in silent:
        del mac.says[command]
    machine = kit.read_machine(mac)
    assert machine.failed == letters
    assert kit.hardware_id_of(machine, "wave", whole, None) == whole


def test_parts_that_could_not_be_asked_for_are_not_taken_from_another_computer():
    other = kit.make_hardware_id(
        "wave", "11c3a0de9f004d7c8a2177aa10e2b9d4", "8B1F2C3D11224E5F", "2027E5C0F1A7", ["9cb6d0102030"]
    )
    mac = Mac()
    del mac.says[PORTS]
    machine = kit.read_machine(mac)
    assert kit.hardware_id_of(machine, "wave", other, None) == kit.hardware_id_of(machine, "wave", None, None)


def test_linux(linux):
    assert kit.read_machine(linux) == kit.Machine(
        machine_id="3d1219c7c4c5404aaa1f6d2a48adfda4",
        disk="S4EWNX0M123456T",
        cards=("3c:7c:3f:aa:bb:cc", "a4:83:e7:01:23:45"),
    )


def test_the_board_where_it_may_be_read(linux):
    linux.write("sys/class/dmi/id/product_uuid", "4c4c4544-0042-3510-8054-b9c04f4e5932\n")
    assert kit.read_machine(linux).board == "4c4c4544-0042-3510-8054-b9c04f4e5932"


def test_a_small_board_with_a_card_for_a_disk(linux):
    """The serial number in the device tree ends with a zero byte; SD cards have a `cid`."""
    linux.write("proc/device-tree/serial-number", "10000000e2c4a8f1\0")
    linux.mounted("179:2", "/dev/mmcblk0p2", "ext4")
    place = "sys/devices/platform/emmc2bus/mmc_host/mmc0/mmc0:aaaa"
    linux.write(f"{place}/cid", "035344534333324780a1b2c3d4014700\n")
    linux.write(f"{place}/block/mmcblk0/mmcblk0p2/partition", "2\n")
    linux.link(f"{place}/block/mmcblk0/device", place)
    linux.link("sys/dev/block/179:2", f"{place}/block/mmcblk0/mmcblk0p2")
    machine = kit.read_machine(linux)
    assert (machine.board, machine.disk) == ("10000000e2c4a8f1", "035344534333324780a1b2c3d4014700")


def test_btrfs_names_its_device_only(linux):
    linux.mounted("0:32", "/dev/nvme0n1p3", "btrfs")
    linux.write("dev/nvme0n1p3", "")
    linux.link(
        "sys/class/block/nvme0n1p3", "sys/devices/pci0000:00/0000:00:1d.0/0000:3d:00.0/nvme/nvme0/nvme0n1/nvme0n1p3"
    )
    assert kit.read_machine(linux).disk == "S4EWNX0M123456T"


@pytest.mark.parametrize("root", [("0:32", "tmpfs"), ("0:32", "/dev/nowhere"), ("8:1", "/dev/sda1")])
def test_a_root_that_is_on_no_disk_that_is_known(linux, root):
    linux.mounted(*root, "ext4")
    assert kit.read_machine(linux).disk is None


def test_a_virtual_machine_has_no_disk_of_its_own(linux):
    linux.write("sys/devices/pci0000:00/0000:00:1d.0/0000:3d:00.0/nvme/nvme0/model", "Amazon Elastic Block Store")
    assert kit.read_machine(linux).disk is None


@pytest.mark.parametrize("sign", [
    (".dockerenv", ""), ("run/.containerenv", ""), ("proc/1/cgroup", "0::/kubepods/besteffort/pod1/abc\n"),
    ("proc/1/cgroup", "12:pids:/docker/0123456789abcdef\n"),
])  # fmt: skip
def test_in_a_container_nothing_is_read(linux, sign):
    linux.write(*sign)
    assert kit.read_machine(linux) == kit.Machine()


def test_a_container_that_says_so(linux):
    linux.environ = {"container": "podman"}
    assert kit.read_machine(linux) == kit.Machine()


@pytest.mark.parametrize("group", ["0::/", "0::/init.scope"])
def test_a_pod_of_kubernetes_leaves_no_name(linux, group):
    """containerd with cgroup v2: layers below `/`, process 1 at its top. A live system has layers, too."""
    linux.mounted("0:52", "overlay", "overlay")
    linux.write("proc/1/cgroup", f"{group}\n")
    assert (kit.read_machine(linux) == kit.Machine()) is (group == "0::/")


def test_a_pod_of_kubernetes_that_says_so(linux):
    linux.environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    assert kit.read_machine(linux) == kit.Machine()


BEYOND = "x" * 300  # no system takes such a name; as a user who may not look there, root too is told an OSError


@pytest.mark.parametrize(("place", "missing"), [
    (".dockerenv", {}), ("run/.containerenv", {}), ("sys/dev/block/253:1", {"disk": None}),
    ("sys/devices/pci0000:00/0000:00:1f.6/net/enp0s31f6/device", {"cards": ()}),
])  # fmt: skip
def test_an_app_that_is_confined_reads_the_rest(linux, place, missing):
    whole = kit.read_machine(linux)
    (linux.root / place).unlink(missing_ok=True)
    linux.link(place, BEYOND)
    assert kit.read_machine(linux) == dataclasses.replace(whole, **missing)


def test_wsl_is_its_machine_id_alone(linux):
    linux.write("proc/sys/kernel/osrelease", "5.15.153.1-microsoft-standard-WSL2\n")
    assert kit.read_machine(linux) == kit.Machine("3d1219c7c4c5404aaa1f6d2a48adfda4")


def test_a_system_that_says_nothing(linux):
    shutil.rmtree(linux.root)
    assert kit.read_machine(linux) == kit.Machine()
    linux.name = "haiku1"
    assert kit.read_machine(linux) == kit.Machine()


@pytest.mark.skipif(sys.platform != "linux", reason="it reads the machine on which it runs")
def test_this_machine_is_read_the_same_twice():
    assert kit.read_machine(kit.System()) == kit.read_machine(kit.System())
