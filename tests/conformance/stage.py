"""Where a check plays: a running gateway, one engine behind it, and what can be seen of the connection between them.

Rules:
- A check sees what a client sees, over a real socket. Only the end of an engine's connection is looked at behind it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from backends.base import Engine, Operation
from tests.serving import Answer, Served

FORM = "multipart/form-data; boundary=edge"


class Watch(Protocol):
    """Stands between the gateway and the engine, or is the engine."""

    @property
    def url(self) -> str:
        """Where the gateway finds the engine."""

    @property
    def busy(self) -> bool:
        """A request is under way."""

    async def begun(self) -> None:
        """Wait until a request is under way, health probes and the like apart."""

    async def let_go(self) -> None:
        """Wait until no request is under way: those that had begun were answered, or left by the gateway."""


@dataclass
class Stage:
    """What a check works with."""

    served: Served
    engine: Engine
    watch: Watch

    async def ask(self, path: str, body: Any) -> Answer:
        """Return the answer to one request; None for a GET, bytes for a form."""
        if body is None:
            return await self.served.get(path)
        kind = FORM if isinstance(body, bytes) else "application/json"
        return await self.served.post(path, body, content_type=kind)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold for every engine.

    `path` and `body` are the client's request, `body` None for a GET and bytes for a form. `reads` looks at its answer;
    `plays` does all of it itself, where one answer is not enough.
    """

    name: str
    path: str
    body: Any
    reads: Callable[..., None] | None = None
    plays: Callable[[Stage], Awaitable[None]] | None = None
    replayed: bool = False
    """No engine does this when asked: it is always shown from a recording."""
    operation: Operation | None = None
    """What it asks for, where engines lack it; one that does refuses it by name."""
    minds: bool = False
    """Whether `reads` takes the request's body beside the answer, which recordings may have otherwise."""

    @property
    def cancels(self) -> bool:
        """The client leaves in the middle, so the engine's answer must have one."""
        return self.name.startswith("cancel_")

    async def run(self, stage: Stage) -> None:
        """Fails the test where the check does not hold."""
        if self.plays is not None:
            await self.plays(stage)
        if self.reads is not None:
            answer = await stage.ask(self.path, self.body)
            self.reads(answer, self.body) if self.minds else self.reads(answer)


CHECKS: dict[str, Check] = {}
"""Every check by its name. Import `checks`, `edges`, `faults` and `operations` to fill it."""

Played = Callable[..., Any]


def check(
    path: str = "", body: Any = None, *, replayed: bool = False, operation: Operation | None = None
) -> Callable[[Played], Played]:
    """Put a function into the table, under its own name. It takes the request's `answer`, or plays on a `stage`."""

    def enter(function: Played) -> Played:
        name = function.__name__
        assert name not in CHECKS
        takes = inspect.signature(function).parameters
        plays = "stage" in takes
        reads, played = (None, function) if plays else (function, None)
        CHECKS[name] = Check(name, path, body, reads, played, replayed, operation, "body" in takes)
        return function

    return enter
