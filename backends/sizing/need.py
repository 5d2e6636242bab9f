"""How much memory an engine takes for a model, in bytes, with the arithmetic that leads there.

Rules:
- Every number is a `Term` that says how it came about, so that an error can show the sum.
- Terms are sums over all GPUs; `gpus` says how many share them equally.
- What an engine takes at its start and what it may grow to are kept apart: a cache that fills later is no reason to
  refuse a start, but it is one not to promise its memory to somebody else.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from backends.sizing.model import Layer, ModelFacts, value_bytes

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Where(enum.StrEnum):
    """Which memory is meant."""

    GPU = "gpu"
    RAM = "ram"


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a need."""

    name: str
    """What it is for, such as `weights` or `KV cache`."""
    size: int
    """Bytes, of all GPUs together where it is on GPUs."""
    how: str
    """How the number came about, such as `4 layers x (128 + 128) numbers x 2 bytes x 2048 tokens x 4`."""
    where: Where = Where.RAM
    later: bool = False
    """Whether it is not taken at the start but may be, while the engine runs."""


@dataclass(frozen=True, slots=True)
class Space:
    """The memory of a machine, as far as a need depends on it: bytes of each GPU that the engine may use, and RAM."""

    gpus: tuple[int, ...] = ()
    ram: int = 0


@dataclass(frozen=True, slots=True)
class Need:
    """What an engine takes for one model."""

    terms: tuple[Term, ...]
    gpus: int = 0
    """GPUs that it uses; 0 where it computes on the CPUs."""
    takes: int | None = None
    """Bytes of each GPU that it takes at its start, however little the model needs; None where just that."""

    @property
    def ram(self) -> int:
        """Bytes of RAM from its start on."""
        return _sum(self.terms, Where.RAM, later=False)

    @property
    def ram_later(self) -> int:
        """Bytes of RAM that it may take at most, in all."""
        return self.ram + _sum(self.terms, Where.RAM, later=True)

    @property
    def least_gpu(self) -> int:
        """Bytes of each of its GPUs without which it cannot start."""
        return ceil(_sum(self.terms, Where.GPU, later=False) / self.gpus) if self.gpus else 0

    @property
    def each_gpu(self) -> int:
        """Bytes of each of its GPUs that it takes from its start on."""
        return max(self.least_gpu, self.takes or 0) if self.gpus else 0

    def explained(self, where: Where) -> str:
        """Return the sum in one line: `4.9 MiB weights + 16.0 MiB KV cache (...) + ...`."""
        return " + ".join(self.parts(where))

    def parts(self, where: Where) -> tuple[str, ...]:
        """Return the terms of the sum, each in words."""
        told = [term for term in self.terms if term.where is where and term.size and not term.later]
        return tuple(f"{shown(term.size)} {term.name} ({term.how})" for term in told)


def _sum(terms: Iterable[Term], where: Where, *, later: bool) -> int:
    return sum(term.size for term in terms if term.where is where and term.later is later)


def shown(size: float, unit: str = "B") -> str:
    """Return bytes for people, such as `13.5 GiB`; `unit` is what single ones are called."""
    for many, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= many:
            return f"{size / many:.1f} {name}"
    return f"{size:.0f} {unit}"


def padded(tokens: int, to: int = 256) -> int:
    """Return the tokens for which a cache is made that comes in blocks."""
    return -(-tokens // to) * to


def kv_per_token(facts: ModelFacts, kv_type: str | None = None, values_type: str | None = None) -> int:
    """Return the bytes that one token takes in the KV cache while no window is full: all layers together."""
    keys, values = value_bytes(kv_type), value_bytes(values_type or kv_type)
    return ceil(sum(layer.keys * keys + layer.values * values for layer in facts.layers))


def kv_cache(
    facts: ModelFacts,
    tokens: int,
    sequences: int,
    *,
    kv_type: str | None = None,
    values_type: str | None = None,
    batch: int = 0,
    where: Where = Where.RAM,
) -> tuple[Term, ...]:
    """Return the KV cache of `sequences` requests with `tokens` each, and what recurrent layers keep of them.

    A layer with a window keeps that, and `batch` tokens more: those that are computed in one step.
    """
    keys, values = value_bytes(kv_type), value_bytes(values_type or kv_type)
    total, words = 0, []
    groups = Counter(Layer(layer.keys, layer.values, layer.window) for layer in facts.layers)
    for layer, count in groups.items():
        each = layer.keys * keys + layer.values * values
        if not each:
            continue
        held = tokens if layer.window is None else min(tokens, padded(layer.window + batch))
        total += ceil(count * each * held) * sequences
        what = f"{layer.keys} numbers" if not layer.values else f"({layer.keys} + {layer.values}) numbers"
        size = f"{keys:g}" if keys == values or not layer.values else f"{keys:g} and {values:g}"
        words.append(f"{count} layers x {what} x {size} bytes x {held} tokens x {sequences}")
    terms = [Term("KV cache", total, ", ".join(words), where)] if words else []
    states = [layer.state for layer in facts.layers if layer.state]
    if states:
        how = f"{len(states)} layers x {max(states)} numbers x 4 bytes x {sequences}"
        terms.append(Term("recurrent state", 4 * sum(states) * sequences, how, where))
    return tuple(terms)


def quantized(facts: ModelFacts, bits: float) -> int:
    """Return the bytes of the weights with so many bits each; embeddings and output layer keep 16."""
    inner = max(0, facts.parameters - facts.embeddings)
    return ceil(inner * bits / 8) + 2 * (facts.parameters - inner)


def moved(terms: Iterable[Term], share: float) -> tuple[Term, ...]:
    """Return the terms with this share of each on GPUs, and the rest in RAM."""
    found = []
    for term in terms:
        there = ceil(term.size * share)
        found.append(Term(term.name, there, term.how, Where.GPU, term.later))
        if term.size > there:
            found.append(Term(term.name, term.size - there, term.how, Where.RAM, term.later))
    return tuple(found)
