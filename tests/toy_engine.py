"""An engine for tests of signals and actions: OpenAI's API, a metrics page, and actions at paths of its own.

Rules:
- The names in the registry are `orchard`, and `grove` for the one that also measures itself; a fixture of a test file
  adds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from backends.base import Action, Call, MetricsPage, Signal, Signals
from backends.engines.openai import OpenAI
from backends.facts import metrics
from backends.facts.signals import Metric, Table, from_metrics
from backends.metrics import Counted, Finish, MetricsTable, Outcomes, Timing

ROW, GROVE = "tests.toy_engine:Orchard", "tests.toy_engine:Grove"
TABLE: Table = {
    Signal.RUNNING: (Metric("orchard_running", "2"), Metric("orchard_active", "1")),
    Signal.WAITING: (Metric("orchard_waiting", "1"),),
    Signal.KV_USE: (Metric("orchard_kv", "1"),),
    Signal.LORAS: (Metric("orchard_loras", "1"),),
}


class Orchard(OpenAI):
    """An OpenAI-compatible engine with metrics and actions."""

    name: ClassVar[str] = "orchard"
    checked: ClassVar[str] = "orchard 2 (here)"
    actions: ClassVar[frozenset[Action]] = frozenset({Action.LIST, Action.PULL, Action.SHOW})

    def signal_calls(self) -> tuple[Call, ...]:
        return (Call("/metrics", method="GET"),)

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        if answers[0] == b"boom":
            raise KeyError("an adapter's slip")
        return from_metrics(answers[0], TABLE)

    def action(self, action: Action, arguments: Mapping[str, Any]) -> Call:
        if action is Action.LIST:
            return Call("/list", method="GET")
        if set(arguments) != {"model"}:
            raise ValueError(f"{action} needs the argument 'model' alone")
        return Call(f"/{action}", msgspec.json.encode(dict(arguments)))


MEASURED = metrics.page(
    "/metrics",
    MetricsTable(
        counts={Counted.PROMPT_TOKENS: (Metric("orchard_prompts", "1"),)},
        finished=(Outcomes("orchard_picked", "1", "how", {"ripe": Finish.STOP}),),
        timings={Timing.FIRST_TOKEN: (Metric("orchard_seconds", "1"),)},
    ),
    [TABLE],
)


class Grove(Orchard):
    """An orchard that measures itself."""

    name: ClassVar[str] = "grove"

    def metrics(self) -> MetricsPage | None:
        return MEASURED


def page(**values: float | str) -> bytes:
    """Return a metrics page, such as `page(running=2)`."""
    return "".join(f"orchard_{name} {value}\n" for name, value in values.items()).encode()
