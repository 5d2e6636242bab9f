"""The memory of engines that serve one model on GPUs and take a share of their memory at the start.

Rules:
- What such an engine takes is that share. What it needs at least is reckoned beside it: with less it does not start.
- Without GPUs it computes on CPUs, and everything is in RAM.
- The constants are what these engines report of themselves on data centre GPUs; they are estimates, and whoever has
  measured an engine knows better.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from backends.sizing.model import ModelFacts, value_bytes
from backends.sizing.need import GIB, Need, Space, Term, Where, kv_cache, quantized

CONTEXT = 4096
"""The context where neither the options nor the files tell it."""
BATCH = 2048
"""Tokens that are computed in one step where nothing else is set."""
DRIVER = 1 * GIB
"""On each GPU: the driver's, the libraries' and the communication's own memory, and captured CUDA graphs."""
PROGRAM = 3 * GIB
"""In RAM, of the server and of each process that drives a GPU: Python, torch and the libraries it loads."""
EIGHT = frozenset("fp8 int8 eetq bnb-8bit w8a8_int8 w8a8_fp8 fbgemm_fp8 ptpc_fp8 tpu_int8".split())
FOUR = frozenset("awq awq_marlin gptq gptq_marlin bnb-4bit bitsandbytes mxfp4 nvfp4 modelopt_fp4".split())
"""What engines call a quantization to eight bits, and to four."""
FOUR_BITS = 4.16
"""Bits of a weight quantized to four: groups of 128 have a scale and a zero point."""


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """How such an engine is started, as far as memory depends on it."""

    tokens: int | None
    """The context of one request; None for as many tokens as the model was trained for."""
    batch: int = BATCH
    """Tokens that are computed in one step."""
    kv_type: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    split: int = 1
    """GPUs that share one copy of the model."""
    heads_split: int = 1
    """Of these: GPUs that share each layer (tensor parallel)."""
    copies: int = 1
    cpu_cache: int | None = None
    """Bytes of the KV cache where it computes on CPUs; None for one request of full length."""
    share: float | None = None
    """How much of each GPU's memory it takes; None where it takes what it needs."""
    of_free: bool = False
    """Whether `share` is of what the model leaves free."""
    program: int = PROGRAM


def serving(facts: ModelFacts, plan: ServingPlan, space: Space) -> Need:
    """Return what the engine takes, and the least it needs: the model, and one request of full length."""
    gpus = plan.split * plan.copies if space.gpus else 0
    where = Where.GPU if gpus else Where.RAM
    copies = plan.copies if gpus else 1
    tokens = plan.tokens or facts.context or CONTEXT
    weights, how = loaded(facts, plan.dtype, plan.quantization)
    terms = [Term("weights", weights * copies, how + _times(copies, "copies"), where)]
    terms += _kept(facts, plan, tokens, gpus)
    terms.append(_activations(facts, plan, max(1, gpus), where))
    if gpus:
        terms.append(Term("driver", DRIVER * gpus, f"1 GiB x {gpus} GPUs", Where.GPU))
    processes = 1 + gpus
    terms.append(
        Term("program", plan.program * processes, f"{plan.program / GIB:g} GiB x {processes} processes")
    )
    need = Need(tuple(terms), gpus)
    return Need(need.terms, gpus, _taken(plan, need, weights, space) if gpus else None)


def _kept(facts: ModelFacts, plan: ServingPlan, tokens: int, gpus: int) -> tuple[Term, ...]:
    """Return the KV cache of one request on each copy; on CPUs, as large as it is made."""
    if not gpus and plan.cpu_cache is not None:
        return (Term("KV cache", plan.cpu_cache, "as large as it is set"),)
    where = Where.GPU if gpus else Where.RAM
    held = _replicated(facts, plan) if gpus else 1
    terms = kv_cache(
        facts, tokens, plan.copies if gpus else 1, kv_type=plan.kv_type, batch=plan.batch, where=where
    )
    again = _times(held, "GPUs that repeat it")
    return tuple(Term(term.name, term.size * held, term.how + again, where) for term in terms)


def loaded(facts: ModelFacts, dtype: str | None, quantization: str | None) -> tuple[int, str]:
    """Return the bytes of the weights as these options have them loaded, and how that came about."""
    wanted = (quantization or "").lower().replace("-", "_")
    plain = facts.quantization in ("F16", "BF16", "F32")
    if plain and wanted in {name.replace("-", "_") for name in EIGHT}:
        return quantized(facts, 8), f"{facts.parameters} parameters, 8 bits but for the embeddings"
    if plain and wanted in {name.replace("-", "_") for name in FOUR}:
        return quantized(
            facts, FOUR_BITS
        ), f"{facts.parameters} parameters, {FOUR_BITS} bits but for the embeddings"
    if plain and (facts.quantization == "F32" or dtype in ("float", "float32")):
        size = value_bytes(dtype)
        return ceil(facts.parameters * size), f"{facts.parameters} parameters x {size:g} bytes"
    return facts.weights, f"{facts.quantization}, {facts.parameters / 1e9:.2f} billion parameters"


def _replicated(facts: ModelFacts, plan: ServingPlan) -> int:
    """Return how many GPUs keep the same part of the KV cache: latent ones cannot be shared, nor less than one head."""
    if facts.latent:
        return plan.heads_split
    return max(1, plan.heads_split // max(1, facts.kv_heads))


def _activations(facts: ModelFacts, plan: ServingPlan, gpus: int, where: Where) -> Term:
    """Return what is between the layers while one step is computed, and the logits of its requests."""
    wide = 4 * facts.hidden + 2 * facts.feed_forward * max(1, facts.experts_used)
    logits = 256 * facts.vocabulary * 4
    size = plan.batch * wide * 2 + logits
    how = f"{plan.batch} tokens x {wide} numbers x 2 bytes + 256 x {facts.vocabulary} logits x 4 bytes"
    return Term("activations", size * gpus, how + _times(gpus, "GPUs"), where)


def _taken(plan: ServingPlan, need: Need, weights: int, space: Space) -> int | None:
    """Return the bytes of each GPU that the engine takes: of the smallest one it may use."""
    if plan.share is None:
        return None
    smallest = min(space.gpus)
    if not plan.of_free:
        return int(smallest * plan.share)
    held = ceil(weights / plan.split) + DRIVER
    return held + int(max(0, smallest - held) * plan.share)


def _times(count: int, what: str) -> str:
    return f" x {count} {what}" if count > 1 else ""
