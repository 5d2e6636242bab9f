"""From the beginning of a GGUF file to the facts of its model.

Rules:
- The bytes of the weights are exact: they come from the tensors, not from a number of bits per weight.
- A layer counts as one with a window only where llama.cpp keeps less for it.

Source: llama.cpp b11549: `llama-arch.cpp` for the names of settings, `llama-model.cpp` for which layers of an
architecture have a window, `llama-kv-cache.cpp` and `llama-memory-recurrent.cpp` for what is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from backends.sizing.gguf import TYPES, Head, Listed, Tensor, Value
from backends.sizing.model import Form, Layer, ModelFacts

WINDOW_EVERY: Mapping[str, int] = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gemma-embedding": 6, "cohere2": 4, "gpt-oss": 2, "llama4": 4,
    "exaone4": 4, "olmo2": 4, "smallthinker": 4,
}  # fmt: skip
"""Architectures whose files do not say which layers have a window: of so many layers the last one has none."""
WINDOWS: Mapping[str, int] = {"llama4": 8192}
"""The window of architectures whose files do not tell it."""

FILE_TYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS",
    20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
    28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
    39: "NVFP4",
}  # fmt: skip
"""What `general.file_type` means: the mixture of types that the file was made with."""


class Settings:
    """The settings of one architecture, by what follows its name."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self.values = values
        told = values.get("general.architecture")
        self.architecture = told if isinstance(told, str) else ""

    def count(self, name: str, default: int = 0) -> int:
        """Return a whole number of the architecture."""
        value = self.values.get(f"{self.architecture}.{name}")
        return value if type(value) is int and value >= 0 else default

    def each(self, name: str, layers: int, default: int = 0) -> tuple[int, ...]:
        """Return a number for each layer, where the file may have one for all."""
        value = self.values.get(f"{self.architecture}.{name}")
        if isinstance(value, Listed) and value.numbers is not None and len(value.numbers) >= layers:
            return tuple(max(0, int(number)) for number in value.numbers[:layers])
        return (self.count(name, default),) * layers


def gguf_context(values: Mapping[str, Value]) -> int | None:
    """Return the tokens that the model was trained for."""
    return next(
        (value for name, value in values.items() if name.endswith(".context_length") and type(value) is int),
        None,
    )


