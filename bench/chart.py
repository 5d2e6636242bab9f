"""Draw the two figures that matter most, CPU per request and per streamed chunk, as bars in SVG.

Rules:
- The axis is logarithmic, because a C proxy and a Python one lie a factor of 500 apart; each bar has its figure.
- The picture must be readable on a light and on a dark page.
"""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _ROW, _LEFT, _BARS, _TOP = 720, 26, 130, 500, 34
_PANELS = (
    ("CPU per JSON request, µs", "json", "cpu_us_per_request"),
    ("CPU per streamed chunk, µs", "streams", "cpu_us_per_chunk"),
)
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-weight:600}.bar{fill:#9aa4b2}.ours{fill:#2f81f7}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.bar{fill:#6e7681}}"
)


def svg(data: dict[str, Any]) -> str:
    """Return the picture of a run (see `report.run`)."""
    parts, top = [], 0
    for title, scenario, figure in _PANELS:
        values = [
            (name, figures[figure])
            for name, figures in data["scenarios"].get(scenario, {}).items()
            if figures.get(figure)
        ]
        parts.append(_panel(title, sorted(values, key=lambda row: row[1]), top))
        top += _TOP + _ROW * len(values) + 16
    inner = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}" '
        f'role="img" aria-label="CPU per request and per streamed chunk">\n<style>{_STYLE}</style>\n{inner}\n</svg>\n'
    )


def _panel(title: str, values: list[tuple[str, float]], top: int) -> str:
    lines = [f'<text class="title" x="8" y="{top + 20}">{escape(title)} (logarithmic; less is better)</text>']
    least = min((value for _, value in values), default=1.0) / 2
    most = max((value for _, value in values), default=2.0)
    for row, (name, value) in enumerate(values):
        y = top + _TOP + row * _ROW
        width = max(2.0, math.log(value / least) / math.log(most / least) * _BARS)
        shown = f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.1f}"
        kind = "ours" if name == "gateway" else "bar"
        lines += [
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{width:.1f}" height="18" rx="3"/>',
            f'<text x="{_LEFT + width + 8:.1f}" y="{y + 14}">{shown}</text>',
        ]
    return "\n".join(lines)
