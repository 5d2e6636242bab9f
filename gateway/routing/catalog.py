"""From the name a client asks for to the candidates that serve it, in the order they are to be tried.

Rules:
- Plans are made when the config is read or a backend tells its models; a request only looks one up.
- Names win over patterns of names, and the best of several patterns counts (`gateway.globs`), whoever asks.
- A model that a caller may not use is never named to it: the answer is that of a model that does not exist. So it is
  for everybody with an internal model: only rules and fallbacks lead there.
- A backend whose engine cannot do an operation is no candidate for it: each operation has candidates of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from backends.base import Kind, Operation
from gateway.admission.gate import Gate
from gateway.asked import Asked
from gateway.auth import Caller
from gateway.balance.hedging import Hedging
from gateway.balance.loaded import Balancer
from gateway.errors import GatewayError, Own
from gateway.fleet.lease import Target
from gateway.globs import Ranked, natural, tagged_or_not
from gateway.routing.traits import CONTEXT, TOOLS, VISION, Traits, least_tokens
from gateway.similar import Similar
from gateway.wire.sizes import Sizes

_SHOWN = 20
"""How many names an error lists."""
_REMEMBERED = 4096
"""Names of which it is remembered which pattern they fit: clients choose them."""
_LONGEST_REMEMBERED = 256
"""Most characters of such a name."""


class Group:
    """The targets of one model, any of which may serve a request for it. Never changed once it is made.

    `names` are the model's own name and its aliases that are names: a key that allows one of them allows the model.
    """

    __slots__ = ("abilities", "balancer", "context", "model", "names", "parent", "targets", "traits")

    def __init__(
        self, model: str, names: tuple[str, ...], targets: tuple[Target, ...], balancer: Balancer | None
    ) -> None:
        self.model: str = model
        self.names: tuple[str, ...] = names
        self.targets: tuple[Target, ...] = targets
        self.balancer: Balancer | None = balancer
        self.context: int | None = None
        """The most tokens of prompt and answer together, where that is known."""
        self.traits: Traits | None = None
        """What the config says that the model can do; None where it says nothing."""
        self.abilities: frozenset[str] | None = None
        """What the engines say that the model can do, in words of `backends.base.ABILITIES`; None: they say nothing."""
        self.parent: str = ""
        """The model that this one is made from, by its own name; empty if there is none."""

    def allowed(self, caller: Caller, asked: str = "") -> bool:
        """Tell whether the caller may use this model; `asked` is the name it asks for, where a pattern fits that."""
        if not caller.limited:
            return True
        for name in self.names:
            if caller.allows(name):
                return True
        return bool(asked) and caller.may_name(asked)

    def able(self, operation: Operation) -> Group:
        """Return the same group without the targets whose engines cannot do the operation."""
        able = tuple([target for target in self.targets if operation in target.backend.operations])
        group = Group(self.model, self.names, able, self.balancer)
        group.context = self.context
        group.traits = self.traits
        return group


class Plan:
    """How requests for one model are served: its own targets first, then those of its fallbacks. Immutable.

    `attempts` is how many a request may have; `queue` how many seconds it may wait for a slot, and again for a backend
    that is loading; `total` how many until it must be over. `gate` holds the slots of the model; None where their
    number is not limited. `heartbeat` is the seconds between comments before a stream's first content; None for no
    comments, and headers only with content. `candidates` are, for each operation, the groups that can do it, in the
    same order; without the operations that no group can do. `sizes` limit the answers of engines.
    `hedging` says when a slow request gets a second attempt beside its first; None for never.
    `choosy` says that some group takes only certain requests.
    """

    __slots__ = (
        "attempts",
        "candidates",
        "choosy",
        "gate",
        "groups",
        "heartbeat",
        "hedging",
        "model",
        "queue",
        "show_loading",
        "sizes",
        "total",
    )

    def __init__(
        self,
        groups: tuple[Group, ...],
        attempts: int,
        queue: float,
        total: float,
        gate: Gate | None = None,
        heartbeat: float | None = None,
        sizes: Sizes | None = None,
        hedging: Hedging | None = None,
    ) -> None:
        self.groups: tuple[Group, ...] = groups
        self.model: str = groups[0].model
        self.attempts: int = attempts
        self.queue: float = queue
        self.total: float = total
        self.gate: Gate | None = gate
        self.heartbeat: float | None = heartbeat
        self.show_loading: bool = False
        """Whether chats that are streamed tell of their engine's start."""
        self.hedging: Hedging | None = hedging
        self.sizes: Sizes = sizes or Sizes()
        self.candidates: dict[Operation, tuple[Group, ...]] = _candidates(groups)
        self.choosy: bool = any(group.traits is not None for group in groups)

    def followed_by(self, others: Sequence[Plan]) -> Plan:
        """Return a plan with the limits of this one, and the groups of all in their order, each model once."""
        groups = {group.model: group for plan in (self, *others) for group in plan.groups}
        limits = self.attempts, self.queue, self.total
        joined = Plan(tuple(groups.values()), *limits, self.gate, self.heartbeat, self.sizes, self.hedging)
        joined.show_loading = self.show_loading
        return joined


