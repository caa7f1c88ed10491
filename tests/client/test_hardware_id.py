"""The hardware id: its examples, and the promise that two machines never match while one that changes does."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from keyledger_client import JUNK, JUNK_CARDS, JUNK_DISKS, make_hardware_id, same_machine

EXAMPLES: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "client" / "vectors" / "hardware_ids.json").read_text()
)


@pytest.mark.parametrize("example", EXAMPLES["ids"], ids=lambda example: example["why"])
def test_an_id_is_made_of_its_parts(example):
    parts = {name: example[name] for name in ("machine_id", "board", "disk", "cards", "installation")}
    assert make_hardware_id(example["product"], **parts) == example["id"]
    assert len(example["id"] or "") <= 256


@pytest.mark.parametrize("example", EXAMPLES["pairs"], ids=lambda example: example["why"])
def test_pairs_of_ids(example):
    assert same_machine(example["one"], example["other"]) is example["same"]
    assert same_machine(example["other"], example["one"]) is example["same"]


def test_the_lists_of_junk_are_those_of_the_examples():
    assert sorted(JUNK) == EXAMPLES["junk"]
    assert sorted(JUNK_DISKS) == EXAMPLES["junk_disks"]
    assert sorted(JUNK_CARDS) == EXAMPLES["junk_cards"]


def test_a_part_is_a_plain_hash():
    text = "kl1\nwave\nm\n9f2d6c1e7b1a4f0e9c553c6a1d2e8f70"
    assert make_hardware_id("wave", "9f2d6c1e-7b1a-4f0e-9c55-3c6a1d2e8f70") == (
        "kl1.m" + hashlib.sha256(text.encode()).hexdigest()[:16]
    )


# ------------------------------------------------------------------------------------------- machines by the million
@dataclass
class Machine:
    machine_id: str | None
    board: str | None
    disk: str | None
    cards: list[str] = field(default_factory=list)

    def id(self) -> str:
        return make_hardware_id("wave", self.machine_id, self.board, self.disk, self.cards, "installation") or ""


class Factory:
    """Gives no serial number and no address twice; they follow each other, as real ones do."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.made = chance, 0

    def serial(self, prefix: str) -> str:
        self.made += 1
        return f"{prefix}{self.made:09d}"

    def card(self, vendor: str) -> str:
        self.made += 1
        return f"{vendor}{self.made:06x}"

    def guid(self) -> str:
        return f"{self.chance.getrandbits(128):032x}"


def fleet(factory: Factory, size: int) -> list[Machine]:
    """Computers of one order: as like each other as they come. Half of the orders are installed from one image."""
    chance = factory.chance
    image = factory.guid() if chance.random() < 0.5 else None
    board = chance.choice(["own", "own", "unreadable", "To be filled by O.E.M.", "Default string", "BSN-0815-4711"])
    disk = chance.choice(["own", "own", "own", "none", "QM00001", "0000_0000_0000_0001."])
    cards = chance.choice([["3c7c3f"], ["3c7c3f", "a483e7"], ["525400"], ["default", "a483e7"], ["docker", "3c7c3f"]])
    if disk == "own" and chance.random() < 0.2:
        cards = []
    fixed = {"default": "00e04c680001", "docker": "0242ac110002"}
    return [
        Machine(
            machine_id=image or factory.guid(),
            board=factory.serial("PF2") if board == "own" else None if board == "unreadable" else board,
            disk=factory.serial("S4EWNX") if disk == "own" else None if disk == "none" else disk,
            cards=[fixed.get(vendor) or factory.card(vendor) for vendor in cards],
        )
        for _ in range(size)
    ]


def strangers(seed: int, number: int) -> Iterator[tuple[Machine, Machine]]:
    """Pairs of different machines, half of them of one fleet. Each has a card or a disk of its own that can be read: of
    others HARDWARE_ID.md says that their copies are one device."""
    chance = random.Random(seed)
    factory = Factory(chance)
    previous = fleet(factory, 20)
    while number > 0:
        present = fleet(factory, 20)
        for place, machine in enumerate(present):
            yield machine, present[place - 1]
            yield machine, chance.choice(previous)
        number, previous = number - 2 * len(present), present


@pytest.mark.parametrize("number", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_two_machines_never_match(number):
    tried, matched = 0, []
    for one, other in strangers(7, number):
        tried += 1
        if same_machine(one.id(), other.id()):
            matched.append((one, other))
    assert (tried, matched) == (number, [])


def test_machines_that_share_image_and_board_are_told_apart_by_disk_and_card_alone():
    """The simulation can fail: by a plain count of two parts many pairs would match."""
    pairs = list(strangers(7, 20_000))
    counted = [len(set(one.id().split(".")[1:]) & set(other.id().split(".")[1:])) for one, other in pairs]
    assert counted.count(2) > 100


# -------------------------------------------------------------------------------------------------- honest upgrades
def computer(factory: Factory) -> tuple[str, Machine]:
    """A customer's computer: what can be read of it depends on its system."""
    kind = factory.chance.choices(["windows", "mac", "linux", "linux laptop"], [70, 18, 6, 6])[0]
    board = None if kind.startswith("linux") else factory.serial("PF2")
    disk = None if kind == "mac" else factory.serial("S4EWNX")
    cards = [factory.card("3c7c3f")]
    if kind in ("linux laptop", "mac") or (kind == "windows" and factory.chance.random() < 0.6):
        cards.append(factory.card("a483e7"))
    return kind, Machine(factory.guid(), board, disk, cards)


CHANGES = {"system": 40, "disk": 20, "disk and system": 15, "card": 10, "one more card": 8, "board": 4, "bios": 3}


def changed(kind: str, machine: Machine, factory: Factory) -> Machine:
    """The machine after one thing was done to it."""
    change = factory.chance.choices(list(CHANGES), list(CHANGES.values()))[0]
    if kind == "mac":  # all is on the board, the machine id too: what can be changed is no part
        return machine
    if "system" in change:
        machine = replace(machine, machine_id=factory.guid())
    if "disk" in change:
        machine = replace(machine, disk=factory.serial("S4EWNX"))
    if change in ("card", "board"):
        machine = replace(machine, cards=[factory.card("9cb6d0"), *machine.cards[1:]])
    if change in ("board", "bios") and machine.board:
        machine = replace(machine, board=factory.serial("PF2"))
    if change == "one more card":
        machine = replace(machine, cards=[*machine.cards, factory.card("0050b6")][-4:])
    return machine


def kept_seats(seed: int, histories: int, years: int) -> tuple[int, int]:
    """How many of all changes kept the seat, where the server keeps every face of a device."""
    factory = Factory(random.Random(seed))
    kept = 0
    for _ in range(histories):
        kind, machine = computer(factory)
        faces = [machine.id()]
        for _ in range(years):
            machine = changed(kind, machine, factory)
            known = any(same_machine(machine.id(), face) for face in faces)
            kept += known
            faces = [*faces, machine.id()] if known else [machine.id()]
    return kept, histories * years


@pytest.mark.parametrize("histories", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_an_honest_upgrade_keeps_the_seat(histories):
    kept, changes = kept_seats(11, histories, 5)
    assert kept / changes >= 0.99
