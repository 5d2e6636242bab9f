"""The dashboards as they are committed, read for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from docker.grafana.write import FOLDER

FILES: Final = sorted(FOLDER.glob("*.json"))
DASHBOARDS: Final[dict[str, dict[str, Any]]] = {
    file.stem: json.loads(file.read_text(encoding="utf-8")) for file in FILES
}


class Panel(NamedTuple):
    """A panel of a dashboard."""

    place: str
    """The dashboard's name and the panel's title."""
    raw: dict[str, Any]

    @property
    def queries(self) -> list[tuple[str, str]]:
        """Its queries, each with the text that names its lines."""
        return [(target["expr"], target["legendFormat"]) for target in self.raw.get("targets", ())]


def panels() -> Iterator[Panel]:
    """Yield every panel that shows something."""
    for name, dashboard in DASHBOARDS.items():
        for raw in dashboard["panels"]:
            if raw["type"] != "row":
                yield Panel(f"{name}: {raw['title']}", raw)
