"""The example of alerts goes by what /metrics tells, and the operations guide says of each what to do."""

from __future__ import annotations

import re

import pytest
import yaml

from server.services.outbox import STATES
from server.web.health import Checks
from server.web.measured import COUNTERS, GAUGES, HISTOGRAMS
from tests.acceptance.servers import ROOT

README = (ROOT / "README.md").read_text()
(GROUP,) = yaml.safe_load((ROOT / "deployment" / "prometheus" / "alerts.yml").read_text())["groups"]
RULES = {rule["alert"]: rule for rule in GROUP["rules"]}
SAMPLES = (
    {f"keyledger_{name}_total": of.labels for name, of in COUNTERS.items()}
    | {f"keyledger_{name}": of.labels for name, of in GAUGES.items()}
    | {
        f"keyledger_{name}_{part}": (*of.labels, *(["le"] if part == "bucket" else []))
        for name, of in HISTOGRAMS.items()
        for part in ("bucket", "count", "sum")
    }
)


def section(heading: str) -> str:
    """A part of the README, up to the next heading of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    text = README[README.index(f"\n{heading}\n") + len(heading) + 2 :]
    return re.split(rf"\n#{{1,{level}}} ", text)[0]


@pytest.mark.parametrize("name", RULES)
def test_each_alert_is_of_what_is_measured(name):
    expression = RULES[name]["expr"]
    used = re.findall(r"(keyledger_\w+)(?:\{([^}]*)\})?", expression)
    assert used or "up{" in expression
    for sample, labels in used:
        assert sample in SAMPLES
        assert set(re.findall(r"(\w+)\s*[=!]", labels)) <= set(SAMPLES[sample])
    assert set(re.findall(r'check="(\w+)"', expression)) <= set(Checks.__annotations__)
    assert set(re.findall(r'state="(\w+)"', expression)) <= set(STATES)
    assert RULES[name]["annotations"]["summary"]
    assert RULES[name]["labels"]["severity"] in ("page", "ticket")


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
