"""How many tokens a model was trained for, read from its files: a GGUF file, or a folder as Hugging Face has it.

Rules:
- What cannot be read is unknown, which is never an error here: the engine has the last word on its model.

Sources: ggml's docs/gguf.md (versions 2 and 3 of the format); vLLM 0.32 `config/model.py`, `_get_and_verify_max_len`,
for the names in `config.json` and for what stretches them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

HEAD = 1 << 20
"""The bytes at the beginning of a GGUF file that hold its settings."""
CONFIG_BYTES = 1 << 20
"""A `config.json` has a few kilobytes."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""GGUF's numbers for the types of plain values, as `struct` calls them."""
_STRING, _ARRAY = 8, 9
_LENGTHS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", "max_target_positions",
    "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
"""What architectures call it in `config.json`."""


def too_long(option: str, tokens: int | None, model: Path) -> tuple[str, ...]:
    """Return a note for the operator if `tokens`, the value of `option`, is more than the model was trained for."""
    trained = None if tokens is None else trained_context(model)
    if tokens is None or trained is None or tokens <= trained:
        return ()
    return (f"{option}: {tokens} tokens are more than the {trained} that the model was trained for",)


def trained_context(model: Path) -> int | None:
    """Return the most tokens that the model was trained for, prompt and answer together; None where that is unknown."""
    try:
        if model.is_dir():
            return config_context((model / "config.json").read_bytes()[:CONFIG_BYTES])
        with model.open("rb") as file:
            return gguf_context(file.read(HEAD))
    except OSError:
        return None


def gguf_context(head: bytes) -> int | None:
    """Return the context length that the beginning of a GGUF file states."""
    try:
        for name, value in _settings(head):
            if name.endswith(".context_length") and isinstance(value, int):
                return value
    except (struct.error, ValueError, RecursionError):
        pass
    return None


def config_context(text: bytes) -> int | None:
    """Return the context length that a `config.json` states, with what its rope scaling adds."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(config, dict):
        return None
    inner = config.get("text_config")
    told = {**config, **inner} if isinstance(inner, dict) else config
    lengths = [told[name] for name in _LENGTHS if _is_count(told.get(name))]
    if not lengths:
        return None
    length: int = min(lengths)
    scaling = told.get("rope_parameters") or told.get("rope_scaling")
    if not isinstance(scaling, dict):
        return length
    factor = scaling.get("factor")
    if not isinstance(factor, int | float) or not 1 < factor < 10_000:
        return length
    # Where the original length stands beside the factor, the other one may have been multiplied already.
    original = scaling.get("original_max_position_embeddings")
    base = original if _is_count(original) else length
    return max(length, int(base * factor))


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def _settings(head: bytes) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each setting; None for lists. Raises struct.error where the bytes end."""
    magic, version, _, count = struct.unpack_from("<4sIQQ", head)
    if magic != b"GGUF" or version not in (2, 3):
        return
    at = 24
    for _ in range(count):
        name, at = _string(head, at)
        (kind,) = struct.unpack_from("<I", head, at)
        value, at = _value(head, at + 4, kind)
        yield name, value


def _string(head: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("<Q", head, at)
    (text,) = struct.unpack_from(f"<{size}s", head, at + 8)
    return text.decode("utf-8", "replace"), at + 8 + size


def _value(head: bytes, at: int, kind: int) -> tuple[Any, int]:
    """Return a value and where it ends. Raises ValueError for a type that GGUF does not have."""
    if kind == _STRING:
        return _string(head, at)
    if kind == _ARRAY:
        inner, count = struct.unpack_from("<IQ", head, at)
        at += 12
        if inner in _SCALARS:
            return None, at + count * struct.calcsize("<" + _SCALARS[inner])
        for _ in range(count):
            _, at = _value(head, at, inner)
        return None, at
    if kind not in _SCALARS:
        raise ValueError(kind)
    (value,) = struct.unpack_from("<" + _SCALARS[kind], head, at)
    return value, at + struct.calcsize("<" + _SCALARS[kind])
