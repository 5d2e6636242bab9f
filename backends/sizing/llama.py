"""The memory of llama.cpp's server, and of what is built on the same library.

Rules:
- Weights are mapped into memory. They count as the process's own although several processes may share them.
- The constants are measured, with the embedded llama.cpp b11549 on Linux and the demo model: see docs/models.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.sizing.model import ModelFacts
from backends.sizing.need import MIB, Need, Space, Term, kv_cache, moved, padded

PROGRAM = 36 * MIB
"""The embedded server itself, with Python, once it has answered: 30 MiB were measured before its first answer, 34 after
thirty of them."""
UNIT = 512
"""Tokens that are computed in one step where nothing else is set (`n_ubatch`)."""
WORD = 400
"""Bytes for each word of the vocabulary and each merge: its text, and the tables in which it is found."""
CUDA = 400 * MIB
"""What the driver takes on each GPU for a process, before anything is loaded."""
CONTEXT = 4096
"""The context where neither the options nor the files tell it."""


@dataclass(frozen=True, slots=True)
class LlamaPlan:
    """How llama.cpp is started, as far as memory depends on it."""

    tokens: int | None
    """The context of one slot. None for as many tokens as the model was trained for."""
    slots: int
    batch: int = UNIT
    keys: str | None = None
    """The type of the keys in the KV cache; None for `f16`."""
    values: str | None = None
    gpu_layers: int | None = None
    """Layers on GPUs; None for all."""
    program: int = PROGRAM
    kept: int = 0
    """Bytes of RAM for prompts that are kept of earlier requests, at most."""
    adapters: int = 0
    """Bytes of LoRA adapters."""


def llama(facts: ModelFacts, plan: LlamaPlan, space: Space) -> Need:
    """Return what llama.cpp takes. Without GPUs in `space`, or with no layer on them, everything is in RAM."""
    tokens = padded(plan.tokens or facts.context or CONTEXT)
    terms = (
        Term("weights", facts.weights, f"{facts.quantization}, {_amount(facts.parameters)} parameters"),
        Term("adapters", plan.adapters, "as stored"),
        Term("projector", facts.projector, "as stored"),
        *kv_cache(
            facts, tokens, plan.slots, kv_type=plan.keys, values_type=plan.values or "f16", batch=plan.batch
        ),
        _compute(facts, tokens, plan.batch),
    )
    words = facts.vocabulary + facts.merges
    host = (
        Term("vocabulary", WORD * words, f"{words} words and merges x {WORD} bytes"),
        Term("program", plan.program, "the server itself"),
        Term("kept prompts", plan.kept, "at most", later=True),
    )
    # One more than there are layers is the output layer.
    share = 1.0 if plan.gpu_layers is None else min(1.0, plan.gpu_layers / (len(facts.layers) + 1))
    if not space.gpus or not share:
        return Need(tuple(term for term in (*terms, *host) if term.size))
    gpus = len(space.gpus)
    driver = moved((Term("driver", CUDA * gpus, f"{CUDA // MIB} MiB x {gpus} GPUs"),), 1.0)
    return Need(tuple(term for term in (*moved(terms, share), *driver, *host) if term.size), gpus)


def _compute(facts: ModelFacts, tokens: int, batch: int) -> Term:
    """Return the buffers for one step: what is between the layers, the logits, and the mask of the attention."""
    wide = facts.vocabulary + facts.hidden + facts.feed_forward * max(1, facts.experts_used)
    how = f"{batch} tokens x ({wide} numbers x 4 bytes + {tokens} tokens x 2 bytes)"
    return Term("compute buffers", batch * (4 * wide + 2 * tokens), how)


def _amount(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} billion" if parameters >= 1e8 else f"{parameters / 1e6:.1f} million"