def gguf_facts(heads: Sequence[Head], sizes: Sequence[int], projector: int = 0) -> ModelFacts:
    """Return the facts of a model in one file, or in several; `sizes` are those of the files, in bytes.

    `projector` are the bytes of the file beside it that turns images or sound into tokens. Raises ValueError where the
    settings do not describe a model.
    """
    told = Settings(heads[0].settings)
    count = told.count("block_count")
    if not 0 < count <= 4096:
        raise ValueError("its settings do not say how many layers it has")
    hidden = told.count("embedding_length")
    heads_each = told.each("attention.head_count", count)
    kv_each = told.each("attention.head_count_kv", count, max(heads_each))
    usual = hidden // max(heads_each) if max(heads_each) else 0
    key_dim, value_dim = (
        told.count("attention.key_length", usual),
        told.count("attention.value_length", usual),
    )
    latent = 0
    if told.count("attention.key_length_mla") and told.count("attention.kv_lora_rank"):
        latent = told.count("attention.kv_lora_rank") + told.count("rope.dimension_count")
    tensors = [tensor for part in heads for tensor in part.tensors]
    parameters = sum(tensor.parameters for tensor in tensors)
    experts, used = told.count("expert_count"), told.count("expert_used_count")
    spared = sum(tensor.parameters for tensor in tensors if "_exps." in tensor.name) if experts else 0
    return ModelFacts(
        form=Form.GGUF,
        architecture=told.architecture,
        layers=_layers(told, kv_each, key_dim, value_dim, latent),
        parameters=parameters,
        active=parameters - (spared - spared * used // experts if experts else 0),
        weights=sum(_stored(head, size) for head, size in zip(heads, sizes, strict=True)),
        quantization=_quantization(told.values, tensors),
        context=gguf_context(told.values),
        vocabulary=_vocabulary(told, tensors),
        hidden=hidden,
        feed_forward=max(told.count("expert_feed_forward_length"), *told.each("feed_forward_length", count)),
        heads=max(heads_each),
        kv_heads=max(kv_each),
        key_dim=key_dim,
        value_dim=value_dim,
        latent=latent,
        experts=experts,
        experts_used=used,
        embeddings=sum(
            tensor.parameters for tensor in tensors if tensor.name in ("token_embd.weight", "output.weight")
        ),
        projector=projector,
        merges=_length(told.values.get("tokenizer.ggml.merges")),
    )


def _layers(
    told: Settings, kv_each: Sequence[int], key_dim: int, value_dim: int, latent: int
) -> tuple[Layer, ...]:
    windows = _windows(told, len(kv_each))
    state = _state(told)
    interval = told.count("full_attention_interval")
    layers = []
    for index, kv_heads in enumerate(kv_each):
        linear = bool(interval) and (index + 1) % interval != 0
        if state and (linear or not kv_heads):
            layers.append(Layer(state=state))
        elif latent:
            layers.append(Layer(keys=latent, window=windows[index]))
        else:
            both = state if state and told.architecture == "falcon-h1" else 0
            layers.append(Layer(kv_heads * key_dim, kv_heads * value_dim, windows[index], both))
    return tuple(layers)


def _windows(told: Settings, count: int) -> tuple[int | None, ...]:
    """Return the window of each layer."""
    window = told.count("attention.sliding_window", WINDOWS.get(told.architecture, 0))
    name = f"{told.architecture}.attention.sliding_window_pattern"
    pattern = told.values.get(name)
    if not window:
        return (None,) * count
    if isinstance(pattern, Listed) and pattern.numbers is not None:
        limited = [bool(number) for number in pattern.numbers[:count]]
        limited += [False] * (count - len(limited))
    else:
        every = pattern if type(pattern) is int else WINDOW_EVERY.get(told.architecture, 0)
        limited = [every > 1 and index % every < every - 1 for index in range(count)]
    return tuple(window if has else None for has in limited)


def _state(told: Settings) -> int:
    """Return the numbers that a recurrent layer keeps of each sequence: the tail of its convolution, and its state."""
    inner, size = told.count("ssm.inner_size"), told.count("ssm.state_size")
    if not inner or not size:
        return 0
    groups = told.count("ssm.group_count")
    return max(0, told.count("ssm.conv_kernel") - 1) * (inner + 2 * groups * size) + inner * size


def _vocabulary(told: Settings, tensors: Iterable[Tensor]) -> int:
    for tensor in tensors:
        if tensor.name == "token_embd.weight" and len(tensor.shape) == 2:
            return tensor.shape[1]
    return told.count("vocab_size") or _length(told.values.get("tokenizer.ggml.tokens"))


def _length(value: Value | None) -> int:
    return value.count if isinstance(value, Listed) else 0


def _quantization(values: Mapping[str, Value], tensors: Iterable[Tensor]) -> str:
    """Return how the file was made, or else the type of most of its numbers."""
    told = values.get("general.file_type")
    if type(told) is int and told in FILE_TYPES:
        return FILE_TYPES[told]
    by_kind: Counter[int] = Counter()
    for tensor in tensors:
        by_kind[tensor.kind] += tensor.parameters
    kind = by_kind.most_common(1)[0][0] if by_kind else 0
    return TYPES[kind][0] if kind in TYPES else f"type {kind}"


def _stored(head: Head, size: int) -> int:
    """Return the bytes of the tensors of one file: by their types, or all that follows the settings."""
    sizes = [tensor.size for tensor in head.tensors]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else max(0, size - head.data)
