"""The check-up of an installation: the machine, the folder, mail, the running service and the books, one value a check.

Nothing is changed: trials of the disk have a folder of their own, which goes again. What cannot be asked now (no
network, no running service) is skipped with words, and is no finding. doctor_settings.py looks at what the owner wrote.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode

import msgspec

from server import __version__
from server.errors import BadRequest, KeyledgerError, PlatformUnreachable
from server.platforms import PLATFORMS, Platform
from server.platforms.base import Trial
from server.platforms.document import Document
from server.platforms.web_client import clock_of, get_json, post, send
from server.services.mailer import SmtpMailer
from server.settings import Settings
from server.storage import disk
from server.storage.archive import last_backup
from server.storage.base import Store

LEAST_SPACE, GOOD_SPACE = 64 << 20, 1 << 30
PER_SALE = 4096  # bytes of a sale in the ledger, the outbox, the view and the index, roughly
CLOCK_OFF, CLOCK_WRONG = 30, 240  # seconds; Stripe's signatures are refused after 300
STALE_BACKUP, OLD_LETTER = timedelta(days=7), timedelta(days=1)


class Status(StrEnum):
    GOOD = "good"
    WARNING = "warning"
    WRONG = "wrong"
    SKIPPED = "skipped"


class Check(msgspec.Struct, frozen=True):
    """What was looked at, how it is, and what to do where it is not well."""

    name: str
    status: Status
    words: str
    todo: str | None = None


@dataclass(frozen=True)
class Patient:
    """An installation as it is configured; its store need not be opened."""

    settings: Settings
    store: Store
    env_file: Path
    now: datetime

    @property
    def folder(self) -> Path:
        return self.settings.data_dir

    @property
    def platforms(self) -> dict[str, Platform]:
        return {name: made for name, kind in PLATFORMS.items() if (made := kind.from_settings(self.settings))}

    @property
    def here(self) -> str:
        """Where the service listens, as seen from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.settings.host, self.settings.host)
        return f"http://[{host}]:{self.settings.port}" if ":" in host else f"http://{host}:{self.settings.port}"


Examination = Callable[[Patient], Iterator[Check]]


def good(name: str, words: str) -> Check:
    return Check(name, Status.GOOD, words)


def warning(name: str, words: str, todo: str) -> Check:
    return Check(name, Status.WARNING, words, todo)


def wrong(name: str, words: str, todo: str) -> Check:
    return Check(name, Status.WRONG, words, todo)


def skipped(name: str, words: str) -> Check:
    return Check(name, Status.SKIPPED, words)


def run(examinations: list[Examination], patient: Patient) -> Iterator[Check]:
    """Each in turn; one that itself fails is a finding, and holds up no other."""
    for examination in examinations:
        try:
            yield from examination(patient)
        except (KeyledgerError, OSError) as error:
            yield wrong(examination.__name__.replace("_", " "), str(error), "Mend this, and look again")


# ------------------------------------------------------------------------------------------------ the machine
def data_folder(patient: Patient) -> Iterator[Check]:
    folder = patient.folder
    if not folder.is_dir():
        yield wrong("data folder", f"there is no folder {folder}", "./scripts/server makes it; or set DATA_DIR")
        return
    status = folder.stat()
    if status.st_uid != os.geteuid():
        yield wrong("data folder", f"{folder} belongs to another user", "Run everything as the server's user")
        return
    if status.st_mode & 0o077:
        yield wrong("data folder", f"other users may look into {folder}", f"chmod 700 {folder}")
        return
    strange = [path.name for path in folder.iterdir() if path.stat().st_uid != os.geteuid()]
    if strange:
        todo = f"chown them to the server's user: {' '.join(sorted(strange)[:5])}"
        yield wrong("data folder", f"{len(strange)} files in {folder} belong to another user", todo)
    else:
        yield good("data folder", f"{folder} is yours, and closed to others")


def the_disk(patient: Patient) -> Iterator[Check]:
    if not patient.folder.is_dir():
        return
    for trial in disk.TRIALS:
        with TemporaryDirectory(prefix=".doctor-", suffix=f".{os.getpid()}.tmp", dir=patient.folder) as room:
            try:
                yield good(trial.__name__, trial(Path(room)))
            except (OSError, KeyledgerError) as error:
                yield wrong(trial.__name__, str(error), "Move DATA_DIR to a local disk")


def database(patient: Patient) -> Iterator[Check]:
    if patient.settings.database_url is None:
        return
    from server.storage.postgres import PostgresStore
    from server.storage.postgres_trials import TRIALS

    assert isinstance(patient.store, PostgresStore)
    for trial in TRIALS:
        name = f"database {trial.__name__}"
        try:
            yield good(name, trial(patient.store))
        except (OSError, KeyledgerError) as error:
            yield wrong(name, str(error), "README: PostgreSQL")
            if trial is TRIALS[0]:
                return


def disk_space(patient: Patient) -> Iterator[Check]:
    if not patient.folder.is_dir():
        return
    derived = (patient.folder / name for name in ("licenses.json", "history.idx"))
    twice = sum(path.stat().st_size for path in derived if path.exists())  # while they are written anew
    free = shutil.disk_usage(patient.folder).free - twice
    words = f"{max(0, free) >> 20} MB: room for about {max(0, free) // PER_SALE} sales of {PER_SALE >> 10} KB"
    if free < LEAST_SPACE:
        yield wrong("disk space", words, "Free some: a full disk takes no sales")
    elif free < GOOD_SPACE:
        yield warning("disk space", words, "Free some before it is full")
    else:
        yield good("disk space", words)


