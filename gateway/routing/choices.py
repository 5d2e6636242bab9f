"""Choices of rules: from a request that fits to the plan it is served by.

Rules:
- A choice is made at once, of facts that are there. It never waits and asks no engine.
- A plan that cannot do the operation is passed over where a choice has others.
- What a choice remembers between requests is given to it, and outlives the config: see `gateway.routing.state`.
- `why` says in words what was weighed; it is asked for by explanations only, and changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from backends.base import Operation
from gateway.asked import Asked
from gateway.config.canary import Growth
from gateway.errors import GatewayError, Own
from gateway.fleet.lease import Target
from gateway.routing.canaries import Canaries
from gateway.routing.catalog import Plan
from gateway.routing.crowding import Crowding
from gateway.routing.decision import Decision, Moment, Noted
from gateway.routing.match import Condition, all_fit, lot, whose


class Choice(ABC):
    """A way to choose a plan."""

    @abstractmethod
    def choose(self, asked: Asked, moment: Moment, decision: Decision) -> Plan:
        """Return the plan for a request, and note in `decision` what it was chosen by."""

    @abstractmethod
    def plans(self) -> Iterator[Plan]:
        """Yield every plan that may be chosen."""

    @abstractmethod
    def why(self, asked: Asked, moment: Moment) -> list[str]:
        """Return in words what is weighed, a line for each thing."""


class Served(Choice):
    """One model."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def choose(self, asked: Asked, moment: Moment, decision: Decision) -> Plan:
        decision.reason = "rule"
        return self._plan

    def plans(self) -> Iterator[Plan]:
        yield self._plan

    def why(self, asked: Asked, moment: Moment) -> list[str]:
        return [f"to the model '{self._plan.model}'"]


class Absent(Choice):
    """A model that no backend serves so far: without `models` in the config it comes when a backend tells of it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def choose(self, asked: Asked, moment: Moment, decision: Decision) -> Plan:
        raise GatewayError(
            Own.NO_BACKEND,
            f"the rule '{decision.rule}' goes to a model that no backend serves so far",
            retry_after=5,
        )

    def plans(self) -> Iterator[Plan]:
        yield from ()

    def why(self, asked: Asked, moment: Moment) -> list[str]:
        return [f"no backend serves the model '{self._name}' so far"]


class Warm(Choice):
    """The first of several models that is loaded, else the first that is being loaded, else the first."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self._plans = tuple(plans)

    def choose(self, asked: Asked, moment: Moment, decision: Decision) -> Plan:
        able = _able(self._plans, asked.request.operation)
        for plan in able:
            if any(is_warm(target, moment.now) for target in plan.groups[0].targets):
                decision.reason = "warm"
                return plan
        decision.reason = "cold"
        for plan in able:
            if any(target.backend.coming for target in plan.groups[0].targets):
                decision.reason = "loading"
                return plan
        return able[0]

    def plans(self) -> Iterator[Plan]:
        yield from self._plans

    def why(self, asked: Asked, moment: Moment) -> list[str]:
        lines = []
        for plan in self._plans:
            targets = plan.groups[0].targets
            if asked.request.operation not in plan.candidates:
                state = f"cannot do '{asked.request.operation}'"
            elif any(is_warm(target, moment.now) for target in targets):
                state = "loaded"
            elif any(target.backend.coming for target in targets):
                state = "being loaded"
            else:
                state = "not loaded"
            lines.append(f"the model '{plan.model}' is {state}")
        return lines


class Weighted(Choice):
    """Models by their weights: the same one for each user or session, by chance where none is named."""

    def __init__(self, plans: Sequence[Plan], weights: Sequence[int], salt: str) -> None:
        """`salt` makes this choice independent of others."""
        self._plans = tuple(plans)
        self._weights = tuple(weights)
        self._bounds = list(accumulate(weights))
        self._salt = salt

    def choose(self, asked: Asked, moment: Moment, decision: Decision) -> Plan:
        decision.reason = "weighted"
        drawn = lot(asked, self._salt, moment) * self._bounds[-1]
        return self._plans[bisect_right(self._bounds, drawn)]

    def plans(self) -> Iterator[Plan]:
        yield from self._plans

    def why(self, asked: Asked, moment: Moment) -> list[str]:
        total = self._bounds[-1]
        shares = [
            f"'{plan.model}' {weight / total:.3g} of all"
            for plan, weight in zip(self._plans, self._weights, strict=True)
        ]
        return [
            ", ".join(shares),
            _whose(asked),
        ]


