"""`/metrics`: what Prometheus reads, of all workers. What is counted names no customer, no key and no address.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from flask import Blueprint, Response

from server import __version__
from server.domain.purchase import Outcome
from server.storage.archive import last_backup
from server.storage.tallies import BOUNDS, Counts
from server.web.auth import require_owner
from server.web.health import checks_of, each, is_time_to_probe
from server.web.measured import COUNTERS, FAILURES, GAUGES, HISTOGRAMS, WEBHOOK
from server.web.services import services

if TYPE_CHECKING:
    from prometheus_client import Metric

blueprint = Blueprint("metrics", __name__)
blueprint.before_request(require_owner)

Values = Iterable[tuple[tuple[str, ...], float]]


@blueprint.get("/metrics")
def metrics() -> Response:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collected())
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class _Collected:
    """What prometheus_client asks for what is to be told."""

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        counts = services().tallies.total()
        for name, (told, labels) in COUNTERS.items():
            counter = CounterMetricFamily(f"keyledger_{name}", told, labels=labels)
            for values, (number, *_) in _of(name, counts):
                counter.add_metric(values, number)
            yield counter
        for name, (told, labels) in HISTOGRAMS.items():
            histogram = HistogramMetricFamily(f"keyledger_{name}", told, labels=labels)
            for values, numbers in _of(name, counts):
                histogram.add_metric(values, _buckets(numbers), numbers[-1])
            yield histogram
        found = _gauges()
        for name, (told, labels) in GAUGES.items():
            gauge = GaugeMetricFamily(f"keyledger_{name}", told, labels=labels)
            for values, value in found[name]:
                gauge.add_metric(values, value)
            yield gauge


def _unheard_of() -> Counts:
    """An alert on a growing count needs to have seen it at 0: the first unmapped sale is the one that matters."""
    outcomes = [*map(str, Outcome), *FAILURES]
    return {(WEBHOOK, platform, outcome): [0.0] for platform in services().platforms for outcome in outcomes}


def _of(name: str, counts: Counts | None) -> list[tuple[tuple[str, ...], list[float]]]:
    """What has no labels is told from the start; of most others nobody knows which there will be. What cannot be read
    is not told: less than before would be a new beginning, and all that comes after it news."""
    if counts is None:
        return []
    told = _unheard_of() | counts
    found = sorted((tuple(values), numbers) for (kind, *values), numbers in told.items() if kind == name)
    has_labels = (COUNTERS | HISTOGRAMS)[name].labels
    return found if found or has_labels else [((), [0.0])]


def _buckets(numbers: list[float]) -> list[tuple[str, float]]:
    bounds = [*map(str, BOUNDS), "+Inf"]
    return list(zip(bounds, accumulate(numbers[:-1]), strict=True))


def _gauges() -> dict[str, Values]:
    ours = services()
    state, mail = ours.store.state(probe=is_time_to_probe()), ours.outbox.summary()
    states = ("queued", "sending", "sent", "failed", "dead", "dropped")
    backup = last_backup(ours.settings.data_dir)
    return {
        "check": [((name,), float(check["ok"])) for name, check in each(checks_of(state)).items()],
        "ledger_lines": _alone(state.ledger_lines),
        "licenses": _alone(state.licenses),
        "book_bytes": [((name,), float(size)) for name, size in ours.store.sizes().items()],
        "view_lag_lines": _alone(state.behind),
        "letters": [((name,), float(mail[name])) for name in states],  # type: ignore[literal-required]
        "letters_oldest_seconds": _alone(mail["oldest_waiting_seconds"] or 0),
        "backup_age_seconds": _alone((ours.clock() - backup.at).total_seconds()) if backup else (),
        "metrics_complete": _alone(ours.tallies.trouble is None),
        "build_info": [((__version__,), 1.0)],
    }


def _alone(value: float) -> Values:
    return [((), float(value))]