def _candidates(groups: tuple[Group, ...]) -> dict[Operation, tuple[Group, ...]]:
    """Return the groups that can do each operation."""
    known = [target.backend.operations for group in groups for target in group.targets]
    shared = frozenset(Operation).intersection(*known)
    candidates = dict.fromkeys(shared, groups)
    for operation in frozenset[Operation]().union(*known) - shared:
        able = [group.able(operation) for group in groups]
        candidates[operation] = tuple([group for group in able if group.targets])
    return candidates


class Listed:
    """One entry of the model list."""

    __slots__ = ("group", "name")

    def __init__(self, name: str, group: Group) -> None:
        self.name: str = name
        self.group: Group = group


class Directory(Protocol):
    """The single backends with their models, as `backend/model`."""

    def find(self, name: str) -> Plan | None: ...
    def is_backend(self, name: str) -> bool: ...
    def names(self) -> Iterator[str]: ...


class Names:
    """Every name of every model, of which a catalog is made.

    `public` are the names that clients may use, `patterns` those of which any name may fit one, `models` all models by
    their own names, internal ones too. `listed` are the lines of the model list in their order. `direct` finds the
    models of single backends.
    """

    __slots__ = ("direct", "listed", "models", "patterns", "public")

    def __init__(
        self,
        public: Mapping[str, Plan],
        listed: Iterable[Listed],
        patterns: Mapping[str, Plan] | None = None,
        models: Mapping[str, Plan] | None = None,
        direct: Directory | None = None,
    ) -> None:
        self.public: Mapping[str, Plan] = public
        self.listed: tuple[Listed, ...] = tuple(listed)
        self.patterns: Mapping[str, Plan] = {} if patterns is None else patterns
        self.models: Mapping[str, Plan] = public if models is None else models
        self.direct: Directory | None = direct


