"""Reading the ledger's file in pieces: from any line on, past lines that cannot be read."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from server.domain.purchase import Entry
from server.storage import log
from server.storage.log import ChainedLog


class Line(msgspec.Struct):
    seq: int
    text: str = ""


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "SCAN", 64)
    monkeypatch.setattr(log, "_NEAR", 32)


def written(path: Path, *lines: bytes) -> ChainedLog[Entry]:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return ChainedLog(path, Entry)


def numbered(seq: int, text: str = "") -> bytes:
    return msgspec.json.encode(Line(seq, text))


def seqs(ledger: ChainedLog[Entry], newest_first: bool = False, below: int | None = None) -> list[int]:
    return [line.seq for line in ledger.scan(Line, newest_first, below)]


@pytest.mark.usefixtures("small_steps")
def test_below_any_line_among_unreadable_ones(tmp_path):
    chance = random.Random(7)
    for _ in range(20):
        lines, number = list[bytes](), 0
        for _ in range(60):
            if chance.random() < 0.3:
                lines.append(chance.choice([b"", b"{", b'{"seq":', b"x" * 200, b"\0\0", b"[1]"]))
            else:
                number += 1
                lines.append(numbered(number, "y" * chance.randrange(90)))
        ledger = written(tmp_path / "log.jsonl", *lines)
        for below in range(number + 3):
            wanted = list(range(1, min(below, number + 1)))
            assert seqs(ledger, below=below) == wanted
            assert seqs(ledger, newest_first=True, below=below) == wanted[::-1]


@pytest.mark.usefixtures("small_steps")
def test_a_torn_tail_is_no_line(tmp_path):
    ledger = written(tmp_path / "log.jsonl", *map(numbered, range(1, 30)))
    with ledger.path.open("ab") as file:
        file.write(b'{"seq":30,"text"')
    for below in (None, 30, 31):
        assert seqs(ledger, newest_first=True, below=below) == list(range(29, 0, -1))
        assert seqs(ledger, below=below) == list(range(1, 30))