def clock(patient: Patient) -> Iterator[Check]:
    """Against the platforms' clocks; being offline is no finding."""
    bases = {"gumroad": patient.settings.gumroad_api_base, "stripe": patient.settings.stripe_api_base}
    asked = [(name, base) for name, base in bases.items() if name in patient.platforms]
    if not asked:
        yield skipped("clock", "no platform is on that could be asked for the time")
    for name, base in asked:
        try:
            seconds = abs((clock_of(base) - patient.now).total_seconds())
        except PlatformUnreachable as error:
            yield skipped("clock", error.detail)
            continue
        words = f"{seconds:.0f} seconds from {name}'s"
        if seconds > CLOCK_WRONG:
            yield wrong("clock", words, "Set it (timedatectl set-ntp true): signed webhooks are refused so")
        elif seconds > CLOCK_OFF:
            yield warning("clock", words, "Set it: timedatectl set-ntp true")
        else:
            yield good("clock", words)


def mail(patient: Patient) -> Iterator[Check]:
    settings = patient.settings
    if settings.email_backend == "console":
        yield warning("mail", "letters are printed, not sent", "Set EMAIL_BACKEND=smtp to send keys to buyers")
        return
    try:
        SmtpMailer(settings).knock()
        login = f" as {settings.smtp_username}" if settings.smtp_username else ", without a login"
        yield good("mail", f"{settings.smtp_host}:{settings.smtp_port} lets us in{login}; nothing was sent")
    except KeyledgerError as error:
        yield wrong("mail", error.detail, "Mend the SMTP_ settings; letters wait meanwhile")


# ------------------------------------------------------------------------------------------------ the service
def service(patient: Patient) -> Iterator[Check]:
    try:
        status, told = get_json(f"{patient.here}/health", {})
    except PlatformUnreachable as error:
        if " 503" in error.detail:
            yield wrong("service", "it answers 503: nothing can be written", f"Look at {patient.here}/health")
        else:
            yield skipped("service", f"{error.detail} at {patient.here}: it is not running, or HOST or PORT differ")
        return
    ill = [name for name in ("storage", "licenses_file", "catalogue", "mail", "orders") if not _is_well(told, name)]
    if status != 200 or told.text("version") is None:
        yield wrong("service", f"something else answers at {patient.here}", "Choose another PORT")
    elif told.text("version") != __version__:
        yield warning("service", f"it runs version {told.text('version')}, here is {__version__}", "Restart it")
    elif ill:
        yield wrong("service", f"not well: {', '.join(ill)}", f"Look at {patient.here}/health")
    else:
        yield good("service", f"is up and well at {patient.here}")


def _is_well(health: Document, check: str) -> bool:
    return health.part("checks").part(check).flag("ok")


def webhooks(patient: Patient) -> Iterator[Check]:
    """A notice with good proof and no sense: it is refused for its sense alone, and nothing is written."""
    for name, platform in patient.platforms.items():
        trial, title = platform.trial(), f"{name} webhook"
        try:
            status, told = _tried(f"{patient.here}/api/v1/webhooks/{name}", platform, trial)
        except (PlatformUnreachable, BadRequest) as error:
            yield skipped(title, error.detail)
            continue
        code = next((error.text("code") for error in told.parts("errors")), None)
        if (status, code) == (400, BadRequest.code):
            yield good(title, "takes our proof; nothing was written")
        else:
            yield wrong(title, f"answers {status} {code}", "Restart the server: it has other settings than .env")


def _tried(url: str, platform: Platform, trial: Trial) -> tuple[int, Document]:
    if "POST" in platform.methods:
        return post(url, trial.body, trial.query, trial.headers)
    return send("GET", f"{url}?{urlencode(trial.query)}", headers=trial.headers)


# ------------------------------------------------------------------------------------------------ the books
def ledger(patient: Patient) -> Iterator[Check]:
    found = [finding for finding in patient.store.inspect() if not finding.is_note]
    for finding in found[:3]:
        yield wrong("ledger", f"{finding.where}: {finding.detail}", "scripts/audit.py verify names all of it")
    if not found:
        yield good("ledger", "every line of the logs follows from the one before it, and licenses.json agrees")


def outbox(patient: Patient) -> Iterator[Check]:
    box = patient.store.letterbox
    dead, waiting = box.counts()["dead"], box.waiting()
    old = [letter for letter in waiting if letter.first_at and letter.first_at < patient.now - OLD_LETTER]
    if dead:
        yield wrong("outbox", f"{dead} letters were given up", "scripts/outbox.py list; mend it; retry --all")
    elif old:
        yield warning("outbox", f"{len(old)} letters wait for more than a day", "scripts/outbox.py list tells why")
    else:
        yield good("outbox", f"{len(waiting)} letters wait, none was given up")


def backup(patient: Patient) -> Iterator[Check]:
    note, todo = last_backup(patient.folder), "scripts/backup.py create, daily by cron"
    if note is None:
        yield warning("backup", "none was made by scripts/backup.py", todo)
    elif not note.is_sound:
        yield wrong("backup", f"the newest one, {note.file}, holds damaged books", "scripts/audit.py verify")
    elif patient.now - note.at > STALE_BACKUP:
        yield warning("backup", f"the newest one is {(patient.now - note.at).days} days old", todo)
    else:
        yield good("backup", f"the newest one is of {note.at:%Y-%m-%d %H:%M} UTC")


MACHINE: list[Examination] = [data_folder, the_disk, database, disk_space, clock, mail]
SERVICE: list[Examination] = [service]
BOOKS: list[Examination] = [ledger, outbox, backup]
