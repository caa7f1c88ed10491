"""Letters: which ones a ledger line owes, and to whom a letter can be sent at all."""

from __future__ import annotations

import re
from datetime import timedelta
from email.headerregistry import Address

from server.domain.purchase import Entry, EventKind, Inquiry, Outcome
from server.errors import KeyledgerError
from server.storage.base import Letter

DELIVERY, RENEWAL, REFUND, PAYMENT_FAILED = "delivery", "renewal", "refund", "payment_failed"
REINSTATED = "reinstated"
SIGN_IN = "sign_in"  # owed by no line of the ledger: somebody typed the address
KEYS = "keys"  # why: he has lost his keys
SEATS_TAKEN = "seats_taken"  # owed by none, either: an app asked for one seat more
DISPUTE, UNMAPPED, DEAD_LETTER, DAMAGED = "alert_dispute", "alert_unmapped", "alert_dead_letter", "alert_damaged"
SUSPICIOUS, PLATFORM = "alert_suspicious", "alert_platform"
ORDER_INQUIRY = "order_inquiry"  # the same of an order that was begun: is it paid?
INQUIRY = "inquiry"  # no letter, but owed and tried again like one: what is to be asked of a platform
INQUIRIES = frozenset({INQUIRY, ORDER_INQUIRY})

LATE_SALE = timedelta(minutes=2)  # a renewal may overtake its sale; only then is it the owner's concern
ASK_AGAIN = timedelta(seconds=10)
LOOK_AGAIN = timedelta(minutes=15)  # for a sale that its platform did not know: it may have been too young

_OWED = {
    (EventKind.SALE, Outcome.ISSUED): DELIVERY,
    (EventKind.OWNER_ISSUE, Outcome.ISSUED): DELIVERY,
    (EventKind.OWNER_FULFIL, Outcome.ISSUED): DELIVERY,
    (EventKind.OWNER_FULFIL, Outcome.EXTENDED): RENEWAL,
    (EventKind.RENEWAL, Outcome.ISSUED): DELIVERY,
    (EventKind.RENEWAL, Outcome.EXTENDED): RENEWAL,
    (EventKind.REFUND, Outcome.REVOKED): REFUND,
    (EventKind.PARTIAL_REFUND, Outcome.REVOKED): REFUND,  # the last part of the whole
    (EventKind.PAYMENT_FAILED, Outcome.SUSPENDED): PAYMENT_FAILED,
    (
        EventKind.DISPUTE_WON,
        Outcome.REINSTATED,
    ): REINSTATED,  # with the key: a sale that was disputed first had no letter
    (EventKind.REFUND_FAILED, Outcome.REINSTATED): REINSTATED,
}
_ALWAYS_DELIVERED = frozenset({EventKind.OWNER_REISSUE, EventKind.OWNER_TRANSFER})


def letters_owed(entry: Entry, owner_email: str | None) -> list[Letter]:
    """The letters that a ledger line owes: a function of its event and outcome, so that they are found again."""
    customer = (entry.email or "").strip()
    kind = DELIVERY if entry.event in _ALWAYS_DELIVERED else _OWED.get((entry.event, entry.outcome))
    if kind == RENEWAL and (entry.part_of or entry.inquiry is Inquiry.SALE):
        kind = None  # told with the sale, or when it is confirmed
    found = []
    if entry.inquiry:
        found.append(_letter(entry, INQUIRY, entry.source))
    if kind and (customer or kind != DELIVERY or not owner_email):
        found.append(_letter(entry, kind, customer))
    if owner_email and (alert := _alert(entry, homeless=kind == DELIVERY and not customer)):
        found.append(_letter(entry, alert, owner_email))
    return found


def _letter(entry: Entry, kind: str, to: str) -> Letter:
    pause = _pause(entry, kind)
    return Letter(
        id=f"{entry.seq}:{kind}",
        kind=kind,
        to=to,
        seq=entry.seq,
        about=entry.identity,
        request_id=entry.request_id,
        license_key=entry.license_keys[0] if entry.license_keys else None,
        next_at=entry.timestamp + pause if pause else None,
    )


def _pause(entry: Entry, kind: str) -> timedelta | None:
    """For how long a letter is held back: until what it is about may have settled itself."""
    if kind == INQUIRY:
        return LOOK_AGAIN if entry.is_withdrawn else ASK_AGAIN
    return LATE_SALE if kind == UNMAPPED and entry.event is EventKind.RENEWAL else None


def _alert(entry: Entry, homeless: bool) -> str | None:
    if entry.is_withdrawn:
        return SUSPICIOUS
    is_warning = entry.event is EventKind.IGNORED and entry.incident is not None
    is_loss = entry.event is EventKind.DISPUTE_LOST and entry.outcome is Outcome.REVOKED
    if is_warning or is_loss or (entry.event is EventKind.DISPUTE and entry.outcome is not Outcome.IGNORED):
        return DISPUTE
    if homeless or entry.outcome is Outcome.UNMAPPED or _is_held(entry) or is_lone_renewal(entry):
        return UNMAPPED
    return None


def _is_held(entry: Entry) -> bool:
    """Kept for the owner to look at; a preorder is pending too, but only waits for its charge."""
    return entry.event_id.startswith("shadowed:")


def is_lone_renewal(entry: Entry) -> bool:
    return entry.event is EventKind.RENEWAL and entry.outcome is Outcome.PENDING


# ---------------------------------------------------------------------------------------------------- addresses
class BadAddress(KeyledgerError):
    """No letter can be sent there, however often it is tried."""

    code = "BAD_ADDRESS"


_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,190}}\Z){_LABEL}(?:\.{_LABEL})*")
_LOCAL = re.compile(r"[^\s()<>\[\]:;@\\,\"]{1,64}")


def mail_address(text: str) -> Address:
    """One plain address: no list, no name, nothing to quote or to decode. Raises BadAddress."""
    local, _, domain = text.rpartition("@")
    try:
        domain = domain if domain.isascii() else domain.encode("idna").decode()
    except UnicodeError:
        domain = ""
    sound = _LOCAL.fullmatch(local) and is_domain(domain) and text.isprintable() and len(text) <= 254
    if not sound or "=?" in local:  # an encoded word, which some readers decode into anything
        raise BadAddress("this is no valid e-mail address" if text else "there is no e-mail address")
    return Address(username=local, domain=domain)


def is_domain(text: str) -> bool:
    return _DOMAIN.fullmatch(text) is not None


def masked_address(text: str) -> str:
    """For logs: enough to recognise an address that one knows."""
    local, _, domain = text.rpartition("@")
    return f"{local[:1]}…@{domain[:1]}…"
