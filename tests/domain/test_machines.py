"""Machines that are known by several ids: found as if each were looked at, without looking at each."""

from __future__ import annotations

import random

import pytest

from server.domain import hardware
from server.domain.hardware import Machines, same_machine

PARTS = "mbdn"


def hardware_id(chance: random.Random, of: int) -> str:
    """Of a small stock of parts, so that many machines have some in common; now and then an id of another kind."""
    if chance.random() < 0.1:
        return f"HW-{chance.randrange(5)}"
    kinds = sorted(chance.sample(PARTS, chance.randint(1, 4)))
    return hardware.KIND + ".".join(f"{kind}{chance.randrange(of):016x}" for kind in kinds)


@pytest.mark.parametrize("seed", range(20))
def test_a_machine_is_found_exactly_where_one_of_its_ids_is_the_same(seed):
    chance = random.Random(seed)
    machines, faces = Machines[int](), dict[str, int]()
    for number in range(60):
        asked = hardware_id(chance, 6)
        alike = {who for face, who in faces.items() if same_machine(face, asked)}
        found = machines.find(asked)
        assert (found in alike) if alike else found is None
        assert asked not in faces or found == faces[asked]
        if chance.random() < 0.2 and found is not None:
            gone = [face for face, who in faces.items() if who == found]
            machines.drop(gone)
            faces = {face: who for face, who in faces.items() if who != found}
        else:
            who = number if found is None else found
            machines.add(asked, who)
            faces[asked] = who


def test_among_a_thousand_only_what_has_a_part_in_common_is_looked_at(monkeypatch):
    chance, looked = random.Random(7), list[str]()
    ids = [hardware.KIND + ".".join(f"{kind}{chance.getrandbits(60):016x}" for kind in PARTS) for _ in range(1000)]
    machines = Machines[int]()
    for number, one in enumerate(ids):
        machines.add(one, number)

    def looking(one: str, other: str) -> bool:
        looked.append(one)
        return same_machine(one, other)

    monkeypatch.setattr(hardware, "same_machine", looking)
    m, b, d, n = ids[500].removeprefix(hardware.KIND).split(".")
    assert machines.find(f"{hardware.KIND}{m}.{b}.{d[0]}{'0' * 16}.{n}") == 500
    assert machines.find(f"{hardware.KIND}{m}.{b}") is None
    assert looked == [ids[500]]
