"""The rules of a config in the form in which requests are held against them.

Rules:
- The first rule that fits decides. Which rules can fit a model's name is known before any request comes.
- A rule goes to models, never to another rule: there are no circles.
- A name that only a rule has is one that clients may ask for, as long as that rule fits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from gateway.asked import Asked
from gateway.config import route as settings
from gateway.config.canary import Growth
from gateway.config.check_routes import virtual as new_names
from gateway.config.schema import Config
from gateway.priority import NUMBERS
from gateway.routing.canaries import Canaries
from gateway.routing.catalog import Plan
from gateway.routing.choices import (
    Absent,
    Choice,
    Failover,
    Overflow,
    Served,
    Shadowed,
    Trial,
    Warm,
    Weighted,
)
from gateway.routing.crowding import Crowding
from gateway.routing.decision import Moment
from gateway.routing.match import Condition, OneOf, all_fit, conditions


class Rule:
    """One rule: conditions, exceptions, and where a request goes that fits."""

    __slots__ = ("_beside_model", "choice", "conditions", "exceptions", "name", "priority")

    def __init__(
        self, name: str, conditions: Sequence[Condition], exceptions: Sequence[Condition], choice: Choice
    ) -> None:
        """Make a rule that requests fit which meet all conditions, unless there are exceptions and they meet all."""
        self.name: str = name
        self.conditions: tuple[Condition, ...] = tuple(conditions)
        self._beside_model: tuple[Condition, ...] = tuple(
            [condition for condition in conditions if condition.name != "model"]
        )
        self.exceptions: tuple[Condition, ...] = tuple(exceptions)
        self.choice: Choice = choice
        self.priority: int | None = None
        """The best class that its requests have in a queue; None: that of the caller's key."""

    def fits(self, asked: Asked, moment: Moment, model_fits: bool = False) -> bool:
        """Tell whether a request fits; `model_fits` says that its model does, which is then not looked at again."""
        if not all_fit(self._beside_model if model_fits else self.conditions, asked, moment):
            return False
        return not self.exceptions or not all_fit(self.exceptions, asked, moment)


class Rules:
    """All rules, in their order."""

    __slots__ = ("_for_name", "_rules", "virtual")

    def __init__(self, rules: Sequence[Rule], names: Mapping[str, str], virtual: Mapping[str, bool]) -> None:
        """Take the rules.

        `names` are all names that models have, with the model's own name of each. `virtual` are the names that only
        rules have, and whether each is in the list of models.
        """
        self._rules: tuple[Rule, ...] = tuple(rules)
        self.virtual: Mapping[str, bool] = virtual
        self._for_name: dict[str, tuple[Rule, ...]] = {
            name: self._that_may_fit(name, own) for name, own in names.items()
        }
        for name in virtual:
            self._for_name[name] = self._that_may_fit(name, name)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def led_to(self) -> dict[str, Plan]:
        """Return each name that only rules have, with a plan that one of them leads to, if there is one."""
        found: dict[str, Plan] = {}
        for name in self.virtual:
            plans = [plan for rule in self._for_name[name] for plan in rule.choice.plans()]
            if plans:
                found[name] = plans[0]
        return found

    def all(self) -> tuple[Rule, ...]:
        """Return every rule, in their order."""
        return self._rules

    def first(self, asked: Asked, moment: Moment) -> Rule | None:
        """Return the rule that decides on a request; None where none fits."""
        known = self._for_name.get(asked.request.model)
        model_fits = known is not None
        for rule in self._rules if known is None else known:
            if rule.fits(asked, moment, model_fits):
                return rule
        return None

    def _that_may_fit(self, name: str, own: str) -> tuple[Rule, ...]:
        """Return the rules that a request for a model may fit, as far as the model tells."""
        return tuple([rule for rule in self._rules if _may_fit(rule, (name, own))])


def _may_fit(rule: Rule, names: tuple[str, str]) -> bool:
    for condition in rule.conditions:
        if condition.name == "model" and isinstance(condition, OneOf):
            return any(map(condition.accepts, names))
    return True


class Models:
    """The plans of all models, for rules: by every name they have, internal ones too."""

    def __init__(self, plans: Mapping[str, Plan], fitting: Callable[[str], Plan | None]) -> None:
        """Take the plan of each name; `fitting` returns that of a pattern which another name fits."""
        self.names: Mapping[str, str] = {name: plan.model for name, plan in plans.items()}
        self._plans = plans
        self._fitting = fitting

    def find(self, names: Iterable[str]) -> dict[str, Plan]:
        """Return the plans of those of the names that there are."""
        found = {name: self._plans.get(name) or self._fitting(name) for name in names}
        return {name: plan for name, plan in found.items() if plan is not None}

    def own_name(self, name: str) -> str:
        """Return a model's own name for any of its names; for other text that text."""
        known = self.names.get(name)
        if known is not None:
            return known
        plan = self._fitting(name)
        return name if plan is None else plan.model


