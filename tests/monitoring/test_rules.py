"""Prometheus' rules: they parse, they ask for what is there, each alert fires when it should and only then.

Rules:
- Prometheus' own `promtool` is the judge: it checks the config and the rules, and runs the unit tests in `alerts/`.
- An alert without its two unit tests, or without its section in docs/operations.md, fails.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.errors import OUTCOMES
from tests.monitoring import promql
from tests.tools.debian import needed

CONFIG = promql.ROOT / "docker" / "prometheus" / "prometheus.yml"
UNIT_TESTS = sorted((Path(__file__).parent / "alerts").glob("*.yml"))
OPERATIONS = promql.ROOT / "docs" / "operations.md"
NOT_FAILED = {"ok", "client_error", "client_gone", "client_slow", "cancelled"}


def promtool(*arguments: str | Path) -> str:
    """Run promtool and return what it printed. Fails the test with that where it does not succeed."""
    done = subprocess.run(
        [needed("promtool"), *arguments], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_config_and_its_rules_are_valid() -> None:
    said = promtool("check", "config", CONFIG)
    assert f"{len(promql.RULES)} rule files found" in said
    assert said.count("rules found") == len(promql.RULES)


@pytest.mark.slow
@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should(path: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", path)


@pytest.mark.slow
def test_a_unit_test_that_is_wrong_fails(tmp_path: Path) -> None:
    text = UNIT_TESTS[0].read_text().replace("../../../docker", str(promql.ROOT / "docker"))
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(text.replace("backend: b", "backend: c"))
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", wrong)


def test_every_alert_has_a_unit_test_that_fires_and_one_that_does_not() -> None:
    fires: set[str] = set()
    stays: set[str] = set()
    for path in UNIT_TESTS:
        for case in yaml.safe_load(path.read_text())["tests"]:
            for test in case["alert_rule_test"]:
                (fires if test["exp_alerts"] else stays).add(test["alertname"])
    assert fires == stays == promql.alerts().keys()


def test_rules_ask_only_for_what_is_emitted_or_recorded() -> None:
    known = promql.families().keys() | promql.recorded() | promql.OF_PROMETHEUS
    for rule in promql.rules():
        asked = promql.asked(rule["expr"])
        assert asked <= known, f"{rule.get('alert', rule.get('record'))}: {sorted(asked - known)}"
        assert asked or rule["expr"].startswith("vector("), rule


def test_what_is_recorded_is_read() -> None:
    """A recording rule that no alert and no panel reads costs for nothing."""
    read: set[str] = set()
    for rule in promql.rules():
        read |= promql.asked(rule["expr"])
    assert promql.recorded() - read == set()


def test_failed_means_the_same_everywhere() -> None:
    failed = {outcome for outcome in OUTCOMES if outcome not in NOT_FAILED}
    matchers = re.findall(r'outcome=~"([^"]*)"', "\n".join(path.read_text() for path in promql.RULES))
    assert matchers and all(set(matcher.split("|")) == failed for matcher in matchers)


@pytest.mark.parametrize("name", promql.alerts())
def test_every_alert_tells_who_is_called_and_where_to_read_on(name: str) -> None:
    rule: dict[str, Any] = promql.alerts()[name]
    assert rule["labels"].keys() == {"severity"} and rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"


def test_the_document_has_a_section_for_every_alert_and_no_other() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    sections = re.findall(r"^### (Gateway\w+)\n\n(.+?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in sections] == [*promql.alerts()], "in the order of the rules"
    for name, section in sections:
        assert "First steps:" in section, name
        assert len(section.split()) > 30, f"{name}: says too little"


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("vector(0.01)", set()),
        ('sum by (model, le) (rate(a_bucket{le="up", x=~"b{1}"}[5m])) >= 0', {"a_bucket"}),
        ("a:b:c5m / (d > 0) and on (job) group_left (x) e offset 10m", {"a:b:c5m", "d", "e"}),
        ("max by (job) (x unless on (y) z == 1) > bool 1e3", {"x", "z"}),
        ('label_replace(up, "to", "$1", "from", "(.*)")', {"up"}),
        ("rate(a[$__rate_interval]) > 14.4 * scalar(o)", {"a", "o"}),
    ],
)
def test_the_names_in_a_query_are_found(query: str, names: set[str]) -> None:
    assert promql.asked(query) == names
