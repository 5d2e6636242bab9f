"""The beginning of a GGUF file: its settings, and which tensors it holds.

Rules:
- It reads a buffer and never a file, so that a part of a remote file is enough. Where the buffer ends too early it
  raises `Cut`; where it is no GGUF, ValueError.
- Long lists are counted, not kept: a vocabulary has hundreds of thousands of words.

Source: ggml's docs/gguf.md (versions 2 and 3 of the format), and its `ggml.h` for the types (llama.cpp b11549).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

Buffer = bytes | mmap.mmap
Plain = int | float | bool | str

KEPT = 4096
"""The longest list of numbers that is kept: there is one for each layer."""
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""GGUF's numbers for the types of plain values, as `struct` calls them."""
_STRING, _ARRAY = 8, 9
_DIMENSIONS = 8
"""ggml has four; a larger number says that the bytes are no tensor."""
_ALIGNMENT = 32
"""The alignment of tensors where the file states none."""

TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 28: ("F64", 1, 8),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}  # fmt: skip
"""ggml's types of tensors: the name, how many numbers are stored together, and the bytes of these."""


class Cut(Exception):
    """The buffer ends before the part that was asked for."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A list among the settings: how long it is, and its numbers where they are few."""

    count: int
    numbers: tuple[int | float | bool, ...] | None = None


Value = Plain | Listed


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its numbers are `shape` in the order of ggml, which names the columns first."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def size(self) -> int | None:
        """Its bytes; None where its type is not in `TYPES`."""
        kind = TYPES.get(self.kind)
        return None if kind is None else self.parameters // kind[1] * kind[2]


@dataclass(frozen=True, slots=True)
class Head:
    """All of a GGUF file but the numbers of its tensors, which begin at `data`."""

    settings: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    data: int


def settings(buffer: Buffer) -> dict[str, Value]:
    """Return the settings alone, as far as they are there. Raise ValueError where it is no GGUF file."""
    found: dict[str, Value] = {}
    try:
        _settings(buffer, found)
    except Cut:
        pass
    return found


def head(buffer: Buffer) -> Head:
    """Return the beginning of a GGUF file. Raise Cut or ValueError."""
    found: dict[str, Value] = {}
    at = _settings(buffer, found)
    try:
        tensors = []
        (count,) = struct.unpack_from("<Q", buffer, 8)
        for _ in range(count):
            tensor, at = _tensor(buffer, at)
            tensors.append(tensor)
    except struct.error as error:
        raise Cut from error
    alignment = found.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError("a wrong general.alignment")
    return Head(found, tuple(tensors), -(-at // alignment) * alignment)


def _settings(buffer: Buffer, found: dict[str, Value]) -> int:
    """Put the settings into `found`, one after the other; return where they end. Raise Cut or ValueError."""
    if len(buffer) >= 4 and buffer[:4] != b"GGUF":
        raise ValueError("not in GGUF format")
    try:
        _, version, _, count = struct.unpack_from("<4sIQQ", buffer)
        if version not in (2, 3):
            raise ValueError(f"version {version} of GGUF is not known")
        at = 24
        for _ in range(count):
            name, at = _string(buffer, at)
            (kind,) = struct.unpack_from("<I", buffer, at)
            value, at = _value(buffer, at + 4, kind)
            found[name] = value
    except struct.error as error:
        raise Cut from error
    except RecursionError as error:
        raise ValueError("lists in lists") from error
    return at


def _string(buffer: Buffer, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("<Q", buffer, at)
    (text,) = struct.unpack_from(f"<{size}s", buffer, at + 8)
    return text.decode("utf-8", "replace"), at + 8 + size


def _value(buffer: Buffer, at: int, kind: int) -> tuple[Value, int]:
    """Return a value and where it ends. Raise ValueError for a type that GGUF does not have."""
    if kind == _STRING:
        return _string(buffer, at)
    if kind == _ARRAY:
        return _list(buffer, at)
    if kind not in _SCALARS:
        raise ValueError(f"a setting of type {kind}")
    (value,) = struct.unpack_from("<" + _SCALARS[kind], buffer, at)
    return value, at + struct.calcsize("<" + _SCALARS[kind])


def _list(buffer: Buffer, at: int) -> tuple[Listed, int]:
    inner, count = struct.unpack_from("<IQ", buffer, at)
    at += 12
    if inner in _SCALARS:
        end = at + count * struct.calcsize("<" + _SCALARS[inner])
        if count > KEPT:
            return Listed(count), end
        return Listed(count, struct.unpack_from(f"<{count}{_SCALARS[inner]}", buffer, at)), end
    if inner == _STRING:
        return Listed(count), _strings(buffer, at, count)
    for _ in range(count):
        _, at = _value(buffer, at, inner)
    return Listed(count), at


def _strings(buffer: Buffer, at: int, count: int) -> int:
    """Return where a list of texts ends: a loop of its own, because vocabularies are long."""
    length = struct.Struct("<Q").unpack_from
    for _ in range(count):
        at += 8 + length(buffer, at)[0]
    return at


def _tensor(buffer: Buffer, at: int) -> tuple[Tensor, int]:
    name, at = _string(buffer, at)
    (dimensions,) = struct.unpack_from("<I", buffer, at)
    if dimensions > _DIMENSIONS:
        raise ValueError(f"a tensor with {dimensions} dimensions")
    *shape, kind, offset = struct.unpack_from(f"<{dimensions}QIQ", buffer, at + 4)
    return Tensor(name, tuple(shape), kind, offset), at + 16 + 8 * dimensions
