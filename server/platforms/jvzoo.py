"""JVZoo: JVZIPN 1 and 2, forms signed with 32 bits of SHA-1 over their values and the secret key.

1: https://jvzoo.zendesk.com/hc/en-us/articles/206456857
2: https://support.jvzoo.com/hc/en-us/articles/49387230478235

Both versions may tell one order, with the same receipt. A refund and a chargeback carry the receipt of the charge that
they reverse, a renewal that of its first sale and `-B001`, `-B002`. Anything but 200 is sent again every hour for three
days. Neither version signs the names of its fields, and the second one not even receipt, product and total: so what was
told is known by receipt and type, a `paykey` is good for one order, what can be recut is refused, and the webhook's
address should hold a secret.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Self
from urllib.parse import unquote_to_bytes, urlencode
from zoneinfo import ZoneInfo

import msgspec

from server.domain import money
from server.domain.license import LATEST
from server.domain.purchase import PAID, EventKind, PurchaseEvent, Standing
from server.errors import BadRequest, Unverified
from server.platforms.base import TOLD_BY_ROWS, Platform, Row, Trial, WebhookRequest, event_of_row
from server.platforms.fields import MOST_FIELDS, Fields
from server.settings import Settings

log = logging.getLogger(__name__)

KINDS = {  # the transaction's type -> our word; anything else, tests included, is recorded as ignored
    "SALE": EventKind.SALE,
    "TEST_SALE": EventKind.SALE,
    "BILL": EventKind.RENEWAL,
    "INSTAL": EventKind.RENEWAL,  # in guides to the older formula
    "RFND": EventKind.REFUND,
    "CGBK": EventKind.DISPUTE_LOST,
    "INSF": EventKind.PAYMENT_FAILED,
    "CANCEL-REBILL": EventKind.CANCELLATION,
    "UNCANCEL-REBILL": EventKind.UNCANCELLATION,
}
ROW_WORDS = {"sale": "SALE", "renewal": "BILL", "refund": "RFND", "chargeback": "CGBK", "dispute_lost": "CGBK"}
_REVERSALS = frozenset({EventKind.REFUND, EventKind.DISPUTE_LOST})
_OF_SUBSCRIPTIONS = frozenset(
    {EventKind.RENEWAL, EventKind.PAYMENT_FAILED, EventKind.CANCELLATION, EventKind.UNCANCELLATION}
)
_RENEWAL_MARK = re.compile(r"-B\d{3,}\Z", re.ASCII)
_WHOLE = re.compile(r"-?\d{1,15}", re.ASCII)
_OPENED = datetime(2011, 1, 1, tzinfo=UTC)  # JVZoo; what is dated before it has no date

# Of version 1, by what they hold: words of people, which may hold a `|`, and what JVZoo's machines write.
_OF_PEOPLE = frozenset(
    b"caffitid ccustcc ccustemail ccustname ccuststate cproditem cprodtitle cprodtype cvendthru".split()
)
_OF_MACHINES = frozenset(
    b"ctransaction ctransaffiliate ctransamount ctranspaymentmethod ctransreceipt ctranstime ctransvendor "
    b"cupsellreceipt".split()
)
_MOST_BARS = 8  # in a product's name; a whole notice of version 1 has sixteen

NEW_YORK = ZoneInfo("America/New_York")  # version 2 tells no zone; an integrator found it to be this one

Form = dict[bytes, bytes]


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """The names by which one kind of notice says what all of them say."""

    kind: str
    receipt: str
    product: str
    title: str
    product_type: str
    email: str
    customer: tuple[str, ...]
    country: str
    amount: str
    moment: str


V1 = Dialect(
    kind="ctransaction",
    receipt="ctransreceipt",
    product="cproditem",
    title="cprodtitle",
    product_type="cprodtype",
    email="ccustemail",
    customer=("ccustname",),
    country="ccustcc",
    amount="ctransamount",
    moment="ctranstime",
)
LEGACY = msgspec.structs.replace(V1, kind="ctransaction_type", receipt="ctransaction")
V2 = Dialect(
    kind="transaction_type",
    receipt="transaction_id",
    product="product_id",
    title="product_name",
    product_type="product_type",
    email="customer_email",
    customer=("customer_first_name", "customer_last_name"),
    country="delivery_country",
    amount="total",
    moment="date",
)


class JVZoo(Platform):
    name = "jvzoo"

    def __init__(self, secret_key: str, secret: str | None, *, believes_legacy: bool, tells_cents: bool) -> None:
        super().__init__(secret)
        self._key, self._believes_legacy, self._tells_cents = secret_key.encode(), believes_legacy, tells_cents

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        if not settings.jvzoo_secret_key:
            return None
        return cls(
            settings.jvzoo_secret_key,
            settings.jvzoo_webhook_secret,
            believes_legacy=settings.jvzoo_legacy_signature == "on",
            tells_cents=settings.jvzoo_amounts == "cents",
        )

    def verify(self, request: WebhookRequest) -> None:
        if self._secret:
            self.require_secret(request.query.get("secret"))
        form = read_form(request.body)
        sent = form.get(b"cverify", b"").upper()
        for formula, expected in self._signatures(form):
            if hmac.compare_digest(sent, expected):
                log.debug("signature matched", extra={"platform": self.name, "formula": formula})
                return
        raise Unverified("cverify is missing or wrong: check JVZOO_SECRET_KEY")

    def trial(self) -> Trial:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        return Trial(b"cverify=" + sign_v1({}, self._key), super().trial().query, form)

    def _signatures(self, form: Form) -> Iterator[tuple[str, bytes]]:
        """The cverify that this form may have, by the name of the formula. A copy of the documentation leaves
        ctranstime out of the first one, its sample code does not.
        """
        dialect = dialect_of(form)
        if dialect is V1:
            if _text(form.get(b"ctransaction", b"")).upper() in KINDS:  # a test has no effect, and may lack everything
                require_uncut(form)
            yield "v1", sign_v1(form, self._key)
            yield "v1 without ctranstime", sign_v1(form, self._key, without=b"ctranstime")
        elif dialect is V2:
            yield "v2", sign_v2(form, self._key)
        elif self._believes_legacy:
            digest = sign_legacy(form, self._key)
            yield "legacy", digest
            yield "legacy, first 8 digits", digest[:8]

    def parse(self, request: WebhookRequest) -> list[PurchaseEvent]:
        form = read_form(request.body)
        dialect = dialect_of(form)
        # What is read is what was verified; ASCII names, which is all of ours, decode to themselves alone.
        notice = Fields([(_text(name), _text(value)) for name, value in form.items()])
        word = notice.required(dialect.kind).upper()
        if word not in KINDS:
            return [read_ignored(notice, dialect, word)]
        tells_cents = self._tells_cents and dialect is not V2
        return [read_event(notice, dialect, word, tells_cents)]

    def read_again(self, raw: bytes) -> list[PurchaseEvent]:
        form = urlencode(Fields.from_json(raw).values).encode()
        return self.parse(WebhookRequest(form, {}, lambda name: None))

    @classmethod
    def event_of(cls, row: Row) -> PurchaseEvent | None:
        """A row of JVZoo's export, with its type or with our word for it. It does not tell which products are renewed,
        so every sale may be: a license is derived from the first receipt either way."""
        word = ROW_WORDS.get(row.event.strip().lower(), row.event.strip().upper())
        kind = KINDS.get(word)
        if kind is None and not _is_test(word):
            raise BadRequest(
                f"event: {row.event[:40]!r} is none of {', '.join(sorted(ROW_WORDS))}, {', '.join(sorted(KINDS))}"
            )
        if kind not in TOLD_BY_ROWS or kind is None or _is_test(word):
            return None
        base = base_receipt(row.sale_id)
        row = msgspec.structs.replace(row, subscription_id=base, currency=row.currency or "usd")
        told = event_of_row(row, cls.name, f"{row.sale_id}:{word}", kind, NEW_YORK)
        return msgspec.structs.replace(told, is_recurring=kind is EventKind.RENEWAL or base != row.sale_id)


# ---------------------------------------------------------------------------------------------------- what is signed
def read_form(body: bytes) -> Form:
    """Names and values as bytes, as PHP posts them to JVZoo's sample code: of a name given twice the last value
    counts, an empty name is none. Raises Unverified where PHP would make an array, which no formula signs.
    """
    if body.count(b"&") >= MOST_FIELDS:
        raise Unverified(f"body: more than {MOST_FIELDS} fields")
    pairs = [part.replace(b"+", b" ").partition(b"=") for part in body.split(b"&")]
    form = {unquote_to_bytes(name): unquote_to_bytes(value) for name, _, value in pairs if name}
    if any(b"[" in name for name in form):
        raise Unverified("body: an array is no field of JVZoo's")
    return form


def dialect_of(form: Form) -> Dialect:
    if b"transaction_type" in form or b"paykey" in form:
        return V2
    return LEGACY if b"ctransaction_type" in form else V1


def require_uncut(form: Form) -> None:
    """Version 1 signs values in the order of their names, and not the names: under others, or cut elsewhere at a `|`,
    the same values would be another order. Raises Unverified where that could be: only who has all the names, and
    no more, may have a `|` in what people write.
    """
    others, known = form.keys() - _OF_PEOPLE - _OF_MACHINES - {b"cverify"}, _OF_PEOPLE | _OF_MACHINES
    is_partial = not known <= form.keys()
    barred = {name for name in form if b"|" in form[name]}
    if barred & _OF_MACHINES or (is_partial and others) or (barred and (is_partial or others)):
        raise Unverified("body: its fields are not those of a notice that JVZoo signs")


def sign_v1(form: Form, key: bytes, without: bytes | None = None) -> bytes:
    """All values, empty ones too, in the order of their names' bytes."""
    values = [form[name] for name in sorted(form) if name not in (b"cverify", without)]
    return _sha1(*values, key)[:8]


