"""What a hub has of a model, and what it costs to know: names and sizes of files, and their beginnings.

Rules:
- A `Repository` reads ranges of files, never a whole one of weights.
- Which files make up a model is decided here, for every hub alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from backends.sizing import gguf, safetensors
from backends.sizing.config import Config
from backends.sizing.folder import folder_facts
from backends.sizing.gguf_model import gguf_facts
from backends.sizing.hubs import HubError, choose, stem
from backends.sizing.model import ModelFacts

STEP = 1 << 20
"""The bytes of a GGUF file that are read first; each further step is four times as large."""
MOST = 256 << 20
"""The most bytes that the beginning of a GGUF file may have."""
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".ot", ".tflite")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository."""

    path: str
    size: int
    sha256: str | None = None
    """What its bytes must come out as; None where the hub does not say."""


class Repository(Protocol):
    """A model at a hub."""

    def files(self) -> tuple[RemoteFile, ...]:
        """Return its files. Raise HubError."""

    def read(self, path: str, begin: int, size: int) -> bytes:
        """Return bytes of one of its files, fewer at its end. Raise HubError."""

    def stream(self, path: str, begin: int, size: int) -> Iterator[bytes]:
        """Yield so many bytes of a file from `begin` on. Raise HubError."""


def chosen(files: Sequence[RemoteFile], choice: str) -> tuple[RemoteFile, ...]:
    """Return the files that make up the model. Raise HubError where `choice` means none of them, or several.

    With a choice, or where there are only GGUF files, it is one of those (all its parts); else everything that an
    engine reads: the safetensors, or older files of weights where there are none, and what is beside them.
    """
    ggufs: dict[str, list[RemoteFile]] = {}
    for file in files:
        if _is_gguf(file):
            ggufs.setdefault(stem(file.path), []).append(file)
    plain = [file for file in files if file.path.endswith(".safetensors") and "/" not in file.path]
    if not choice and (plain or not ggufs):
        return _folder(files, plain)
    if not ggufs:
        raise HubError(f"it has no GGUF files, so there is no {choice}: leave it out")
    return tuple(sorted(ggufs[choose(sorted(ggufs), choice)], key=lambda file: file.path))


def _is_gguf(file: RemoteFile) -> bool:
    return file.path.endswith(".gguf") and not PurePosixPath(file.path).name.startswith("mmproj")


def _folder(files: Sequence[RemoteFile], plain: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    weights = list(plain) or [file for file in files if file.path.endswith(".bin") and "/" not in file.path]
    if not weights:
        raise HubError("it has neither safetensors nor GGUF files")
    if any(file.path.startswith("model") for file in weights):
        # `consolidated.safetensors` is the same model once more, in its publisher's own form.
        weights = [file for file in weights if not file.path.startswith("consolidated")]
    beside = [
        file
        for file in files
        if not file.path.endswith(_WEIGHTS) and "/" not in file.path and file.path[:1] != "."
    ]
    return (*beside, *weights)


def quantizations(files: Sequence[RemoteFile]) -> dict[str, int]:
    """Return the GGUF files there are, by the name without parts, and their bytes."""
    found: dict[str, int] = {}
    for file in files:
        if _is_gguf(file):
            found[stem(file.path)] = found.get(stem(file.path), 0) + file.size
    return found


def remote_facts(repository: Repository, choice: str) -> ModelFacts:
    """Return the facts of a model from the beginnings of its files. Raise HubError."""
    files = chosen(repository.files(), choice)
    try:
        if files[0].path.endswith(".gguf"):
            heads = [_head(repository, file) for file in files]
            return gguf_facts(heads, [file.size for file in files])
        config = Config.read(repository.read("config.json", 0, STEP))
        if config is None:
            raise HubError("its config.json cannot be read")
        weights = [file for file in files if file.path.endswith(".safetensors")]
        tensors = [tensor for file in weights for tensor in _tensors(repository, file)]
        return folder_facts(config, tensors, sum(file.size for file in files if file.path.endswith(".bin")))
    except ValueError as error:
        raise HubError(f"it is no model that can be read: {error}") from error


def _head(repository: Repository, file: RemoteFile) -> gguf.Head:
    data, step = b"", STEP
    while True:
        data += repository.read(file.path, len(data), step)
        try:
            return gguf.head(data)
        except gguf.Cut:
            if len(data) >= min(file.size, MOST):
                raise HubError(f"{file.path} ends too early") from None
        step *= 4


def _tensors(repository: Repository, file: RemoteFile) -> tuple[safetensors.Tensor, ...]:
    data = repository.read(file.path, 0, STEP)
    missing = safetensors.length(data) - len(data)
    if missing > 0:
        data += repository.read(file.path, len(data), missing)
    return safetensors.tensors(data)
