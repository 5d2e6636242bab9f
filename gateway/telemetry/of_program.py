"""The metrics of the program itself and of its config.

Rules:
- Which version of the config is in force is told by one cell at a time.
"""

from __future__ import annotations

from gateway.telemetry.registry import Families


class ProgramMetrics:
    """Which program runs, by which config."""

    def __init__(self, families: Families, version: str) -> None:
        """Tell that this version runs, unless it is empty."""
        add = families.topic("The gateway itself")
        self.build = add.gauge(
            "gateway_build_info",
            "Always 1; the label says which version runs.",
            ("version",),
            across="largest",
        )
        if version:
            self.build.cell(version).value = 1
        self.reloads = add.counter(
            "gateway_config_reloads", "Attempts to reload the config, by what became of them.", ("result",)
        )
        self.reload_success = add.gauge(
            "gateway_config_last_reload_success",
            "1 if the last attempt to load the config succeeded; 0 while its files are wrong and the one before is in "
            "force.",
            across="master",
        )
        self.config = add.gauge(
            "gateway_config_info",
            "Always 1; the label is the version of the config in force, a short hash of its text.",
            ("version",),
            across="largest",
        )

        self.loop_lag = add.gauge(
            "gateway_event_loop_lag_seconds",
            "The longest delay of the last ten to twenty seconds by which something that was due ran late: that long, "
            "everything waited. Of several workers the largest.",
            across="largest",
        )
        self.connections = add.gauge(
            "gateway_connections",
            "Open connections of clients: `busy` while a request for an engine is served, `idle` otherwise.",
            ("state",),
        )

    def set_config(self, version: str) -> None:
        """Show which version of the config is in force."""
        self.config.cells.clear()
        self.config.cell(version).value = 1
