"""How large a model is in other types than that of its files.

Sources: bits per weight of GGUF's mixtures as llama.cpp's `tools/quantize/README.md` measures them with Llama 3.1 8B.
AWQ and GPTQ have groups of 128 weights with a scale of 16 bits and a zero point, and leave embeddings and output layer
alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from backends.sizing.model import ModelFacts
from backends.sizing.need import quantized

PLAIN: Mapping[str, int] = {"FP16": 16, "INT8": 8, "INT4": 4}
"""The bits of every parameter, which is the least that a model takes with so many bits."""
GGUF: Mapping[str, float] = {
    "F16": 16.0, "Q8_0": 8.501, "Q6_K": 6.563, "Q5_K_M": 5.704, "Q5_K_S": 5.570, "Q4_K_M": 4.894, "Q4_K_S": 4.667,
    "IQ4_XS": 4.460, "Q3_K_M": 3.996, "Q2_K": 3.159,
}  # fmt: skip
"""Bits per weight, embeddings included."""
SAFETENSORS: Mapping[str, float] = {"FP8": 8.0, "INT8 (GPTQ)": 8 + 24 / 128, "INT4 (AWQ, GPTQ)": 4 + 20 / 128}
"""Bits of a weight that is neither of the embeddings nor of the output layer."""


def plain(facts: ModelFacts) -> dict[str, int]:
    """Return the bytes of all parameters at 16, 8 and 4 bits."""
    return {name: ceil(facts.parameters * bits / 8) for name, bits in PLAIN.items()}


def as_gguf(facts: ModelFacts) -> dict[str, int]:
    """Return about the bytes of a GGUF file in each usual mixture."""
    return {name: ceil(facts.parameters * bits / 8) for name, bits in GGUF.items()}


def as_safetensors(facts: ModelFacts) -> dict[str, int]:
    """Return about the bytes of safetensors files in each usual quantization."""
    return {
        "BF16": 2 * facts.parameters,
        **{name: quantized(facts, bits) for name, bits in SAFETENSORS.items()},
    }
