"""Models that are made from other models (`from`): what a persona has of its base, and what it says itself.

Rules:
- Pure. A persona becomes a model like any other, so that nothing behind the config knows of personas.
- What it says itself wins. Maps of single settings (timeouts, capabilities) are joined, everything else is replaced as
  a whole. Of parameters see `_parameters`.
- Names are not inherited: `aliases`, `unlisted` and `internal` are each model's own.
- A chain that leads nowhere, or into a circle, gives its models nothing; `gateway.config.check_personas` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from backends.dialect.parameters import meaning
from gateway.config.model import Model
from gateway.config.parameters import Parameters
from gateway.config.schema import Config

_OWN: Final = frozenset(("parent", "aliases", "unlisted", "internal"))
"""What no model has of another one."""
_JOINED: Final = frozenset(("timeouts", "capabilities"))
"""Sections of which each setting is inherited by itself."""


def expanded(config: Config, owner: Mapping[str, str]) -> Config:
    """Return a config in which each persona has everything that it has of its base, and names that by its own name.

    `owner` is the model that each name and alias belongs to.
    """
    if all(model.parent is None for model in config.models.values()):
        return config
    made: dict[str, Model] = {}
    for start in config.models:
        trail: dict[str, Model] = {}
        name = start
        while name in config.models and name not in made and name not in trail:
            trail[name] = config.models[name]
            name = owner.get(config.models[name].parent or "", "")
        for each, model in reversed(trail.items()):
            base = owner.get(model.parent or "")
            made[each] = model if base is None or base not in made else _made(model, base, made[base])
    return config.model_copy(
        update={"models": MappingProxyType({name: made[name] for name in config.models})}
    )


def gate_of(config: Config, model: str) -> str:
    """Return the model whose slots a model takes: its own, or those of its base where it has limit and targets of it.

    The limit guards engines, so that what runs there for a persona counts with what runs for its base. `config` is
    `expanded`, in which what is inherited is the very same object.
    """
    name = model
    while (parent := config.models[name].parent) is not None:
        own, base = config.models[name], config.models[parent]
        if own.admission is not base.admission or own.targets is not base.targets:
            break
        name = parent
    return name


def _made(model: Model, name: str, base: Model) -> Model:
    """Return a model with what it has of its base, which has everything of its own base; `name` is the base's."""
    changes: dict[str, Any] = {"parent": name}
    for field in type(model).model_fields.keys() - _OWN:
        inherited, own = getattr(base, field), getattr(model, field)
        if field == "parameters":
            changes[field] = _parameters(inherited, own)
        elif field not in model.model_fields_set:
            changes[field] = inherited
        elif field in _JOINED:
            settings = {key: getattr(own, key) for key in own.model_fields_set}
            changes[field] = inherited.model_copy(update=settings)
    return model.model_copy(update=changes)


def _parameters(base: Parameters, own: Parameters) -> Parameters:
    """Return the rules of a base with those of a persona, whose word on a parameter is the last.

    A parameter under another name for the same thing counts as the same. The base's bounds hold as long as the persona
    sets no others, and what it strips stays stripped.
    """
    settled = {meaning(name) for name in (*own.set, *own.default)}
    set_here = {meaning(name) for name in own.set}
    bounded = {meaning(name) for name in own.clamp}

    def kept(rules: Mapping[str, Any], without: set[str]) -> dict[str, Any]:
        return {name: value for name, value in rules.items() if meaning(name) not in without}

    stripped = [name for name in base.strip if meaning(name) not in set_here]
    return own.model_copy(
        update={
            "set": MappingProxyType({**kept(base.set, settled), **own.set}),
            "default": MappingProxyType({**kept(base.default, settled), **own.default}),
            "strip": tuple(dict.fromkeys([*stripped, *own.strip])),
            "clamp": MappingProxyType({**kept(base.clamp, bounded), **own.clamp}),
        }
    )