def sign_v2(form: Form, key: bytes) -> bytes:
    """From the notes of two integrators; JVZoo's own text of it could not be had in full.

    Raises Unverified where a notice of version 1 could have been cut into these five values: for a `|` outside the
    product's name, or too many in it.
    """
    paykey, email, title, kind, moment = (
        form.get(name, b"") for name in (b"paykey", b"customer_email", b"product_name", b"transaction_type", b"date")
    )
    if b"|" in paykey + email + kind + moment or title.count(b"|") > _MOST_BARS:
        raise Unverified("body: its fields are not those of a notice that JVZoo signs")
    return _sha1(paykey, email, title, kind, moment, key)[:8]


def sign_legacy(form: Form, key: bytes) -> bytes:
    """Of widely copied guides, and not JVZoo's: it does not even sign the type."""
    return _sha1(key, *(form.get(name, b"") for name in (b"ctransaction", b"ctransamount", b"cproditem")))


def _sha1(*parts: bytes) -> bytes:
    return hashlib.sha1(b"|".join(parts)).hexdigest().upper().encode()  # noqa: S324 - JVZoo's choice


# ---------------------------------------------------------------------------------------------------- what is told
def read_event(notice: Fields, dialect: Dialect, word: str, tells_cents: bool) -> PurchaseEvent:
    """Version 1 and 2 of one notice become the same event, but for what only one of them tells.

    The date of a reversal is the original sale's in version 2, so reversals have none: nothing depends on it.
    """
    kind, receipt, is_test = KINDS[word], notice.required(dialect.receipt), _is_test(word)
    paykey = notice.required("paykey") if dialect is V2 and not is_test else None  # by it another receipt is known
    base = base_receipt(receipt)
    moment = None if kind in _REVERSALS else read_moment(notice, dialect)
    return PurchaseEvent(
        event=kind,
        event_id=f"{receipt}:{word}",
        source=JVZoo.name,
        sale_id=receipt,
        subscription_id=base if _is_of_subscription(notice, dialect, kind, receipt) else None,
        email=notice.text(dialect.email),
        customer_name=_customer(notice, dialect),
        source_product_id=notice.text(dialect.product),
        product_name=notice.text(dialect.title),
        price=read_amount(notice.text(dialect.amount), tells_cents),
        currency="usd",
        purchase_date=moment if kind in PAID else None,
        occurred_at=None if kind in PAID else moment,
        is_recurring=kind is EventKind.RENEWAL or receipt != base,
        is_refunded=kind is EventKind.REFUND,
        is_disputed=kind is EventKind.DISPUTE_LOST,
        is_test=is_test,
        country=notice.text(dialect.country),
        standing=Standing.GRACE if kind is EventKind.PAYMENT_FAILED else None,
        once=paykey,
        note=_upsell(notice, kind),
        raw=_raw(notice),
    )


