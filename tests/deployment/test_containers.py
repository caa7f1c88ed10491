"""The image and the Procfile, where no container engine runs: read by the real linters, and what they start is started
from exactly the files that would be there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.storage.backup import default_place
from tests.acceptance.servers import BINARIES, ROOT, Server

DOCKERFILE = ROOT / "deployment" / "docker" / "Dockerfile"
COMPOSE = ROOT / "deployment" / "docker" / "compose.yaml"
PYTHON = {"python": sys.executable, "gunicorn": str(BINARIES / "gunicorn")}


def has(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (BINARIES / tool).exists(), reason=f"{tool} is there for x86-64 alone")


def instructions(word: str) -> list[str]:
    """What stands behind an instruction, in the last stage; continued lines are one."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    stage = text[text.rindex("\nFROM ") :]
    return [line.removeprefix(word).strip() for line in stage.splitlines() if line.startswith(f"{word} ")]


@has("hadolint")
def test_the_linter_finds_nothing_in_the_dockerfile():
    done = subprocess.run([BINARIES / "hadolint", DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_installed_is_what_the_lock_names():
    text = DOCKERFILE.read_text()
    assert text.count("pip install") == 1
    assert "--require-hashes -r requirements.lock" in text


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The folder that the image would have, made of its COPY lines; of what .dockerignore lets through alone."""
    let_through = {
        line.removeprefix("!")
        for line in DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    folder = tmp_path / "image"
    folder.mkdir()
    for line in instructions("COPY"):
        if not line.startswith("--from="):
            *sources, target = line.split()
            for source in sources:
                assert source in let_through
                copy(ROOT / source, folder / target / (source if target == "./" else ""))
    return folder


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def environment() -> dict[str, str]:
    """Of the ENV line, but for the folders and the address, which are those of this test."""
    given = dict(pair.split("=", 1) for line in instructions("ENV") for pair in line.split())
    assert (given["HOST"], given["PORT"], given["DATA_DIR"]) == ("0.0.0.0", "8000", "/data/books")
    return {name: value for name, value in given.items() if name not in ("PATH", "HOST", "PORT", "DATA_DIR", "HOME")}


@pytest.fixture
def container(image: Path, tmp_path: Path) -> Iterator[Server]:
    (command,) = instructions("CMD")
    words = [PYTHON.get(word, word) for word in json.loads(command)]
    (tmp_path / "data").mkdir()
    running = Server(
        tmp_path / "data" / "books", [sys.executable, "-c", _IN_FOLDER, str(image), *words], **environment()
    )
    running.env |= {"PORT": str(running.port), "HOST": "127.0.0.1"}
    running.start()
    yield running
    running.stop()


_IN_FOLDER = "import os, sys; os.chdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"


def files_of(folder: Path) -> set[tuple[str, int]]:
    return {(str(path.relative_to(folder)), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_the_image_holds_all_that_it_needs_and_writes_nothing_into_itself(container, image):
    before = files_of(image)
    key = container.sale("s1")
    assert container.code(key, hardware_id="pc-1") == "VALID"

    def backup(*words: str) -> str:
        command = [sys.executable, "scripts/backup.py", *words]
        return subprocess.run(
            command, cwd=image, env=container.env, stdout=subprocess.PIPE, text=True, timeout=60, check=True
        ).stdout

    made = json.loads(backup("create", "--json"))
    assert made["sound"] is True
    assert Path(made["file"]).parent == container.folder.parent / "books-backups", "which is another volume"
    container.stop()
    backup("restore", made["file"], "--force")
    container.start()
    assert container.code(key, hardware_id="pc-2") == "TOO_MANY_MACHINES"
    assert files_of(image) == before
    assert not (image / ".env").exists()


def test_its_healthcheck_tells_a_server_that_answers_from_one_that_does_not(container):
    (line,) = [text for text in DOCKERFILE.read_text().replace("\\\n", " ").splitlines() if text.startswith("HEALTH")]
    words = json.loads(line[line.index("CMD ") + 4 :])
    assert words[0] == "python"
    probe = [sys.executable, *words[1:-1], words[-1].replace(":8000/", f":{container.port}/")]

    def ask() -> int:
        return subprocess.run(probe, capture_output=True, timeout=30, check=False).returncode

    assert ask() == 0
    container.stop()
    assert ask() == 1


READ_ONLY = """
import runpy, sys, tempfile

def refuse(**_):
    raise OSError(30, "Read-only file system")

tempfile.mkstemp = refuse
sys.argv, sys.path = ["scripts/start.py"], [".", *sys.path]
runpy.run_path("scripts/start.py", run_name="__main__")
"""


def test_without_secrets_it_says_what_is_missing_and_how_to_make_them(image, tmp_path):
    env = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path / "data"), "ENV_FILE": os.devnull}
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY], cwd=image, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("keyledger: ")
    assert "scripts/start.py --env" in done.stderr
    printed = subprocess.run(
        [sys.executable, "scripts/start.py", "--env"],
        cwd=image,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    for name in ("SECRET_KEY", "LICENSE_SECRET", "SIGNING_KEY", "ADMIN_API_KEY"):
        (line,) = [text for text in printed.splitlines() if text.startswith(f"{name}=")]
        assert len(line) > 40
    assert not (image / ".env").exists()


def test_a_restore_can_put_a_folder_in_the_books_place():
    """What a volume is mounted on cannot be renamed: it has to lie above the books and what is beside them."""
    (line,) = instructions("VOLUME")
    data_dir = Path(dict(pair.split("=", 1) for line in instructions("ENV") for pair in line.split())["DATA_DIR"])
    volumes = [Path(volume) for volume in json.loads(line)]
    assert data_dir not in volumes
    assert data_dir.parent in volumes
    assert default_place(data_dir) in volumes
    (made,) = [text for text in instructions("RUN") if "install -d" in text]
    assert set(map(str, [*volumes, data_dir])) <= set(made.split()), "each is the server's user's"


@has("docker-compose")
def test_compose_starts_it_closed(tmp_path):
    """By docker-compose's own reading of the file, which refuses what it does not know."""
    folder = tmp_path / "checkout"
    copy(COMPOSE, folder / "deployment" / "docker" / "compose.yaml")
    (folder / ".env").write_text("SECRET_KEY=from-the-env-file\nDATA_DIR=elsewhere\n")
    command = [
        BINARIES / "docker-compose",
        "-f",
        folder / "deployment/docker/compose.yaml",
        "config",
        "--format",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    told: dict[str, Any] = json.loads(done.stdout)["services"]["keyledger"]
    assert told["user"] == "10001"
    assert (told["read_only"], told["cap_drop"], told["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert told["environment"]["SECRET_KEY"] == "from-the-env-file"
    assert told["environment"]["DATA_DIR"] == "/data/books"
    assert {(volume["type"], volume["target"]) for volume in told["volumes"]} == {
        ("volume", "/data"),
        ("volume", "/data/books-backups"),
    }
    assert [(port["host_ip"], port["target"]) for port in told["ports"]] == [("127.0.0.1", 8000)]
    assert told["build"]["context"] == str(folder)


def test_what_the_procfile_names_serves(tmp_path):
    """By a shell, with the port from the environment, as hosts of that kind do."""
    (line,) = (ROOT / "Procfile").read_text().splitlines()
    kind, command = line.split(": ", 1)
    assert kind == "web"
    assert "-b 0.0.0.0:$PORT" in command
    command = command.replace("0.0.0.0", "127.0.0.1").replace("gunicorn ", f"exec {PYTHON['gunicorn']} ", 1)
    (tmp_path / "start.sh").write_text(command)
    server = Server(tmp_path / "data", ["/bin/sh", str(tmp_path / "start.sh")], WEB_CONCURRENCY="2")
    server.env["PORT"], server.expected = str(server.port), 2
    server.start()
    try:
        assert server.code(server.sale("s1")) == "VALID"
        gunicorns = [json.loads(line) for line in server.log.read_text().splitlines()]
        assert {"gunicorn.error"} <= {line["logger"] for line in gunicorns}, "all of the log is JSON, gunicorn's too"
    finally:
        server.stop()
