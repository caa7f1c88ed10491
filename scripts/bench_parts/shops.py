"""Shops of any size, built by the code that sells, and copies of them to measure with."""

from __future__ import annotations

import gc
import itertools
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from scripts.bench_parts.sent import PRODUCT, SECRET, hardware_id, new_sale
from server.domain import keys
from server.domain.fold import fold
from server.domain.license import DeviceEvent, DeviceLine
from server.domain.purchase import Entry
from server.platforms import WebhookRequest
from server.platforms.gumroad import Gumroad
from server.services.catalogue_file import CatalogueFile
from server.services.fulfilment import Fulfilment
from server.storage.base import Letter
from server.storage.flatfile import FlatFileStore

CATALOGUE = {
    "tiers": {"pro": {"features": ["batch"]}},
    "products": {"wave": {"name": "Wave", "tier": "pro", "platform_ids": {"gumroad": [PRODUCT]}}},
}
BATCH = 1_000  # sales in one append while a shop is built
DECIDED = 20  # of a batch, that many are decided by the product; the others are these with other names
TIDY = 250_000  # licenses until the view is written while a shop is built, so that memory stays small


class Shop:
    """A data folder and the keys of its licenses."""

    def __init__(self, folder: Path, keys: list[str]) -> None:
        self.folder, self.keys = folder, keys
        self._next = itertools.cycle(keys)  # keys are HMACs: in the order of sales they lie at random in the view

    def some(self, number: int) -> list[str]:
        return list(itertools.islice(self._next, number))

    def copy(self, folder: Path) -> Shop:
        return Shop(shutil.copytree(self.folder, folder), self.keys)

    def open(self) -> FlatFileStore:
        return FlatFileStore(self.folder).open()


class Shops:
    """All shops of a run, each built once, in one folder."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self.of, self.behind = cache(self._build), cache(self._fall_behind)
        self.for_selling = cache(
            self.copy
        )  # where a copy is large: the one that starts and memory are measured with stays
        self._copies = itertools.count()

    def _build(self, licenses: int) -> Shop:
        self._say(f"building a shop of {licenses:,} licenses")
        return build_shop(self._folder / str(licenses), licenses)

    def _fall_behind(self, licenses: int, share: float = 0.1) -> Shop:
        """Sell a tenth more: as far as a large shop's view may be behind its logs."""
        shop = self.copy(self.of(licenses))
        sell_unwritten(shop, int(licenses * share))
        return shop

    def copy(self, shop: Shop) -> Shop:
        copied = shop.copy(self._folder / f"copy{next(self._copies)}")
        os.sync()  # no writing beside the one that is measured
        return copied

    def throw_away(self, shop: Shop) -> None:
        shutil.rmtree(shop.folder)


def build_shop(folder: Path, licenses: int) -> Shop:
    """Sell that often and bind a device to each license."""
    folder.mkdir()
    (folder / "products.json").write_text(json.dumps(CATALOGUE))
    store = FlatFileStore(folder).open()
    gc.disable()
    found: list[str] = []
    for number in _batches(licenses):
        sold = _sell(store, number)
        with store.transaction() as books:
            books.append_devices([_activation(key) for key in sold])
        found += sold
        if len(found) % TIDY == 0:
            store.tidy(force=True)
    gc.enable()
    store.tidy(force=True)
    _settle_letters(store)
    store.close()
    return Shop(folder, found)


def sell_unwritten(shop: Shop, number: int) -> None:
    store = shop.open()
    for size in _batches(number):
        _sell(store, size)
    _settle_letters(store)
    store.close()


def _sell(store: FlatFileStore, number: int) -> list[str]:
    """Through the store's own writing, many lines under one fsync."""
    platform, catalogue = Gumroad(SECRET, None), CatalogueFile(store.folder / "products.json")
    fulfilment = Fulfilment(store, catalogue, SECRET, _now)
    with store.transaction() as books:
        entries: list[Entry] = []
        for at in range(number):
            sale = new_sale()
            if at < DECIDED:
                ping = WebhookRequest(urlencode(sale).encode(), {}, _no_header)
                entries.append(fulfilment.decide(platform.parse(ping)[0]))
            else:
                entries.append(_alike(entries[at % DECIDED], sale))
        books.append(entries, {key: record for entry in entries for key, record in fold([entry]).items()})
    return [entry.license_keys[0] for entry in entries]


def _alike(entry: Entry, sale: dict[str, str]) -> Entry:
    """The line of another sale of the same product."""
    sale_id = sale["sale_id"]
    key = keys.derive(SECRET, Gumroad.name, sale_id, "wave")
    return msgspec.structs.replace(
        entry,
        event_id=f"{sale_id}:sale:false",
        sale_id=sale_id,
        customer_id=sale["purchaser_id"],
        email=sale["email"],
        license_keys=(key,),
        grants=(msgspec.structs.replace(entry.grants[0], license_key=key),),
        raw=msgspec.Raw(msgspec.json.encode(sale)),
    )


def _no_header(name: str) -> str | None:
    return None


def _activation(key: str) -> DeviceLine:
    return DeviceLine(
        timestamp=_now(), event=DeviceEvent.ACTIVATION, license_key=key, hardware_id=hardware_id(key), device_name="PC"
    )


def _settle_letters(store: FlatFileStore) -> None:
    """As if the letters of all sales had gone out long ago."""
    with store.letterbox.turn():
        store.letterbox.write([Letter(id="covers", covers=store.ledger.mark, at=_now())])


def _batches(number: int) -> list[int]:
    return [min(BATCH, number - at) for at in range(0, number, BATCH)]


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
