"""The kinds of panels that the dashboards are made of, with Grafana's own typed builder.

Rules:
- Every panel has a title, a description that says how to read it, a unit, and what it shows without data.
- A number alone is coloured by its thresholds; lines are coloured by name, so that a model keeps its colour everywhere.
- Thresholds of what an objective exists for are drawn from Prometheus, where the objective stands once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from grafana_foundation_sdk.builders import common as shared
from grafana_foundation_sdk.builders import dashboard as building
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import prometheus as language

SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH: Final = 24
"""Columns of Grafana's grid."""
GREEN, YELLOW, RED, BLUE, GREY = "green", "yellow", "red", "blue", "#808080"

OUTCOMES: Final[Mapping[str, str]] = {
    "ok": GREEN,
    "client_error": BLUE,
    "client_gone": "#5794f2",
    "client_slow": "#8ab8ff",
    "cancelled": GREY,
    "overloaded": YELLOW,
    "timeout": "orange",
    "upstream_error": RED,
    "internal_error": "purple",
}
"""The colours of what becomes of requests: what is well is green, what clients did is blue, what failed is warm."""

STATES: Final[Mapping[str, str]] = {
    "ready": GREEN,
    "drained": BLUE,
    "asleep": "purple",
    "loading": YELLOW,
    "flawed": "orange",
    "down": RED,
}
"""The states of a backend with their colours, the worst last."""

Steps = Sequence[tuple[float, str]]
"""Values from which on a colour holds; below the first one it is green."""
Line = tuple[str, str]
"""A query, and what its lines are called: a text with `{{label}}`."""
AnyPanel = timeseries.Panel | stat.Panel | statetimeline.Panel
Made = TypeVar("Made", timeseries.Panel, stat.Panel, statetimeline.Panel)


def number(
    title: str,
    says: str,
    unit: str,
    query: str,
    steps: Steps = (),
    words: Mapping[str, str] | None = None,
) -> stat.Panel:
    """Return one number with its course behind it; without `steps` it is neither good nor bad.

    `words` has a word with its colour for each value from 1 on: it stands in the place of the number.
    """
    panel = _begun(stat.Panel(), title, says, unit, (4, 3))
    panel.thresholds(_thresholds(steps, GREEN if steps else BLUE))
    if words is not None:
        panel.mappings([_mapping(places(words))])
    panel.color_scheme(building.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    panel.graph_mode(common.BigValueGraphMode.AREA).color_mode(common.BigValueColorMode.VALUE)
    panel.reduce_options(shared.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    panel.with_target(_query(query, title, 0))
    return panel


def lines(
    title: str,
    says: str,
    unit: str,
    *queries: Line,
    stacked: bool = False,
    colours: Mapping[str, str] | None = None,
    objective: str = "",
    steps: Steps = (),
    top: float | None = None,
    exemplars: bool = False,
    wide: int = 8,
) -> timeseries.Panel:
    """Return lines over time.

    `colours` has the colours of lines of these names. `objective` is the rule whose number is drawn as a dashed line.
    `exemplars` are shown as dots, single requests with the ids of their traces.
    """
    panel = _begun(timeseries.Panel(), title, says, unit, (8, wide))
    panel.line_width(1).fill_opacity(35 if stacked else 8).show_points(common.VisibilityMode.NEVER)
    panel.color_scheme(building.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    panel.axis_soft_min(0)
    if top is not None:
        panel.max(top)
    if stacked:
        panel.stacking(shared.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if steps:
        panel.thresholds(_thresholds(steps, "transparent"))
        panel.thresholds_style(
            shared.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        )
    panel.legend(
        shared.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.TABLE)
        .placement(common.LegendPlacement.BOTTOM)
        .calcs(["lastNotNull", "max"])
        .show_legend(True)
    )
    panel.tooltip(
        shared.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    )
    for number_, (query, legend) in enumerate(queries):
        panel.with_target(_query(query, legend, number_).exemplar(exemplars))
    for name, colour in (colours or {}).items():
        panel.override_by_name(name, [_fixed(colour)])
    if objective:
        panel.with_target(_query(objective, "objective", len(queries)))
        dashed = {"fill": "dash", "dash": [8, 8]}
        panel.override_by_name(
            "objective",
            [
                _fixed(RED),
                dashboard.DynamicConfigValue("custom.lineStyle", dashed),
                dashboard.DynamicConfigValue("custom.fillOpacity", 0),
                dashboard.DynamicConfigValue("custom.stacking", {"mode": "none"}),
            ],
        )
    return panel


def states(
    title: str, says: str, query: Line, words: Mapping[str, tuple[str, str]], wide: int = 8
) -> statetimeline.Panel:
    """Return bars that say in which state something was; `words` has a word and a colour for each value."""
    panel = _begun(statetimeline.Panel(), title, says, "none", (8, wide))
    panel.mappings([_mapping(words)])
    panel.thresholds(_thresholds((), GREY))
    panel.color_scheme(building.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    panel.show_value(common.VisibilityMode.NEVER).fill_opacity(80).row_height(0.85).merge_values(True)
    panel.with_target(_query(*query, 0))
    return panel


def places(words: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return words with their colours by their place, from 1 on."""
    return {str(place): item for place, item in enumerate(words.items(), 1)}


def _mapping(words: Mapping[str, tuple[str, str]]) -> dashboard.ValueMap:
    results = {
        value: dashboard.ValueMappingResult(text=text, color=colour, index=index)
        for index, (value, (text, colour)) in enumerate(words.items())
    }
    return dashboard.ValueMap(options=results)


def _fixed(colour: str) -> dashboard.DynamicConfigValue:
    return dashboard.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})


def _begun(panel: Made, title: str, says: str, unit: str, size: tuple[int, int]) -> Made:
    height, wide = size
    panel.title(title).description(says).unit(unit).datasource(SOURCE).height(height).span(wide)
    panel.no_value("no data")
    return panel


def _query(query: str, legend: str, number_: int) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(query).legend_format(legend).ref_id("ABCDEFGHIJ"[number_]).range()
    return (
        made.datasource(SOURCE)
        .editor_mode(language.QueryEditorMode.CODE)
        .format(language.PromQueryFormat.TIME_SERIES)
    )


def _thresholds(steps: Steps, lowest: str) -> building.ThresholdsConfig:
    made = [
        dashboard.Threshold(None, lowest),
        *(dashboard.Threshold(value, colour) for value, colour in steps),
    ]
    return building.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(made)
