"""The beginning of a safetensors file: which tensors it holds, of which type and size.

Rules:
- It reads a buffer, so that a part of a remote file is enough.

Source: the format as https://huggingface.co/docs/safetensors describes it: eight bytes with the length of a JSON
object, then that object, then the numbers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

LARGEST_HEAD = 100_000_000
"""The bytes that the format allows for the JSON object."""
BITS: Mapping[str, int] = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: how many numbers it holds, and the bytes it takes."""

    name: str
    kind: str
    shape: tuple[int, ...]
    size: int

    @property
    def numbers(self) -> int:
        """How many numbers are stored. Several weights may be packed into one."""
        return prod(self.shape)


def length(buffer: bytes) -> int:
    """Return how many bytes the beginning has, these eight included. Raise ValueError where it cannot be one."""
    if len(buffer) < 8:
        raise ValueError("it ends too early")
    (size,) = struct.unpack_from("<Q", buffer)
    if not 0 < size <= LARGEST_HEAD:
        raise ValueError("not in safetensors format")
    return int(size) + 8


def tensors(buffer: bytes) -> tuple[Tensor, ...]:
    """Return the tensors that the whole beginning tells. Raise ValueError where it is none."""
    try:
        told: dict[str, Any] = json.loads(buffer[8 : length(buffer)])
        told.pop("__metadata__", None)
        return tuple(_tensor(name, value) for name, value in told.items())
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("not in safetensors format") from error


def _tensor(name: str, told: Mapping[str, Any]) -> Tensor:
    begin, end = told["data_offsets"]
    shape = tuple(int(number) for number in told["shape"])
    return Tensor(name, str(told["dtype"]), shape, int(end) - int(begin))
