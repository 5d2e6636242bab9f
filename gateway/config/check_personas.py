"""The rules of models that are made from others: what they name exists, goes in no circle, and engines take it.

Rules:
- As in `check`: each rule yields problems, and stops no other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from backends import registry
from backends.base import Action, Engine
from gateway.config.explain import Names
from gateway.config.problems import Problem, quote
from gateway.config.schema import Config
from gateway.config.yaml_source import Source, Where


def check(
    config: Config,
    whole: Config,
    source: Source,
    owners: Mapping[str, str],
    public: Collection[str],
    names: Names,
) -> Iterator[Problem]:
    """Yield a problem for every broken rule.

    `whole` is the config with what models inherit. `owners` are the models that each name belongs to, `public` the
    names that a suggestion may hold.
    """
    for name, model in config.models.items():
        where: Where = ("models", name)
        if model.parent is None:
            if not source.find((*where, "targets")) and not source.find((*where, "from")):
                message = (
                    "'targets' is missing: name the backends that serve it, or with 'from' the model that it is "
                    "made from"
                )
                yield source.problem(where, message, at_key=True)
        elif model.parent not in owners:
            node = source.find((*where, "from"))
            shown = node.written if node else ""
            hint = _listed(config, model.parent) or names.suggest(shown, public)
            yield source.problem((*where, "from"), f"unknown model {quote(shown)}{hint}")
        yield from _template(whole, source, name)
        yield from _loras(whole, source, name)
    yield from _circles(config, source, owners)


def _listed(config: Config, model: str) -> str:
    """Return how to list a model that the config knows only as what a backend is launched with; nothing for others."""
    for name, backend in config.backends.items():
        if model == getattr(backend.launch, "name", None):
            return f" (list it in 'models': '{model}: {{targets: {{{name}: {model}}}}}')"
    return ""


def _circles(config: Config, source: Source, owners: Mapping[str, str]) -> Iterator[Problem]:
    """Yield a problem for each circle, at the model of it that stands first in the file."""
    done: set[str] = set()
    for start in config.models:
        trail: dict[str, None] = {}
        name = start
        while name in config.models and name not in done and name not in trail:
            trail[name] = None
            name = owners.get(config.models[name].parent or "", "")
        if name in trail:
            circle = list(trail)[list(trail).index(name) :]
            shown = circle if len(circle) <= 8 else [*circle[:4], "…", *circle[-3:]]
            message = f"the models are made from each other: {' -> '.join([*shown, name])}"
            yield source.problem(("models", name, "from"), message)
        done.update(trail)


def _template(whole: Config, source: Source, name: str) -> Iterator[Problem]:
    """Yield each backend whose engine cannot be told a chat template with a request."""
    model = whole.models[name]
    said = [key for key in ("template", "targets") if source.find(("models", name, key))]
    if model.template is None or not said:
        return
    for backend in model.targets:
        if backend not in whole.backends:
            continue
        engine = whole.backends[backend].engine
        if not registry.engine(engine).takes_template:
            message = (
                f"the engine of backend {quote(backend)}, {engine}, takes no chat template with a request; "
                f"these do: {', '.join(_able())}"
            )
            yield source.problem(("models", name, said[0]), message, at_key=True)


def _loras(whole: Config, source: Source, name: str) -> Iterator[Problem]:
    """Yield each backend of a model with adapters whose engine cannot have them as the config has it."""
    where: Where = ("models", name)
    model = whole.models[name]
    if model.lora_slots is not None and not model.loras and not source.find((*where, "loras")):
        yield source.problem((*where, "lora_slots"), "'lora_slots' says nothing without 'loras'", at_key=True)
    for backend in model.targets if model.loras else ():
        if backend not in whole.backends:
            continue
        settings = whole.backends[backend]
        engine, launch = registry.engine(settings.engine), settings.launch
        if not _has_adapters(engine):
            able = [each for each in registry.names() if _has_adapters(registry.engine(each))]
            message = (
                f"the engine of backend {quote(backend)}, {settings.engine}, has no adapters that requests can "
                f"choose; these do: {', '.join(able)}"
            )
            yield source.problem((*where, "loras"), message, at_key=True)
        elif launch is not None and not getattr(launch, "lora_loading", True):
            message = f"backend {quote(backend)} must be launched with `lora_loading: true`"
            yield source.problem((*where, "loras"), message, at_key=True)
        elif engine.adapter_operations and getattr(launch, "prompt_cache", None):
            message = (
                f"backend {quote(backend)}: 'prompt_cache' mixes up the prompts of adapters: leave it out"
            )
            yield source.problem((*where, "loras"), message, at_key=True)


def _has_adapters(engine: type[Engine]) -> bool:
    """Tell whether requests can choose adapters: it loads them while it runs, or has them from its start on."""
    return Action.LOAD_LORA in engine.actions or bool(engine.adapter_operations)


def _able() -> list[str]:
    return [name for name in registry.names() if registry.engine(name).takes_template]
