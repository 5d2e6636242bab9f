"""What of a machine a model fits on, at each quantization, and which engine suits it: the decisions of `gateway fit`.

Rules:
- Everything is reckoned from values: what the files say, the memory there is, the context and the requests at once.
- A model fits on GPUs where it does with its KV cache for all the requests at once; an engine that takes a share of a
  GPU has that share. What is used by others counts as gone.
- The config that is suggested is one that `gateway check` accepts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.sizing.llama import LlamaPlan, llama
from backends.sizing.model import Form, ModelFacts
from backends.sizing.need import GIB, Need, Space, Where, kv_cache
from backends.sizing.quantizations import as_gguf, as_safetensors
from backends.sizing.serving import ServingPlan, serving

SHARE = 0.92
"""How much of a GPU an engine takes that takes a share, where nothing else is set (vLLM's)."""
PROGRAM = 1 * GIB
"""RAM of a server on CPUs (Transformers)."""
CONTEXT, PARALLEL = 8192, 4
"""The tokens of a request, at most, and the requests at once, where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU: what it is called, and its memory in bytes."""

    name: str
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model may be: so many GPUs alike, or RAM where `gpus` is 0. `free` are bytes of each."""

    name: str
    gpus: int
    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Load:
    """How the model will be used: tokens of one request, and requests at once."""

    context: int
    parallel: int


@dataclass(frozen=True, slots=True)
class Row:
    """The model at one quantization: bytes of its weights, and with all else on one GPU or in RAM; where that fits."""

    quantization: str
    weights: int
    whole: int
    fits: tuple[bool, ...]
    """For each place."""
    here: bool = False
    """Whether the files are this, and not an estimate."""


def load(facts: ModelFacts, context: int | None, parallel: int | None) -> Load:
    """Return how the model will be used where that is not asked for: no longer than it was trained for."""
    usual = min(facts.context or CONTEXT, CONTEXT)
    return Load(context or usual, parallel or PARALLEL)


def places(cards: Sequence[Card], ram: int, ram_total: int) -> tuple[Place, ...]:
    """Return where a model may be: one GPU of each kind, then two, four, ... of them; and RAM."""
    kinds: dict[int, list[Card]] = {}
    for card in cards:
        kinds.setdefault(card.total, []).append(card)
    found = []
    for total, alike in sorted(kinds.items(), reverse=True):
        freest = sorted(alike, key=lambda card: card.free, reverse=True)
        count = 1
        while count <= len(freest):
            name = f"{total / GIB:.0f} GiB GPU" if count == 1 else f"{count} GPUs"
            found.append(Place(name, count, freest[count - 1].free, total))
            count *= 2
    return (*found, Place("RAM", 0, ram, ram_total))


def reckoned(facts: ModelFacts, use: Load, place: Place) -> Need:
    """Return what the engine that suits the files needs there, with the KV cache of all requests at once."""
    space = Space((place.total,) * place.gpus, place.total)
    if facts.form is Form.GGUF:
        return llama(facts, LlamaPlan(tokens=use.context, slots=use.parallel), space)
    gpus = max(1, place.gpus)
    need = serving(
        facts, ServingPlan(tokens=use.context, split=gpus, heads_split=gpus, program=PROGRAM), space
    )
    where = Where.GPU if place.gpus else Where.RAM
    # Transformers computes one request after the other on CPUs.
    more = use.parallel - 1 if place.gpus else 0
    again = kv_cache(facts, use.context, more, batch=2048, where=where) if more > 0 else ()
    return dataclasses.replace(need, terms=(*need.terms, *again))


def fits(facts: ModelFacts, use: Load, place: Place) -> bool:
    """Return whether the model can be used so at this place."""
    need = reckoned(facts, use, place)
    if not place.gpus:
        return need.ram <= place.free
    most = place.free if facts.form is Form.GGUF else min(place.free, int(place.total * SHARE))
    return need.least_gpu <= most


def rows(
    facts: ModelFacts, use: Load, where: Sequence[Place], offered: Mapping[str, int] | None = None
) -> tuple[Row, ...]:
    """Return a row for the files as they are, and for each other quantization that they may be had in.

    `offered` are the files that there are, by name, and their bytes; without them the others are estimates.
    """
    family = as_gguf if facts.form is Form.GGUF else as_safetensors
    exact = {facts.quantization: facts.weights}
    exact |= {re.split(r"[-.]", name)[-1].upper(): size for name, size in (offered or {}).items()}
    told = exact if offered else {**family(facts), **exact}
    found = []
    for name, size in sorted(told.items(), key=lambda item: -item[1]):
        other = dataclasses.replace(facts, weights=size, quantization=name)
        first = reckoned(other, use, where[0])
        whole = first.least_gpu * first.gpus if first.gpus else first.ram
        able = tuple(fits(other, use, place) for place in where)
        found.append(Row(name, size, whole, able, name in exact))
    return tuple(found)


def suggested(facts: ModelFacts, use: Load, where: Sequence[Place], model: str) -> dict[str, Any] | None:
    """Return a config for the first place where the files fit as they are; None where that is nowhere."""
    place = next((place for place in where if fits(facts, use, place)), None)
    if place is None:
        return None
    launch: dict[str, Any] = {"model": model}
    if facts.form is Form.GGUF:
        engine = "llamacpp"
        launch |= {"runtime": "llama-server"} if place.gpus else {}
        launch |= {"context": use.context, "parallel": use.parallel}
    elif place.gpus:
        engine = "vllm"
        launch |= {"tensor_parallel": place.gpus} if place.gpus > 1 else {}
        launch |= {"max_model_len": use.context, "max_num_seqs": use.parallel}
    else:
        engine = "transformers"
        launch |= {"device": "cpu"}
    name = plain_name(model)
    launch |= {"name": name}
    return {
        "backends": {"local": {"engine": engine, "launch": launch}},
        "models": {name: {"targets": {"local": name}}},
    }


def plain_name(model: str) -> str:
    """Return a name for clients: the last part of a path or of a hub's name, in letters that a name may have."""
    last = re.split(r"[/\\]", model.rstrip("/\\"))[-1].removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9._:+-]", "-", last).lower() or "model"