class Memory(Protocol):
    """What choices remember from one config to the next, by where they stand."""

    canaries: Canaries
    clock: Callable[[], float]
    """The time of the event loop."""

    def crowding(self, path: str) -> Crowding:
        """Return what an overflow remembers of how busy its models are."""

    def look_at_quotas(self, backends: Collection[str]) -> None:
        """Have these backends, and no others, keep how many requests they still take, as their answers tell."""


def build(config: Config, models: Models, memory: Memory) -> Rules:
    """Build the rules of a config. What no choice of it remembers any more is forgotten."""
    builder = _Builder(models, memory)
    rules = [builder.rule(route) for route in config.routes]
    memory.canaries.keep(builder.trials)
    memory.look_at_quotas(builder.limited)
    virtual: dict[str, bool] = {}
    for route in config.routes:
        for name in new_names(route, models.names):
            virtual[name] = virtual.get(name, False) or not route.unlisted
    return Rules(rules, models.names, virtual)


class _Builder:
    """Makes rules and choices of their sections."""

    def __init__(self, models: Models, memory: Memory) -> None:
        self._models = models
        self._memory = memory
        self.trials: list[str] = []
        """Where canaries stand."""
        self.limited: set[str] = set()
        """The backends whose rate limits a rule looks at."""

    def rule(self, route: settings.Route) -> Rule:
        """Return a rule."""
        salt, own_name = route.name, self._models.own_name
        unless = [] if route.unless is None else conditions(route.unless, f"{salt}/unless", own_name)
        rule = Rule(route.name, conditions(route.match, salt, own_name), unless, self._choice(route.to, salt))
        rule.priority = None if route.priority is None else NUMBERS[route.priority]
        return rule

    def _choice(self, to: settings.Choice, path: str) -> Choice:
        """Return a choice. `path` is where it stands, so that its draws and what it remembers are its own."""
        if to.failover is not None:
            choices = [self._choice(each, f"{path}/{at}") for at, each in enumerate(to.failover)]
            served = [choice for choice in choices if not isinstance(choice, Absent)]
            return Failover(served) if served else choices[0]
        if to.overflow is not None:
            return self._overflow(to.overflow, path)
        if to.canary is not None:
            return self._canary(to.canary, path)
        if to.shadow is not None:
            of, found = self._choice(to.shadow.of, f"{path}/of"), self._models.find([to.shadow.to])
            return Shadowed(of, found[to.shadow.to], to.shadow.sample) if found else of
        names = to.warm or tuple(to.weighted or ()) or (to.model or "",)
        plans = self._models.find([name for name in names if to.weighted is None or to.weighted[name]])
        if not plans:
            return Absent(names[0])
        if to.warm is not None:
            return Warm(list(plans.values()))
        if to.weighted is not None:
            weights = {name: to.weighted[name] for name in plans}
            return Weighted([plans[name] for name in weights], list(weights.values()), path)
        return Served(plans[names[0]])

    def _canary(self, to: settings.CanaryTo, path: str) -> Choice:
        plans = self._models.find((to.against, to.model))
        incumbent, canary = plans.get(to.against), plans.get(to.model)
        self.trials.append(path)
        if incumbent is None or canary is None:
            found = incumbent or canary
            return Absent(to.against) if found is None else Served(found)
        growth = Growth(**{name: getattr(to, name) for name in Growth.model_fields})
        canaries = self._memory.canaries
        canaries.canary(path, (incumbent.model, canary.model, growth), self._memory.clock())
        return Trial(canaries, path, (incumbent, canary, growth))

    def _overflow(self, to: settings.OverflowTo, path: str) -> Choice:
        crowding = self._memory.crowding(path)
        crowding.bounds, crowding.hold = to.when, to.hold
        home, away = self._choice(to.home, f"{path}/home"), self._choice(to.to, f"{path}/to")
        if to.when.remaining is not None:
            self.limited.update(target.name for plan in home.plans() for target in plan.groups[0].targets)
        if isinstance(home, Absent) or isinstance(away, Absent):
            return away if isinstance(home, Absent) else home
        return Overflow(home, away, crowding, conditions(to.keep, f"{path}/keep", self._models.own_name))
