"""Grafana's dashboards: made by the code, of metrics that the code emits, and complete.

Rules:
- The committed files are what the code makes. A metric that nothing emits, or that no panel shows, fails here.
- Grafana is not needed: that the queries give data is shown by a real Prometheus, in test_live.py.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from docker.grafana import units
from docker.grafana.page import PAGES
from docker.grafana.pictures import picture
from docker.grafana.queries import FAILED, Scope, Unknown
from docker.grafana.write import FOLDER, dashboards
from tests.monitoring import promql
from tests.monitoring.panels import DASHBOARDS, panels

GRAFANA: Final = promql.ROOT / "docker" / "grafana"

NOT_SHOWN: Final = {
    "gateway_shadow_total": "what became of copies says nothing about clients; it is asked for when a shadow is set up",
    "gateway_shadow_tokens_ratio": "the same: a comparison of two models is made once, with its own queries",
    "gateway_shadow_first_token_ratio": "the same",
    "gateway_canary_rollbacks_total": "the canary's share shows it: it falls to zero",
}
"""Metrics that no panel shows, each with the reason."""


def test_the_files_are_what_the_code_makes() -> None:
    made = dashboards()
    assert {file.name for file in FOLDER.iterdir()} == made.keys() == {f"{uid}.json" for uid in PAGES}
    for name, text in made.items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, f"{name}: python -m docker.grafana.write"


def test_panels_ask_only_for_what_is_emitted_or_recorded() -> None:
    known = promql.families().keys() | promql.recorded() | promql.OF_PROMETHEUS
    for panel in panels():
        for query, _ in panel.queries:
            asked = promql.asked(query)
            assert asked and asked <= known, f"{panel.place}: {sorted(asked - known)}"


def test_every_metric_is_shown_or_left_out_for_a_reason() -> None:
    families = promql.families()
    shown = {
        families.get(name, name)
        for panel in panels()
        for query, _ in panel.queries
        for name in promql.asked(query)
    }
    mine = {family for family in families.values() if family.startswith("gateway_")}
    assert mine - shown - NOT_SHOWN.keys() == set(), "shown by no panel; add one, or a reason to NOT_SHOWN"
    assert NOT_SHOWN.keys() & shown == set() and NOT_SHOWN.keys() <= mine, "rows that are not needed"


def test_labels_that_panels_use_exist() -> None:
    labels = promql.labels()
    families = promql.families()
    for panel in panels():
        for query, legend in panel.queries:
            named = {families.get(name, name) for name in promql.asked(query)}
            known = {"instance", "job", "le", "alertname", "alertstate"}
            known |= {label for name in named for label in labels.get(name, ())}
            if any(name in promql.recorded() for name in named):
                known.add("model")
            used = set(re.findall(r"\{\{(\w+)\}\}", legend)) | set(
                re.findall(r'(\w+)\s*(?:=|!=|=~|!~)\s*"', query)
            )
            for listed in re.findall(r"\bby \(([^)]*)\)", query):
                used |= {label.strip() for label in listed.split(",")}
            assert used <= known, f"{panel.place}: {sorted(used - known)}"


def test_a_metric_or_a_label_that_nothing_emits_is_refused() -> None:
    scope = Scope("model")
    with pytest.raises(Unknown, match="does not emit gateway_wishes_total"):
        scope.rate("gateway_wishes_total")
    with pytest.raises(Unknown, match="gateway_requests_total has no label colour"):
        scope.rate("gateway_requests_total", "colour")
    with pytest.raises(Unknown, match="has no label tint"):
        scope.rate("gateway_requests_total", "", 'tint="red"')


def test_variables_narrow_what_has_their_label() -> None:
    scope = Scope("model", "backend")
    assert scope.of("gateway_queue_wait_seconds_sum") == (
        'gateway_queue_wait_seconds_sum{instance=~"$instance", model=~"$model"}'
    )
    assert 'backend=~"$backend"' in scope.of("gateway_backend_up")
    assert scope.of("process_open_fds") == 'process_open_fds{instance=~"$instance"}'


def test_no_traffic_gives_no_share() -> None:
    """The whole is divided by where it is above zero; the part is 0 where it never counted."""
    share = Scope().share("gateway_requests_total", "model", FAILED)
    whole = 'sum by (model) (rate(gateway_requests_total{instance=~"$instance"}[$__rate_interval]))'
    assert share.endswith(f"/ ({whole} > 0)") and f"or {whole} * 0)" in share
    assert Scope().quantile(0.5, "gateway_overhead_seconds").endswith(">= 0")


def test_every_panel_says_what_it_shows() -> None:
    for place, raw in panels():
        defaults = raw["fieldConfig"]["defaults"]
        assert raw["title"] and raw["description"].endswith("."), place
        assert len(raw["description"].split()) >= 4, place
        assert defaults["unit"] and defaults["noValue"] == "no data", place
        assert raw["datasource"]["uid"] == "${datasource}", place
        assert raw["targets"] and all(target["legendFormat"] for target in raw["targets"]), place
        if raw["type"] == "stat":
            assert defaults["thresholds"]["steps"], place
        if raw["type"] == "state-timeline":
            assert defaults["mappings"], place


@pytest.mark.parametrize("uid", PAGES)
def test_a_dashboard_is_whole(uid: str) -> None:
    dashboard = DASHBOARDS[uid]
    assert dashboard["uid"] == uid and dashboard["title"] == PAGES[uid] and dashboard["description"]
    assert {link["url"] for link in dashboard["links"]} == {f"/d/{other}" for other in PAGES if other != uid}
    assert all(link["keepTime"] and link["includeVars"] for link in dashboard["links"])
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", str(dashboard["panels"])))
    assert used == names, "variables that are used are there, and the other way round"
    assert max(Counter(panel["id"] for panel in dashboard["panels"]).values()) == 1
    boxes = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(box["x"] + box["w"] <= 24 for box in boxes)
    assert not [pair for pair in combinations(boxes, 2) if _overlap(*pair)]


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return not (
        one["x"] + one["w"] <= other["x"]
        or other["x"] + other["w"] <= one["x"]
        or one["y"] + one["h"] <= other["y"]
        or other["y"] + other["h"] <= one["y"]
    )


def test_grafana_is_told_where_everything_is() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    scraping = yaml.safe_load((promql.ROOT / "docker/prometheus/prometheus.yml").read_text())["global"]
    assert (
        source["type"] == "prometheus" and source["jsonData"]["timeInterval"] == scraping["scrape_interval"]
    )
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/gateway.yaml").read_text())["providers"]
    assert provider["type"] == "file" and Path(provider["options"]["path"]).name == FOLDER.name


def test_a_picture_shows_every_panel_and_says_where_there_is_no_data() -> None:
    def ask(query: str, begin: float, end: float, step: float) -> list[dict[str, Any]]:
        values = [[begin, "1"], [begin + step, "NaN"], [end, "0.5"]]
        return [] if "gateway_backend_up" in query else [{"metric": {"model": "a<b"}, "values": values}]

    for dashboard in DASHBOARDS.values():
        drawn = picture(dashboard, ask, 1000.0, 1600.0)
        titles = [panel["title"] for panel in dashboard["panels"]]
        assert all(title.replace("'", "&#x27;") in drawn for title in titles)
        assert ("no data" in drawn) == ("gateway_backend_up" in str(dashboard["panels"]))
        assert "NaN" not in drawn and "nan" not in drawn and "a<b" not in drawn


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.1234, "percentunit", "12.3 %"),
        (0.00025, "s", "250 µs"),
        (90, "s", "1.5 min"),
        (0, "s", "0 s"),
        (3 << 20, "bytes", "3 MiB"),
        (1536, "binBps", "1.5 KiB/s"),
        (12345, "reqps", "12.3 K req/s"),
        (7, "short", "7"),
    ],
)
def test_numbers_are_short(value: float, unit: str, shown: str) -> None:
    assert units.shown(value, unit) == shown
