"""How many tokens a model was trained for: read from its files, and never an error where it cannot be."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from backends.sizing import gguf as reading
from backends.sizing.config import Config
from backends.sizing.files import too_long, trained_context
from backends.sizing.gguf_model import gguf_context as told_context

DEMO = Path(__file__).resolve().parent.parent.parent / "models" / "demo.gguf"


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(*settings: tuple[str, int, bytes], version: int = 3) -> bytes:
    """Return the head of a GGUF file: each setting has a name, the number of its type, and its bytes."""
    head = b"GGUF" + struct.pack("<IQQ", version, 0, len(settings))
    return head + b"".join(text(name) + struct.pack("<I", kind) + value for name, kind, value in settings)


def gguf_context(data: bytes) -> int | None:
    """Return the context that the bytes tell; None also where they are no GGUF."""
    try:
        return told_context(reading.settings(data))
    except ValueError:
        return None


def config_context(data: bytes) -> int | None:
    config = Config.read(data)
    return None if config is None else config.context()


LENGTH = ("llama.context_length", 4, struct.pack("<I", 8192))


def test_the_demo_model_was_trained_for_2048_tokens() -> None:
    assert trained_context(DEMO) == 2048


@pytest.mark.parametrize(
    "before",
    [
        ("general.architecture", 8, text("llama")),
        ("general.tags", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
        ("a.floats", 9, struct.pack("<IQ", 6, 3) + bytes(12)),
        ("a.lists", 9, struct.pack("<IQ", 9, 2) + 2 * (struct.pack("<IQ", 0, 5) + bytes(5))),
        ("a.flag", 7, b"\x01"),
        ("a.double", 12, bytes(8)),
        ("llama.context_length_of_something", 4, bytes(4)),
    ],
    ids=lambda setting: setting[0],
)
def test_settings_of_every_type_may_come_first(before: tuple[str, int, bytes]) -> None:
    assert gguf_context(gguf(before, LENGTH)) == 8192
    assert gguf_context(gguf(before, LENGTH, version=2)) == 8192


def test_a_gguf_file_cut_or_spoilt_anywhere_is_unknown() -> None:
    whole = gguf(("general.name", 8, text("x" * 20)), LENGTH)
    for end in range(len(whole)):
        assert gguf_context(whole[:end]) is None
    for at in range(len(whole) - 4):
        for byte in (0x00, 0xFF):
            gguf_context(whole[:at] + bytes([byte]) + whole[at + 1 :])
    deep = ("a", 9, struct.pack("<IQ", 9, 1) * 5000)
    assert gguf_context(gguf(deep, LENGTH)) is None


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"seq_length": 8192, "max_position_embeddings": 4096}, 4096),
        ({"text_config": {"max_position_embeddings": 32768}, "vision_config": {}}, 32768),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.0}}, 8192),
        # Qwen 2.5 with YaRN, and Llama 3.1, whose length has been multiplied already.
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        ({"max_position_embeddings": 4096, "rope_scaling": {"factor": "much"}}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": None}, 4096),
        ({"max_position_embeddings": "many"}, None),
        ({"max_position_embeddings": True}, None),
        ({"model_type": "mamba"}, None),
        ([], None),
    ],
)
def test_config_json(config: Any, tokens: int | None) -> None:
    assert config_context(json.dumps(config).encode()) == tokens


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b'{"max_position_embeddings": 1e999}'])
def test_what_is_no_config_json_is_unknown(data: bytes) -> None:
    assert config_context(data) is None


def test_only_what_is_above_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 4096}')
    for model, trained in ((tmp_path, 4096), (DEMO, 2048)):
        assert too_long("context", trained, model) == too_long("context", None, model) == ()
        [note] = too_long("context", trained + 1, model)
        assert note.startswith(f"context: {trained + 1} tokens") and f" {trained} " in note
    assert too_long("context", 10**6, tmp_path / "gone") == too_long("context", 10**6, tmp_path.parent) == ()
