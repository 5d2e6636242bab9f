"""Makes the model folder of the scripted servers: the demo model, with tags for tools and thoughts.

Models that call tools have a token for each of these tags, and the servers' parsers rely on it: without them LMDeploy
loses every streamed tool call but the first.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
_COPIED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def make(source: Path, folder: Path) -> None:
    """Make `folder` from the demo model in `source`. What is there is written anew."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _COPIED:
        shutil.copy(source / name, folder)
    tokenizer = _read(folder / "tokenizer.json")
    first = 1 + max(
        *tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])
    )
    kind = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    tokenizer["added_tokens"] += [
        {"id": number, "content": tag, **kind} for number, tag in enumerate(TAGS, first)
    ]
    _write(folder / "tokenizer.json", tokenizer)
    config = _read(folder / "config.json")
    _write(folder / "config.json", config | {"vocab_size": config["vocab_size"] + len(TAGS)})


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _write(file: Path, data: dict[str, Any]) -> None:
    file.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
