"""From the name a client asks for to the candidates that serve it, in the order they are to be tried.

Rules:
- Plans are made when the config is read or a backend tells its models; a request only looks one up.
- A model that a caller may not use is never named to it: the answer is that of a model that does not exist.
- A backend whose engine cannot do an operation is no candidate for it: each operation has candidates of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from backends.base import Kind, Operation
from gateway.admission.gate import Gate
from gateway.auth import Caller
from gateway.balance.loaded import Balancer
from gateway.errors import GatewayError, Own
from gateway.fleet.lease import Target
from gateway.similar import Similar
from gateway.wire.sizes import Sizes

_SHOWN = 20
"""How many names an error lists."""


class Group:
    """The targets of one model, any of which may serve a request for it. Never changed once it is made.

    `names` are the model's own name and its aliases: a key that allows one of them allows the model.
    """

    __slots__ = ("balancer", "model", "names", "targets")

    def __init__(
        self, model: str, names: tuple[str, ...], targets: tuple[Target, ...], balancer: Balancer | None
    ) -> None:
        self.model: str = model
        self.names: tuple[str, ...] = names
        self.targets: tuple[Target, ...] = targets
        self.balancer: Balancer | None = balancer

    def allowed(self, caller: Caller) -> bool:
        """Tell whether the caller may use this model."""
        if not caller.limited:
            return True
        return any(caller.allows(name) for name in self.names)

    def able(self, operation: Operation) -> Group:
        """Return the same group without the targets whose engines cannot do the operation."""
        able = tuple([target for target in self.targets if operation in target.backend.engine.operations])
        return Group(self.model, self.names, able, self.balancer)


class Plan:
    """How requests for one model are served: its own targets first, then those of its fallbacks. Immutable.

    `attempts` is how many a request may have; `queue` how many seconds it may wait for a slot, and again for a backend
    that is loading; `total` how many until it must be over. `gate` holds the slots of the model; None where their
    number is not limited. `heartbeat` is the seconds between comments before a stream's first content; None for no
    comments, and headers only with content. `candidates` are, for each operation, the groups that can do it, in the
    same order; without the operations that no group can do. `sizes` limit the answers of engines.
    """

    __slots__ = ("attempts", "candidates", "gate", "groups", "heartbeat", "model", "queue", "sizes", "total")

    def __init__(
        self,
        groups: tuple[Group, ...],
        attempts: int,
        queue: float,
        total: float,
        gate: Gate | None = None,
        heartbeat: float | None = None,
        sizes: Sizes | None = None,
    ) -> None:
        self.groups: tuple[Group, ...] = groups
        self.model: str = groups[0].model
        self.attempts: int = attempts
        self.queue: float = queue
        self.total: float = total
        self.gate: Gate | None = gate
        self.heartbeat: float | None = heartbeat
        self.sizes: Sizes = sizes or Sizes()
        self.candidates: dict[Operation, tuple[Group, ...]] = _candidates(groups)


def _candidates(groups: tuple[Group, ...]) -> dict[Operation, tuple[Group, ...]]:
    """Return the groups that can do each operation."""
    known = [target.backend.engine.operations for group in groups for target in group.targets]
    shared = frozenset(Operation).intersection(*known)
    candidates = dict.fromkeys(shared, groups)
    for operation in frozenset[Operation]().union(*known) - shared:
        able = [group.able(operation) for group in groups]
        candidates[operation] = tuple([group for group in able if group.targets])
    return candidates


class Listed:
    """One entry of the model list."""

    __slots__ = ("context", "group", "name")

    def __init__(self, name: str, context: int | None, group: Group) -> None:
        self.name: str = name
        self.context: int | None = context
        self.group: Group = group


class Catalog:
    """Every model name and alias that clients may ask for."""

    def __init__(
        self,
        plans: Mapping[str, Plan],
        listed: Iterable[Listed],
        untold: Callable[[], bool] | None = None,
    ) -> None:
        """Take the plan of every name and alias, and the lines of the model list in their order.

        `untold` tells whether a backend may have more models than it has told so far; None: all are known.
        """
        self._plans = plans
        self._listed = tuple(listed)
        self._untold = untold
        self._listed_for: dict[Caller, list[Listed]] = {}
        self._similar = Similar(entry.name for entry in self._listed)

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
            entry.name for entry in self.listed(caller) if operation in self._plans[entry.name].candidates
        ]
        message += (
            f"; models here that can: {_shown(able, len(able))}" if able else "; no other model here can"
        )
        return GatewayError(Kind.UNSUPPORTED, message, param="model")

    def listed(self, caller: Caller) -> list[Listed]:
        """Return the names and aliases the caller may use."""
        found = self._listed_for.get(caller)
        if found is None:
            found = [entry for entry in self._listed if entry.group.allowed(caller)]
            self._listed_for[caller] = found
        return found

    def everything(self) -> list[str]:
        """Return every name and alias, for the operator."""
        return [entry.name for entry in self._listed]

    def _may_tell(self, caller: Caller) -> Callable[[str], bool] | None:
        """Return what tells whether a name may be told to a caller; None where all may."""
        if not caller.limited:
            return None
        return lambda name: self._plans[name].groups[0].allowed(caller)

    def _unknown(self, name: str, caller: Caller) -> GatewayError:
        if self._untold is not None and self._untold() and caller.may_name(name):
            message = f"there is no model {_quoted(name)} so far; not all backends have told their models yet"
            return GatewayError(Own.NO_BACKEND, message, param="model", retry_after=5)
        listed = self.listed(caller)
        message = f"there is no model {_quoted(name)}" + (" for this API key" if caller.limited else "")
        close = self._similar.closest(name, self._may_tell(caller))
        if close:
            message += f" (did you mean '{close}'?)"
        if listed:
            message += f"; models here: {_shown([entry.name for entry in listed[:_SHOWN]], len(listed))}"
        else:
            message += ", nor another one" if caller.limited else "; the backends have none"
        return GatewayError(Own.UNKNOWN_MODEL, message, param="model")


def _shown(names: list[str], count: int) -> str:
    more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 128 else name[:125] + "...")