class Catalog:
    """Every model name and alias that clients may ask for."""

    def __init__(self, names: Names, untold: Callable[[], bool] | None = None) -> None:
        """Take the names of all models.

        `untold` tells whether a backend may have more models than it has told so far; None: all are known.
        """
        self._plans: Mapping[str, Plan] = names.public
        self._patterns: Mapping[str, Plan] = names.patterns
        self._ranked: Ranked = Ranked(names.patterns)
        self._fitted: dict[str, Plan | None] = {}
        """What the names asked for lately fit, if no model is called so."""
        self._models: Mapping[str, Plan] = names.models
        self._direct: Directory | None = names.direct
        self._listed: tuple[Listed, ...] = names.listed
        self._untold: Callable[[], bool] | None = untold
        self._listed_for: dict[Caller, list[Listed]] = {}
        self._ruled: dict[str, Group] = {}
        """Names that only rules have, each with what stands for it in lists."""
        self._similar: Similar = Similar(entry.name for entry in self._listed)

    def resolve(self, name: str, caller: Caller) -> Plan:
        """Return the plan for a name. Raises GatewayError where the caller may use no such model."""
        plan = self.find(name, caller)
        if plan is None:
            raise self.unknown(name, caller)
        return plan

    def find(self, name: str, caller: Caller) -> Plan | None:
        """Return the plan for a name; None where the caller may use no such model."""
        plan = self._plans.get(name) or self._plans.get(tagged_or_not(name))
        if plan is not None:
            return plan if plan.groups[0].allowed(caller) else None
        if self._direct is not None and caller.may_reach(name):
            plan = self._direct.find(name)
            if plan is not None:
                return plan
        plan = self.fitting(name) if self._patterns else None
        return plan if plan is not None and plan.groups[0].allowed(caller, name) else None

    def may_appear(self, name: str, caller: Caller) -> bool:
        """Tell whether an engine may have a model of this name that it has not told yet, and the caller may use it."""
        if self._direct is not None and caller.may_reach(name) and self._direct.is_backend(name):
            return True
        return self._untold is not None and caller.may_name(name)

    def model(self, name: str) -> Plan | None:
        """Return the plan of a model by its own name, whoever may use it, internal ones too; None if there is none."""
        return self._models.get(name)

    def fitting(self, name: str) -> Plan | None:
        """Return the plan of the best pattern that a name fits, whoever asks; None where it fits none."""
        if len(name) > _LONGEST_REMEMBERED:
            return self._best(name)
        if name not in self._fitted:
            if len(self._fitted) >= _REMEMBERED:
                del self._fitted[next(iter(self._fitted))]
            self._fitted[name] = self._best(name)
        return self._fitted[name]

    def _best(self, name: str) -> Plan | None:
        pattern = self._ranked.best(name)
        return None if pattern is None else self._patterns[pattern]

    def unsupported(self, plan: Plan, operation: Operation, caller: Caller) -> GatewayError:
        """Return the error for an operation that no backend of a model can do; it names the models that can."""
        message = f"no backend of the model {quoted(plan.model)} can do '{operation}'"
        able = [
            entry.name
            for entry in self.listed(caller)
            if entry.name in self._plans and operation in self._plans[entry.name].candidates
        ]
        message += (
            f"; models here that can: {_shown(able, len(able))}" if able else "; no other model here can"
        )
        return GatewayError(Kind.UNSUPPORTED, message, param="model")

    def able(self, plan: Plan, asked: Asked) -> tuple[Group, ...]:
        """Return the groups of a plan that can serve this very request. Raises GatewayError where none can."""
        groups = plan.candidates[asked.request.operation]
        able = [group for group in groups if group.traits is None or not group.traits.lacks(asked)]
        if not able:
            traits = groups[0].traits
            assert traits is not None
            raise self._unable(groups[0].model, traits, asked)
        return tuple(able)

    def _unable(self, model: str, traits: Traits, asked: Asked) -> GatewayError:
        """Return the error for a request that a model cannot serve; it names the models that can."""
        what, listed = traits.lacks(asked), self.listed(asked.caller)
        known = [entry for entry in listed if entry.group.traits is not None]
        if what == CONTEXT:
            least = least_tokens(asked)
            names = [entry.name for entry in listed if (entry.group.context or 0) >= least]
            message = (
                f"the prompt has at least {least} tokens, more than the {traits.context} that the model "
                f"{quoted(model)} takes; " + _who(names, "take more")
            )
            return GatewayError(Kind.CONTEXT, message, param=_prompt(asked))
        names = [
            entry.name for entry in known if entry.group.traits is not None and entry.group.traits.has(what)
        ]
        cannot = {TOOLS: "call tools", VISION: "see images"}.get(what, "embed")
        message = f"the model {quoted(model)} cannot {cannot}; " + _who(names, "can")
        param = "tools" if what == TOOLS else _prompt(asked) if what == VISION else "model"
        return GatewayError(Kind.UNSUPPORTED, message, param=param)

    def entry(self, name: str, caller: Caller) -> Listed:
        """Return what the model list would say of a name, listed or not. Raises GatewayError as `resolve`."""
        ruled = self._ruled.get(name)
        if ruled is not None and ruled.allowed(caller):
            return Listed(name, ruled)
        return Listed(name, self.resolve(name, caller).groups[0])

    def name_also(self, names: Mapping[str, Plan], listed: Collection[str]) -> None:
        """Take in names that only rules have, each with a plan that it may lead to, while the catalog is made.

        Those among `listed` are shown in lists.
        """
        for name, plan in names.items():
            first = plan.groups[0]
            group = self._ruled[name] = Group(name, (name,), first.targets, first.balancer)
            group.context = first.context
            group.abilities = first.abilities
        self._listed += tuple([Listed(name, self._ruled[name]) for name in names if name in listed])
        self._similar = Similar(entry.name for entry in self._listed)

    def listed(self, caller: Caller) -> list[Listed]:
        """Return the names and aliases the caller may use."""
        found = self._listed_for.get(caller)
        if found is None:
            found = [entry for entry in self._listed if entry.group.allowed(caller)]
            found += self._listed_directly(caller)
            found.sort(key=_in_order)
            self._listed_for[caller] = found
        return found

    def plans(self) -> list[Plan]:
        """Return the plan of every model once, for the operator."""
        return list({plan.model: plan for plan in self._plans.values()}.values())

    def _listed_directly(self, caller: Caller) -> list[Listed]:
        """Return the single backends' models that a key names itself."""
        if self._direct is None or not caller.names_backends:
            return []
        names = [name for name in self._direct.names() if name not in self._plans and caller.may_reach(name)]
        plans = [(name, self._direct.find(name)) for name in names]
        return [Listed(name, plan.groups[0]) for name, plan in plans if plan is not None]

    def everything(self) -> list[str]:
        """Return every name that clients may use, for the operator: first those that are listed."""
        return [*dict.fromkeys([*(entry.name for entry in self._listed), *self._plans])]

    def _may_tell(self, caller: Caller) -> Callable[[str], bool] | None:
        """Return what tells whether a name may be told to a caller; None where all may."""
        if not caller.limited:
            return None
        allowed = {entry.name: entry.group for entry in self._listed}
        return lambda name: allowed[name].allowed(caller)

    def unknown(self, name: str, caller: Caller) -> GatewayError:
        """Return the error for a name of which the caller may use no model."""
        if self._untold is not None and self._untold() and caller.may_name(name):
            message = f"there is no model {quoted(name)} so far; not all backends have told their models yet"
            return GatewayError(Own.NO_BACKEND, message, param="model", retry_after=5)
        listed = self.listed(caller)
        message = f"there is no model {quoted(name)}" + (" for this API key" if caller.limited else "")
        close = self._similar.closest(name, self._may_tell(caller))
        if close:
            message += f" (did you mean '{close}'?)"
        if listed:
            message += f"; models here: {_shown([entry.name for entry in listed[:_SHOWN]], len(listed))}"
        else:
            message += ", nor another one" if caller.limited else "; the backends have none"
        return GatewayError(Own.UNKNOWN_MODEL, message, param="model")


def _in_order(entry: Listed) -> tuple[tuple[object, ...], str]:
    return natural(entry.name)


def _prompt(asked: Asked) -> str:
    """Return the member of a request that is its prompt."""
    return next((name for name in ("messages", "input", "prompt") if name in asked.members), "model")


def _who(names: list[str], can: str) -> str:
    return (
        f"models here that {can}: {_shown(names, len(names))}"
        if names
        else "no other model here says it does"
    )


def _shown(names: list[str], count: int) -> str:
    more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def quoted(name: str) -> str:
    """Return a name that a client sent as an error shows it."""
    return repr(name if len(name) <= 128 else name[:125] + "...")
