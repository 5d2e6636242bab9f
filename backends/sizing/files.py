"""Reads the files of a model: a GGUF file, several that belong together, or a folder as Hugging Face has it.

Rules:
- Only beginnings are read, never the weights.
- A file that cannot be read, or is no model, is a `ModelError` that names it; only `trained_context` and `too_long` are
  silent then, because the engine has the last word.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import re
from pathlib import Path

from backends.sizing import gguf, safetensors
from backends.sizing.config import Config
from backends.sizing.folder import folder_facts
from backends.sizing.gguf_model import gguf_context, gguf_facts
from backends.sizing.model import ModelError, ModelFacts

HEAD = 1 << 20
"""The bytes at the beginning of a GGUF file that hold its settings, but for the end of a long vocabulary."""
CONFIG_BYTES = 1 << 20
"""A `config.json` has a few kilobytes."""
INDEX_BYTES = 64 << 20
"""A `model.safetensors.index.json` has some megabytes where a model has thousands of experts."""
_PART = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")


def facts(model: Path, projector: Path | None = None) -> ModelFacts:
    """Return the facts of the model in a GGUF file, or in a folder. Raise ModelError.

    `projector` is a GGUF file that is loaded beside it (llama.cpp's `mmproj`). A folder with `config.json` is one of
    safetensors; without it, its only model in GGUF is meant.
    """
    try:
        if not model.is_dir():
            return _of_gguf(model, projector)
        if (model / "config.json").is_file():
            return _of_folder(model)
        found = [path for path in sorted(model.glob("*.gguf")) if "mmproj" not in path.name]
        first = [
            path for path in found if not (part := _PART.fullmatch(path.name)) or int(part["number"]) == 1
        ]
        if len(first) != 1:
            what = "several GGUF files, name one of them" if first else "neither config.json nor a GGUF file"
            raise ModelError(f"{model} has {what}")
        return _of_gguf(first[0], projector)
    except OSError as error:
        raise ModelError(f"cannot read {error.filename or model}: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{model} is no model that can be read: {error}") from error


def parts(model: Path) -> tuple[Path, ...]:
    """Return the files that a GGUF file belongs to: itself, or all that its name counts."""
    part = _PART.fullmatch(model.name)
    if part is None:
        return (model,)
    count = int(part["count"])
    return tuple(model.with_name(f"{part['stem']}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1))


def trained_context(model: Path) -> int | None:
    """Return the most tokens that the model was trained for, prompt and answer together; None where that is unknown."""
    try:
        if model.is_dir():
            config = Config.read((model / "config.json").read_bytes()[:CONFIG_BYTES])
            return None if config is None else config.context()
        with model.open("rb") as file:
            return gguf_context(gguf.settings(file.read(HEAD)))
    except (OSError, ValueError):
        return None


def too_long(option: str, tokens: int | None, model: Path) -> tuple[str, ...]:
    """Return a note for the operator if `tokens`, the value of `option`, is more than the model was trained for."""
    trained = None if tokens is None else trained_context(model)
    if tokens is None or trained is None or tokens <= trained:
        return ()
    return (f"{option}: {tokens} tokens are more than the {trained} that the model was trained for",)


def stored(path: Path | None) -> int:
    """Return the bytes of a file; 0 where there is none."""
    try:
        return 0 if path is None else path.stat().st_size
    except OSError:
        return 0


def _of_gguf(model: Path, projector: Path | None) -> ModelFacts:
    files = parts(model)
    heads = [_gguf_head(path) for path in files]
    beside = 0 if projector is None else projector.stat().st_size
    found = gguf_facts(heads, [path.stat().st_size for path in files], beside)
    return dataclasses.replace(found, files=files)


def _gguf_head(path: Path) -> gguf.Head:
    """Return the beginning of one file. Raise OSError, ValueError or ModelError."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise ModelError(f"{path} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return gguf.head(data)
            except gguf.Cut:
                raise ModelError(f"{path} ends too early: download it again") from None


def _of_folder(model: Path) -> ModelFacts:
    config = Config.read((model / "config.json").read_bytes()[:CONFIG_BYTES])
    if config is None:
        raise ValueError("its config.json is not JSON with an object")
    files = _safetensors(model)
    tensors = [tensor for path in files for tensor in _tensors(path)]
    if not tensors:
        others = [*model.glob("*.bin"), *model.glob("*.pt"), *model.glob("*.pth")]
        found = folder_facts(config, weights=sum(path.stat().st_size for path in others))
        return dataclasses.replace(found, files=tuple(others))
    return dataclasses.replace(folder_facts(config, tensors), files=files)


def _safetensors(model: Path) -> tuple[Path, ...]:
    """Return the files with weights: those that the index names, or all there are."""
    index = model / "model.safetensors.index.json"
    if not index.is_file():
        whole = model / "model.safetensors"
        return (whole,) if whole.is_file() else tuple(sorted(model.glob("*.safetensors")))
    with index.open("rb") as file:
        told = json.loads(file.read(INDEX_BYTES))
    names = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(names, dict):
        raise ValueError(f"{index.name} has no weight_map")
    return tuple(model / name for name in sorted({str(name) for name in names.values()}))


def _tensors(path: Path) -> tuple[safetensors.Tensor, ...]:
    with path.open("rb") as file:
        begin = file.read(8)
        try:
            return safetensors.tensors(begin + file.read(safetensors.length(begin) - 8))
        except ValueError as error:
            raise ModelError(f"{path}: {error}") from error
