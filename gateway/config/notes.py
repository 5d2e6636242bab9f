"""What the operator should know of a config that can be used: what cannot start here, and what is easily missed.

Rules:
- A note is no mistake: the file may be checked on another machine than the one it is for.
- Each note is one line. It never holds a secret.
- The work is bounded, however many keys and models there are.
"""

from __future__ import annotations

from collections.abc import Iterator

from backends.base import LaunchError
from gateway.config.inherit import owners, succession
from gateway.config.schema import Config
from gateway.globs import Globs

LOOK_UPS = 200_000
"""Most look-ups of a model in what a key may use."""
SHOWN = 8
"""Most names in one note."""


def startup(config: Config) -> Iterator[str]:
    """Yield what makes a launched engine worse than it seems to be asked for."""
    for name, backend in config.backends.items():
        if backend.launch is not None:
            for note in backend.launch.notes():
                yield f"backend '{name}': {note}"


def everything(config: Config) -> Iterator[str]:
    """Yield every note."""
    yield from _launches(config)
    yield from startup(config)
    yield from _shorter(config)
    yield from _reached(config)


def _shorter(config: Config) -> Iterator[str]:
    """Yield the fallbacks that take shorter prompts than the model they stand in for."""
    owner = owners(config)
    for name, model in config.models.items():
        for fallback in model.fallback:
            other = config.models[owner[fallback]].context
            if model.context is not None and other is not None and other < model.context:
                yield (
                    f"'{owner[fallback]}' takes {other} tokens, fewer than the {model.context} of '{name}', whose "
                    "fallback it is: longer prompts have none"
                )


def _launches(config: Config) -> Iterator[str]:
    """Yield why engines could not be started here: files and programs that are missing."""
    for name, backend in config.backends.items():
        if backend.launch is None:
            continue
        try:
            backend.launch.launch("127.0.0.1", 1)
        except (LaunchError, OSError, ValueError) as error:
            yield f"backend '{name}' cannot be launched here: {error}"


def _reached(config: Config) -> Iterator[str]:
    """Yield the models that keys reach as fallbacks only: whoever may use a model is served by its fallbacks too."""
    owner, left = owners(config), LOOK_UPS
    names: dict[str, list[str]] = {model: [] for model in config.models}
    for name, model in owner.items():
        names[model].append(name)
    further = {model: succession(config, model, owner)[1:] for model in config.models}
    further = {model: others for model, others in further.items() if others}
    for key, settings in config.keys.items() if further else ():
        if settings.models is None:
            continue
        globs = Globs(settings.models)
        for model, others in further.items():
            left -= 1 + len(others)
            if left < 0:
                yield "there are too many keys and models to tell which keys reach which models as fallbacks"
                return
            if not any(map(globs.fits, names[model])):
                continue
            unnamed = [other for other in others if not any(map(globs.fits, names[other]))]
            if unnamed:
                yield f"key '{key}' reaches {_listed(unnamed)} as a fallback of '{model}', though it may not name it"


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
