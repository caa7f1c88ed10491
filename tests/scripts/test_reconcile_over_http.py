"""reconcile.py as a scheduled task on another machine: it asks the service again and again, and opens no file."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from scripts import reconcile as script

READING = {"state": "reading", "wait": 0, "pages": 0, "asked": 0, "repaired": 0}
DONE = {
    "state": "done",
    "wait": 0,
    "pages": 2,
    "asked": 0,
    "compared": 2,
    "repaired": 101,
    "left": 1,
    "unchecked": 0,
    "findings": [
        {
            "finding": "paid without a license",
            "field": None,
            "sale_id": "s1==",
            "email": "ann@example.com",
            "platform": "sale 29.99 usd",
            "ledger": None,
            "license_keys": [],
            "repair": "repaired",
        }
    ],
    "unmapped": [{"product": "G-ELSE==", "sales": 2}],
    "verdict": "gumroad since 2026-11-01: the verdict",
}


class Asked:
    """A service whose answers are these, one after the other; the last one again and again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: dict) -> None:
        self.answers, self.slept, self.heard = [*answers], [], []
        monkeypatch.setattr(script, "ask_service", self.answer)
        monkeypatch.setattr(script.time, "sleep", self.slept.append)
        monkeypatch.setattr(script, "open_services", self.never)

    def answer(self, url, path, body):
        self.heard.append((path, body))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def never(self):
        raise AssertionError("the files are the service's")

    def run(self, *more: str):
        arguments = ["gumroad", "--since", "2026-11-01", "--url", "https://licenses.example.com", *more]
        return CliRunner().invoke(script.reconcile, arguments)


def test_it_asks_until_the_service_is_done_as_long_as_that_gets_on(monkeypatch):
    rest = READING | {"wait": 7, "pages": 1}
    asking = READING | {"state": "asking", "pages": 2, "asked": 1}
    repairing = asking | {"state": "repairing", "repaired": 100}
    asked = Asked(monkeypatch, READING | {"pages": 1}, rest, asking, repairing, DONE)
    done = asked.run("--apply", "--json")
    assert json.loads(done.stdout)["repaired"] == 101
    assert done.exit_code == 1, "one is left"
    assert asked.slept == [0, 7, 0, 0]
    assert asked.heard == [("/reconcile/gumroad", {"since": "2026-11-01", "until": None, "apply": True})] * 5


def test_it_tells_what_was_found_as_it_does_beside_the_files(monkeypatch):
    lines = Asked(monkeypatch, DONE).run().stdout.splitlines()
    assert lines[0].split() == ["finding", "sale", "id", "email", "told", "repair"]
    assert " ".join(lines[2].split()) == "paid without a license s1== ann@example.com sale 29.99 usd repaired"
    assert lines[3:] == ["note: nobody mapped G-ELSE== (2 sales)", "gumroad since 2026-11-01: the verdict"]


def test_what_was_not_asked_about_is_said(monkeypatch):
    done = Asked(monkeypatch, DONE | {"left": 0, "findings": [], "unchecked": 3}).run()
    assert "3 had to be asked about one by one" in done.stderr
    assert done.exit_code == 0


def test_a_platform_that_never_answers_the_service_is_left_alone(monkeypatch):
    asked = Asked(monkeypatch, READING | {"wait": 2})
    done = asked.run()
    assert done.exit_code == 1
    assert "gumroad does not answer" in done.stderr
    assert asked.slept == [2, 4, 9, 16, 25, 36]


def test_a_file_and_a_url_contradict_each_other(monkeypatch, tmp_path):
    (tmp_path / "sales.csv").write_text("event,sale_id,date\n")
    done = Asked(monkeypatch, DONE).run("--from", str(tmp_path / "sales.csv"))
    assert done.exit_code == 2
    assert "--from" in done.stderr
