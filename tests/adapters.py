"""LoRA adapters for the demo model, in the forms that engines read, written with the standard library alone.

- llama.cpp's form is that of its `convert_lora_to_gguf.py`: the type and the strength among the settings, and for each
  matrix that is changed two small ones, whose product is added to it.
- vLLM's and others' is that of the library PEFT: a folder of `adapter_config.json` and the matrices as safetensors.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random

from tests.sizing.ggufs import setting, text

_LAYERS, _WIDTH, _INNER, _RANK = 4, 256, 448, 2
"""The demo model's shape, and how many directions of each matrix are changed."""
_ALIGNED, _F32 = 32, 0


def _numbers(random: Random, count: int) -> bytes:
    """Return so many small numbers, as 32-bit floats."""
    return struct.pack(f"<{count}f", *(random.gauss(0.0, 0.02) for _ in range(count)))


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
        data += _numbers(random, columns * rows)
        data += bytes(-len(data) % _ALIGNED)
    path.write_bytes(head + bytes(-len(head) % _ALIGNED) + data)
    return path


def write_folder(path: Path, seed: int, strength: float = 1000.0) -> Path:
    """Write such an adapter as a folder in PEFT's form."""
    random = Random(seed)
    head: dict[str, object] = {}
    data = b""
    for layer in range(_LAYERS):
        for part, shape in (("A", [_RANK, _INNER]), ("B", [_WIDTH, _RANK])):
            numbers = _numbers(random, shape[0] * shape[1])
            place = [len(data), len(data) + len(numbers)]
            name = f"base_model.model.model.layers.{layer}.mlp.down_proj.lora_{part}.weight"
            head[name] = {"dtype": "F32", "shape": shape, "data_offsets": place}
            data += numbers
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": _RANK,
        "lora_alpha": strength,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["down_proj"],
        "base_model_name_or_path": "demo",
    }
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps(settings))
    listed = json.dumps(head).encode()
    (path / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(listed)) + listed + data)
    return path
