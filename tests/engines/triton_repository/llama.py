"""The demo model in plain numpy: a Llama small enough to run inside a Triton Python backend without torch.

Rules:
- It reads the folder as it is shipped (`model.safetensors`, `config.json`, `tokenizer.json`) and computes in float32.
- One `Sequence` per request, with its own cache of keys and values; nothing is shared but the weights.
- No import of the gateway: Triton copies this file into its own process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

Array = Any


class Llama:
    """Weights, shape and tokenizer of one model."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_bytes())
        self.tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self.weights = _weights(folder / "model.safetensors")
        ends = json.loads((folder / "generation_config.json").read_bytes())["eos_token_id"]
        self.ends = frozenset(ends if isinstance(ends, list) else [ends])
        self.context: int = self.config["max_position_embeddings"]

    def sequence(self) -> Sequence:
        """Return an empty text to be continued."""
        return Sequence(self)


class Sequence:
    """One text as the model reads it, with the keys and values of all its tokens."""

    def __init__(self, model: Llama) -> None:
        self._model = model
        config = model.config
        shape = (
            config["num_hidden_layers"],
            config["num_key_value_heads"],
            model.context,
            config["head_dim"],
        )
        self._keys = np.zeros(shape, np.float32)
        self._values = np.zeros(shape, np.float32)
        self._length = 0

    def read(self, tokens: list[int]) -> Array:
        """Take more tokens; return how likely each next one is, as logits."""
        weights, config = self._model.weights, self._model.config
        start, end = self._length, self._length + len(tokens)
        hidden = weights["model.embed_tokens.weight"][tokens]
        turn = _rotation(start, end, config["head_dim"], config["rope_theta"])
        for layer in range(config["num_hidden_layers"]):
            name = f"model.layers.{layer}."
            normal = _normed(hidden, weights[name + "input_layernorm.weight"], config["rms_norm_eps"])
            hidden = hidden + self._attention(layer, name + "self_attn.", normal, start, end, turn)
            normal = _normed(
                hidden, weights[name + "post_attention_layernorm.weight"], config["rms_norm_eps"]
            )
            gate = normal @ weights[name + "mlp.gate_proj.weight"].T
            up = normal @ weights[name + "mlp.up_proj.weight"].T
            hidden = hidden + (gate / (1 + np.exp(-gate)) * up) @ weights[name + "mlp.down_proj.weight"].T
        self._length = end
        last = _normed(hidden[-1], weights["model.norm.weight"], config["rms_norm_eps"])
        return last @ weights["model.embed_tokens.weight"].T

    def _attention(self, layer: int, name: str, hidden: Array, start: int, end: int, turn: Array) -> Array:
        weights, config = self._model.weights, self._model.config
        size, heads = config["head_dim"], config["num_attention_heads"]
        queries, keys, values = (
            (hidden @ weights[f"{name}{part}_proj.weight"].T).reshape(end - start, -1, size).swapaxes(0, 1)
            for part in "qkv"
        )
        self._keys[layer, :, start:end] = _turned(keys, turn)
        self._values[layer, :, start:end] = values
        groups = heads // config["num_key_value_heads"]
        known = np.repeat(self._keys[layer, :, :end], groups, axis=0)
        scores = _turned(queries, turn) @ known.swapaxes(1, 2) / np.sqrt(size)
        later = np.arange(end)[None, :] > np.arange(start, end)[:, None]
        scores = np.where(later[None], -np.inf, scores)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = shares @ np.repeat(self._values[layer, :, :end], groups, axis=0)
        return mixed.swapaxes(0, 1).reshape(end - start, -1) @ weights[f"{name}o_proj.weight"].T


def sampled(
    sequence: Sequence, prompt: list[int], temperature: float, top_p: float, seed: int | None
) -> Iterator[int]:
    """One token after the other, without end."""
    chance = np.random.default_rng(seed)
    logits = sequence.read(prompt)
    while True:
        token = int(logits.argmax()) if temperature == 0 else _drawn(logits / temperature, top_p, chance)
        yield token
        logits = sequence.read([token])


def _drawn(logits: Array, top_p: float, chance: np.random.Generator) -> int:
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    order = np.argsort(-shares)
    kept = order[: int(np.searchsorted(np.cumsum(shares[order]), top_p)) + 1]
    return int(chance.choice(kept, p=shares[kept] / shares[kept].sum()))


def _weights(path: Path) -> dict[str, Array]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    head, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    found = {}
    for name, entry in head.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            values = np.frombuffer(body[first:last], np.dtype("<f2")).astype(np.float32)
            found[name] = values.reshape(entry["shape"])
    return found


def _normed(hidden: Array, weight: Array, epsilon: float) -> Array:
    return hidden / np.sqrt((hidden**2).mean(axis=-1, keepdims=True) + epsilon) * weight


def _rotation(start: int, end: int, size: int, theta: float) -> Array:
    """Cosines and sines that tell the places from `start` to `end`."""
    speeds = theta ** (-np.arange(0, size, 2) / size)
    angles = np.concatenate([np.outer(np.arange(start, end), speeds)] * 2, axis=-1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _turned(vectors: Array, turn: Array) -> Array:
    half = vectors.shape[-1] // 2
    other = np.concatenate([-vectors[..., half:], vectors[..., :half]], axis=-1)
    return vectors * turn[0] + other * turn[1]
