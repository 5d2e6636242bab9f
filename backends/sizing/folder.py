"""From a `config.json` and the beginnings of safetensors files to the facts of a model.

Rules:
- The bytes of the weights are exact where the files, or their index, are known; else they follow from the parameters.
- Packed weights hide the number of parameters: then it is counted from the config.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from backends.sizing.config import Config
from backends.sizing.counted import Counted, counted
from backends.sizing.model import Form, ModelFacts, value_bytes
from backends.sizing.safetensors import BITS, Tensor

SIGHT = ("vision", "visual", "multi_modal_projector", "audio_tower", "image_newline", "mm_projector")
"""What the names of tensors say that turn images or sound into tokens."""
_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_in.weight", "embed_out.weight")
_BITS = {"fp8": 8, "fbgemm_fp8": 8, "mxfp4": 4, "modelopt": 8, "eetq": 8, "nvfp4": 4, "modelopt_fp4": 4}


def folder_facts(config: Config, tensors: Sequence[Tensor] = (), weights: int = 0) -> ModelFacts:
    """Return the facts of a model; `weights` are its bytes where they are known without the tensors.

    Raises ValueError where the config does not describe a model.
    """
    layers = config.layers()
    if not layers or not config.hidden:
        raise ValueError("its config.json does not say how many layers it has")
    guess = counted(config)
    quantization, bits = _quantization(config, tensors)
    parameters, active, embeddings = _parameters(config, tensors, guess, bits)
    stored = sum(tensor.size for tensor in tensors) or weights
    if not stored:
        stored = int((parameters - embeddings) * bits / 8) + int(
            embeddings * max(2.0, value_bytes(config.dtype))
        )
    return ModelFacts(
        form=Form.SAFETENSORS,
        architecture=config.kind,
        layers=layers,
        parameters=parameters,
        active=active,
        weights=stored,
        quantization=quantization,
        context=config.context(),
        vocabulary=config.count("vocab_size", "padded_vocab_size"),
        hidden=config.hidden,
        feed_forward=config.count("moe_intermediate_size", "intermediate_size", default=4 * config.hidden),
        heads=config.heads,
        kv_heads=config.kv_heads,
        key_dim=config.head_dim,
        value_dim=config.count("v_head_dim", default=config.head_dim),
        latent=config.latent,
        experts=config.count("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts"),
        experts_used=config.count("num_experts_per_tok", "num_experts_per_token", "moe_top_k"),
        embeddings=embeddings,
        projector=sum(tensor.size for tensor in tensors if _sees(tensor.name)),
    )


def _parameters(
    config: Config, tensors: Sequence[Tensor], guess: Counted | None, bits: float
) -> tuple[int, int, int]:
    """Return the parameters in all, those a token is computed with, and those of embeddings and output layer."""
    plain = not config.quantization and bits >= 8
    stored = sum(tensor.numbers for tensor in tensors) if plain else 0
    total = stored or (guess.total if guess else 0)
    if not total and tensors:
        total = int(sum(tensor.size for tensor in tensors) * 8 / bits)
    embeddings = sum(tensor.numbers for tensor in tensors if tensor.name.endswith(_EMBEDDINGS))
    if not embeddings and guess:
        embeddings = guess.embeddings
    active = total
    if guess and guess.active < guess.total:
        active = min(total, guess.active)
    return total, active, embeddings


def _quantization(config: Config, tensors: Iterable[Tensor]) -> tuple[str, float]:
    """Return what the weights' type is called, and how many bits one of them has."""
    told = config.quantization
    if told:
        return _told_quantization(told)
    by_kind: Counter[str] = Counter()
    for tensor in tensors:
        by_kind[tensor.kind] += tensor.numbers
    if by_kind:
        kind = by_kind.most_common(1)[0][0]
        return kind, float(BITS.get(kind, 16))
    size = value_bytes(config.dtype)
    names = {4.0: "F32", 1.0: "F8"}
    return names.get(size, "BF16" if config.dtype == "bfloat16" else "F16"), size * 8


def _told_quantization(told: dict[str, Any] | Any) -> tuple[str, float]:
    method = str(told.get("quant_method") or told.get("quant_algo") or "quantized").lower()
    bits = told.get("bits") or told.get("w_bit")
    if method == "bitsandbytes":
        bits = 4 if told.get("load_in_4bit") else 8
    if method == "compressed-tensors":
        bits = bits or _compressed_bits(told)
    if type(bits) is not int or not 0 < bits <= 16:
        bits = _BITS.get(method, 16)
    # Each group of weights has a scale of 16 bits and a zero point beside it.
    group = told.get("group_size") or told.get("q_group_size")
    extra = (16 + bits) / group if type(group) is int and group > 0 and method in ("awq", "gptq") else 0.0
    name = method.upper() if method in ("awq", "gptq", "fp8", "mxfp4", "nvfp4", "eetq") else method
    return name if method in _BITS else f"{name} {bits}-bit", bits + extra


def _compressed_bits(told: Any) -> int | None:
    groups = told.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict) and type(weights.get("num_bits")) is int:
            bits: int = weights["num_bits"]
            return bits
    return None


def _sees(name: str) -> bool:
    return any(word in name for word in SIGHT)
