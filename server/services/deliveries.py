"""Deliveries: whether webhooks come through, platform by platform, and what the owner has to do where they do not.

What was taken stands in the ledger. Here stands what was not: how often, when, how large and why. Of what nobody proved
no word is kept, and nothing of a payload at all; what strangers can cause is kept apart from what a platform's own
notices meet with. Where that cannot be written a webhook is answered all the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from enum import StrEnum

import msgspec

from server.errors import StorageUnavailable
from server.services.letter_writing import SHOPS
from server.storage.deliveries import DeliveryTable, Failure, Failures

log = logging.getLogger(__name__)

NOBODY = ""  # whoever posts to the address of a platform that there is not
_LONGEST = 200
_SAID = re.compile(r"(?:^|\s+)['\"(].*", re.S)  # of an error's words, those that the sender wrote


class Reason(StrEnum):
    """Why a delivery was not taken. The first three anybody can cause, the others only who has a platform's proof."""

    PROOF = "proof"
    OFF = "off"
    UNREADABLE = "unreadable"
    CONTENT = "content"
    STORAGE = "storage"
    ERROR = "error"


UNPROVEN = frozenset({Reason.PROOF, Reason.OFF, Reason.UNREADABLE})

_WORDS = {
    Reason.PROOF: "refused, since the proof is missing or wrong",
    Reason.OFF: "refused, since it is not set up here",
    Reason.UNREADABLE: "sent without proof, and could not be read",
    Reason.CONTENT: "proven, but not understood",
    Reason.STORAGE: "could not be written down",
    Reason.ERROR: "failed by an error of Keyledger's",
}
_PROOFS = {
    "gumroad": "The address at Gumroad has no ?secret=, or not today's GUMROAD_WEBHOOK_SECRET: paste the whole address "
    "again. Where the seller is told to be another one, mend GUMROAD_SELLER_ID",
    "stripe": "STRIPE_WEBHOOK_SECRET is another endpoint's: each endpoint, test and live, has its own. Or this "
    "machine's clock is wrong",
    "jvzoo": "Compare JVZOO_SECRET_KEY with the one in your JVZoo account, and ?secret= in the product's address with "
    "JVZOO_WEBHOOK_SECRET",
    "payu": "PAYU_SECOND_KEY is not the second key (MD5) of this point of sale",
    "jazzcash": "JAZZCASH_INTEGRITY_SALT is not the one of this merchant and mode",
}
_SETTINGS = {
    "gumroad": "GUMROAD_WEBHOOK_SECRET",
    "stripe": "STRIPE_WEBHOOK_SECRET",
    "jvzoo": "JVZOO_SECRET_KEY",
    "payu": "PAYU_POS_ID and its keys",
    "jazzcash": "JAZZCASH_MERCHANT_ID and its secrets",
    "easypaisa": "EASYPAISA_STORE_ID and its secrets",
}
_STRANGER = "Where {shop}'s own list shows no failed delivery it was a stranger, and there is nothing to do"


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """What fails for one reason. `lately` counts this hour and the 23 before it, `since` is the first one behind the
    last success. `is_failing`: it goes on, as far as one can tell, and the owner should look."""

    reason: Reason
    words: str
    todo: str
    lately: int
    total: int
    since: datetime
    last: datetime
    is_failing: bool
    newest: tuple[Failure, ...]

    @property
    def is_proven(self) -> bool:
        return self.reason not in UNPROVEN


class SenderHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How one platform's webhooks come through; the gravest trouble first."""

    platform: str
    shop: str
    is_on: bool
    last_success: datetime | None
    troubles: tuple[Trouble, ...] = ()

    @property
    def last_failure(self) -> datetime | None:
        return max((trouble.last for trouble in self.troubles), default=None)

    @property
    def lately(self) -> int:
        return sum(trouble.lately for trouble in self.troubles)

    @property
    def is_failing(self) -> bool:
        return any(trouble.is_failing for trouble in self.troubles)


