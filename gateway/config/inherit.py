"""What follows from several places of the config: a model's own value, else the backend's, else the default; fallbacks.

Rules:
- Pure look-ups in a config that was checked.
- An engine that commonly needs long until its first content has a default of its own, where the config sets none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import MappingProxyType

from backends import registry
from gateway.config.defaults import Retry, Timeouts
from gateway.config.model import Alias
from gateway.config.schema import Config
from gateway.globs import same


def timeouts(config: Config, model: str | None, backend: str) -> Timeouts:
    """Return the timeouts of a request for `model` at `backend`.

    The model's win over the backend's, these over the defaults of the config, these over the engine's. `model` is the
    model's own name, not an alias; None or a name outside `models` inherits nothing from a model. Raises KeyError for
    an unknown backend.
    """
    overrides = [config.backends[backend].timeouts]
    if model is not None and model in config.models:
        overrides.append(config.models[model].timeouts)
    changes = {phase: value for layer in overrides for phase, value in layer if value is not None}
    defaults = config.defaults.timeouts
    long = registry.engine(config.backends[backend].engine).first_token
    if long is not None:
        unset = {"first_byte", "first_token"} - defaults.model_fields_set
        changes = dict.fromkeys(unset, long) | changes
    return defaults.model_copy(update=changes)


def retry(config: Config, model: str | None) -> Retry:
    """Return how requests for `model` (its own name) are retried: as the model says, else as the defaults say."""
    own = config.models[model].retry if model is not None and model in config.models else None
    return own or config.defaults.retry


def with_pull(config: Config) -> Config:
    """Return a config in which each launch that leaves `pull` out has it from the defaults."""
    changed = {
        name: backend.model_copy(
            update={"launch": backend.launch.model_copy(update={"pull": config.defaults.pull})}
        )
        for name, backend in config.backends.items()
        if backend.launch is not None and getattr(backend.launch, "pull", False) is None
    }
    if not changed:
        return config
    return config.model_copy(update={"backends": MappingProxyType({**config.backends, **changed})})


def owners(config: Config) -> dict[str, str]:
    """Return the model that each name belongs to: its own name, and its aliases, but for those that are patterns."""
    return {name: model for model, own in config.models.items() for name in (model, *own.names)}


def looked_at(config: Config) -> tuple[list[str], list[str]]:
    """Return the headers, in lower case, and the entries of `metadata` that the rules of a config look at."""
    sections = [section for route in config.routes for section in (route.match, route.unless) if section]
    nested = [choice for route in config.routes for choice in route.to.nested()]
    sections += [choice.overflow.keep for choice in nested if choice.overflow is not None]
    headers = {name.lower() for section in sections for name in section.header}
    return sorted(headers), sorted({name for section in sections for name in section.metadata})


def succession(config: Config, model: str, owner: Mapping[str, str]) -> list[str]:
    """Return the models that may serve a request for `model`, in the order of their turns.

    It is the model itself, then its fallbacks, then theirs, each model once. `owner` is what `owners` returns.
    """
    order: dict[str, None] = {}
    waiting = deque([model])
    while waiting:
        found = waiting.popleft()
        if found not in order:
            order[found] = None
            own = config.models.get(found)
            waiting += [owner[name] for name in own.fallback] if own else []
    return list(order)


def in_profile(config: Config, profile: str | None) -> Config:
    """Return a config whose models have the aliases that they have while a profile is active.

    An alias of the profile is taken from the model that has the same one. What names an alias, a fallback or a rule,
    follows it. None, or a profile that the config does not have, changes nothing.
    """
    if profile is None or profile not in config.profiles:
        return config
    given, owner = config.profiles[profile].aliases, owners(config)
    hidden = {same(alias) for alias in given}
    models = {}
    for name, model in config.models.items():
        kept = [alias for alias in model.aliases if same(alias.name) not in hidden]
        added = [Alias(name=alias) for alias, target in given.items() if owner.get(target) == name]
        models[name] = model.model_copy(update={"aliases": (*kept, *added)})
    return config.model_copy(update={"models": MappingProxyType(models)})
