"""How fast and how small the server is, each figure against a limit that is measured in the same run.

A request's limit is a bare Flask route that reads JSON and answers JSON of the same size, under the same gunicorn; a
sale's is that route with one raw append of as many bytes and one fsync. CPU is the worker's whole process clock until
it rests, so that threads and work after the answer count. Limit and product take turns by the fraction of a second,
since neighbours make this machine and its disk faster and slower; ratios are taken round by round, and their median is
compared with the goal (in brackets: the smallest and the largest one).
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

import click
from flask import Flask, Response, jsonify, request
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from server.domain.license import DeviceEvent, DeviceLine
from server.platforms import WebhookRequest
from server.platforms.gumroad import Gumroad
from server.services.catalogue_file import CatalogueFile
from server.services.fulfilment import Fulfilment
from server.settings import ROOT
from server.storage.base import Letter
from server.storage.flatfile import SMALL_SHOP, FlatFileStore

SECRET, SELLER, PRODUCT = "bench-secret-bench-secret", "kL0psVL2admJSYRNs-OCMg==", "32-nPAicqbLj8B_WswVlMw=="
CATALOGUE = {
    "tiers": {"pro": {"features": ["batch"]}},
    "products": {"wave": {"name": "Wave", "tier": "pro", "platform_ids": {"gumroad": [PRODUCT]}}},
}
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
VALID, ISSUED, UNKNOWN = b'"valid":true', b'"issued"', b'"NOT_FOUND"'
BATCH = 1_000  # sales in one append while a shop is built
TURN = 50  # requests until another server's turn
REST = 1.3  # seconds without work after which nothing is due any more: the view is written once a second at most


@dataclass(frozen=True)
class Sizes:
    small: int = 100
    middle: int = 5_000
    large: int = 100_000
    validations: int = 1_500  # a round and server
    sales: int = 1_500  # a round and server
    lookups: int = 2_000  # before memory is read
    rounds: int = 4
    starts: int = 5


FULL = Sizes()
QUICK = Sizes(middle=1_000, large=11_000, validations=300, sales=250, lookups=1_000, rounds=2, starts=2)


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, its limit, and the value that the goal is about."""

    what: str
    measured: str
    limit: str
    value: float
    goal: float
    unit: str = "x"
    spread: tuple[float, float] | None = None

    @property
    def met(self) -> bool:
        return self.value <= self.goal


