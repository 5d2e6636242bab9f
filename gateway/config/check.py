"""The rules between the values of a config file: what must exist, be unique, or go together.

Rules:
- Every rule is a small generator of problems; none stops another.
- A value that is wrong by itself is not checked here, but its name exists: one mistake gives one problem.
- Nothing is compared pairwise: a thousand models and ten thousand keys are checked in linear time.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from backends import registry
from backends.base import OptionsError
from gateway.config import (
    check_engines,
    check_models,
    check_personas,
    check_profiles,
    check_routes,
    data,
    tracing,
)
from gateway.config.explain import Names, misspelt
from gateway.config.persona import expanded
from gateway.config.problems import Problem, quote
from gateway.config.schema import Config
from gateway.config.yaml_source import Node, Source, Where
from gateway.globs import Ranked, beginning, compiled, is_wild, same

_FROM_OUTSIDE = re.compile(r"\$\{(env\.[A-Za-z_][A-Za-z0-9_]*|file:[^{}]+)\}")


def check(config: Config, source: Source, names: Names) -> Iterator[Problem]:
    """Yield a problem for every broken rule. `config` holds those values of `source` that are right by themselves."""
    yield from _server(config, source)
    yield from _backends(config, source, names)
    owners, clashes = _owners(source)
    yield from clashes
    whole = expanded(config)
    public = list(_public(source))
    yield from check_personas.check(config, whole, source, owners, public, names)
    yield from _targets(config, source, names)
    yield from _balances(config, source)
    yield from _hedges(whole, source)
    yield from _fallbacks(config, source, owners, names)
    yield from _cycles(config, source, owners)
    yield from check_models.models(config, whole, source)
    yield from check_engines.check(config, source, names)
    yield from _stand_ins(config, source, owners, names)
    yield from _keys(config, source)
    profiled = {alias: "" for profile in config.profiles.values() for alias in profile.aliases}
    yield from _globs(config, source, profiled | owners, names)
    yield from check_routes.check(whole, source, owners, public, names)
    yield from check_profiles.check(config, source, owners, public, names)


def _server(config: Config, source: Source) -> Iterator[Problem]:
    where: Where = ("server", "listen")
    auth, keys = source.find(("server", "auth")), source.root.child("keys")
    asks = auth is None or auth.content == "keys"
    if asks and not config.server.listen.loopback and (keys is None or not keys.content):
        yield source.problem(
            where,
            f"other machines can reach {_written(source, where)} and there are no keys: "
            "make one with `gateway key new`, or accept everybody with `auth: none`",
        )
    if config.server.metrics.auth == "keys" and (keys is None or not keys.content):
        yield source.problem(
            ("server", "metrics", "auth"),
            "there are no keys: make one with `gateway key new` and give it `metrics: true`",
        )
    yield from _metrics_listen(config, source)
    if asks and config.server.trusted_proxies and (keys is None or not keys.content):
        yield source.problem(
            ("server", "trusted_proxies"),
            "behind a proxy others than this machine's can ask, and there are no keys: "
            "make one with `gateway key new`, or accept everybody with `auth: none`",
        )
    if config.server.tracing is not None and not tracing.is_installed():
        yield source.problem(("server", "tracing"), tracing.MISSING, at_key=True)
    if config.server.data is not None and config.server.data.database is not None and not data.is_installed():
        yield source.problem(("server", "data", "database"), data.MISSING, at_key=True)
    if asks and "*" in config.server.cors and (keys is None or not keys.content):
        yield source.problem(
            ("server", "cors"),
            "without keys every page that this machine's browsers show could use the gateway: "
            "list the origins that may, or make a key with `gateway key new`",
        )


def _metrics_listen(config: Config, source: Source) -> Iterator[Problem]:
    main, aside = config.server.listen, config.server.metrics.listen
    if aside is None:
        return
    where: Where = ("server", "metrics", "listen")
    if aside.port == 0:
        yield source.problem(where, "needs a port that others know: 0 takes any")
    elif aside.port == main.port and (aside.host == main.host or {aside.host, main.host} & {"0.0.0.0", "::"}):
        yield source.problem(
            where, f"{_written(source, where)} is taken by 'server.listen': choose another port"
        )


def _backends(config: Config, source: Source, names: Names) -> Iterator[Problem]:
    section = source.root.child("backends")
    if section is None or section.content in (None, {}):
        yield source.problem(("backends",), "'backends' is missing: name at least one engine", at_key=True)
    for name in config.backends:
        where: Where = ("backends", name)
        given = _given(source, where, "url", "launch")
        if not given and not misspelt(source, where, names, "url", "launch"):
            message = "give 'url' (the engine runs already) or 'launch' (the gateway starts it)"
            yield source.problem(where, message, at_key=True)
        elif len(given) == 2:
            message = (
                "'url' and 'launch' exclude each other: the engine runs already, or the gateway starts it"
            )
            yield source.problem((*where, "launch"), message, at_key=True)
    for name, backend in config.backends.items():
        if backend.options is None:
            continue
        try:
            registry.create(backend.engine, backend.options)
        except OptionsError as error:
            yield source.problem(("backends", name, "options"), str(error), at_key=True)


def _given(source: Source, where: Where, *keys: str) -> list[str]:
    """Return those of these keys that the file has at this place, whether their values are right or not."""
    return [key for key in keys if source.find((*where, key))]


def _owners(source: Source) -> tuple[dict[str, str], list[Problem]]:
    """Return the model that each public name or alias belongs to, and a problem for each name that is given twice.

    A pattern counts as given twice where another one fits the same names, however it is written.
    """
    owners = {name: name for name in source.names("models")}
    clashes: list[Problem] = []
    for model, node in source.names("models").items():
        for where, alias in _aliases(model, node):
            if not isinstance(alias.content, str) or alias.broken:
                continue
            name = same(alias.content)
            if name in owners:
                what = "pattern" if is_wild(name) else "name"
                message = f"{quote(alias.written)} is already a {what} of model {quote(owners[name])}"
                clashes.append(source.problem(where, message))
            owners.setdefault(name, model)
    for model, node in source.names("models").items():
        for adapter in _adapters(node):
            if adapter in owners:
                message = f"{quote(adapter)} is already a name of model {quote(owners[adapter])}"
                clashes.append(source.problem(("models", model, "loras", adapter), message, at_key=True))
            owners.setdefault(adapter, adapter)
    return owners, clashes


def _adapters(model: Node) -> list[str]:
    """Return the names of the adapters of a model."""
    loras = model.child("loras")
    return list(loras.content) if loras and isinstance(loras.content, dict) else []


def _aliases(model: str, node: Node) -> Iterator[tuple[Where, Node]]:
    """Yield the aliases of a model, each with its place, in whichever form they are written."""
    aliases = node.child("aliases")
    found = aliases.content if aliases and isinstance(aliases.content, list) else []
    for index, alias in enumerate(found):
        where: Where = ("models", model, "aliases", index)
        name = alias.child("name")
        yield (where, alias) if name is None else ((*where, "name"), name)


def _written(source: Source, where: Where) -> str:
    """Return text as the file has it, before anything was filled in."""
    node = source.find(where)
    return node.written if node else ""


def _public(source: Source) -> Iterator[str]:
    """Yield the names of models, own and aliases, that may be shown: nothing in them was filled in."""
    for name, model in source.names("models").items():
        yield name
        yield from _adapters(model)
        for _, alias in _aliases(name, model):
            if isinstance(alias.content, str) and not alias.substituted and not is_wild(alias.written):
                yield alias.written


def _targets(config: Config, source: Source, names: Names) -> Iterator[Problem]:
    known = source.names("backends")
    for name, model in config.models.items():
        where: Where = ("models", name, "targets")
        node = source.find(where)
        if node and not node.content:
            yield source.problem(where, "must not be empty: name a backend that serves the model")
        for backend in model.targets if known else ():
            if backend not in known:
                message = f"unknown backend {quote(backend)}{names.suggest(backend, known)}"
                yield source.problem((*where, backend), message, at_key=True)


def _balances(config: Config, source: Source) -> Iterator[Problem]:
    for name, model in config.models.items():
        where: Where = ("models", name, "balance")
        policy = model.balance.policy
        for key in _given(source, where, "by", "load_factor", "load_floor"):
            needed = ("session",) if key == "by" else ("prefix", "session")
            if policy not in needed:
                owner = " and ".join(needed)
                message = f"{quote(key)} says nothing with the policy {quote(policy)}: it belongs to {owner}"
                yield source.problem((*where, key), message, at_key=True)


def _hedges(config: Config, source: Source) -> Iterator[Problem]:
    for name, model in config.models.items():
        if model.hedge is not None and len(model.targets) == 1 and _given(source, ("models", name), "hedge"):
            message = (
                "a second attempt needs a second target: name another backend in 'targets', or leave it out"
            )
            yield source.problem(("models", name, "hedge"), message, at_key=True)


def _fallbacks(config: Config, source: Source, owners: dict[str, str], names: Names) -> Iterator[Problem]:
    for name, model in config.models.items():
        for index, fallback in enumerate(model.fallback):
            if fallback not in owners:
                where: Where = ("models", name, "fallback", index)
                shown = _written(source, where)
                hint = names.suggest(shown, _public(source))
                yield source.problem(where, f"unknown model {quote(shown)}{hint}")


def _cycles(config: Config, source: Source, owners: dict[str, str]) -> Iterator[Problem]:
    """Yield a problem for each name that closes a circle of fallbacks."""
    done: set[str] = set()
    for start in config.models:
        trail: dict[str, None] = {}
        pending: list[Iterator[tuple[str, Where]]] = [iter([(start, ())])]
        while pending:
            step = next(pending[-1], None)
            if step is None:
                pending.pop()
                if trail:
                    done.add(trail.popitem()[0])
            elif step[0] in trail:
                yield source.problem(
                    step[1], f"the fallbacks go in a circle: {_circle(list(trail), step[0])}"
                )
            elif step[0] not in done:
                trail[step[0]] = None
                pending.append(_onward(config, step[0], owners))


def _onward(config: Config, name: str, owners: dict[str, str]) -> Iterator[tuple[str, Where]]:
    """Yield the models a model falls back to, each with the place that says so."""
    model = config.models.get(name)
    for index, fallback in enumerate(model.fallback if model else ()):
        if fallback in owners:
            yield owners[fallback], ("models", name, "fallback", index)


def _circle(trail: list[str], back_to: str) -> str:
    members = trail[trail.index(back_to) :]
    shown = members if len(members) <= 8 else [*members[:4], "…", *members[-3:]]
    return " -> ".join([*shown, back_to])


def _keys(config: Config, source: Source) -> Iterator[Problem]:
    holders: dict[str, str] = {}
    for name, key in config.keys.items():
        where: Where = ("keys", name)
        if len(_given(source, where, "hash", "value")) != 1:
            yield source.problem(where, "give exactly one of 'hash' and 'value'", at_key=True)
        if (key.hash is None) == (key.value is None):
            continue
        if key.value is not None and not _FROM_OUTSIDE.fullmatch(_written(source, (*where, "value"))):
            message = (
                "a key must not stand in this file: write ${env.NAME} or ${file:/path} without a fallback, "
                "or its hash; `gateway key new` makes a key and its hash"
            )
            yield source.problem((*where, "value"), message)
        holder = holders.setdefault(key.sha256, name)
        if holder != name:
            yield source.problem(where, f"this is the same key as that of {quote(holder)}", at_key=True)


def _globs(config: Config, source: Source, owners: dict[str, str], names: Names) -> Iterator[Problem]:
    """Yield a problem for each key permission that allows nothing; each distinct pattern is tried once."""
    owners = {name: name for name in check_routes.asked_for(source)} | owners
    public, patterns = Public(owners), [name for name in owners if is_wild(name)]
    ranked, begun = Ranked(patterns), [beginning(pattern) for pattern in patterns]
    fits: dict[str, bool] = {}
    for name, key in config.keys.items() if owners else ():
        for index, glob in enumerate(key.models or ()):
            if glob not in fits:
                if _names_backend(glob, config):
                    fits[glob] = True
                elif is_wild(glob):
                    fits[glob] = public.has_one_like(glob) or _may_meet(beginning(glob), begun)
                else:
                    fits[glob] = glob in owners or ranked.best(glob) is not None
            if not fits[glob]:
                where: Where = ("keys", name, "models", index)
                shown = _written(source, where)
                hint = "" if is_wild(glob) else names.suggest(shown, _public(source))
                yield source.problem(where, f"no model is named {quote(shown)}{hint}")


def _names_backend(glob: str, config: Config) -> bool:
    """Tell whether a pattern names a single backend: `backend/model`."""
    backend, slash, _ = beginning(glob).partition("/")
    return bool(slash) and backend in config.backends


def _stand_ins(config: Config, source: Source, owners: dict[str, str], names: Names) -> Iterator[Problem]:
    """Yield a problem for each default model that there is not, where the file names the models."""
    ranked = Ranked(name for name in owners if is_wild(name))
    for key in ("model", "unknown_model"):
        name: str | None = getattr(config.defaults, key)
        if owners and name is not None and name not in owners and ranked.best(name) is None:
            where: Where = ("defaults", key)
            shown = _written(source, where)
            yield source.problem(
                where, f"unknown model {quote(shown)}{names.suggest(shown, _public(source))}"
            )


def _may_meet(begin: str, others: list[str]) -> bool:
    """Tell whether a pattern that begins so may fit a name that one of the others fits too."""
    return any(begin.startswith(other) or other.startswith(begin) for other in others)


class Public:
    """The public names in order, searched within a bound on the work."""

    def __init__(self, names: Iterable[str], comparisons: int = 500_000) -> None:
        self._names = sorted(names)
        self._left = comparisons

    def has_one_like(self, glob: str) -> bool:
        """Tell whether a name fits a pattern; True where that would be too much work to find out."""
        begin = beginning(glob)
        fits = compiled(glob).fullmatch
        for index in range(bisect_left(self._names, begin), len(self._names)):
            name = self._names[index]
            self._left -= 1
            if self._left < 0 or fits(name):
                return True
            if not name.startswith(begin):
                return False
        return False
