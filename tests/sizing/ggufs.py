"""GGUF files as tests write them: settings, and tensors without their numbers."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

Setting = int | float | str | Sequence[int] | Sequence[str]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def setting(value: Setting) -> bytes:
    """Return a value with the number of its type before it."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(str(item)) for item in value)
    return struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *(int(item) for item in value))


def gguf(
    settings: Mapping[str, Setting], tensors: Mapping[str, tuple[tuple[int, ...], int]], data: int = 0
) -> bytes:
    """Return a file: each tensor has a shape and the number of its type. `data` bytes of zeros follow the beginning."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings))
    out += b"".join(text(name) + setting(value) for name, value in settings.items())
    for name, (shape, kind) in tensors.items():
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0)
    return out + bytes(-len(out) % 32) + bytes(data)


def model(architecture: str, layers: int = 4, **more: Setting) -> dict[str, Setting]:
    """Return the settings of a model, those of `more` with dots for double underscores."""
    told: dict[str, Setting] = {
        "block_count": layers,
        "embedding_length": 512,
        "feed_forward_length": 1024,
        "attention.head_count": 8,
        "context_length": 4096,
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    return {
        "general.architecture": architecture,
        **{f"{architecture}.{name}": value for name, value in told.items()},
    }


def written(
    path: Path, settings: Mapping[str, Setting], tensors: Mapping[str, tuple[tuple[int, ...], int]]
) -> Path:
    path.write_bytes(gguf(settings, tensors))
    return path
