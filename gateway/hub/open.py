"""From the name of a model to its repository at its hub."""

from __future__ import annotations

from backends.sizing.hubs import Hub, HubError, Name
from gateway.hub.huggingface import HuggingFace
from gateway.hub.modelscope import ModelScope
from gateway.hub.remote import Repository


def repository(name: Name) -> Repository:
    """Return the repository of this model. Raise HubError for a hub that has none."""
    if name.hub is Hub.HUGGING_FACE:
        return HuggingFace(name.repository)
    if name.hub is Hub.MODEL_SCOPE:
        return ModelScope(name.repository)
    raise HubError(f"{name.hub} is asked through a backend: gateway pull {name} --backend NAME")
