"""The line that switches the dashboard on: asked for twice, written nowhere, and what the settings take."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from dotenv import dotenv_values
from werkzeug.security import check_password_hash

from scripts.password import password
from server.settings import load_settings

GOOD = "correct horse $battery 'staple'"


def typed(*words: str):
    return CliRunner().invoke(password, input="".join(f"{word}\n" for word in words))


def test_the_line_is_what_the_settings_take_and_the_password_fits(tmp_path):
    done = typed(GOOD, GOOD)
    assert done.exit_code == 0
    assert GOOD not in done.output
    env = tmp_path / ".env"
    env.write_text(f"SECRET_KEY={'a' * 20}\nLICENSE_SECRET={'b' * 20}\n{done.stdout}")
    settings = load_settings({}, env)
    assert settings.admin_password_hash == dotenv_values(env)["ADMIN_PASSWORD_HASH"]
    assert check_password_hash(settings.admin_password_hash or "", GOOD)


def test_a_short_one_and_one_that_is_typed_otherwise_are_asked_for_again():
    done = typed("short", GOOD, "another one altogether", GOOD)
    assert done.exit_code == 0
    assert "at least 12 characters" in done.output
    assert "not the same" in done.output
    (line,) = done.stdout.splitlines()
    assert line.startswith("ADMIN_PASSWORD_HASH='scrypt:")


@pytest.mark.parametrize("words", [(), (GOOD,), (GOOD, "another")])
def test_without_both_there_is_no_line(words):
    done = typed(*words)
    assert done.exit_code == 1
    assert "ADMIN_PASSWORD_HASH" not in done.stdout
