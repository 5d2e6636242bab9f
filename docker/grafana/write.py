"""Writes the dashboards that Grafana reads: `python -m docker.grafana.write`.

Rules:
- The files in `dashboards/` are made by this alone; a test fails as long as they are not what it makes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from docker.grafana.backend import backend
from docker.grafana.machine import machine
from docker.grafana.model import model
from docker.grafana.overview import overview

FOLDER: Final = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, str]:
    """Return the text of each dashboard's file, by the file's name."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    return {
        f"{made.uid}.json": encoder.encode(made) + "\n"
        for made in (overview(), model(), backend(), machine())
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in dashboards().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
