"""The commands of the guides, as far as they can be held against the program: each names a script, a command and
options that there are. And how .venv is made without a start."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from tests.acceptance.servers import ROOT

PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / ".env.example", *(ROOT / "deployment").rglob("*.*")]
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py") if "click.command(" in path.read_text())
GROUPS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py") if "click.group(" in path.read_text())
COMMAND = re.compile(rf"\b({'|'.join([*SCRIPTS, *GROUPS])})\.py((?: [^`|#;&\n]*)?)")


def said() -> list[tuple[str, str, str]]:
    pages = [(path.name, path.read_text()) for path in PAGES if path.is_file() and path.suffix != ".pyc"]
    return sorted({(name, *found) for name, text in pages for found in COMMAND.findall(text)})


def test_each_command_of_the_guides_is_one_with_its_options():
    assert len(said()) > 60
    for page, script, rest in said():
        wanted = click.Group if script in GROUPS else click.Command
        (command,) = [part for part in vars(import_module(f"scripts.{script}")).values() if isinstance(part, wanted)]
        words = rest.split()
        if isinstance(command, click.Group) and words and re.fullmatch(r"[a-z]+(-[a-z]+)*", words[0]):
            command = command.commands.get(words[0], command)
            assert not isinstance(command, click.Group), f"{page}: {script}.py {rest}"
        known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        assert {word.strip(",.:)`") for word in words if word.startswith("--")} <= known, f"{page}: {script}.py {rest}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The start script with stand-ins of what installs and of what serves: each leaves its name and its Python."""
    for name in ("scripts/server", "scripts/venv.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("make_venv", "start"):
        leave = f"import sys; open('log', 'a').write(f'{name} {{sys.executable}} {{sys.argv[1:]}}\\n')"
        (tmp_path / "scripts" / f"{name}.py").write_text(leave)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    return tmp_path


@pytest.mark.parametrize("arguments", [["--install"], []])
def test_an_installation_is_by_the_venvs_own_python_and_starts_nothing(checkout, arguments):
    env = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    subprocess.run([checkout / "scripts" / "server", *arguments], env=env, check=True, timeout=60)
    installed, *started = (checkout / "log").read_text().splitlines()
    assert installed.startswith("make_venv ")
    assert installed.endswith(".venv/bin/python ['requirements.lock']")
    assert [line.split()[0] for line in started] == ([] if arguments else ["start"])
