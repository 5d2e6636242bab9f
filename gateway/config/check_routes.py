"""The rules between the values below `routes`: what must exist, be unique, and be of use.

Rules:
- Every rule is a small generator of problems; none stops another.
- A rule that can never fire is a mistake: an earlier one fits every request that it fits.
- A name that no model has is a mistake where a request would go to it. Where a request comes with it, it is a new name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from backends import registry
from gateway.config.explain import Names
from gateway.config.inherit import succession
from gateway.config.problems import Problem, quote
from gateway.config.route import Choice, Match, Range, Route
from gateway.config.schema import Config
from gateway.config.yaml_source import Source, Where
from gateway.globs import Globs, is_wild

COMPARED = 200
"""Earlier rules that one rule is compared with."""


class _Known:
    """The names that models have, and the hints for one that none has."""

    def __init__(self, owners: Mapping[str, str], public: Collection[str], names: Names) -> None:
        """`public` are those names that may be shown."""
        self.owners = owners
        self._public = public
        self._names = names

    def missing(self, name: str, source: Source, where: Where, at_key: bool = False) -> Iterator[Problem]:
        """Yield a problem where no model has a name. Without `models` the backends tell theirs once they run."""
        if self.owners and not _is_known(name, self.owners):
            shown = name if at_key else _written(source, where)
            hint = self._names.suggest(shown, self._public)
            yield source.problem(where, f"unknown model {quote(shown)}{hint}", at_key=at_key)


def _written(source: Source, where: Where) -> str:
    """Return text as the file has it, before anything was filled in."""
    node = source.nearest(where)
    return node.written if node else ""


def _is_known(name: str, owners: Mapping[str, str]) -> bool:
    return name in owners or Globs(filter(is_wild, owners)).fits(name)


def check(
    config: Config, source: Source, owners: Mapping[str, str], public: Collection[str], names: Names
) -> Iterator[Problem]:
    """Yield a problem for every broken rule.

    `owners` are all names that models have, `public` those that may be shown.
    """
    known = _Known(owners, public, names)
    yield from _names(config, source)
    for at, route in enumerate(config.routes):
        where: Where = ("routes", at)
        yield from _choices(route.to, source, (*where, "to"), known)
        yield from _conditions(route.match, source, (*where, "match"))
        if route.unless is not None:
            yield from _conditions(route.unless, source, (*where, "unless"))
            if not _given(route.unless):
                yield source.problem(
                    (*where, "unless"), "without a condition this rule fits no request", at_key=True
                )
    if config.models and owners:
        yield from _never(config, source)
        yield from _unable(config, source, owners)


def _names(config: Config, source: Source) -> Iterator[Problem]:
    seen: set[str] = set()
    for at, route in enumerate(config.routes):
        if route.name in seen:
            yield source.problem(
                ("routes", at, "name"), f"another rule is called {quote(route.name)} already"
            )
        seen.add(route.name)


def _choices(to: Choice, source: Source, where: Where, known: _Known) -> Iterator[Problem]:
    """Yield a problem for each choice that is none, or more than one, or goes to a model that does not exist."""
    given = list(to.given())
    node = source.find(where)
    if node is not None and isinstance(node.content, dict):
        given = [kind for kind in given if kind in node.content]
    if len(given) != 1:
        kinds = ", ".join(Choice.model_fields)
        yield source.problem(where, f"give exactly one of {kinds}", at_key=not given)
        return
    kind = given[0]
    named = node is not None and isinstance(node.content, dict)
    below: Where = (*where, kind) if named else where
    if to.model is not None:
        yield from known.missing(to.model, source, below)
    yield from _named(to, source, below, known)
    for at, each in enumerate(to.failover or ()):
        yield from _choices(each, source, (*below, at), known)
    if to.shadow is not None:
        yield from _choices(to.shadow.of, source, (*below, "of"), known)
        yield from known.missing(to.shadow.to, source, (*below, "to"))
    if to.overflow is not None:
        yield from _choices(to.overflow.home, source, (*below, "home"), known)
        yield from _choices(to.overflow.to, source, (*below, "to"), known)
        yield from _conditions(to.overflow.keep, source, (*below, "keep"))
        if all(bound is None for _, bound in to.overflow.when):
            yield source.problem((*below, "when"), "give at least one bound", at_key=True)
        if to.overflow.when.kv_use == 0.0:
            yield source.problem((*below, "when", "kv_use"), "with a bound of 0% there is never room")


def _named(to: Choice, source: Source, where: Where, known: _Known) -> Iterator[Problem]:
    """Yield a problem for each model that a choice names and that does not exist, and for wrong weights."""
    for at, name in enumerate(to.warm or ()):
        yield from known.missing(name, source, (*where, at))
    for name, weight in (to.weighted or {}).items():
        yield from known.missing(name, source, (*where, name), at_key=True)
        if weight < 0:
            yield source.problem((*where, name), f"expected a weight of at least 0, got {weight}")
    if to.weighted and not sum(max(0, weight) for weight in to.weighted.values()):
        yield source.problem(where, "the weights sum to nothing: no model would get a request", at_key=True)
    if to.canary is not None:
        yield from known.missing(to.canary.model, source, (*where, "model"))
        yield from known.missing(to.canary.against, source, (*where, "against"))
        if to.canary.model == to.canary.against:
            yield source.problem((*where, "model"), "a canary is another model than the one it is to replace")


def _conditions(match: Match, source: Source, where: Where) -> Iterator[Problem]:
    for name in ("prompt_tokens", "max_tokens"):
        bounds: Range | None = getattr(match, name)
        if bounds is None:
            continue
        if bounds.min is None and bounds.max is None:
            yield source.problem((*where, name), "give 'min', 'max' or both", at_key=True)
        elif bounds.min is not None and bounds.max is not None and bounds.min > bounds.max:
            yield source.problem(
                (*where, name), f"no number is at least {bounds.min} and at most {bounds.max}"
            )
    if match.time is not None:
        try:
            ZoneInfo(match.time.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            message = (
                f"unknown time zone {quote(match.time.zone)}: it has a name such as 'Europe/Berlin' or 'UTC'"
            )
            yield source.problem((*where, "time", "zone"), message)


def _never(config: Config, source: Source) -> Iterator[Problem]:
    """Yield a problem for each rule that an earlier one leaves no request."""
    for at, route in enumerate(config.routes):
        for before in config.routes[max(0, at - COMPARED) : at]:
            if before.unless is None and covers(before.match, route.match):
                message = (
                    f"this rule can never fire: {quote(before.name)} above it fits every request that it fits"
                )
                yield source.problem(("routes", at, "name"), message)
                break


def _unable(config: Config, source: Source, owners: Mapping[str, str]) -> Iterator[Problem]:
    """Yield a problem for each operation of a rule that no engine can do where it leads, fallbacks included."""
    for at, route in enumerate(config.routes):
        models = [owners.get(name, "") for name in route.to.names()]
        if not route.match.operation or not all(model in config.models for model in models):
            continue
        reached = dict.fromkeys(each for model in models for each in succession(config, model, owners))
        backends = [
            name for model in reached if model in config.models for name in config.models[model].targets
        ]
        engines = dict.fromkeys(config.backends[name].engine for name in backends if name in config.backends)
        for index, operation in enumerate(route.match.operation):
            if engines and not any(operation in registry.engine(engine).operations for engine in engines):
                message = f"no engine where this rule leads can do '{operation}': {', '.join(engines)}"
                yield source.problem(("routes", at, "match", "operation", index), message)


def _given(match: Match) -> set[str]:
    """Return the names of the conditions that a section has."""
    return {name for name, value in match if value is not None and value != {}}


def covers(wide: Match, narrow: Match) -> bool:
    """Tell whether every request that fits `narrow` fits `wide`, as far as the two sections show."""
    for name in _given(wide):
        demanded, offered = getattr(wide, name), getattr(narrow, name)
        if name in ("header", "metadata"):
            if not all(
                entry in offered and _within(offered[entry], texts) for entry, texts in demanded.items()
            ):
                return False
        elif offered is None:
            return False
        elif isinstance(demanded, tuple):
            if not _within(offered, demanded):
                return False
        elif isinstance(demanded, Range):
            if not _narrower(offered, demanded):
                return False
        # Two parts of the requests are drawn independently of each other: the same share is not the same part.
        elif name == "share" or demanded != offered:
            return False
    return True


def _within(narrow: Collection[str], wide: Collection[str]) -> bool:
    globs = Globs(wide)
    return all(text in wide or (not is_wild(text) and globs.fits(text)) for text in narrow)


def _narrower(narrow: Range, wide: Range) -> bool:
    least = wide.min is None or (narrow.min is not None and narrow.min >= wide.min)
    most = wide.max is None or (narrow.max is not None and narrow.max <= wide.max)
    return least and most


def asked_for(source: Source) -> Iterator[str]:
    """Yield the names that the rules of a file are for, also those of rules with a mistake elsewhere."""
    routes = source.find(("routes",))
    for route in routes.content if routes is not None and isinstance(routes.content, list) else ():
        match = route.child("match")
        model = None if match is None else match.child("model")
        if model is not None:
            listed = model.content if isinstance(model.content, list) else [model]
            yield from (
                node.content for node in listed if isinstance(node.content, str) and not is_wild(node.content)
            )


def virtual(route: Route, owners: Mapping[str, str]) -> Iterator[str]:
    """Yield the names that clients may ask for by this rule, and that no model has."""
    return (name for name in route.match.model or () if not is_wild(name) and name not in owners)
