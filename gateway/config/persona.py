"""Models that are made from other models (`from`): what a persona has of its base, and what it says itself.

Rules:
- Pure. A persona becomes a model like any other, so that nothing behind the config knows of personas.
- What it says itself wins. Maps of single settings (timeouts, capabilities) are joined, everything else is replaced as
  a whole. Of parameters see `_parameters`.
- Names are not inherited: `aliases`, `unlisted` and `internal` are each model's own. An adapter is seen where its
  model is.
- A chain that leads nowhere, or into a circle, gives its models nothing; `gateway.config.check_personas` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from backends import registry
from backends.dialect.parameters import meaning
from gateway.config.inherit import owners
from gateway.config.model import Model
from gateway.config.parameters import Parameters
from gateway.config.schema import Config

_OWN: Final = frozenset(("parent", "aliases", "unlisted", "internal", "loras", "lora_slots"))
"""What no model has of another one."""
_JOINED: Final = frozenset(("timeouts", "capabilities"))
"""Sections of which each setting is inherited by itself."""


def expanded(config: Config) -> Config:
    """Return a config in which each persona has everything that it has of its base, and names that by its own name.

    LoRA adapters are models then, made from the model that declares them.
    """
    if all(model.parent is None and not model.loras for model in config.models.values()):
        return config
    config = _with_adapters(config)
    owner = owners(config)
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
            if base is not None and base in made and each in made[base].loras:
                made[each] = _adapted(config, each, made[each])
    return _launched(
        config.model_copy(update={"models": MappingProxyType({name: made[name] for name in config.models})})
    )


def _launched(config: Config) -> Config:
    """Return a config whose engines are launched with the adapters that they have from their start on."""
    wanted: dict[str, list[str]] = {}
    for model in config.models.values():
        for backend in model.targets if model.loras else ():
            wanted.setdefault(backend, []).extend(model.loras.values())
    backends = dict(config.backends)
    for name, paths in wanted.items():
        settings = backends.get(name)
        if settings is not None and settings.launch is not None:
            backends[name] = settings.model_copy(update={"launch": settings.launch.with_adapters(paths)})
    return config.model_copy(update={"backends": MappingProxyType(backends)})


def _with_adapters(config: Config) -> Config:
    """Return a config with a model for each adapter, which inherits everything."""
    models = dict(config.models)
    for name, model in config.models.items():
        for adapter in model.loras:
            shown = {"unlisted": model.unlisted, "internal": model.internal}
            models.setdefault(adapter, Model.model_validate({"from": name, **shown}))
    return config.model_copy(update={"models": MappingProxyType(models)})


def _adapted(config: Config, name: str, model: Model) -> Model:
    """Return the model of an adapter with what engines call it."""
    targets = {
        backend: target.model_copy(update={"model": _called(config, backend, target.model, name)})
        for backend, target in model.targets.items()
    }
    return model.model_copy(update={"targets": MappingProxyType(targets)})


def _called(config: Config, backend: str, model: str, adapter: str) -> str:
    """Return what a backend's engine calls an adapter of a model."""
    if backend not in config.backends:
        return adapter
    return registry.engine(config.backends[backend].engine).adapter_name(model, adapter)


def adapter_of(config: Config, model: str) -> tuple[str, str] | None:
    """Return the adapter that a model needs, and the model that declares it; None where it needs none.

    A persona of an adapter needs the same one. `config` is `expanded`.
    """
    name = model
    while (parent := config.models[name].parent) is not None:
        if name in config.models[parent].loras:
            return name, parent
        if config.models[name].targets is not config.models[parent].targets:
            return None
        name = parent
    return None


def declares_adapters(config: Config, model: str) -> bool:
    """Tell whether a model, or one further down whose targets it has, declares adapters. `config` is `expanded`."""
    name = model
    while not config.models[name].loras:
        parent = config.models[name].parent
        if parent is None or config.models[name].targets is not config.models[parent].targets:
            return False
        name = parent
    return True


def gate_of(config: Config, model: str) -> str:
    """Return the model whose slots a model takes: its own, or those of its base where it has limit and targets of it.

    The limit guards engines, so that what runs there for a persona counts with what runs for its base. `config` is
    `expanded`, in which what is inherited is the very same object.
    """
    name = model
    while (parent := config.models[name].parent) is not None:
        own, base = config.models[name], config.models[parent]
        same_engines = own.targets is base.targets or name in base.loras
        if own.admission is not base.admission or not same_engines:
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
