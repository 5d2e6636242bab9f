"""What a model at a backend gets from the layers of the config: its own value, else the backend's, else the default.

Rules:
- Pure look-ups in a config that was checked.
- An engine that commonly needs long until its first content has a default of its own, where the config sets none.
"""

from __future__ import annotations

from backends import registry
from gateway.config.schema import Config, Retry, Timeouts


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