def read_ignored(notice: Fields, dialect: Dialect, word: str) -> PurchaseEvent:
    """A test without a license, or a type that is not known. It may lack what others must have."""
    receipt, raw = notice.text(dialect.receipt), _raw(notice)
    about = receipt or hashlib.sha256(bytes(raw)).hexdigest()[:32]
    return PurchaseEvent(
        event=EventKind.IGNORED,
        event_id=f"{about[:512]}:{word}",
        source=JVZoo.name,
        email=notice.text(dialect.email),
        customer_name=_customer(notice, dialect),
        source_product_id=notice.text(dialect.product),
        product_name=notice.text(dialect.title),
        is_test=_is_test(word),
        note="a test of JVZoo's" if _is_test(word) else "a transaction of a type that Keyledger does not know",
        raw=raw,
    )


def base_receipt(receipt: str) -> str:
    """The receipt of the first sale, of which this one may be a renewal."""
    return _RENEWAL_MARK.sub("", receipt)


def read_moment(notice: Fields, dialect: Dialect) -> datetime | None:
    """None for a time that cannot be: the notice is genuine all the same."""
    text = notice.text(dialect.moment) or ""
    try:
        if dialect is V2:
            found = datetime.fromisoformat(text)
            moment = (found if found.tzinfo else found.replace(tzinfo=NEW_YORK)).astimezone(UTC)
        else:
            moment = datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.replace(microsecond=0) if _OPENED <= moment <= LATEST else None


