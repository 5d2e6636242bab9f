"""What all dashboards have in common: their frame, their variables, and the links from one to another.

Rules:
- A link keeps the time range and the variables, so that one looks at the same moment and the same model.
- A dashboard's address (`uid`) never changes: people keep it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import dashboard as building
from grafana_foundation_sdk.models import dashboard

from docker.grafana.panels import SOURCE, WIDTH, AnyPanel

Row = tuple[str, Sequence[AnyPanel]]
"""A heading, and the panels below it."""
PAGES: Final = {
    "gateway-overview": "LLM gateway: overview",
    "gateway-model": "LLM gateway: one model",
    "gateway-backend": "LLM gateway: one backend",
    "gateway-machine": "LLM gateway: GPU and host",
}
"""The title of each dashboard, by its address."""


class Ragged(ValueError):
    """The panels of a row do not fill it."""


def page(
    uid: str, says: str, variables: Sequence[building.QueryVariable], rows: Sequence[Row]
) -> dashboard.Dashboard:
    """Return a dashboard of these rows; the panels of each fill whole lines of the grid."""
    made = building.Dashboard(PAGES[uid]).uid(uid).description(says).tags(["llm-gateway"]).timezone("browser")
    made.time("now-1h", "now").refresh("30s").tooltip(dashboard.DashboardCursorSync.CROSSHAIR).readonly()
    made.with_variable(building.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    for variable in variables:
        made.with_variable(variable)
    for other, title in PAGES.items():
        if other != uid:
            link = building.DashboardLink(title.partition(": ")[2].capitalize()).url(f"/d/{other}")
            made.link(
                link.type(dashboard.DashboardLinkType.LINK)
                .keep_time(True)
                .include_vars(True)
                .icon("dashboard")
            )
    numbers = itertools.count(1)
    for heading, panels in rows:
        made.with_row(building.Row(heading).id(next(numbers)))
        for panel in panels:
            made.with_panel(panel.id(next(numbers)))
        filled = sum(place.w for panel in panels if (place := panel.build().grid_pos) is not None)
        if filled % WIDTH:
            raise Ragged(
                f"{PAGES[uid]}: the panels of '{heading}' are {filled} columns wide together, not whole lines"
            )
    return made.build()


def variable(
    label: str, metric: str, title: str, several: bool = True, of: str = ""
) -> building.QueryVariable:
    """Return a variable whose values are those of a metric's label; with `several`, all of them at first.

    `of` narrows the metric, for example to the instance that is looked at.
    """
    made = building.QueryVariable(label).label(title).datasource(SOURCE)
    made.query({"query": f"label_values({metric}{of}, {label})", "refId": "values"})
    made.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(
        dashboard.VariableSort.ALPHABETICAL_ASC
    )
    if several:
        made.multi(True).include_all(True).all_value(".*")
        made.current(dashboard.VariableOption(selected=True, text="All", value="$__all"))
    return made


def instance() -> building.QueryVariable:
    """Return the variable for the gateways that are looked at."""
    return variable("instance", "gateway_build_info", "Gateway")
