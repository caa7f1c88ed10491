"""The letters in the database: the newest state of each one, as a line of outbox.jsonl says it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from server.storage.base import Letter, LetterBox, retried
from server.storage.letterbox import KEEP_SETTLED, SETTLED, unknown_fields
from server.storage.log import ascii_json, decoder
from server.storage.postgres_held import Held
from server.storage.postgres_link import Database, Put, Query, commit

_read = decoder(Letter).decode
_PAGE = 100
_PUT: Query = """
INSERT INTO letter (id, kind, state, at, license_key, line)
SELECT id, kind, state, at, license_key, line
FROM unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::text[], %s::text[]) WITH ORDINALITY
    AS told (id, kind, state, at, license_key, line, number)
ORDER BY number
ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, state = excluded.state, at = excluded.at, line = excluded.line,
    license_key = excluded.license_key, written = excluded.number,
    place = CASE WHEN letter.state IN ('queued', 'sending', 'failed') THEN letter.place ELSE excluded.number END
"""


class PgLetterBox(LetterBox):
    def __init__(self, database: Database) -> None:
        self._database, self._turn = database, Held(database, "turn")
        self._unknown: dict[str, dict[str, msgspec.Raw]] = {}  # fields that only a newer version knows, by letter

    @contextmanager
    def turn(self, wait: bool = False) -> Iterator[None]:
        with self._turn.held(wait):
            yield
            self._forget_the_old()

    # ------------------------------------------------------------------------------------------------ reading
    def waiting(self) -> Sequence[Letter]:
        query: Query = (
            "SELECT line FROM letter WHERE state IN ('queued', 'sending', 'failed') AND kind <> ''"
            " ORDER BY coalesce(place, number)"
        )
        return [self._letter(line) for (line,) in self._database.rows(query)]

    def dead(self) -> Sequence[Letter]:
        query: Query = "SELECT line FROM letter WHERE state = 'dead' AND kind <> '' ORDER BY coalesce(place, number)"
        return [self._letter(line) for (line,) in self._database.rows(query)]

    def counts(self, but: Collection[str] = ()) -> dict[str, int]:
        query: Query = (
            "SELECT state, count(*) FROM letter WHERE kind <> '' AND NOT kind = ANY(%s::text[]) GROUP BY state"
        )
        return {"dead": 0} | dict(self._database.rows(query, list(but)))

    def letters(self) -> Sequence[Letter]:
        query: Query = "SELECT line FROM letter WHERE kind <> '' ORDER BY number"
        return [self._letter(line) for (line,) in self._database.rows(query)]

    def newest(self, state: str | None = None, skip: int = 0) -> Iterator[Letter]:
        query: Query = (
            "SELECT line FROM letter WHERE kind <> '' AND (%s::text IS NULL OR state = %s)"
            " ORDER BY coalesce(written, number) DESC OFFSET %s LIMIT %s"
        )
        while rows := self._database.rows(query, state, state, skip, _PAGE):
            yield from (self._letter(line) for (line,) in rows)
            skip += len(rows)

    def named(self, ids: Collection[str]) -> dict[str, Letter]:
        query: Query = "SELECT line FROM letter WHERE id = ANY(%s::text[]) AND kind <> ''"
        found = (self._letter(line) for (line,) in self._database.rows(query, list(ids)))
        return {letter.id: letter for letter in found}

    def letters_about(self, keys: Collection[str]) -> Sequence[Letter]:
        query: Query = "SELECT line FROM letter WHERE license_key = ANY(%s::text[]) AND kind <> '' ORDER BY number"
        return [self._letter(line) for (line,) in self._database.rows(query, list(keys))]

    def lines(self) -> dict[str, str]:
        """The newest line of each letter and note."""
        return dict(self._database.rows("SELECT id, line FROM letter"))

    def note(self, name: str) -> Letter | None:
        query: Query = "SELECT line FROM letter WHERE id = %s AND kind = ''"
        return next((self._letter(line) for (line,) in self._database.rows(query, name)), None)

    def _letter(self, line: str) -> Letter:
        letter: Letter = _read(line)
        if line != ascii_json(letter).decode():
            self._unknown[letter.id] = unknown_fields(line.encode())
        return letter

    # ------------------------------------------------------------------------------------------------ writing
    def write(self, letters: Sequence[Letter], durably: bool = True) -> None:
        self._turn.is_mine()
        self.enqueue(letters)

    @retried
    def enqueue(self, letters: Sequence[Letter]) -> None:
        newest = {letter.id: letter for letter in letters}
        if newest:
            with self._database.writing() as connection:
                commit(connection, letter_put([(letter, self._line(letter)) for letter in newest.values()]))

    def _line(self, letter: Letter) -> str:
        line, unknown = ascii_json(letter).decode(), self._unknown.pop(letter.id, None)
        return f"{line[:-1]},{ascii_json(unknown).decode()[1:]}" if unknown else line

    def _forget_the_old(self) -> None:
        """What was done with more than a month before the newest letter; notes stay."""
        query: Query = (
            "DELETE FROM letter WHERE state = ANY(%s) AND kind <> ''"
            " AND at <= (SELECT max(at) FROM letter) - make_interval(days => %s)"
        )
        self._database.rows(query, list(SETTLED), KEEP_SETTLED.days)


def letter_put(lines: Sequence[tuple[Letter, str]]) -> Put:
    columns = [[letter.id, letter.kind, letter.state, letter.at, letter.license_key, line] for letter, line in lines]
    return _PUT, [list(column) for column in zip(*columns, strict=True)]