class Deliveries:
    """For the home page: `failing()`, the platforms that need the owner; for the webhooks' page: `health()`."""

    def __init__(
        self, table: DeliveryTable, on: Collection[str], names: Iterable[str], clock: Callable[[], datetime]
    ) -> None:
        self._table, self._on, self._names, self._clock = table, frozenset(on), tuple(names), clock
        self._trouble: str | None = None
        self._took: dict[str, datetime] = {}

    def took(self, platform: str) -> None:
        """Write down when one was taken, once a second."""
        now = self._clock()
        if self._took.get(platform) != now:
            self._try(lambda: self._table.took(platform, now))
            self._took[platform] = now

    def failed(self, platform: str, reason: Reason, size: int, detail: str) -> None:
        """`detail` comes without addresses, keys and secrets; of what is not proven the sender's own words are cut."""
        words = _SAID.sub("", detail) if reason in UNPROVEN else detail
        failure = Failure(self._clock(), size, words[:_LONGEST])
        self._try(lambda: self._table.failed(platform if platform in self._names else NOBODY, reason, failure))

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
            self._trouble = None
        except (OSError, StorageUnavailable) as error:
            if self._trouble is None:
                log.warning("deliveries are not counted: %s", error)
            self._trouble = str(error)

    # ------------------------------------------------------------------------------------------------ for the owner
    def failing(self) -> list[SenderHealth]:
        """The platforms whose webhooks do not come through, as far as one can tell. Never raises."""
        return [sender for sender in self.health() if sender.is_failing]

    def health(self) -> list[SenderHealth]:
        """Of every platform that is set up, and of every other one that something was sent to. Never raises."""
        try:
            taken, failures = self._table.taken(), self._table.failures()
        except (OSError, StorageUnavailable) as error:
            log.warning("deliveries cannot be told: %s", error)
            taken, failures = {}, []
        told = [self._sender(name, taken.get(name), failures) for name in (*self._names, NOBODY)]
        return [sender for sender in told if sender.is_on or sender.troubles]

    def _sender(self, name: str, taken: datetime | None, failures: Iterable[Failures]) -> SenderHealth:
        found = [self._told(page, taken) for page in failures if page.platform == name and page.newest]
        found.sort(key=lambda trouble: (trouble.is_failing, trouble.is_proven, trouble.last), reverse=True)
        shop = SHOPS.get(name, "an unknown address")
        is_on = name in self._on
        return SenderHealth(platform=name, shop=shop, is_on=is_on, last_success=taken, troubles=tuple(found))

    def _told(self, page: Failures, taken: datetime | None) -> Trouble:
        reason, last = Reason(page.reason), page.newest[0].at
        lately = page.lately(self._clock())
        is_newer = lately > 0 and (taken is None or taken < last)
        return Trouble(
            reason=reason,
            words=_WORDS[reason],
            todo=_todo(page.platform, reason),
            lately=lately,
            total=page.total,
            since=page.since or last,
            last=last,
            is_failing=is_newer and (reason not in UNPROVEN or self._may_be_its(page.platform, reason)),
            newest=tuple(page.newest),
        )

    def _may_be_its(self, platform: str, reason: Reason) -> bool:
        """Whether what came without proof may be the platform's own, so that nothing was taken since is no chance."""
        return reason is Reason.PROOF and platform in self._on


def _todo(platform: str, reason: Reason) -> str:
    shop = SHOPS.get(platform, "the sender")
    if reason is Reason.PROOF:
        return f"{_PROOFS.get(platform, '')}. {_STRANGER.format(shop=shop)}".lstrip(". ")
    if reason is Reason.OFF and platform:
        return f"Set {_SETTINGS[platform]}, or take the address out at {shop}. {_STRANGER.format(shop=shop)}"
    if reason in (Reason.OFF, Reason.UNREADABLE):
        return "Nothing: it is what strangers send who look for open doors. A mistyped address would look so, too"
    if reason is Reason.CONTENT:
        return f"Update Keyledger: {shop} sends it again. Should the newest version say the same, report these words"
    if reason is Reason.STORAGE:
        return f"Free space, or mend what the home page names: {shop} sends it again. Then reconcile, to be sure"
    return f"Look for this moment in the log, and report it. {shop} sends it again"
