"""Fetches a model of a hub to where engines look for it.

Rules:
- What is missing is known, and the disk is looked at, before the first byte is fetched.
- Models of the Hugging Face hub go into its own cache (`HF_HOME`), laid out as its library does it: large files are
  fetched here and the library finds them; small ones it fetches itself. So vLLM and the others find them by name.
- Models of ModelScope go where its library has them: `MODELSCOPE_CACHE`, below `models`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.utils.tqdm import disable_progress_bars

from backends.sizing.hubs import Hub, HubError, Name, hub_cache, repository_folder, scope_cache
from gateway.hub.fetch import check_space, fetch, missing
from gateway.hub.huggingface import ERRORS, HuggingFace, said
from gateway.hub.modelscope import ModelScope
from gateway.hub.remote import RemoteFile, chosen


def pull(name: Name, begun: Callable[[int, int], None], progress: Callable[[int], None]) -> Path:
    """Fetch a model; return its GGUF file, or its folder. Raise HubError.

    `begun` is told its bytes in all, and those that are here already; then `progress` of bytes that have come.
    """
    if name.hub is Hub.HUGGING_FACE:
        return _huggingface(name, begun, progress)
    if name.hub is Hub.MODEL_SCOPE:
        return _modelscope(name, begun, progress)
    raise HubError(f"{name.hub} is asked through a backend: gateway pull {name} --backend NAME")


def _huggingface(name: Name, begun: Callable[[int, int], None], progress: Callable[[int], None]) -> Path:
    there = HuggingFace(name.repository)
    files = chosen(there.files(), name.choice)
    cache = hub_cache(os.environ)
    blobs = repository_folder(cache, name.repository) / "blobs"
    large = [(file, blobs / file.sha256) for file in files if file.sha256 is not None]
    _ready(files, large, cache, begun)
    for file, target in large:
        fetch(partial(there.stream, file.path, size=file.size), target, file.size, file.sha256, progress)
    disable_progress_bars()
    found: list[str] = []
    for file in files:
        try:
            found.append(str(hf_hub_download(name.repository, file.path, cache_dir=cache)))
        except ERRORS as error:
            raise said(error, name.repository) from error
        if file.sha256 is None:
            progress(file.size)
    first = Path(found[0])
    return first if files[0].path.endswith(".gguf") else first.parent


def _modelscope(name: Name, begun: Callable[[int, int], None], progress: Callable[[int], None]) -> Path:
    there = ModelScope(name.repository)
    files = chosen(there.files(), name.choice)
    folder = scope_cache(os.environ) / "models" / name.repository
    targets = [(file, folder / file.path) for file in files]
    for _, target in targets:
        if not target.resolve().is_relative_to(folder.resolve()):
            raise HubError(f"{name.repository} has a file outside its folder")
    _ready(files, targets, folder, begun)
    for file, target in targets:
        fetch(partial(there.stream, file.path, size=file.size), target, file.size, file.sha256, progress)
    return targets[0][1] if files[0].path.endswith(".gguf") else folder


def _ready(
    files: Sequence[RemoteFile],
    targets: Sequence[tuple[RemoteFile, Path]],
    folder: Path,
    begun: Callable[[int, int], None],
) -> None:
    """Say how much there is to do. Raise HubError where the disk has no room for it."""
    wanted = sum(missing(target, file.size) for file, target in targets)
    check_space(folder, wanted)
    large = sum(file.size for file, _ in targets)
    begun(sum(file.size for file in files), large - wanted)
