"""A day in a shop, step by step, and the promises that have to hold whatever happened in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from server.domain.purchase import event_name
from tests.storage.backroom import NOW, BackRoom, chain, from_logs, letter, records, sale, written
from tests.torture.processes import Tell

Step = tuple[str, Callable[[BackRoom], Any]]

SALES = {"s1": "G-WAVE", "s2": "G-TEAM", "s3": "G-WAVE", "s4": "G-WAVE", "s5": "G-TEAM"}
KEYS = {
    "s1": "1XA76K-Z69E82-VN90TT-BR3H9M-DE30G0",
    "s2": "1246HH-VDK9G8-96XW2T-0B0WFF-JXQWEB",
    "s3": "1W7C0T-J0ZHTV-92C5HJ-15KYWN-D5FTF6",
    "s4": "1VKM1P-MM8SKR-VNF6W3-25S6X4-WGQDJ9",
    "s5": "1B6P0X-D1SMRW-R94CTQ-QRSN8Z-NB6THW",
}


def sell(*sale_ids: str) -> Step:
    events = [sale(sale_id, SALES[sale_id]) for sale_id in sale_ids]
    return f"sell {' '.join(sale_ids)}", lambda room: [entry.license_keys[0] for entry in room.hear(*events)]


def bind(sale_id: str, device: str) -> Step:
    return f"bind {device}", lambda room: room.code(KEYS[sale_id], device)


def tidy(room: BackRoom) -> None:
    room.store.count_usage(KEYS["s1"], NOW)
    room.store.tidy(force=True)


def write_letters(room: BackRoom) -> None:
    with room.store.letterbox.turn():
        room.store.letterbox.write([letter("1"), letter("2")])
    room.store.letterbox.enqueue([letter("3")])


REFUND: Step = ("refund s1", lambda room: room.refund("s1"))
FREE: Step = ("free d1", lambda room: room.free(KEYS["s2"], "d1"))
TIDY: Step = ("tidy", tidy)
LETTERS: Step = ("letters", write_letters)
DAY: list[Step] = [
    sell("s1"),
    TIDY,
    sell("s2"),
    bind("s2", "d1"),
    bind("s2", "d2"),
    TIDY,
    sell("s3", "s4"),
    REFUND,
    FREE,
    LETTERS,
    TIDY,
    sell("s5"),
]


def live(room: BackRoom, steps: Sequence[Step], tell: Tell) -> None:
    """Take these steps, telling of each when it begins and what was promised when it is done."""
    for name, step in steps:
        tell(["begin", name, None])
        tell(["done", name, step(room)])


def check(folder: Path, told: Sequence[Any], again: bool = True) -> None:
    """Whoever opens the folder now finds all that was promised, and nothing twice after all is delivered `again`."""
    room = BackRoom(folder)
    kept(room, told)
    assert room.store.state().notices == ()
    if again:
        deliver_again(room)


def kept(room: BackRoom, told: Sequence[Any]) -> None:
    """All that was promised is there, and nothing that was not even begun."""
    begun = {name for stage, name, _ in told if stage == "begin"}
    done = {name: result for stage, name, result in told if stage == "done"}
    found = records(room.store)
    for name, keys in done.items():
        if name.startswith("sell "):
            assert keys == [KEYS[sale_id] for sale_id in name.split()[1:]]
            assert all(key in found for key in keys), f"{name} was promised and is gone"
    assert set(found) <= set(KEYS.values())
    if "refund s1" in done and KEYS["s1"] in found:
        assert found[KEYS["s1"]]["inactive_reason"] == "refunded"
    team = room.store.find_license(KEYS["s2"])
    if done.get("bind d2") == "VALID":
        assert team.knows("d2"), "a seat was promised and is gone"
    if done.get("bind d1") == "VALID" and "free d1" not in begun:
        assert team.knows("d1"), "a seat was promised and is gone"
    if done.get("free d1") == "VALID":
        assert not team.knows("d1")
    letters = {one.id for one in room.store.letterbox.letters()}
    assert letters == {"1", "2", "3"} if "letters" in done else letters <= {"1", "2", "3"}


def deliver_again(room: BackRoom) -> None:
    """After this the day is complete, each event once, and all ways to the books lead to the same."""
    for sale_id, product in SALES.items():
        assert room.sell(sale_id, product) == KEYS[sale_id]
    room.refund("s1")
    assert room.code(KEYS["s2"], "d2") == "VALID"
    room.free(KEYS["s2"], "d1")
    expected = records(room.store)
    assert {key: record["is_active"] for key, record in expected.items()} == {
        key: sale_id != "s1" for sale_id, key in KEYS.items()
    }
    lines = chain(room.folder / "purchases.jsonl")
    assert Counter(line["event_id"] for line in lines) == dict.fromkeys([*(f"{s}:sale" for s in SALES), "s1:refund"], 1)
    room.store.tidy(force=True)
    assert set(written(room.folder)) == set(KEYS.values())
    assert [leftover.name for leftover in room.folder.glob(".*.tmp")] == []
    assert room.store.find_event(event_name("gumroad", "s1:refund")) is not None
    assert from_logs(room.folder) == expected, "the logs alone say something else than the live store"
    again = BackRoom(room.folder)
    assert records(again.store) == expected, "a store that opens now says something else than the live one"
    assert again.store.device_lines(KEYS["s2"])[-1].hardware_id in ("d1", "d2")
    chain(room.folder / "activity.jsonl")