class Failover(Choice):
    """The first choice, and the next ones when none of its backends can answer."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self._choices = tuple(choices)
        self._joined: dict[tuple[str, ...], Plan] = {}

    def choose(self, asked: Asked, moment: Moment, decision: Decision) -> Plan:
        chosen: list[Plan] = []
        reasons: list[str] = []
        before = decision.noted()
        noted: list[Noted] = []
        for choice in self._choices:
            decision.note(before)
            chosen.append(choice.choose(asked, moment, decision))
            reasons.append(decision.reason)
            noted.append(decision.noted())
        able = _able(chosen, asked.request.operation)
        # Canaries and shadows of the choices behind it have no part in a request that is not meant for them.
        first = chosen.index(able[0])
        decision.note(noted[first])
        decision.reason = "failover" if reasons[first] == "rule" else reasons[first]
        names = tuple([plan.model for plan in able])
        joined = self._joined.get(names)
        if joined is None:
            joined = self._joined[names] = able[0].followed_by(able[1:])
        return joined

    def plans(self) -> Iterator[Plan]:
        for choice in self._choices:
            yield from choice.plans()

    def why(self, asked: Asked, moment: Moment) -> list[str]:
        lines = []
        for number, choice in enumerate(self._choices):
            lines += [("first: " if not number else "then: ") + line for line in choice.why(asked, moment)]
        return lines


class Overflow(Choice):
    """Another choice for as long as a model is too busy, but for requests that stay at home."""

    def __init__(self, home: Choice, to: Choice, crowding: Crowding, keep: Sequence[Condition]) -> None:
        """`crowding` tells whether home is too busy. A request that fits all of `keep` stays."""
        self._home = home
        self._to = to
        self._crowding = crowding
        self._keep = tuple(keep)

    def choose(self, asked: Asked, moment: Moment, decision: Decision) -> Plan:
        before = decision.noted()
        home = self._home.choose(asked, moment, decision)
        crowded = self._crowding.judge(home, moment.now)
        if asked.request.operation in home.candidates and (not crowded or self._stays(asked, moment)):
            decision.reason = "home"
            return home
        at_home = decision.noted()
        decision.note(before)
        plan = self._to.choose(asked, moment, decision)
        if asked.request.operation not in plan.candidates or self._stays(asked, moment):
            decision.note(at_home)
            decision.reason = "home"
            return home
        decision.reason = "overflow"
        return plan

    def plans(self) -> Iterator[Plan]:
        yield from self._home.plans()
        yield from self._to.plans()

    def why(self, asked: Asked, moment: Moment) -> list[str]:
        lines = ["home: " + line for line in self._home.why(asked, moment)]
        homes = {plan.model: plan for plan in self._home.plans()}
        for model, plan in homes.items():
            which = f"'{model}': " if len(homes) > 1 else ""
            lines += [which + words for words in self._crowding.words(plan, moment.now)]
        if self._stays(asked, moment):
            lines.append(
                "the request stays at home: " + ", ".join(f"{each.name} {each.words}" for each in self._keep)
            )
        return lines + ["overflow: " + line for line in self._to.why(asked, moment)]

    def _stays(self, asked: Asked, moment: Moment) -> bool:
        return bool(self._keep) and all_fit(self._keep, asked, moment)


class Shadowed(Choice):
    """Another choice, of which some requests are answered by a second model too, to nobody."""

    def __init__(self, of: Choice, to: Plan, share: float) -> None:
        """Have a `share` of the requests answered by `to` too."""
        self._of = of
        self._to = to
        self._share = share

    def choose(self, asked: Asked, moment: Moment, decision: Decision) -> Plan:
        if moment.rng.random() < self._share and asked.request.operation in self._to.candidates:
            decision.shadow = self._to
        return self._of.choose(asked, moment, decision)

    def plans(self) -> Iterator[Plan]:
        yield from self._of.plans()

    def why(self, asked: Asked, moment: Moment) -> list[str]:
        return [
            *self._of.why(asked, moment),
            f"{self._share:.3g} of all are answered by '{self._to.model}' too",
        ]


class Trial(Choice):
    """A canary's model for its share of the requests, which grows while it is as good, else the incumbent's."""

    def __init__(self, canaries: Canaries, path: str, of: tuple[Plan, Plan, Growth]) -> None:
        """`of` is the incumbent, the canary, and how its share grows. `path` is what it is remembered by."""
        self._canaries = canaries
        self._path = path
        self._incumbent, self._canary, growth = of
        self._of = (self._incumbent.model, self._canary.model, growth)

    def choose(self, asked: Asked, moment: Moment, decision: Decision) -> Plan:
        live = self._canaries.canary(self._path, self._of, moment.now)
        decision.trial = live
        decision.is_canary = lot(asked, self._path, moment) < live.share
        decision.reason = "canary" if decision.is_canary else "incumbent"
        return self._canary if decision.is_canary else self._incumbent

    def plans(self) -> Iterator[Plan]:
        yield self._incumbent
        yield self._canary

    def why(self, asked: Asked, moment: Moment) -> list[str]:
        live = self._canaries.canary(self._path, self._of, moment.now)
        state = live.state.value.replace("_", " ") + (f": {live.reason}" if live.reason else "")
        share = f"the canary '{self._canary.model}' gets {live.share:.3g} of the requests ({state})"
        others = f"the model '{self._incumbent.model}' gets the others"
        return [share, live.progress(moment.now), others, _whose(asked)]


def is_warm(target: Target, now: float) -> bool:
    """Tell whether a model is in memory at a target, as far as is known: its engine is up and says nothing else."""
    backend = target.backend
    if not backend.usable:
        return False
    loaded = backend.load.models(now)
    return loaded is None or target.model in loaded


def _whose(asked: Asked) -> str:
    found = whose(asked)
    return f"by the {found}" if found else "by chance: no user or session is named"


def _able(plans: Sequence[Plan], operation: Operation) -> Sequence[Plan]:
    """Return the plans that can do an operation; all of them where none can, which is then told of the first."""
    able = [plan for plan in plans if operation in plan.candidates]
    return able or plans