# ---------------------------------------------------------------------------------------------------- the limit
def bare() -> Flask:
    """The application that gunicorn runs as the limit."""
    app = Flask("bare")
    answer, line = json.loads(os.environ["BENCH_ANSWER"]), b"x" * int(os.environ["BENCH_APPEND"])
    descriptor = os.open(os.environ["BENCH_FILE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @app.post("/")
    def plain() -> Response:
        request.get_json()
        return jsonify(answer)

    @app.post("/append")
    def append() -> Response:
        request.get_json()
        os.write(descriptor, line)
        os.fsync(descriptor)
        return jsonify(answer)

    @app.get("/health")
    def health() -> str:
        return "ok"

    return app


# ---------------------------------------------------------------------------------------------------- sales
_numbers = itertools.count()


def new_sale() -> dict[str, str]:
    """A sale that was never heard of, with what Gumroad tells of it (about 900 bytes as a form)."""
    number = next(_numbers)
    sale_id = base64.urlsafe_b64encode(hashlib.sha256(str(number).encode()).digest()[:16]).decode()
    return {
        "seller_id": SELLER,
        "product_id": PRODUCT,
        "product_name": "Wave",
        "permalink": "wave",
        "product_permalink": "https://acme.gumroad.com/l/wave",
        "short_product_id": "QMGY",
        "email": f"customer{number}@mail.example.com",
        "price": "2999",
        "gumroad_fee": "330",
        "currency": "usd",
        "quantity": "1",
        "discover_fee_charged": "false",
        "can_contact": "true",
        "referrer": "direct",
        "card[visual]": "**** **** **** 4242",
        "card[type]": "visa",
        "order_number": str(524_459_935 + number),
        "sale_id": sale_id,
        "sale_timestamp": "2026-11-05T19:38:56Z",
        "full_name": "Jane Maria Doe",
        "purchaser_id": str(5_550_321_502_811 + number),
        "license_key": "85DB562A-C11D4B06-A2335A6B-8C079166",
        "ip_country": "United States",
        "is_gift_receiver_purchase": "false",
        "refunded": "false",
        "resource_name": "sale",
        "disputed": "false",
        "dispute_won": "false",
    }


def sale_requests(number: int) -> list[bytes]:
    path = f"/api/v1/webhooks/gumroad?secret={SECRET}"
    return [http(path, urlencode(new_sale()).encode(), FORM) for _ in range(number)]


def hardware_id(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def validation(key: str, known: bool, path: str = "/api/v1/licenses/validate") -> bytes:
    asked = {"license_key": key, "hardware_id": hardware_id(key)} if known else {"license_key": key}
    return http(path, json.dumps(asked).encode())


def http(path: str, body: bytes, kind: str = JSON) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench/1\r\nAccept: */*\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


# ---------------------------------------------------------------------------------------------------- shops
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


def build_shop(folder: Path, licenses: int) -> Shop:
    """Sell that often, by the code that sells, and bind a device to each license."""
    folder.mkdir()
    (folder / "products.json").write_text(json.dumps(CATALOGUE))
    store = FlatFileStore(folder).open()
    keys = [key for number in _batches(licenses) for key in _sell(store, number)]
    for at in range(0, licenses, BATCH):
        with store.transaction() as books:
            books.append_devices([_activation(key) for key in keys[at : at + BATCH]])
    store.tidy(force=True)
    _settle_letters(store)
    return Shop(folder, keys)


def sell_unwritten(shop: Shop) -> None:
    """Sell a tenth more: as far as a large shop's view may be behind its logs."""
    store = shop.open()
    for number in _batches(len(shop.keys) // 10):
        _sell(store, number)
    _settle_letters(store)


def _sell(store: FlatFileStore, number: int) -> list[str]:
    platform, catalogue = Gumroad(SECRET, None), CatalogueFile(store.folder / "products.json")
    fulfilment = Fulfilment(store, catalogue, SECRET, _now)
    with store.transaction() as books:
        pings = [WebhookRequest(urlencode(new_sale()).encode(), {}, _no_header) for _ in range(number)]
        entries = [fulfilment.decide(platform.parse(ping)[0]) for ping in pings]
        books.append(entries)
    return [entry.license_keys[0] for entry in entries]


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


# ---------------------------------------------------------------------------------------------------- servers
def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "SECRET_KEY": SECRET,
        "LICENSE_SECRET": SECRET,
        "ENV_FILE": os.devnull,
        "GUMROAD_WEBHOOK_SECRET": SECRET,
        "GUMROAD_SELLER_ID": SELLER,
        "DATA_DIR": str(folder),
        "RATE_LIMIT": "off",
        "EMAIL_BACKEND": "console",
        "TRUSTED_PROXIES": "0",
    }


class Server:
    """A gunicorn with one worker, whose clock and memory can be read."""

    def __init__(self, app: str, env: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._log = os.memfd_create("log")  # in memory: no writing beside the one that is measured
        command = [sys.executable, "-m", "gunicorn", "-c", "deployment/gunicorn.conf.py", "-w", "1"]
        began = time.perf_counter()
        self._master = subprocess.Popen(
            [*command, "-b", f"127.0.0.1:{self.port}", app], cwd=ROOT, env=env, stdout=self._log, stderr=self._log
        )
        self._wait_until_ready()
        self.ready_after = time.perf_counter() - began
        children = Path(f"/proc/{self._master.pid}/task/{self._master.pid}/children")
        self._worker = int(children.read_text().split()[0])

    def _wait_until_ready(self) -> None:
        given_up = time.monotonic() + 60
        while time.monotonic() < given_up and self._master.poll() is None:
            with suppress(OSError):
                if b" 200 " in self.answer(b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n")[:20]:
                    return
            time.sleep(0.005)
        told = os.pread(self._log, 1 << 16, 0).decode()
        self.stop()
        raise click.ClickException(f"the server did not start:\n{told}")

    def answer(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), 60) as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def post(self, requests: Sequence[bytes], expected: bytes) -> bytes:
        """Send these one after the other; returns the last answer."""
        answer = b""
        for one in requests:
            answer = self.answer(one)
            if expected not in answer:
                raise click.ClickException(f"an unexpected answer: {answer.decode()}")
        return answer

    def cpu(self) -> float:
        """Seconds that the worker has used, all its threads together."""
        return time.clock_gettime((~self._worker << 3) | 2)

    def memory(self) -> tuple[float, float]:
        """The worker's resident memory in KiB, and what of it is its own: mapped pages of files are shared by all."""
        status = Path(f"/proc/{self._worker}/status").read_text()
        rollup = Path(f"/proc/{self._worker}/smaps_rollup").read_text()
        return _kib(status, "VmRSS"), _kib(rollup, "Private_Dirty")

    def stop(self) -> None:
        self._master.terminate()
        try:
            self._master.wait(30)
        except subprocess.TimeoutExpired:
            self._master.kill()
        os.close(self._log)


def _kib(text: str, name: str) -> float:
    return float(text.partition(f"{name}:")[2].split()[0])


@contextmanager
def serving(app: str, env: dict[str, str]) -> Iterator[Server]:
    server = Server(app, env)
    try:
        yield server
    finally:
        server.stop()


# ---------------------------------------------------------------------------------------------------- rounds
@dataclass(frozen=True)
class Spent:
    """Seconds of one round by request."""

    cpu: float
    wall: float

    def over(self, limit: Spent) -> Spent:
        return Spent(self.cpu / limit.cpu, self.wall / limit.wall)


Load = tuple[Server, Sequence[bytes]]


def take_turns(expected: bytes, *loads: Load) -> list[Spent]:
    """One round: what each server spends on its requests, until none has anything left to do."""
    before, wall = [server.cpu() for server, _ in loads], [0.0] * len(loads)
    for at in range(0, len(loads[0][1]), TURN):
        for place, (server, requests) in enumerate(loads):
            began = time.perf_counter()
            server.post(requests[at : at + TURN], expected)
            wall[place] += time.perf_counter() - began
    wait_for_rest([server for server, _ in loads])
    spent = [server.cpu() - clock for (server, _), clock in zip(loads, before, strict=True)]
    return [Spent(spent[place] / len(r), wall[place] / len(r)) for place, (_, r) in enumerate(loads)]


def wait_for_rest(servers: Sequence[Server], longest: float = 20.0) -> None:
    began = since = time.monotonic()
    seen = sum(server.cpu() for server in servers)
    while time.monotonic() < min(since + REST, began + longest):
        time.sleep(0.05)
        used = sum(server.cpu() for server in servers)
        if used > seen + 0.001:
            seen, since = used, time.monotonic()


def ratio_row(what: str, ours: Sequence[float], limits: Sequence[float], ratios: Sequence[float], goal: float) -> Row:
    return Row(what, _micro(ours), _micro(limits), median(ratios), goal, spread=(min(ratios), max(ratios)))


def _micro(seconds: Sequence[float]) -> str:
    return f"{median(seconds) * 1e6:.0f} us"


def absolute_row(
    what: str, ours: Sequence[float], limits: Sequence[float], values: Sequence[float], goal: float
) -> Row:
    spread = (min(values), max(values))
    return Row(what, f"{median(ours):.2f} s", f"{median(limits):.2f} s", median(values), goal, "s", spread)


class Bench:
    """The parts, over shops that are built once. All stands in one folder that is removed at the end."""

    def __init__(self, folder: Path, sizes: Sizes, say: Callable[[str], None]) -> None:
        self.folder, self.sizes, self._say = folder, sizes, say
        self.shop, self.behind, self._share = cache(self._build), cache(self._fall_behind), cache(self._rewrite_share)
        self._large_shop = cache(self._copy)  # for selling; the one that starts and memory are measured with stays
        self._copies = itertools.count()

    def _build(self, licenses: int) -> Shop:
        self._say(f"building a shop of {licenses:,} licenses")
        return build_shop(self.folder / str(licenses), licenses)

    def _fall_behind(self, licenses: int) -> Shop:
        shop = self._copy(self.shop(licenses))
        sell_unwritten(shop)
        return shop

    def _copy(self, shop: Shop) -> Shop:
        copied = shop.copy(self.folder / f"copy{next(self._copies)}")
        os.sync()  # no writing beside the one that is measured
        return copied

    def _ours(self, shop: Shop) -> AbstractContextManager[Server]:
        return serving("wsgi:app", environment(shop.folder))

    def _bare(self, answer: bytes, append: int = 0) -> AbstractContextManager[Server]:
        told = {
            "BENCH_ANSWER": answer.partition(b"\r\n\r\n")[2].decode(),
            "BENCH_APPEND": str(append),
            "BENCH_FILE": str(self.folder / "bare.log"),
        }
        return serving("scripts.bench:bare()", os.environ | told)

    # ------------------------------------------------------------------------------------------------ validation
    def validate(self) -> list[Row]:
        return [*self._validate("known device", True), *self._validate("no device", False)]

    def _validate(self, what: str, known: bool) -> list[Row]:
        few, many = self.shop(self.sizes.small), self.shop(self.sizes.large)
        with self._ours(few) as small, self._ours(many) as large:
            answer = [
                server.post(_validations(shop, known, 50), VALID) for server, shop in ((small, few), (large, many))
            ]
            with self._bare(answer[0]) as limit:
                rounds = [self._validation_round(known, limit, small, large) for _ in range(self.sizes.rounds)]
        return self._validation_rows(what, rounds)

    def _validation_round(self, known: bool, limit: Server, small: Server, large: Server) -> list[float]:
        few, many, number = self.shop(self.sizes.small), self.shop(self.sizes.large), self.sizes.validations
        self._say("validating")
        limit_load = (limit, _validations(few, known, number, "/"))
        ours = (small, _validations(few, known, number)), (large, _validations(many, known, number))
        return [spent.cpu for spent in take_turns(VALID, limit_load, *ours)]

    def _validation_rows(self, what: str, rounds: Sequence[Sequence[float]]) -> list[Row]:
        limit, small, large = zip(*rounds, strict=True)
        few, many = f"{self.sizes.small:,}", f"{self.sizes.large:,}"
        return [
            _validation_row(f"validation, {what}, {few} licenses: CPU against a bare route", small, limit, 1.5),
            _validation_row(f"validation, {what}, {many} licenses: CPU against a bare route", large, limit, 1.5),
            _validation_row(f"validation, {what}: CPU at {many} against {few}", large, small, 1.1),
        ]

    # ------------------------------------------------------------------------------------------------ sales
    def sale(self) -> list[Row]:
        sizes = (self.sizes.small, self.sizes.middle, self.sizes.large)
        with self._bare(*self._first_sale()) as limit:
            rounds = [[self._sale_round(limit, size) for size in sizes] for _ in range(self.sizes.rounds)]
        by_size = dict(zip(sizes, zip(*rounds, strict=True), strict=True))
        rows = [row for size, pairs in by_size.items() for row in _sale_rows(size, pairs)]
        return rows + [
            row for size in sizes[1:] for row in _flat_rows(size, by_size[size], sizes[0], by_size[sizes[0]])
        ]

    def _first_sale(self) -> tuple[bytes, int]:
        """What a sale is answered, and how long its line in the ledger is."""
        shop = self._copy(self.shop(self.sizes.small))
        ledger = shop.folder / "purchases.jsonl"
        before = ledger.stat().st_size
        with self._ours(shop) as server:
            answer = server.post(sale_requests(1), ISSUED)
            return answer, ledger.stat().st_size - before

    def _sale_round(self, limit: Server, size: int) -> tuple[Spent, Spent]:
        """The limit and the product; a small shop starts anew each round, so that it stays small."""
        shop = self._copy(self.shop(size)) if size <= SMALL_SHOP else self._large_shop(self.shop(size))
        share = self._share(size)
        with self._ours(shop) as server:
            self._say(f"selling at {size:,} licenses")
            server.post(sale_requests(20), ISSUED)
            appends = [http("/append", json.dumps(new_sale()).encode()) for _ in range(self.sizes.sales)]
            bare, ours = take_turns(ISSUED, (limit, appends), (server, sale_requests(self.sizes.sales)))
        return bare, Spent(ours.cpu + share, ours.wall)

    def _rewrite_share(self, size: int) -> float:
        """A large shop's view is written when a tenth has changed, too seldom for a round: each sale's share of it."""
        if size <= SMALL_SHOP:
            return 0.0
        store = self._copy(self.behind(size)).open()
        began = time.process_time()
        store.tidy(force=True)
        return (time.process_time() - began) / (size // 10)

    # ------------------------------------------------------------------------------------------------ start
    def start(self) -> list[Row]:
        large = self.sizes.large
        shops = {f"{large:,} licenses": self.shop(large), f"{large:,} and a tenth not in the view": self.behind(large)}
        return [row for what, shop in shops.items() for row in self._start_rows(what, shop)]

    def _start_rows(self, what: str, shop: Shop) -> list[Row]:
        self._say(f"starting with {what}")
        return [
            self._beyond_empty(f"start beyond an empty one, {what}: create_app", self._create_app, shop),
            self._beyond_empty(f"start beyond an empty one, {what}: /health under gunicorn", self._ready, shop),
        ]

    def _beyond_empty(self, what: str, took: Callable[[Shop], float], shop: Shop) -> Row:
        pairs = [(took(self.shop(0)), took(shop)) for _ in range(self.sizes.starts)]
        limits, ours = zip(*pairs, strict=True)
        return absolute_row(what, ours, limits, [full - empty for empty, full in pairs], 0.5)

    def _create_app(self, shop: Shop) -> float:
        code = "import time; t = time.perf_counter(); import wsgi; print(time.perf_counter() - t)"
        return float(_output([sys.executable, "-c", code], shop))

    def _ready(self, shop: Shop) -> float:
        with self._ours(shop) as server:
            return server.ready_after

    # ------------------------------------------------------------------------------------------------ memory
    def memory(self) -> list[Row]:
        large = self.sizes.large
        empty = self._worker_memory(self.shop(0), ["NONE"] * self.sizes.lookups, UNKNOWN)
        rows = [Row("memory of an empty worker", f"{empty[0] / 1024:.1f} MiB", "", empty[0] / 1024, 80.0, "MiB")]
        shops = {f"{large:,} licenses": self.shop(large), f"{large:,} and a tenth not in the view": self.behind(large)}
        for what, shop in shops.items():
            full = self._worker_memory(shop, shop.some(self.sizes.lookups), VALID)
            for kind, used, without in zip(("resident", "private"), full, empty, strict=True):
                shown = f"{used / 1024:.1f} MiB", f"{without / 1024:.1f} MiB"
                name = f"memory beyond an empty worker, {what}: {kind}"
                rows.append(Row(name, *shown, (used - without) / large, 1.0, "KiB a license"))
        return rows

    def _worker_memory(self, shop: Shop, keys: Sequence[str], expected: bytes) -> tuple[float, float]:
        self._say("reading memory")
        with self._ours(shop) as server:
            server.post([validation(key, True) for key in keys], expected)
            return server.memory()

    # ------------------------------------------------------------------------------------------------ audit
    def audit(self) -> list[Row]:
        """Whole processes: the owner's statistics, and a bare pass of msgspec over the same file."""
        self._say("audit.py stats")
        shop = self.shop(self.sizes.large)
        script = [sys.executable, "scripts/audit.py", "stats"]
        bare_pass = [sys.executable, "-c", BARE_PASS, str(shop.folder / "purchases.jsonl")]
        pairs = [(_timed(bare_pass, shop), _timed(script, shop)) for _ in range(self.sizes.starts)]
        limits, ours = zip(*pairs, strict=True)
        return [absolute_row(f"audit.py stats, {self.sizes.large:,} lines", ours, limits, ours, 1.0)]


def _validations(shop: Shop, known: bool, number: int, path: str = "/api/v1/licenses/validate") -> list[bytes]:
    return [validation(key, known, path) for key in shop.some(number)]


def _validation_row(what: str, ours: Sequence[float], limits: Sequence[float], goal: float) -> Row:
    return ratio_row(what, ours, limits, [one / limit for one, limit in zip(ours, limits, strict=True)], goal)


Pairs = Sequence[tuple[Spent, Spent]]


def _sale_rows(size: int, pairs: Pairs) -> list[Row]:
    what = f"sale, {size:,} licenses: {{}} against route + append + fsync"
    limits, ours = zip(*pairs, strict=True)
    return _cpu_and_wall(what, ours, limits, [one.over(limit) for limit, one in pairs], 2.0, 1.5)


def _flat_rows(size: int, pairs: Pairs, small: int, small_pairs: Pairs) -> list[Row]:
    """One size against another, each against the limit that it took turns with."""
    what = f"sale: {{}} at {size:,} against {small:,}"
    ratios = [one.over(a).over(few.over(b)) for (a, one), (b, few) in zip(pairs, small_pairs, strict=True)]
    return _cpu_and_wall(what, [one for _, one in pairs], [one for _, one in small_pairs], ratios, 1.25, 1.25)


def _cpu_and_wall(
    what: str, ours: Sequence[Spent], limits: Sequence[Spent], ratios: Sequence[Spent], cpu: float, wall: float
) -> list[Row]:
    rows = []
    for name, goal in (("cpu", cpu), ("wall", wall)):
        one, limit, ratio = ([getattr(spent, name) for spent in column] for column in (ours, limits, ratios))
        rows.append(ratio_row(what.format(name), one, limit, ratio, goal))
    return rows


BARE_PASS = """
import sys, msgspec
line = msgspec.defstruct("Line", [("event", str), ("source", str), ("price", str | None), ("currency", str | None)])
decode = msgspec.json.Decoder(line).decode
with open(sys.argv[1], "rb") as file:
    print(sum(decode(raw).event == "sale" for raw in file))
"""


def _output(command: list[str], shop: Shop) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment(shop.folder), capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{command[1]} failed:\n{done.stderr}")
    return done.stdout


def _timed(command: list[str], shop: Shop) -> float:
    began = time.perf_counter()
    _output(command, shop)
    return time.perf_counter() - began


# ---------------------------------------------------------------------------------------------------- the table
PARTS = ("validate", "sale", "start", "memory", "audit")


@click.command(help=f"Measure the named PARTS, or all of them: {', '.join(PARTS)}.")
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
@click.option("--quick", is_flag=True, help="Smaller shops and fewer rounds: half a minute, less exact.")
@click.option("--json", "as_json", is_flag=True, help="The rows as JSON.")
@click.option("--fail/--no-fail", default=True, help="Exit with 1 when a goal is missed (the default), or never.")
@click.option("--dir", "where", type=click.Path(file_okay=False, exists=True), help="A folder on the disk to measure.")
def main(parts: Sequence[str], quick: bool, as_json: bool, fail: bool, where: str | None) -> None:
    with tempfile.TemporaryDirectory(prefix="keyledger-bench-", dir=where) as folder:
        rows = measure(parts or PARTS, Path(folder), QUICK if quick else FULL)
    if as_json:
        click.echo(json.dumps([asdict(row) | {"met": row.met} for row in rows], indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(table(rows))
    if fail and not all(row.met for row in rows):
        raise SystemExit(1)


def measure(parts: Sequence[str], folder: Path, sizes: Sizes) -> list[Row]:
    with Console(stderr=True).status("starting") as status:
        bench = Bench(folder, sizes, status.update)
        return [row for part in dict.fromkeys(parts) for row in getattr(bench, part)()]


def table(rows: Sequence[Row]) -> Table:
    drawn = Table("what", "measured", "limit", "value (spread)", "goal", "met?")
    for row in rows:
        spread = f" ({row.spread[0]:.2f} to {row.spread[1]:.2f})" if row.spread else ""
        goal = f"{row.goal:g} {row.unit}"
        drawn.add_row(row.what, row.measured, row.limit, f"{row.value:.2f}{spread}", goal, "yes" if row.met else "no")
    return drawn


if __name__ == "__main__":
    main()
