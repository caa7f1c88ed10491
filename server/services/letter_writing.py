"""How a letter reads: `templates/<kind>.jinja`, once for both of its forms.

Each is rendered with the parts and layout of the plain text, and with those of the HTML, where everything that comes
from outside is escaped. Customers' names stand in the text alone, never in a header.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from urllib.parse import urlsplit

import jinja2
import msgspec

from server.domain import keys
from server.domain.catalogue import EMPTY, Catalogue
from server.domain.license import License
from server.domain.order import Order, OrderItem
from server.domain.purchase import Entry, EventKind, Inquiry, Outcome
from server.services.letters import DELIVERY, INQUIRIES, REFUND, REINSTATED, SEATS_TAKEN, is_domain, mail_address
from server.settings import Settings
from server.storage.base import Letter


class Matter(msgspec.Struct, frozen=True, kw_only=True):
    """What a letter is about, as it stands when it is written; `dead` are the letters that an alert is about.

    `order` is the order of our own that it is for, `sign_in` a link to the account that the letter brings.
    `asked_about` are the orders, by id, of the questions among the dead.
    """

    now: datetime
    catalogue: Catalogue = EMPTY
    entry: Entry | None = None
    licenses: Mapping[str, License] = {}
    dead: Sequence[Letter] = ()
    order: Order | None = None
    sign_in: str | None = None
    asked_about: Mapping[str, Order] = {}


def render(letter: Letter, matter: Matter, settings: Settings) -> EmailMessage:
    """The whole letter. Raises BadAddress."""
    own = {
        "reply": settings.owner_email is not None,
        "server": clean(settings.app_url),
        "portal": f"{settings.app_url}/portal",
        "license_page": f"{settings.app_url}/portal/licenses/{keys.license_id(letter.license_key or '')}",
    }
    words = _words(letter, matter) | own
    sender = settings.from_email or settings.owner_email or "keyledger@localhost"
    message = EmailMessage(policy=SMTP)
    message["From"] = mail_address(sender)
    message["To"] = mail_address(letter.to)
    if settings.owner_email and settings.owner_email != sender:
        message["Reply-To"] = mail_address(settings.owner_email)
    message["Subject"] = _subject(_rendered("txt", letter.kind, words, block="subject"))
    message["Date"] = matter.now
    message["Message-ID"] = message_id(letter, settings)
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(_rendered("txt", letter.kind, words), cte="quoted-printable")
    message.add_alternative(_rendered("html", letter.kind, words), subtype="html", cte="quoted-printable")
    return message


def _subject(text: str) -> str:
    """Without encoded words of somebody else's: `email` decodes them and writes the line breaks in them out."""
    return clean(text.replace("=?", "= ?"), 160)


def message_id(letter: Letter, settings: Settings) -> str:
    """The same at every attempt, so that a letter that was sent twice is recognised; it does not tell the `seq`."""
    told = "\0".join(("message-id", letter.id, letter.about or "", letter.to))
    digest = hmac.digest(settings.license_secret.encode(), told.encode(errors="replace"), hashlib.sha256).hex()
    host = urlsplit(settings.app_url).hostname or ""
    return f"<{digest[:32]}@{host if is_domain(host) else 'keyledger.invalid'}>"


# ---------------------------------------------------------------------------------------------------- what it says
SHOPS = {
    "gumroad": "Gumroad",
    "stripe": "Stripe",
    "jvzoo": "JVZoo",
    "payu": "PayU",
    "jazzcash": "JazzCash",
    "easypaisa": "EasyPaisa",
}
_OCCASIONS = {
    EventKind.SALE: "sale",
    EventKind.RENEWAL: "sale",  # that came without its sale
    EventKind.OWNER_FULFIL: "sale",
    EventKind.OWNER_TRANSFER: "transfer",
    EventKind.OWNER_REISSUE: "reissue",
}
_TO_CUSTOMERS = frozenset({DELIVERY, REFUND, REINSTATED})  # of those that a line of an order owes
_LIKE_A_LINK = re.compile(r"[/:@<>]|\.\w{2}")
_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

Facts = list[tuple[str, str]]


