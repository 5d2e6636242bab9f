"""What the model list says of a model, in the forms that clients know.

Rules:
- A fact that is not known is left out: no client is told of a tool or a picture that the engine may not take. What the
  config says of a model wins over what its engines list.
- `parent` is vLLM's, which has it of LoRA adapters: the model that another one is made from.
- `context_length` and `architecture` are OpenRouter's, `max_model_len` is vLLM's, `meta.n_ctx` llama.cpp's, the words
  in `capabilities` are Ollama's, `type`, `state` and `max_context_length` LM Studio's.
- `created` is the same for all models and for ever: nobody knows when one was made, and clients sort by it.
"""

from __future__ import annotations

from typing import Any, Final

from backends.base import Health
from gateway.auth import Caller
from gateway.fleet.lease import Target
from gateway.routing.catalog import Catalog, Group, Listed
from gateway.routing.traits import Traits

CREATED: Final = 1_735_689_600
"""Seconds since the epoch: the beginning of 2025."""
_PARAMETERS: Final = ("max_tokens", "temperature", "top_p", "stop")
"""Parameters that every engine has."""


def card(entry: Listed, now: float, parent: str = "") -> dict[str, Any]:
    """Return the entry of a model at `now`, the loop's time. `parent` is the model that it is made from, if any."""
    group = entry.group
    found: dict[str, Any] = {"id": entry.name, "object": "model", "created": CREATED, "owned_by": "gateway"}
    if parent:
        found["parent"] = parent
    if group.context is not None:
        found["context_length"] = found["max_model_len"] = found["max_context_length"] = group.context
        found["meta"] = {"n_ctx": group.context}
    found["state"] = "loaded" if is_loaded(group, now) else "not-loaded"
    traits = _known(group)
    return found if traits is None else found | _abilities(traits, group.abilities)


def parent_of(entry: Listed, catalog: Catalog, caller: Caller) -> str:
    """Return the model that one in the list is made from; empty where there is none that the caller may use."""
    name = entry.group.parent
    plan = catalog.find(name, caller) if name else None
    return name if plan is not None and plan.model == name else ""


def is_loaded(group: Group, now: float) -> bool:
    """Tell whether a request would find the model in the memory of some engine, as far as is known."""
    return any(_has_it(target, now) for target in group.targets)


def _has_it(target: Target, now: float) -> bool:
    backend = target.backend
    if target.adapter is not None and not target.adapter.loaded:
        return False
    if backend.upstream is None or backend.health is not Health.READY:
        return False
    names = backend.load.models(now)
    return names is None or target.model in names or f"{target.model}:latest" in names


def _known(group: Group) -> Traits | None:
    """Return what a model can do: what the config says of it, else what its engines tell."""
    told, said = group.abilities, group.traits or Traits()
    if told is None:
        return group.traits
    return Traits(
        said.context,
        "tools" in told if said.tools is None else said.tools,
        "vision" in told if said.vision is None else said.vision,
        "embedding" in told if said.embeddings is None else said.embeddings,
        "thinking" in told if said.reasoning is None else said.reasoning,
    )


def _abilities(traits: Traits, told: frozenset[str] | None) -> dict[str, Any]:
    """Return what is known of a model's abilities; `told` are its engines' words."""
    found: dict[str, Any] = {}
    writes = traits.embeddings is not True or bool(traits.tools or traits.vision or traits.reasoning)
    writes = writes or (told is not None and "completion" in told)
    words = {
        "completion": writes,
        "tools": traits.tools,
        "vision": traits.vision,
        "embedding": traits.embeddings,
        "thinking": traits.reasoning,
        "insert": None if told is None else "insert" in told,
    }
    if any(known is not None for word, known in words.items() if word != "completion"):
        found["type"] = "vlm" if traits.vision else "llm" if writes else "embeddings"
        found["capabilities"] = [word for word, known in words.items() if known]
    if traits.vision is not None:
        taken = ["text", "image"] if traits.vision else ["text"]
        made = "text" if writes else "embeddings"
        found["architecture"] = {
            "input_modalities": taken,
            "output_modalities": [made],
            "modality": f"{'+'.join(taken)}->{made}",
        }
    if traits.tools is not None and writes:
        tools = ("tools", "tool_choice") if traits.tools else ()
        thoughts = ("reasoning", "include_reasoning") if traits.reasoning else ()
        found["supported_parameters"] = [*_PARAMETERS, *tools, *thoughts]
    return found