def read_amount(text: str | None, tells_cents: bool) -> str | None:
    """Only told, never a gate: it may be the vendor's share, and its unit depends on the account.

    The documentation says pennies, live notices show dollars; where it cannot be read it stands in `raw` alone.
    """
    if text is None or (tells_cents and not _WHOLE.fullmatch(text)):
        return None
    try:
        return money.told(int(text) if tells_cents else money.minor_units(text, "usd"), "usd")
    except BadRequest:
        return None


def _is_of_subscription(notice: Fields, dialect: Dialect, kind: EventKind, receipt: str) -> bool:
    """Also where the product's type is not told, so that a renewal finds a sale by the older formula."""
    is_renewing = kind in _OF_SUBSCRIPTIONS or base_receipt(receipt) != receipt
    return is_renewing or (notice.text(dialect.product_type) or "").upper() != "STANDARD"


def _is_test(word: str) -> bool:
    return "TEST" in word


def _customer(notice: Fields, dialect: Dialect) -> str | None:
    return " ".join(part for name in dialect.customer if (part := notice.text(name))) or None


def _upsell(notice: Fields, kind: EventKind) -> str | None:
    """A license of its own: a refund of the parent is none of the upsell."""
    parent = notice.text("cupsellreceipt") if kind is EventKind.SALE else None
    return f"an upsell of {parent[:512]}" if parent else None


def _raw(notice: Fields) -> msgspec.Raw:
    return notice.without(["cverify"]).as_json()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
