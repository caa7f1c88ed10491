"""What JazzCash's codes, amounts and times mean. Never its messages: a sample of its own has "not successful" beside a
code of success.
"""

from __future__ import annotations

import re
from datetime import datetime

from server.domain import money
from server.domain.purchase import EventKind
from server.platforms.fields import Fields
from server.platforms.pakistan import RUPEES, moment

PAID = "121"
REFUNDED = "131"  # all or a part: no guide tells of a sum beside it
REVERSED = frozenset({"122", REFUNDED})
WAITING = frozenset({"124", "157", "210"})  # a voucher was issued, or the wallet is still at it
CANCELLED = frozenset({"112"})
FAILED = frozenset({"101", "110", "111", "115", "116", "129", "134", "999"})  # configuration, expired, dropped, timeout
_DECLINED = re.compile(r"4[0-9]{2}", re.ASCII)  # by the bank
# Of all others only the inquiry knows: 000 and 200 say that a call went well, 199 that nothing is known, 119 and 126
# that something is going on.

_AMOUNT, _MOMENT = re.compile(r"[0-9]{1,15}", re.ASCII), re.compile(r"[0-9]{14}", re.ASCII)


def kind_of_notice(code: str) -> EventKind:
    if code in CANCELLED:
        return EventKind.CANCELLATION
    return EventKind.PAYMENT_FAILED if code in FAILED or _DECLINED.fullmatch(code) else EventKind.PENDING


def kind_of_payment(answer: Fields) -> EventKind:
    """What an inquiry says of the payment. A code that says nothing stands beside a status that may."""
    code = answer.text("pp_PaymentResponseCode") or ""
    if code == PAID:
        return EventKind.SALE
    if code in REVERSED:
        return EventKind.REFUND
    kind = kind_of_notice(code)
    is_over = kind is EventKind.PENDING and code not in WAITING and (answer.text("pp_Status") or "").lower() == "failed"
    return EventKind.PAYMENT_FAILED if is_over else kind


def rupees(paisa: str | None) -> str | None:
    return money.told(int(paisa), RUPEES) if paisa is not None and _AMOUNT.fullmatch(paisa) else None


def told_at(text: str | None) -> datetime | None:
    """Pakistan's time; `strptime` alone would read fewer digits too."""
    return moment(text, "%Y%m%d%H%M%S") if text and _MOMENT.fullmatch(text) else None
