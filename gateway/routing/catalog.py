"""From the name a client asks for to the candidates that serve it, in the order they are to be tried.

Rules:
- Plans are made when the config is read or a backend tells its models; a request only looks one up.
- A model that a caller may not use is never named to it: the answer is that of a model that does not exist.
- A backend whose engine cannot do an operation is no candidate for it: each operation has candidates of its own.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from backends.base import Kind, Operation
from gateway.admission.gate import Gate
from gateway.auth import Caller
from gateway.balance.basic import Balancer
from gateway.errors import GatewayError, Own
from gateway.fleet.lease import Target

_SHOWN = 20
"""How many names an error lists."""


@dataclass(frozen=True, slots=True)
class Group:
    """The targets of one model, any of which may serve a request for it."""

    model: str
    names: tuple[str, ...]
    """The model's own name and its aliases: a key that allows one of them allows the model."""
    targets: tuple[Target, ...]
    balancer: Balancer

    def allowed(self, caller: Caller) -> bool:
        """Tell whether the caller may use this model."""
        return any(map(caller.allows, self.names))

    def able(self, operation: Operation) -> Group:
        """Return the same group without the targets whose engines cannot do the operation."""
        able = tuple(target for target in self.targets if operation in target.backend.engine.operations)
        return dataclasses.replace(self, targets=able)


@dataclass(frozen=True, slots=True)
class Plan:
    """How requests for one model are served: its own targets first, then those of its fallbacks."""

    groups: tuple[Group, ...]
    attempts: int
    queue: float
    """Seconds a request may wait for a slot, and again for a backend that is loading."""
    total: float
    """Seconds until a request must be over."""
    gate: Gate | None = None
    """The slots of the model; None where their number is not limited."""
    heartbeat: float | None = None
    """Seconds between comments before a stream's first content; None: no comments, and headers only with content."""
    candidates: Mapping[Operation, tuple[Group, ...]] = field(init=False)
    """For each operation the groups that can do it, in the same order; without the operations that no group can do."""

    def __post_init__(self) -> None:
        known = [target.backend.engine.operations for group in self.groups for target in group.targets]
        shared = frozenset(Operation).intersection(*known)
        candidates = dict.fromkeys(shared, self.groups)
        for operation in frozenset[Operation]().union(*known) - shared:
            able = (group.able(operation) for group in self.groups)
            candidates[operation] = tuple(group for group in able if group.targets)
        object.__setattr__(self, "candidates", candidates)

    @property
    def model(self) -> str:
        """The model's own name."""
        return self.groups[0].model


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of the model list."""

    name: str
    context: int | None
    group: Group


class Catalog:
    """Every model name and alias that clients may ask for."""

    def __init__(self, plans: Mapping[str, Plan], listed: Iterable[Listed]) -> None:
        """Take the plan of every name and alias, and the lines of the model list in their order."""
        self._plans = plans
        self._listed = tuple(listed)

    def resolve(self, name: str, caller: Caller) -> Plan:
        """Return the plan for a model name or alias. Raises GatewayError where the caller may use no such model."""
        plan = self._plans.get(name)
        if plan is None or not plan.groups[0].allowed(caller):
            raise self._unknown(name, caller)
        return plan

    def unsupported(self, plan: Plan, operation: Operation, caller: Caller) -> GatewayError:
        """Return the error for an operation that no backend of a model can do; it names the models that can."""
        message = f"no backend of the model {_quoted(plan.model)} can do '{operation}'"
        able = [
            entry.name
            for entry in self.listed(caller)
            if any(group.allowed(caller) for group in self._plans[entry.name].candidates.get(operation, ()))
        ]
        message += f"; models here that can: {_shown(able)}" if able else "; no other model here can"
        return GatewayError(Kind.UNSUPPORTED, message, param="model")

    def listed(self, caller: Caller) -> list[Listed]:
        """Return the names and aliases the caller may use."""
        return [entry for entry in self._listed if entry.group.allowed(caller)]

    def everything(self) -> list[str]:
        """Return every name and alias, for the operator."""
        return [entry.name for entry in self._listed]

    def _unknown(self, name: str, caller: Caller) -> GatewayError:
        names = [entry.name for entry in self.listed(caller)]
        message = f"there is no model {_quoted(name)}" + (" for this API key" if caller.limited else "")
        close = difflib.get_close_matches(name[:256], names, n=1)
        if close:
            message += f" (did you mean '{close[0]}'?)"
        if names:
            message += f"; models here: {_shown(names)}"
        else:
            message += ", nor another one" if caller.limited else "; no backend has told its models yet"
        return GatewayError(Own.UNKNOWN_MODEL, message, param="model")


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 128 else name[:125] + "...")
