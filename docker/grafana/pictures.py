"""Draws a dashboard without Grafana: its panels with a Prometheus' data, as one SVG, for a look at what it shows.

`python -m docker.grafana.pictures http://127.0.0.1:9090 FOLDER` draws all dashboards into a folder.

Rules:
- It shows what the queries return, with the panels' places, titles, units and thresholds. It does not copy Grafana's
  look.
- Every variable stands for all of its values.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

from docker.grafana import units
from docker.grafana.write import FOLDER

COLUMN, LINE = 60.0, 34.0
"""Pixels of a column and of a line of Grafana's grid."""
COLOURS: Final = "#7eb26d #eab839 #6ed0e0 #ef843c #e24d42 #1f78c1 #ba43a9 #705da0 #508642 #cca300".split()
NAMED: Final = {
    "green": "#56a64b",
    "yellow": "#f2cc0c",
    "red": "#e02f44",
    "blue": "#3274d9",
    "transparent": "none",
}
POINTS: Final = 120
"""Points of a line."""

_LABEL: Final = re.compile(r"\{\{(\w+)\}\}")

Point = tuple[float, float]
Ask = Callable[[str, float, float, float], list[dict[str, Any]]]
"""Asks Prometheus for the course of a query from a time to another one in steps; returns its series."""


@dataclass(frozen=True)
class Series:
    """A line of a panel."""

    name: str
    points: list[Point]


@dataclass(frozen=True)
class Frame:
    """Where a panel stands on the picture, in pixels."""

    x: float
    y: float
    width: float
    height: float

    def text(
        self, words: str, x: float, y: float, size: float = 11, colour: str = "#ccc", more: str = ""
    ) -> str:
        """Return a text at a place inside."""
        place = f'x="{self.x + x:.1f}" y="{self.y + y:.1f}"'
        return f'<text {place} font-size="{size}" fill="{colour}" {more}>{escape(words)}</text>'


def picture(dashboard: dict[str, Any], ask: Ask, begin: float, end: float) -> str:
    """Return the SVG of a dashboard from one time to another."""
    parts: list[str] = []
    bottom = 0.0
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        frame = Frame(at["x"] * COLUMN, at["y"] * LINE + 40, at["w"] * COLUMN - 6, at["h"] * LINE - 6)
        bottom = max(bottom, frame.y + frame.height)
        if panel["type"] == "row":
            parts.append(frame.text(panel["title"], 4, 20, 15, "#fff"))
            continue
        parts.append(
            f'<rect x="{frame.x}" y="{frame.y}" width="{frame.width}" height="{frame.height}" fill="#181b1f"/>'
        )
        parts.append(frame.text(panel["title"], 8, 16, 12, "#ddd", 'font-weight="bold"'))
        shown = [*_series(panel, ask, begin, end)]
        draw = {"stat": _number, "timeseries": _lines, "state-timeline": _states}[panel["type"]]
        parts += (
            draw(panel, frame, shown, begin, end) if shown else [frame.text("no data", 8, 50, 14, "#888")]
        )
    size = f'width="{24 * COLUMN:.0f}" height="{bottom + 10:.0f}"'
    title = f'<text x="4" y="26" font-size="20" fill="#fff">{escape(dashboard["title"])}</text>'
    back = '<rect width="100%" height="100%" fill="#0b0c0e"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">{back}{title}'
    return "\n".join([head, *parts, "</svg>"])


def _series(panel: dict[str, Any], ask: Ask, begin: float, end: float) -> Iterator[Series]:
    step = max(1.0, (end - begin) / POINTS)
    for target in panel["targets"]:
        for found in ask(target["expr"], begin, end, step):
            labels = found["metric"]
            name = target["legendFormat"]
            for label in _LABEL.findall(name):
                name = name.replace(f"{{{{{label}}}}}", labels.get(label, ""))
            values = ((float(at), float(value)) for at, value in found["values"])
            points = [(at, value) for at, value in values if math.isfinite(value)]
            if points:
                yield Series(name, points)


def _number(
    panel: dict[str, Any], frame: Frame, shown: list[Series], begin: float, end: float
) -> Iterator[str]:
    value = shown[0].points[-1][1]
    colour = NAMED["green"]
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = NAMED.get(step["color"], step["color"])
    words = units.shown(value, panel["fieldConfig"]["defaults"]["unit"])
    for mapping in panel["fieldConfig"]["defaults"].get("mappings", ()):
        found = mapping["options"].get(f"{value:g}", {"text": words, "color": colour})
        words, colour = found["text"], NAMED.get(found["color"], found["color"])
    low, high = 0.0, max(point[1] for point in shown[0].points) or 1.0
    inner = Frame(frame.x + 8, frame.y + frame.height * 0.6, frame.width - 16, frame.height * 0.35)
    yield _path(inner, shown[0].points, (begin, end), (low, high), colour)
    yield frame.text(words, 8, 62, 28, colour)


