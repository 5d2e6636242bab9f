"""The rules of launched engines: which others they name, and whether those that always run may run together.

Rules:
- As in `check`: each rule yields problems, and stops no other.
"""

from __future__ import annotations

from collections.abc import Iterator

from backends.facts.residing import Residing
from gateway.config.explain import Names
from gateway.config.problems import Problem, quote
from gateway.config.schema import Config
from gateway.config.yaml_source import Source, Where


def check(config: Config, source: Source, names: Names) -> Iterator[Problem]:
    """Yield a problem for every broken rule."""
    if config.server.engines.adopt is not None and config.server.data is None:
        message = "needs 'server.data', the folder in which the next gateway finds them"
        yield source.problem(("server", "engines", "adopt"), message)
    launched = {
        name: backend.launch
        for name, backend in config.backends.items()
        if isinstance(backend.launch, Residing)
    }
    together = config.server.engines.together
    for place, members in enumerate(together):
        for spot, name in enumerate(members):
            yield from _named(source, ("server", "engines", "together", place, spot), name, launched, names)
    for name, launch in launched.items():
        for place, other in enumerate(launch.exclusive_with):
            where: Where = ("backends", name, "launch", "exclusive_with", place)
            if other == name:
                yield source.problem(where, "an engine cannot exclude itself")
            else:
                yield from _named(source, where, other, launched, names)
    yield from _both_always(config, source, launched)


def _named(
    source: Source, where: Where, name: str, launched: dict[str, Residing], names: Names
) -> Iterator[Problem]:
    if name in launched:
        return
    if name in source.names("backends"):
        yield source.problem(
            where, f"backend {quote(name)} has no 'launch': the gateway does not run its engine"
        )
    else:
        yield source.problem(where, f"unknown backend {quote(name)}{names.suggest(name, launched)}")


def _both_always(config: Config, source: Source, launched: dict[str, Residing]) -> Iterator[Problem]:
    """Yield a problem for each engine that always runs and excludes one before it that does so, too."""
    always = [name for name, launch in launched.items() if launch.start == "always"]
    groups: dict[str, str] = {}
    seen: set[str] = set()
    sets = [frozenset(members) for members in config.server.engines.together]
    named = frozenset[str]().union(*sets)
    for name in always:
        launch = launched[name]
        where: Where = ("backends", name, "launch")
        if launch.group is not None and (other := groups.setdefault(launch.group, name)) != name:
            message = (
                f"{quote(other)} of the same group always runs, too: give one of them `start: on_demand`"
            )
            yield source.problem((*where, "group"), message)
        for other in launch.exclusive_with:
            if other in always and other != name:
                message = f"{quote(other)} always runs, and so does this: give one of them `start: on_demand`"
                yield source.problem((*where, "exclusive_with"), message, at_key=True)
        friends = frozenset[str]().union(*(members for members in sets if name in members))
        apart = sorted((named & seen) - friends) if name in named else []
        if apart:
            message = (
                f"{quote(apart[0])} always runs, and so does {quote(name)}, and no set of "
                "'server.engines.together' has both: give one of them `start: on_demand`"
            )
            yield source.problem(where, message, at_key=True)
        seen.add(name)
    most = config.server.engines.at_once
    if most is not None and len(always) > most:
        message = f"{len(always)} engines always run: {quote(always[most])} is one too many"
        yield source.problem(("server", "engines", "at_once"), message)
