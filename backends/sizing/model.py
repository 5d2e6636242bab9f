"""What is known of a model before it is loaded: its size, its shape, and what it keeps of each token.

Rules:
- A number that the files do not tell is 0, or None where 0 would mean something. Whoever calculates with it says so.
- Parameters, heads and widths are counts; everything that is called bytes is bytes.

Sources: the `config.json` of the architectures named in `backends.sizing.config`; ggml's docs/gguf.md.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class ModelError(Exception):
    """A model's files cannot be read. The message is one line for the operator and names the file."""


class Form(enum.StrEnum):
    """How a model's weights are stored."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer keeps in memory of the sequences it computes."""

    keys: int = 0
    """Numbers kept of each token for its keys. With latent attention (MLA) they stand for keys and values together."""
    values: int = 0
    """Numbers kept of each token for its values."""
    window: int | None = None
    """The tokens it looks back at; None for all."""
    state: int = 0
    """Numbers kept of each sequence whatever its length: the state of Mamba and of linear attention."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as its files describe it."""

    form: Form
    architecture: str
    """Its name in the files, such as `llama`, `qwen2` or `deepseek_v3`."""
    layers: tuple[Layer, ...]
    parameters: int
    active: int
    """Parameters that one token is computed with: fewer than all of them in a mixture of experts."""
    weights: int
    """Bytes of the weights as they are stored."""
    quantization: str
    """The type of most weights, such as `BF16`, `Q4_K_M`, `FP8` or `AWQ 4-bit`."""
    context: int | None = None
    """The most tokens it was trained for, prompt and answer together, with what its rope scaling adds."""
    vocabulary: int = 0
    hidden: int = 0
    """The width of its layers."""
    feed_forward: int = 0
    """The width inside its feed-forward layers; of one expert where it has experts."""
    heads: int = 0
    kv_heads: int = 0
    """Heads of keys and values, of the layer that has most."""
    key_dim: int = 0
    value_dim: int = 0
    latent: int = 0
    """With latent attention (MLA): the numbers kept of each token in each layer (`kv_lora_rank + qk_rope_head_dim`)."""
    experts: int = 0
    experts_used: int = 0
    """Of `experts`: those that a token is computed with."""
    embeddings: int = 0
    """Parameters of the token embeddings and of the output layer, which most quantizations leave as they are."""
    projector: int = 0
    """Bytes of what turns images or sound into tokens. Of one file with the model they are among `weights`."""
    merges: int = 0
    """Merges of its tokenizer, as far as the file with the weights holds them."""
    files: tuple[Path, ...] = ()
    """The files with its weights, where they are on this machine."""

    @property
    def windows(self) -> int:
        """How many layers look back at a limited number of tokens."""
        return sum(layer.window is not None for layer in self.layers)

    @property
    def recurrent(self) -> int:
        """How many layers keep a state instead of tokens."""
        return sum(layer.state > 0 for layer in self.layers)


VALUE_BYTES: Mapping[str, float] = {
    "f32": 4.0, "float32": 4.0, "float": 4.0,
    "f16": 2.0, "float16": 2.0, "half": 2.0, "bf16": 2.0, "bfloat16": 2.0,
    "fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "fp8_e4m3fn": 1.0, "fp8_inc": 1.0, "float8_e4m3fn": 1.0,
    "int8": 1.0, "int4": 0.5, "turbo_quant": 0.5,
    "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip
"""Bytes of one number, by the names that engines give the types of weights and of the KV cache."""


def value_bytes(name: str | None) -> float:
    """Return the bytes of one number of this type; of 16 bits where the name is unknown, `auto`, or missing."""
    return VALUE_BYTES.get((name or "auto").lower(), 2.0)
