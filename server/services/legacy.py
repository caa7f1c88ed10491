"""Reading what other license systems left behind: a CSV of licenses, or the older two files.

`licenses.json` as a plain `{key: record}` object, `purchases.jsonl` as lines without a chain. Lenient in how things are
called and written, strict in what comes out: a record is whole and within our bounds, or it is told with its place.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import msgspec

from server.domain import money
from server.domain.license import Reason
from server.errors import BadRequest

COLUMNS = (
    "license_key email customer_name product_id expiry_date max_devices hardware_id device_name created_date "
    "purchase_source purchase_id is_active"
).split()
FURTHER_COLUMNS = "inactive_reason is_test last_validation validation_count".split()
LONGEST = {
    "license_key": 128,
    "email": 254,
    "customer_name": 500,
    "product_id": 128,
    "hardware_id": 256,
    "device_name": 128,
    "source": 64,
    "sale_id": 256,
}
_FOR_LIFE = frozenset({"never", "lifetime", "none", "null"})
_FLAGS = dict.fromkeys(("true", "1", "yes"), True) | dict.fromkeys(("false", "0", "no"), False)

# What older ledgers call a line -> what it did to the money.
CHARGE, REFUND, CHARGEBACK = "charge", "refund", "chargeback"
_KINDS = {
    **dict.fromkeys(("sale", "purchase", "renewal", "owner_issue", "owner_import", "owner_fulfil"), CHARGE),
    **dict.fromkeys(("refund", "refunded"), REFUND),
    **dict.fromkeys(("chargeback", "dispute_lost"), CHARGEBACK),
}


class OldLicense(msgspec.Struct, kw_only=True):
    """One license as it was. `place` says where it stood; `max_devices` None is whatever its product has."""

    place: str
    license_key: str
    email: str
    customer_name: str
    product_id: str | None
    created_date: datetime | None
    expiry_date: datetime | None
    is_active: bool
    inactive_reason: Reason | None
    max_devices: int | None
    devices: tuple[tuple[str, str | None], ...]
    source: str | None
    sale_id: str | None
    is_test: bool
    last_validation: datetime | None
    validation_count: int

    @property
    def purchase(self) -> tuple[str | None, str | None]:
        return self.source, self.sale_id


class OldPurchase(msgspec.Struct, kw_only=True):
    kind: str
    source: str | None
    sale_id: str | None
    subscription_id: str | None
    license_keys: tuple[str, ...]
    product_id: str | None
    product_name: str | None
    price: str | None
    currency: str | None
    moment: datetime | None


@dataclass
class OldBooks:
    """All that was read, what cannot be taken over (place and why), and what the owner should know."""

    licenses: list[OldLicense] = field(default_factory=list)
    purchases: list[OldPurchase] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_old_books(path: Path) -> OldBooks:
    """Raises BadRequest for a file that cannot be read as a whole, OSError for one that is not there."""
    path = path / "licenses.json" if path.is_dir() else path
    books, is_json = OldBooks(), path.suffix.lower() == ".json"
    places: dict[str, str] = {}
    for place, record in _json_records(path) if is_json else _csv_records(path, books):
        try:
            license = _license(place, record)
            if (first := places.setdefault(license.license_key, place)) != place:
                raise BadRequest(f"license_key: stands in {first} already")
            books.licenses.append(license)
        except BadRequest as error:
            books.refused.append((place, error.detail))
    ledger = path.with_name("purchases.jsonl")
    if is_json and ledger.exists():
        _read_purchases(ledger, books)
    return books


# ---------------------------------------------------------------------------------------------------- the two shapes
def _csv_records(path: Path, books: OldBooks) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows are counted as a spreadsheet counts them: the heading is row 1."""
    text = _text(path)
    heading = text.partition("\n")[0]
    rows = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=";" if ";" in heading and "," not in heading else ","
    )
    columns = [column.strip() for column in rows.fieldnames or ()]
    rows.fieldnames = columns
    if "license_key" not in columns:
        raise BadRequest(
            f"{path.name}: its first row names no column license_key; the columns are {', '.join(COLUMNS)}"
        )
    if unknown := [column for column in columns if column not in (*COLUMNS, *FURTHER_COLUMNS)]:
        books.warnings.append(f"{path.name}: the columns {', '.join(unknown)} were not understood and are left out")
    try:
        for number, row in enumerate(rows, 2):
            yield f"row {number}", row | {"license_key": (row["license_key"] or "").strip()}
    except csv.Error as error:
        raise BadRequest(f"{path.name} line {rows.line_num}: {error}") from None


def _json_records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{path.name}: is not JSON ({error})") from None
    if isinstance(found, dict) and "format" in found and isinstance(found.get("licenses"), dict):
        found = found["licenses"]  # a view of ours, from another server
    if not isinstance(found, dict):
        raise BadRequest(f"{path.name}: is no JSON object of license keys")
    for number, (key, record) in enumerate(found.items(), 1):
        fields = record if isinstance(record, dict) else {}
        yield f"license {number}", {"max_devices": 1} | fields | {"license_key": key}


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path.name}: is not UTF-8 (byte {error.start + 1})") from None


# ---------------------------------------------------------------------------------------------------- one license
def _license(place: str, record: Mapping[str, Any]) -> OldLicense:
    read = _Record(record)
    if None in record:
        raise BadRequest("has more cells than the heading")
    key = read.text("license_key")
    if key is None or "email" not in record:
        raise BadRequest(f"{'email' if key else 'license_key'}: is missing")
    return OldLicense(
        place=place,
        license_key=key,
        email=read.text("email") or "",
        customer_name=read.text("customer_name") or "",
        product_id=read.text("product_id"),
        created_date=read.moment("created_date"),
        expiry_date=read.moment("expiry_date"),
        is_active=read.flag("is_active", True),
        inactive_reason=read.reason("inactive_reason"),
        max_devices=read.number("max_devices", 1, 100_000),
        devices=tuple(read.devices()),
        source=read.text("purchase_source", "source"),
        sale_id=read.text("purchase_id", "sale_id"),
        is_test=read.flag("is_test", False),
        last_validation=read.moment("last_validation"),
        validation_count=read.number("validation_count", 0, 10**9) or 0,
    )


