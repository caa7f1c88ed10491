"""What the parts have in common: the sizes of this run, its shops, and the two servers that are compared."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from scripts.bench_parts.sent import ISSUED, sale_requests
from scripts.bench_parts.servers import Server, environment, serving
from scripts.bench_parts.shops import Shop, Shops


@dataclass(frozen=True)
class Sizes:
    small: int = 100
    middles: tuple[int, ...] = (5_000, 10_000)
    large: int = 1_000_000
    validations: int = 1_500  # a round and server
    sales: int = 1_500  # a round and server
    lookups: int = 5_000  # before memory is read
    rounds: int = 4
    starts: int = 3
    dashboard: int = 100_000  # licenses
    visits: int = 9  # to each page


FULL = Sizes()
QUICK = Sizes(middles=(1_000,), large=11_000, validations=300, sales=250, lookups=1_000, rounds=2, starts=2, visits=5)


class Run:
    """All stands in one folder that is removed at the end."""

    def __init__(self, folder: Path, sizes: Sizes, say: Callable[[str], None]) -> None:
        self.folder, self.sizes, self.say = folder, sizes, say
        self.shops = Shops(folder, say)

    def ours(self, shop: Shop) -> AbstractContextManager[Server]:
        return serving("wsgi:app", environment(shop.folder))

    def bare(self, answer: bytes, append: int = 0) -> AbstractContextManager[Server]:
        told = {
            "BENCH_ANSWER": answer.partition(b"\r\n\r\n")[2].decode(),
            "BENCH_APPEND": str(append),
            "BENCH_FILE": str(self.folder / "bare.log"),
        }
        return serving("scripts.bench_parts.limits:bare()", os.environ | told)

    def first_sale(self) -> tuple[bytes, int]:
        """What a sale is answered, and how long its line in the ledger is."""
        shop = self.shops.copy(self.shops.of(self.sizes.small))
        ledger = shop.folder / "purchases.jsonl"
        before = ledger.stat().st_size
        with self.ours(shop) as server:
            answer = server.post(sale_requests(1), ISSUED)
            return answer, ledger.stat().st_size - before
