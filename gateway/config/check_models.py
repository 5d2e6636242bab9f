"""The rules between the values of a model: what contradicts itself, or would never have an effect.

Rules:
- As in `gateway.config.check`, which asks here: each mistake gives one problem, and the work is linear.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backends import registry
from backends.base import Operation
from backends.dialect.parameters import meaning
from gateway.config.problems import Problem, quote
from gateway.config.schema import Config
from gateway.config.yaml_source import Source, Where


def models(config: Config, whole: Config, source: Source) -> Iterator[Problem]:
    """Yield a problem for every broken rule within a model. `whole` is the config with what models inherit."""
    able = {name: registry.engine(backend.engine).operations for name, backend in config.backends.items()}
    for name in config.models:
        yield from _parameters(config, source, name)
        if source.find(("models", name, "capabilities")):
            yield from _abilities(whole, source, name, able)


def _parameters(config: Config, source: Source, model: str) -> Iterator[Problem]:
    """Yield each rule for a parameter that another rule makes meaningless."""
    rules = config.models[model].parameters
    where: Where = ("models", model, "parameters")
    settled = {meaning(name): name for name in rules.set}
    others: list[tuple[str, str, Where]] = [
        *(("default", name, (*where, "default", name)) for name in rules.default),
        *(("clamp", name, (*where, "clamp", name)) for name in rules.clamp),
        *(("strip", name, (*where, "strip", index)) for index, name in enumerate(rules.strip)),
    ]
    for section, name, place in others:
        winner = settled.get(meaning(name))
        if winner is not None:
            message = f"{quote(winner)} is in 'set', so {quote(name)} in '{section}' has no effect"
            yield source.problem(place, message, at_key=section != "strip")


def _abilities(
    config: Config, source: Source, name: str, able: Mapping[str, frozenset[Operation]]
) -> Iterator[Problem]:
    """Yield an ability that a model says it has, and that no engine of its backends has."""
    model = config.models[name]
    known = [able[backend] for backend in model.targets if backend in able]
    if model.capabilities.embeddings and known and not any(Operation.EMBEDDINGS in one for one in known):
        engines = ", ".join(
            dict.fromkeys(config.backends[one].engine for one in model.targets if one in able)
        )
        message = f"the engines of the model's backends cannot embed: {engines}"
        yield source.problem(("models", name, "capabilities", "embeddings"), message)
