"""Targets, requests and numbers for tests of balancers: everything is a value, nothing is connected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from typing import Any

from backends.base import Operation, Request
from gateway.asked import Asked
from gateway.auth import Caller
from gateway.balance.loaded import Loaded, Outcomes
from gateway.telemetry.cells import Value

NUMBERS = count()


class Candidate(Loaded):
    """A target as far as a balancer looks at it; everything may be changed."""

    def __init__(
        self, weight: float = 1, in_flight: float = 0, name: str = "", share: float | None = None
    ) -> None:
        super().__init__(name or f"backend-{next(NUMBERS)}", weight if share is None else share)
        self.now_weight = weight
        self.in_flight = in_flight
        self.life = 1

    @property
    def weight(self) -> float:
        return self.now_weight

    @property
    def generation(self) -> int:
        return self.life

    def load(self, now: float) -> float:
        return self.in_flight


def named(names: str, weight: float = 1) -> list[Candidate]:
    """Return one idle target for each letter."""
    return [Candidate(weight, name=name) for name in names]


def outcomes() -> Outcomes:
    return Outcomes(Value(), Value(), Value())


def asked(
    body: Mapping[str, Any] | bytes = b"{}",
    headers: Mapping[bytes, bytes] | None = None,
    caller: str = "somebody",
    operation: Operation = Operation.CHAT,
    stream: bool = True,
) -> Asked:
    """Return what a request with this body asks for."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Asked(Request(operation, data, "m", stream), headers or {}, Caller(caller))


def chat(*turns: str, system: str = "", tools: Any = None) -> Asked:
    """Return a chat whose turns are the user's and the assistant's in turn."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [
        {"role": "assistant" if index % 2 else "user", "content": text} for index, text in enumerate(turns)
    ]
    return asked({"model": "m", "messages": messages, **({"tools": tools} if tools else {})})
