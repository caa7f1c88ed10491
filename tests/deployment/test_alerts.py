"""The example of alerts goes by what /metrics tells, and the operations guide says of each what to do."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from server.services import backup
from server.web.health import Checks
from server.web.measured import COUNTERS, GAUGES, HISTOGRAMS
from tests.acceptance.servers import ROOT
from tests.conftest import OWNER_KEY, Clock, Shop, sale_ping

README = (ROOT / "README.md").read_text()
ALERTS = (ROOT / "deployment" / "prometheus" / "alerts.yml").read_text()
(GROUP,) = yaml.safe_load(ALERTS)["groups"]
RULES = {rule["alert"]: rule for rule in GROUP["rules"]}
ITS_OWN = {"up": {"job": {"keyledger"}}}  # what Prometheus itself makes of the scrape that the file's head shows
Served = dict[str, dict[str, set[str]]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Each sample that a shop tells, with its labels and their values; among them of an answer of 503."""
    clock = Clock()
    shop = Shop(
        tmp_path_factory.mktemp("served") / "data",
        clock,
        rate_limit="2/hour",
        stripe_webhook_secret=("whsec_of_the_tests_1234",),
        jvzoo_secret_key="jvzoo-secret-key",
    )
    key = shop.sale()
    for _ in range(3):
        shop.client.post("/api/v1/licenses/validate", json={"license_key": key})
    shop.client.get("/health")
    with pytest.MonkeyPatch.context() as full:
        full.setattr("os.fsync", _no_space)
        assert shop.post(sale_ping("s2", "ann@example.com")).status_code == 503
    backup.make(shop.services.settings, clock())
    text = shop.client.get("/metrics", headers={"Authorization": f"Bearer {OWNER_KEY}"}).text
    found: Served = defaultdict(lambda: defaultdict(set))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found[sample.name]
            for label, value in sample.labels.items():
                labels[label].add(value)
    return found | ITS_OWN


def _no_space(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def section(heading: str) -> str:
    """A part of the README, up to the next heading of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    text = README[README.index(f"\n{heading}\n") + len(heading) + 2 :]
    return re.split(rf"\n#{{1,{level}}} ", text)[0]


def parts(expression: Any) -> Iterator[Any]:
    """All that an expression is made of."""
    yield expression
    for name in ("lhs", "rhs", "expr", "args", "vector_selector"):
        below = getattr(expression, name, None) or []
        for part in below if isinstance(below, list) else [below]:
            yield from parts(part)


@pytest.mark.parametrize("name", RULES)
def test_each_alert_is_of_what_is_served(name, served):
    """By another's parser of the language; a label that is compared with what no sample has would never raise it."""
    whole = [*parts(promql.parse(RULES[name]["expr"]))]
    selectors = [part for part in whole if isinstance(part, promql.VectorSelector)]
    assert selectors
    for selector in selectors:
        assert selector.name in served
        for matcher in selector.matchers.matchers:
            values = served[selector.name][matcher.name]
            is_exact = matcher.op in (promql.MatchOp.Equal, promql.MatchOp.NotEqual)
            pattern = re.escape(matcher.value) if is_exact else matcher.value
            assert any(re.fullmatch(pattern, value) for value in values), f"{matcher.name} is one of {values}"
    labels = {label for selector in selectors for label in served[selector.name]}
    grouped = {
        label
        for part in whole
        if isinstance(part, promql.AggregateExpr)
        for label in getattr(part.modifier, "labels", ())
    }
    assert grouped <= labels
    summary = RULES[name]["annotations"]["summary"]
    assert summary
    assert set(re.findall(r"\$labels\.(\w+)", summary)) <= (grouped or labels)
    assert RULES[name]["labels"]["severity"] in ("page", "ticket")


def test_the_scrape_that_the_file_shows_is_one():
    (lines,) = re.findall(r"^#   scrape_configs:\n(?:#     .*\n)+", ALERTS, re.MULTILINE)
    (scrape,) = yaml.safe_load(re.sub(r"(?m)^#   ", "", lines))["scrape_configs"]
    assert scrape["job_name"] in ITS_OWN["up"]["job"]


def test_each_alert_has_its_line_in_the_guide_and_no_other_has():
    rows = re.findall(r"^\| `(Keyledger\w+)` \|.*\|.*\S.*\|$", section("### What each alert means"), re.MULTILINE)
    assert sorted(rows) == sorted(RULES)


def test_every_metric_is_in_the_guide_with_its_labels():
    text = section("### What is measured")
    for name, of in (COUNTERS | HISTOGRAMS | GAUGES).items():
        shown = f"keyledger_{name}{'_total' if name in COUNTERS else ''}"
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{shown}` |")]
        for label in of.labels:
            assert f"`{label}`" in row


def test_each_check_of_health_can_raise_an_alert():
    told = " ".join(rule["expr"] for rule in RULES.values())
    for check in Checks.__annotations__:
        assert f'check="{check}"' in told
