"""A `config.json` as Hugging Face's models have it: the shape of the model it describes.

Rules:
- What is not there, or is not of the type it must be, is as if it were missing: the engine has the last word.

Sources: the configuration classes of Transformers 5.23; vLLM 0.32 `config/model.py`, `_get_and_verify_max_len`, for the
names of the context length and for what stretches it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeGuard

from backends.sizing.model import Layer

_LENGTHS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", "max_target_positions",
    "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
"""What architectures call the context length."""

WINDOW_EVERY: Mapping[str, int] = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3_text": 6,
    "gemma3n_text": 5,
    "cohere2": 4,
}
"""Model types that name a window and not its layers: of so many layers the last one has none."""
_WINDOWED = ("sliding_attention", "chunked_attention", "local")
_RECURRENT = ("linear_attention", "mamba", "mamba2", "recurrent", "conv")


class Config:
    """The numbers of one `config.json`; those of the text model where it has several."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        inner: Mapping[str, Any] = next(
            (
                told[name]
                for name in ("text_config", "llm_config", "thinker_config")
                if _is_map(told.get(name))
            ),
            {},
        )
        if _is_map(inner.get("text_config")):
            inner = inner["text_config"]
        self.whole = told
        self.told: Mapping[str, Any] = {**told, **inner}

    @classmethod
    def read(cls, text: bytes) -> Config | None:
        """Return the config in this text; None where it is none."""
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return cls(told) if _is_map(told) else None

    def count(self, *names: str, default: int = 0) -> int:
        """Return the first of these that is a whole number above zero."""
        return next((self.told[name] for name in names if _is_count(self.told.get(name))), default)

    def words(self, *names: str) -> tuple[str, ...]:
        """Return the first of these that is a list of texts."""
        for name in names:
            value = self.told.get(name)
            if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
                return tuple(value)
        return ()

    def is_set(self, name: str, default: bool = False) -> bool:
        """Return a switch."""
        value = self.told.get(name)
        return value if isinstance(value, bool) else default

    @property
    def kind(self) -> str:
        """The model's type, such as `qwen2`."""
        value = self.told.get("model_type")
        return value if isinstance(value, str) else ""

    @property
    def hidden(self) -> int:
        """The width of its layers."""
        return self.count("hidden_size", "n_embd", "d_model", "dim")

    @property
    def depth(self) -> int:
        """How many layers it has."""
        return self.count("num_hidden_layers", "n_layer", "num_layers", "n_layers")

    @property
    def heads(self) -> int:
        """Attention heads of one layer."""
        return self.count("num_attention_heads", "n_head", "n_heads")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values of one layer."""
        if self.is_set("multi_query") and not self.is_set("new_decoder_architecture"):
            return 1
        return self.count(
            "num_key_value_heads", "num_kv_heads", "multi_query_group_num", "n_head_kv", default=self.heads
        )

    @property
    def head_dim(self) -> int:
        """The width of a head."""
        return self.count("head_dim", "kv_channels", default=self.hidden // self.heads if self.heads else 0)

    @property
    def latent(self) -> int:
        """The numbers that latent attention keeps of each token; 0 where the model has none."""
        rank = self.count("kv_lora_rank")
        return rank + self.count("qk_rope_head_dim") if rank else 0

    @property
    def dtype(self) -> str:
        """The type of the weights as they were trained, such as `bfloat16`; empty where it is not told."""
        for told in (self.told, self.whole):
            for name in ("dtype", "torch_dtype"):
                if isinstance(told.get(name), str):
                    return str(told[name]).removeprefix("torch.")
        return ""

    @property
    def quantization(self) -> Mapping[str, Any]:
        """How the weights were quantized; empty where they were not."""
        for told in (self.whole, self.told):
            for name in ("quantization_config", "compression_config"):
                if _is_map(told.get(name)):
                    return dict(told[name])
        return {}

    def context(self) -> int | None:
        """Return the context length, with what its rope scaling adds; None where it states none."""
        lengths = [self.told[name] for name in _LENGTHS if _is_count(self.told.get(name))]
        if not lengths:
            return None
        length: int = min(lengths)
        scaling = self.told.get("rope_parameters") or self.told.get("rope_scaling")
        if not _is_map(scaling):
            return length
        factor = scaling.get("factor")
        if not isinstance(factor, int | float) or not 1 < factor < 10_000:
            return length
        # Where the original length stands beside the factor, the other one may have been multiplied already.
        original = scaling.get("original_max_position_embeddings")
        base = original if _is_count(original) else length
        return max(length, int(base * factor))

    def layers(self) -> tuple[Layer, ...]:
        """Return what each layer keeps."""
        state = self._state()
        recurrent, windows = self._recurrent(), self._windows()
        layers = []
        for index in range(min(self.depth, 4096)):
            if recurrent[index] == "-":
                layers.append(Layer())
            elif recurrent[index]:
                layers.append(Layer(state=state))
            elif self.latent:
                layers.append(Layer(keys=self.latent))
            else:
                wide = self.kv_heads * self.head_dim
                values = self.kv_heads * self.count("v_head_dim", default=self.head_dim)
                layers.append(Layer(wide, values, windows[index], state if self.kind == "falcon_h1" else 0))
        return tuple(layers)

    def _windows(self) -> tuple[int | None, ...]:
        """Return the window of each layer."""
        depth = min(self.depth, 4096)
        window = self.count("sliding_window", "sliding_window_size", "attention_chunk_size")
        if not window or not self.is_set("use_sliding_window", default=True):
            return (None,) * depth
        kinds = self.words("layer_types")
        if len(kinds) == depth:
            return tuple(window if kind in _WINDOWED else None for kind in kinds)
        every = self.count("sliding_window_pattern", default=WINDOW_EVERY.get(self.kind, 0))
        ropeless = self.told.get("no_rope_layers")
        if isinstance(ropeless, list) and len(ropeless) == depth:
            return tuple(window if rope else None for rope in ropeless)
        # Qwen 2 has a window from this layer on.
        first = self.count("max_window_layers") if "use_sliding_window" in self.told else 0
        return tuple(
            window if (index % every < every - 1 if every > 1 else index >= first) else None
            for index in range(depth)
        )

    def _recurrent(self) -> tuple[str, ...]:
        """Return for each layer `state` where it keeps a state, `-` where it keeps nothing, else an empty text."""
        depth = min(self.depth, 4096)
        kinds = self.words("layer_types", "layers_block_type", "block_types")
        if len(kinds) == depth:
            return tuple("state" if kind in _RECURRENT else "" for kind in kinds)
        pattern = self.told.get("hybrid_override_pattern")
        if isinstance(pattern, str) and len(pattern) == depth:
            return tuple({"M": "state", "*": ""}.get(letter, "-") for letter in pattern)
        if self.kind in ("mamba", "mamba2", "falcon_mamba"):
            return ("state",) * depth
        period, offset = self.count("attn_layer_period"), self.count("attn_layer_offset")
        if period:
            return tuple("" if index % period == offset else "state" for index in range(depth))
        attending = self.told.get("attn_layer_indices")
        if isinstance(attending, list):
            return tuple("" if index in attending else "state" for index in range(depth))
        interval = self.count("full_attention_interval")
        if interval > 1:
            return tuple("" if (index + 1) % interval == 0 else "state" for index in range(depth))
        return ("",) * depth

    def _state(self) -> int:
        """Return the numbers that a recurrent layer keeps of each sequence."""
        kernel = max(0, self.count("linear_conv_kernel_dim", "mamba_d_conv", "conv_kernel", default=4) - 1)
        value_heads, key_heads = self.count("linear_num_value_heads"), self.count("linear_num_key_heads")
        if value_heads and key_heads:
            key, value = self.count("linear_key_head_dim"), self.count("linear_value_head_dim")
            return value_heads * key * value + kernel * (2 * key_heads * key + value_heads * value)
        size = self.count("mamba_d_state", "ssm_state_size", "state_size")
        if not size:
            return 0
        heads = self.count("mamba_n_heads", "mamba_num_heads")
        width = self.count("mamba_d_head", "mamba_head_dim")
        spread = self.count("mamba_expand", "expand", default=2) * self.hidden
        inner = heads * width or self.count(
            "mamba_d_ssm", "intermediate_size" if self.kind == "mamba" else "", default=spread
        )
        groups = self.count("mamba_n_groups", "n_groups")
        return inner * size + kernel * (inner + 2 * groups * size)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def _is_map(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)