class _Record:
    """The fields of a record, whatever their type; every error names its field."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def raw(self, name: str) -> str | None:
        value = self._fields.get(name)
        if isinstance(value, bool):
            return "true" if value else "false"
        if value is not None and not isinstance(value, str | int | float):
            raise BadRequest(f"{name}: is neither text nor a number")
        return None if value is None or value == "" else str(value)

    def text(self, name: str, bounded_as: str | None = None) -> str | None:
        """A license key stays exactly as it is; elsewhere a run of white space is one space."""
        value = self.raw(name)
        if value is not None and name != "license_key":
            value = " ".join(value.split()) or None
        if value is not None and not value.isprintable():
            raise BadRequest(f"{name}: holds characters that cannot be printed")
        if value is not None and len(value) > LONGEST[bounded_as or name]:
            raise BadRequest(f"{name}: is longer than {LONGEST[bounded_as or name]} characters")
        return value

    def moment(self, name: str) -> datetime | None:
        value = (self.raw(name) or "").strip()
        if not value or value.lower() in _FOR_LIFE:
            return None
        try:
            found = datetime.fromisoformat(value)
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            raise BadRequest(f"{name}: {value[:40]!r} is no date such as 2026-11-20 or 2026-11-20T12:00:00Z") from None

    def flag(self, name: str, default: bool) -> bool:
        value = (self.raw(name) or "").strip().lower()
        if value and value not in _FLAGS:
            raise BadRequest(f"{name}: {value[:40]!r} is neither true nor false")
        return _FLAGS.get(value, default)

    def number(self, name: str, low: int, high: int) -> int | None:
        value = (self.raw(name) or "").strip()
        if not value:
            return None
        if not (value.isascii() and value.isdigit() and len(value) < 12 and low <= int(value) <= high):
            raise BadRequest(f"{name}: {value[:40]!r} is no whole number from {low} to {high}")
        return int(value)

    def reason(self, name: str) -> Reason | None:
        value = self.raw(name)
        if value is not None and value not in list(Reason):
            raise BadRequest(f"{name}: {value[:40]!r} is none of {', '.join(Reason)}")
        return Reason(value) if value is not None else None

    def devices(self) -> Iterator[tuple[str, str | None]]:
        """The first one stands in the record itself, further ones in `devices`."""
        if hardware_id := self.text("hardware_id"):
            yield hardware_id, self.text("device_name")
        further = self._fields.get("devices") or []
        if not isinstance(further, list) or not all(isinstance(device, dict) for device in further):
            raise BadRequest("devices: is no list of objects")
        for device in map(_Record, further):
            if hardware_id := device.text("hardware_id"):
                yield hardware_id, device.text("device_name")


# ---------------------------------------------------------------------------------------------------- the older ledger
def _read_purchases(path: Path, books: OldBooks) -> None:
    puzzling = defaultdict[str, list[int]](list)
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                books.purchases += _purchases(json.loads(line))
            except BadRequest as error:
                puzzling[error.detail].append(number)
            except (ValueError, RecursionError):
                puzzling["is not JSON"].append(number)
    for why, numbers in puzzling.items():
        books.warnings.append(f"{path.name}: left out {len(numbers)} line(s), the first is line {numbers[0]}: {why}")


def _purchases(line: object) -> Iterator[OldPurchase]:
    """A charge that tells that it is refunded by now is two: the charge and the refund."""
    if not isinstance(line, dict):
        raise BadRequest("is no JSON object")
    read = _Record({name: value for name, value in line.items() if name != "license_keys"})
    word = _first(read, "event", "event_type", "type") or "sale"
    if word not in _KINDS:
        raise BadRequest(f"event: {word[:40]!r} says nothing about money")
    currency = _first(read, "currency")
    purchase = OldPurchase(
        kind=_KINDS[word],
        source=_first(read, "source", "purchase_source", "platform"),
        sale_id=_first(read, "sale_id", "purchase_id", "transaction_id", "order_id"),
        subscription_id=_first(read, "subscription_id"),
        license_keys=tuple(_keys(line)),
        product_id=_first(read, "product_id"),
        product_name=_first(read, "product_name", "product"),
        price=_price(_first(read, "price", "amount"), currency),
        currency=money.currency_code(currency) if currency else None,
        moment=read.moment("purchase_date") or read.moment("timestamp") or read.moment("date"),
    )
    yield purchase
    if purchase.kind == CHARGE and read.flag("is_refunded", False):
        yield msgspec.structs.replace(purchase, kind=REFUND)


def _first(read: _Record, *names: str) -> str | None:
    return next((value.strip() for name in names if (value := read.raw(name))), None)


def _keys(line: Mapping[str, Any]) -> Iterator[str]:
    several = line.get("license_keys")
    found = several if isinstance(several, list) and several else [line.get("license_key")]
    yield from (key for key in found if isinstance(key, str) and key)


def _price(amount: str | None, currency: str | None) -> str | None:
    if amount is None:
        return None
    if currency is None:
        raise BadRequest("currency: is missing beside a price")
    code = money.currency_code(currency)
    try:
        return money.told(money.minor_units(f"{Decimal(amount):f}", code), code)
    except InvalidOperation:
        raise BadRequest(f"price: {amount[:40]!r} is no amount") from None
