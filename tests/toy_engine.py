"""An engine for tests of signals and actions: OpenAI's API, a metrics page, and actions at paths of its own.

Rules:
- The name in the registry is `orchard`; the fixture `orchard_engine` of a test file adds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from backends.base import Action, Call, Signal, Signals
from backends.engines.openai import OpenAI
from backends.facts.signals import Metric, Table, from_metrics

ROW = "tests.toy_engine:Orchard"
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


def page(**values: float | str) -> bytes:
    """Return a metrics page, such as `page(running=2)`."""
    return "".join(f"orchard_{name} {value}\n" for name, value in values.items()).encode()