def _lines(
    panel: dict[str, Any], frame: Frame, shown: list[Series], begin: float, end: float
) -> Iterator[str]:
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults["custom"].get("stacking", {}).get("mode") == "normal"
    paths = _stacked(shown) if stacked else shown
    high = max((value for each in paths for _, value in each.points), default=0.0) or 1.0
    high = min(high * 1.1, defaults.get("max", math.inf) * 1.02)
    legend = min(len(shown), 5) * 13 + 6
    inner = Frame(frame.x + 62, frame.y + 26, frame.width - 70, frame.height - 38 - legend)
    for part in (0.0, 0.5, 1.0):
        y = inner.y + inner.height * (1 - part)
        yield f'<line x1="{inner.x}" x2="{inner.x + inner.width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#333"/>'
        yield frame.text(units.shown(high * part, defaults["unit"]), 4, y - frame.y + 4, 10, "#999")
    for step in (defaults.get("thresholds") or {}).get("steps", []):
        if step["value"] is not None and step["value"] <= high:
            y = inner.y + inner.height * (1 - step["value"] / high)
            dash = f'stroke="{NAMED.get(step["color"], step["color"])}" stroke-dasharray="6 6"'
            yield f'<line x1="{inner.x}" x2="{inner.x + inner.width}" y1="{y:.1f}" y2="{y:.1f}" {dash}/>'
    for number, (whole, each) in reversed([*enumerate(zip(shown, paths, strict=True))]):
        colour = _colour(panel, whole.name, number)
        more = 'stroke-dasharray="8 8"' if whole.name == "objective" else ""
        if stacked:
            yield _path(inner, each.points, (begin, end), (0.0, high), colour, filled=True)
        yield _path(inner, each.points, (begin, end), (0.0, high), colour, more)
    yield from _legend(panel, frame, shown, frame.height - legend + 6)


def _colour(panel: dict[str, Any], name: str, number: int) -> str:
    """Return the colour of a line: its own, or the next of the palette."""
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == name:
            for part in override["properties"]:
                if part["id"] == "color":
                    return NAMED.get(part["value"]["fixedColor"], str(part["value"]["fixedColor"]))
    return COLOURS[number % len(COLOURS)]


def _legend(panel: dict[str, Any], frame: Frame, shown: Sequence[Series], top: float) -> Iterator[str]:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for number, each in enumerate(shown[:5]):
        colour = _colour(panel, each.name, number)
        words = f"{each.name}: {units.shown(each.points[-1][1], unit)}"
        if number == 4 and len(shown) > 5:
            words += f" (and {len(shown) - 5} more)"
        yield frame.text("■", 8, top + 13 * number, 11, colour) + frame.text(words, 22, top + 13 * number, 10)


def _states(
    panel: dict[str, Any], frame: Frame, shown: list[Series], begin: float, end: float
) -> Iterator[str]:
    words = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    high = min(26.0, (frame.height - 30) / len(shown))
    for number, each in enumerate(shown):
        y = 24 + number * high
        yield frame.text(each.name[:18], 8, y + high * 0.7, 10)
        for (at, value), (after, _) in zip(each.points, [*each.points[1:], (end, 0.0)], strict=True):
            colour = NAMED.get(words.get(f"{value:g}", {}).get("color"), "#808080")
            left, right = ((when - begin) / (end - begin) * (frame.width - 130) for when in (at, after))
            place = f'x="{frame.x + 120 + left:.1f}" y="{frame.y + y:.1f}" width="{right - left + 0.5:.1f}"'
            yield f'<rect {place} height="{high * 0.85:.1f}" fill="{colour}"/>'


def _stacked(shown: Sequence[Series]) -> list[Series]:
    below: dict[float, float] = {}
    made = []
    for each in shown:
        for at, value in each.points:
            below[at] = below.get(at, 0.0) + value
        made.append(Series(each.name, [(at, below[at]) for at, _ in each.points]))
    return made


def _path(
    frame: Frame,
    points: Sequence[Point],
    across: tuple[float, float],
    up: tuple[float, float],
    colour: str,
    more: str = "",
    filled: bool = False,
) -> str:
    (begin, end), (low, high) = across, up
    places = [
        (
            frame.x + frame.width * (at - begin) / (end - begin),
            frame.y + frame.height * (1 - (min(value, high) - low) / ((high - low) or 1.0)),
        )
        for at, value in points
    ]
    drawn = " L".join(f"{x:.1f},{y:.1f}" for x, y in places)
    if filled:
        floor = f"{frame.y + frame.height:.1f}"
        area = f"M{places[0][0]:.1f},{floor} L{drawn} L{places[-1][0]:.1f},{floor} Z"
        return f'<path d="{area}" fill="{colour}" opacity="0.9"/>'
    return f'<path d="M{drawn}" fill="none" stroke="{colour}" stroke-width="1.5" {more}/>'


def asking(url: str) -> Ask:
    """Return what asks the Prometheus at a URL."""

    def ask(query: str, begin: float, end: float, step: float) -> list[dict[str, Any]]:
        window = f"{max(60, math.ceil(step * 4))}s"
        filled = re.sub(r"\$\w+", ".*", query.replace("$__rate_interval", window))
        fields = urllib.parse.urlencode({"query": filled, "start": begin, "end": end, "step": step})
        with urllib.request.urlopen(f"{url.rstrip('/')}/api/v1/query_range?{fields}", timeout=30) as answer:
            return list(json.load(answer)["data"]["result"])

    return ask


def draw(ask: Ask, folder: Path, begin: float, end: float) -> list[Path]:
    """Draw all dashboards into a folder; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for file in sorted(FOLDER.glob("*.json")):
        made.append(folder / f"{file.stem}.svg")
        made[-1].write_text(
            picture(json.loads(file.read_text(encoding="utf-8")), ask, begin, end), encoding="utf-8"
        )
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the dashboards with the data of a Prometheus, as SVG.")
    parser.add_argument("prometheus", help="its URL, such as http://127.0.0.1:9090")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0, help="how far to look back (60)")
    options = parser.parse_args()
    now = time.time()
    for path in draw(asking(options.prometheus), options.folder, now - options.minutes * 60, now):
        print(path)