def clean(text: str | None, limit: int = 100) -> str:
    """Somebody else's words: one line of bounded length, without what is unseen or turns the writing around."""
    seen = (" " if unicodedata.category(c) in _UNSEEN or c in _TURNING else c for c in (text or "")[: 4 * limit])
    line = " ".join("".join(seen).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _words(letter: Letter, matter: Matter) -> dict[str, object]:
    """All that a template may say."""
    entry, licenses = matter.entry, matter.licenses
    first = next(iter(licenses.values()), None)
    product = _product(matter, first)
    return {
        "product": product,
        "name": _greeted(letter, entry, first),
        "items": [_item(key, license.at(matter.now), matter) for key, license in licenses.items()],
        "purchase": _purchase(letter, matter, product, first),
        "details": list(_details(entry, licenses, matter.order)) if entry else [],
        "shop": SHOPS.get(entry.source, "") if entry else "",
        "source": clean(entry.source if entry else "", 40),
        "until": _validity(entry.expiry_date if entry else None),
        "occasion": _OCCASIONS.get(entry.event, "issue") if entry else "resend",
        "trouble": _trouble(entry, matter.order) if entry else "",
        "outcome": str(entry.outcome) if entry else "",
        "is_lost": bool(entry and entry.event is EventKind.DISPUTE_LOST),
        "note": clean(entry.note if entry else None, 400),
        "text": clean(letter.text, 2000),
        "device": "" if _LIKE_A_LINK.search(letter.text or "") else clean(letter.text, 60),
        "sale": clean(entry.sale_id if entry else None, 80),
        "dead": [_dead(one) for one in matter.dead if one.kind not in INQUIRIES],
        "questions": [_question(one, matter.asked_about) for one in matter.dead if one.kind in INQUIRIES],
        "provisional": _is_provisional(entry, first),
        "order": matter.order.number if matter.order else None,
        "sign_in": matter.sign_in,
        "is_test": bool(first.is_test if first else entry and entry.is_test),
    }


def _is_provisional(entry: Entry | None, first: License | None) -> bool:
    """Whether the platform is still to confirm the sale; it may have done so since the letter was owed."""
    return bool(entry and entry.inquiry is Inquiry.SALE and first and entry.expiry_date == first.expiry_date)


def _product(matter: Matter, first: License | None) -> str:
    """As today's catalogue calls it, else as the platform does."""
    entry = matter.entry
    if matter.order:
        return _and(_ordered_name(item, matter.catalogue) for item in _ordered(matter.order, entry))
    ids = [entry.product_id if entry else None, first.product_id if first else None]
    for product_id in ids:
        if product := matter.catalogue.find(product_id):
            return clean(product.name)
    return clean((entry.product_name if entry else None) or ids[0] or ids[1]) or "your purchase"


def _ordered(order: Order, entry: Entry | None) -> Sequence[OrderItem]:
    """What a line is about: of an order whose other items were issued at once, the one that was not."""
    if entry is None or not entry.is_item:
        return order.items
    ids = {item.product_id for item in entry.items}
    return [item for item in order.items if item.product_id in ids] or order.items


def _ordered_name(item: OrderItem, catalogue: Catalogue) -> str:
    product = catalogue.find(item.product_id)
    return clean(product.name if product else item.name)


def _and(names: Iterable[str]) -> str:
    """Wave, Team and Studio; a long list ends in how many more there are."""
    found = list(names)
    if len(found) > 4:
        found = [*found[:3], f"{len(found) - 3} more"]
    return " and ".join([", ".join(found[:-1]), found[-1]] if found[1:] else found)


def _greeted(letter: Letter, entry: Entry | None, first: License | None) -> str:
    """The customer's name, unless it reads like a link: anyone may buy for somebody else's address under any name."""
    found = clean(entry.customer_name if entry else None, 60)
    if not found and first and first.email.strip().lower() == letter.to.lower():
        found = clean(first.customer_name, 60)
    return "" if _LIKE_A_LINK.search(found) else found


def _item(key: str, license: License, matter: Matter) -> dict[str, str]:
    product, seats = matter.catalogue.find(license.product_id), license.max_devices
    return {
        "key": key if key.isprintable() else clean(key, 128),
        "name": clean(product.name) if product else _product(matter, license),
        "validity": _validity(license.expiry_date),
        "seats": "on one device" if seats == 1 else f"on up to {seats} devices",
    }


def _validity(until: datetime | None) -> str:
    return f"paid through {_day(until)}" if until else "valid for life"


def _day(moment: datetime) -> str:
    return f"{moment.day} {moment:%B} {moment.year}"


def _trouble(entry: Entry, order: Order | None) -> str:
    """Why the owner is told of a sale."""
    if entry.outcome is Outcome.UNMAPPED:
        return "orderless" if entry.order_id and order is None else "unmapped"
    if entry.issues:
        return "homeless"
    return "held" if entry.event is EventKind.PENDING else "lone renewal"


def _purchase(letter: Letter, matter: Matter, product: str, first: License | None) -> Facts:
    """The purchase by which a customer knows the license, which is not always the line that the letter is owed for."""
    entry = matter.entry
    if letter.kind in _TO_CUSTOMERS and first and matter.order:
        return _order_facts(product, first.created_date, matter.order)
    if letter.kind in (DELIVERY, SEATS_TAKEN) and first:
        return _facts(product, first.created_date, first.purchase_source, first.purchase_id)
    if entry is None:
        return []
    moment = entry.purchase_date or entry.moment
    return _facts(product, moment, entry.source, entry.sale_id or entry.subscription_id)


def _facts(product: str, moment: datetime, source: str, reference: str | None) -> Facts:
    through = f" through {SHOPS[source]}" if source in SHOPS else ""
    found = [("Product", product), ("Date", f"{_day(moment)}{through}"), ("Sale", clean(reference, 80))]
    return _told(found)


def _order_facts(product: str, moment: datetime, order: Order) -> Facts:
    return [
        *_facts(product, moment, order.source, None),
        ("Order", order.number),
        ("Paid", f"{order.price} {order.currency.upper()}"),
    ]


def _details(entry: Entry, licenses: Iterable[str], order: Order | None) -> Iterator[tuple[str, str]]:
    """By what the owner finds the sale again; keys by their public names, since alerts get forwarded."""
    if order:
        yield "Order", order.number
    name, email = entry.customer_name or (order and order.name), entry.email or (order and order.email)
    if name or email:
        yield "Customer", clean(f"{name or ''} {email or ''}", 200)
    if entry.price is not None:
        yield "Price", clean(f"{entry.price} {(entry.currency or '').upper()}", 40)
    ordered = ", ".join(item.product_id for item in _ordered(order, entry)) if order else ""
    if product_id := entry.source_product_id or ordered:
        yield "Product id", clean(product_id)
    if entry.variants:
        yield "Variant", clean(", ".join(entry.variants))
    for key in licenses:
        yield "License", keys.license_id(key)
    yield "Ledger line", str(entry.seq)


def _dead(letter: Letter) -> Facts:
    return _told([("Letter", letter.id), ("To", clean(letter.to)), ("Reason", clean(letter.error, 200))])


def _question(letter: Letter, orders: Mapping[str, Order]) -> Facts:
    order = orders.get(letter.about or "")
    source = order.source if order else letter.to
    asked = [
        ("Question", letter.id),
        ("Order", order.number if order else ""),
        ("Asked of", SHOPS.get(source, clean(source))),
    ]
    return _told([*asked, ("Reason", clean(letter.error, 200))])


def _told(facts: Facts) -> Facts:
    return [(label, value) for label, value in facts if value]


# ---------------------------------------------------------------------------------------------------- Jinja
def _environments() -> dict[str, jinja2.Environment]:
    plain = jinja2.Environment(  # noqa: S701  plain text, where an escaped character would be shown as it is
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    return {"txt": plain, "html": plain.overlay(autoescape=True)}


_ENVIRONMENTS = _environments()


def _rendered(form: str, kind: str, words: Mapping[str, object], block: str | None = None) -> str:
    template = _ENVIRONMENTS[form].get_template(f"{kind}.jinja")
    known = {**words, "form": form}
    if block is None:
        return template.render(known)
    return "".join(template.blocks[block](template.new_context(known)))
