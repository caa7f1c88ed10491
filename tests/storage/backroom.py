"""The shop's back room: store, fulfilment and license manager without HTTP, and a look at its files from outside."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from server.domain.license import Claim, DeviceEvent, DeviceLine
from server.domain.purchase import Entry, EventKind, Grant, Outcome, PurchaseEvent
from server.services.catalogue_file import CatalogueFile
from server.services.fulfilment import Fulfilment
from server.services.license_manager import LicenseManager
from server.storage.base import Letter, Store
from server.storage.flatfile import FlatFileStore

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
CATALOGUE: dict[str, Any] = {
    "products": {
        "wave": {"name": "Wave", "platform_ids": {"gumroad": ["G-WAVE"]}},
        "team": {
            "name": "Team",
            "duration_days": 30,
            "max_devices": 3,
            "device_moves": 1000,
            "platform_ids": {"gumroad": ["G-TEAM"]},
        },
        "studio": {"name": "Studio", "bundle": ["wave", "team"], "platform_ids": {"gumroad": ["G-STUDIO"]}},
    }
}


_OPENED: defaultdict[Path, list[FlatFileStore]] = defaultdict(list)


class BackRoom:
    """Sales come in as events, keys come out; `now` moves only when a test says so."""

    def __init__(self, folder: Path, pace: float = 0.0) -> None:
        self.folder, self.now = folder, NOW
        catalogue = folder / "products.json"
        if not catalogue.exists():
            fresh = folder / f"products.{os.getpid()}"
            fresh.write_text(json.dumps(CATALOGUE))
            fresh.rename(catalogue)
        self.store = FlatFileStore(folder, pace)
        _OPENED[folder].append(self.store)
        self.store.open()
        self.catalogue = CatalogueFile(catalogue)
        self.fulfilment = Fulfilment(self.store, self.catalogue, "license-secret-of-the-tests", lambda: self.now)
        self.licenses = LicenseManager(self.store, self.catalogue, self.fulfilment, lambda: self.now)

    def hear(self, *events: PurchaseEvent) -> list[Entry]:
        return self.fulfilment.record(events)

    def sell(self, sale_id: str, product: str = "G-WAVE", **more: Any) -> str:
        (entry,) = self.hear(sale(sale_id, product, **more))
        return entry.license_keys[0]

    def refund(self, sale_id: str) -> Outcome:
        (entry,) = self.hear(event(EventKind.REFUND, f"{sale_id}:refund", sale_id=sale_id))
        return entry.outcome

    def code(self, key: str, device: str | None = None) -> str:
        return str(self.licenses.validate(key, Claim(hardware_id=device)).code)

    def free(self, key: str, device: str) -> str:
        return str(self.licenses.deactivate(key, device).code)


def event(kind: EventKind, event_id: str, **more: Any) -> PurchaseEvent:
    return PurchaseEvent(event=kind, event_id=event_id, **({"source": "gumroad", "email": "ann@example.com"} | more))


def sale(sale_id: str, product: str = "G-WAVE", **more: Any) -> PurchaseEvent:
    said = {"sale_id": sale_id, "source_product_id": product, "purchase_date": NOW, "customer_name": "Ann Lee"}
    return event(EventKind.SALE, f"{sale_id}:sale", **(said | more))


def entry(kind: EventKind = EventKind.SALE, event_id: str = "s1:sale", *grants: Grant, **more: Any) -> Entry:
    """A ledger line as it would be decided, without deciding it."""
    said = event(kind, event_id, **({"purchase_date": NOW, "customer_name": "Ann Lee"} | more.pop("said", {})))
    blank = {"seq": 0, "prev": None, "timestamp": NOW, "product_id": None, "tier": None, "expiry_date": None}
    keys = tuple(grant.license_key for grant in grants if grant.license_key)
    decided = blank | {"outcome": Outcome.RECORDED, "license_keys": keys, "grants": grants} | more
    return Entry(**(msgspec.structs.asdict(said) | decided))


def sold(number: int, **said: Any) -> Entry:
    """The line of a sale of its own that issued the license `KEY-<number>`."""
    names = {"sale_id": f"s{number}"} | said
    return entry(EventKind.SALE, f"s{number}:sale", Grant(product_id="wave", license_key=f"KEY-{number}"), said=names)


def device_line(key: str, device: str | None, kind: DeviceEvent = DeviceEvent.ACTIVATION, at: int = 0) -> DeviceLine:
    return DeviceLine(timestamp=NOW + timedelta(seconds=at), event=kind, license_key=key, hardware_id=device)


def letter(name: str, state: str = "queued") -> Letter:
    return Letter(id=name, kind="delivery", to="ann@example.com", state=state, at=NOW)


# ---------------------------------------------------------------------------------------------------- from outside
def records(store: Store) -> dict[str, Any]:
    """All licenses as JSON says them, without the usage counts, which the logs do not hold."""
    told = json.loads(msgspec.json.encode(dict(store.licenses())))
    for record in told.values():
        del record["last_validation"], record["validation_count"]
    return dict(told)


def counted(store: Store) -> dict[str, int]:
    return {key: license.validation_count for key, license in store.licenses()}


def chain(path: Path) -> list[dict[str, Any]]:
    """The good lines of a log, by nothing but json and hashlib; asserts that each names the line before it."""
    good: list[dict[str, Any]] = []
    head = None
    for raw in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        try:
            line = json.loads(raw)
        except ValueError:  # a torn tail, whose hash the next good line has to name
            pass
        else:
            assert line["seq"] == len(good) + 1, f"{path.name}: number {line['seq']} follows number {len(good)}"
            assert line.get("prev") == head, f"{path.name}: number {line['seq']} does not name the line before it"
            good.append(line)
        head = hashlib.sha256(raw).hexdigest()
    return good


def written(folder: Path) -> dict[str, Any]:
    """licenses.json as its readers see it."""
    return dict(json.loads((folder / "licenses.json").read_bytes())["licenses"])


def from_logs(folder: Path) -> dict[str, Any]:
    """The licenses that the two logs alone say, read by a new store in another folder."""
    with room_for() as other:
        for name in ("purchases.jsonl", "activity.jsonl"):
            if (folder / name).exists():
                shutil.copy(folder / name, other / name)
        return records(BackRoom(other).store)


def open_descriptors() -> int:
    """How many files this process has open, apart from what is only waiting to be collected."""
    gc.collect()
    return len(os.listdir("/dev/fd"))


@contextmanager
def room_for() -> Iterator[Path]:
    """A folder in memory where there is one: what is proved about kills and damage does not rest on a disk.

    The back rooms that were opened in it are closed with it.
    """
    memory = Path("/dev/shm")
    where = tempfile.mkdtemp(prefix="keyledger-", dir=memory if os.access(memory, os.W_OK) else None)
    try:
        yield Path(where)
    finally:
        for folder in [folder for folder in _OPENED if folder.is_relative_to(where)]:
            for store in _OPENED.pop(folder):
                store.close()
        shutil.rmtree(where, ignore_errors=True)
