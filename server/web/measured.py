"""Everything that `/metrics` tells: one literal table, which the operations guide and `deployment/prometheus` go by.

Names stand behind `keyledger_`; those of counters end in `_total`.
"""

from __future__ import annotations

from typing import NamedTuple

TIMED = "request_seconds"
WEBHOOK, VERDICT, LIMITED, STORAGE = "webhooks", "verdicts", "rate_limited", "storage_errors"
FAILURES = ("refused", "malformed", "not written", "failed")  # what becomes of webhooks beside the ledger's outcomes


class Measured(NamedTuple):
    told: str
    labels: tuple[str, ...] = ()


COUNTERS = {
    WEBHOOK: Measured("Events that platforms told, by what became of them", ("platform", "outcome")),
    VERDICT: Measured("Answers about licenses to apps", ("code",)),
    LIMITED: Measured("Requests that a rate limit refused", ("route",)),
    STORAGE: Measured("Answers of 503 because the books could not be read or written"),
}
HISTOGRAMS = {TIMED: Measured("Requests and how long they took", ("route", "status"))}
GAUGES = {
    "check": Measured("1 where /health finds this well, else 0", ("check",)),
    "ledger_lines": Measured("Lines of the ledger"),
    "licenses": Measured("Licenses, valid or not"),
    "book_bytes": Measured("Size of each part of the books", ("book",)),
    "view_lag_lines": Measured(
        "Lines of the logs that licenses.json does not hold yet; a large shop's follows by growth"
    ),
    "letters": Measured("Letters that are kept, and open questions to platforms", ("state",)),
    "letters_oldest_seconds": Measured("Age of the oldest letter that waits"),
    "backup_age_seconds": Measured("Age of the newest backup that scripts/backup.py made; absent without one"),
    "metrics_complete": Measured(
        "0 where counts cannot be written, and stand still, or cannot be read, and are not told"
    ),
    "build_info": Measured("1, with the version", ("version",)),
}
