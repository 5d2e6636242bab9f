"""LoRA adapters for the demo model, as GGUF files that llama.cpp reads, written with the standard library alone.

The form is that of llama.cpp's `convert_lora_to_gguf.py`: the type and the strength among the settings, and for each
matrix that is changed two small ones, whose product is added to it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random

from tests.sizing.ggufs import setting, text

_LAYERS, _WIDTH, _INNER, _RANK = 4, 256, 448, 2
"""The demo model's shape, and how many directions of each matrix are changed."""
_ALIGNED, _F32 = 32, 0


def write(path: Path, seed: int, strength: float = 1000.0) -> Path:
    """Write an adapter that changes what the model says; another `seed` makes it say something else."""
    random = Random(seed)
    tensors = [
        (f"blk.{layer}.ffn_down.weight.lora_{part}", shape)
        for layer in range(_LAYERS)
        for part, shape in (("a", (_INNER, _RANK)), ("b", (_RANK, _WIDTH)))
    ]
    settings = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings) + 1)
    head += b"".join(text(name) + setting(value) for name, value in settings.items())
    head += text("adapter.lora.alpha") + setting(strength)
    data = b""
    for name, (columns, rows) in tensors:
        head += text(name) + struct.pack("<IQQIQ", 2, columns, rows, _F32, len(data))
        count = columns * rows
        data += struct.pack(f"<{count}f", *(random.gauss(0.0, 0.02) for _ in range(count)))
        data += bytes(-len(data) % _ALIGNED)
    path.write_bytes(head + bytes(-len(head) % _ALIGNED) + data)
    return path
