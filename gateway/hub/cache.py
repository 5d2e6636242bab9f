"""The models of hubs that are on this machine, in the caches of the hubs' own libraries; and how they are removed.

Rules:
- Of a repository with GGUF files each of these is a model, with all its parts; what else has weights is one model.
- What is removed is what belongs to that model alone. A blob that another file in the cache means stays. With the last
  model of a repository all of it goes.
- Nothing outside the caches is ever removed.

Source: the cache of huggingface_hub 2.4 (`scan_cache_dir`), and of modelscope 1.30.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CachedRepoInfo, HFCacheInfo, scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from backends.sizing.hubs import Hub, HubError, Name, choose, hub_cache, scope_cache, stem

WEIGHTS = (".gguf", ".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class Held:
    """A model of a hub that is on this machine."""

    name: Name
    where: Path
    """What an engine is told: its GGUF file, the first of its parts; or its folder."""
    files: tuple[Path, ...]
    """The files that belong to it alone, as its repository names them."""
    size: int
    """Their bytes."""


def held() -> list[Held]:
    """Return the models of hubs that are on this machine, by name. Raise HubError."""
    try:
        found = [*_huggingface(), *_modelscope()]
    except OSError as error:
        raise HubError(f"cannot read {error.filename}: {error.strerror}") from error
    return sorted(found, key=lambda model: str(model.name))


def named(models: Sequence[Held], name: Name) -> Held:
    """Return which of these models is meant. Raise HubError where it is none, or where several are."""
    there = [
        model for model in models if model.name.hub is name.hub and model.name.repository == name.repository
    ]
    if not there:
        raise HubError(f"{name} is not on this machine")
    if not name.choice:
        if len(there) > 1:
            raise HubError(f"{name} is several models: {', '.join(str(model.name) for model in there)}")
        return there[0]
    ggufs = {stem(model.where.name): model for model in there if model.where.suffix == ".gguf"}
    if not ggufs:
        raise HubError(f"{name} is not on this machine: of {name.repository} there are no GGUF files")
    return ggufs[choose(list(ggufs), name.choice)]


def remove(model: Held) -> int:
    """Remove a model from its hub's cache. Return how many bytes became free. Raise HubError."""
    try:
        freed = _drop(model) if model.name.hub is Hub.HUGGING_FACE else _unlink(model)
    except OSError as error:
        raise HubError(f"cannot remove {error.filename}: {error.strerror}") from error
    left = [path for path in model.files if os.path.lexists(path)]
    if left:
        raise HubError(f"cannot remove {left[0]}: is it somebody else's?")
    return freed


def _scan() -> HFCacheInfo | None:
    try:
        return scan_cache_dir(hub_cache(os.environ))
    except CacheNotFound:
        return None


def _huggingface() -> Iterator[Held]:
    scanned = _scan()
    for repo in scanned.repos if scanned is not None else ():
        if repo.repo_type != "model" or not repo.revisions:
            continue
        newest = max(repo.revisions, key=lambda each: ("main" in each.refs, each.last_modified))
        paths = {file.file_path: file.size_on_disk for file in newest.files}
        yield from _models(Hub.HUGGING_FACE, repo.repo_id, newest.snapshot_path, paths)


def _modelscope() -> Iterator[Held]:
    root = scope_cache(os.environ) / "models"
    # A name with dots is a link to a folder with other letters in their place.
    links = {path.resolve() for path in root.glob("*/*") if path.is_symlink()}
    for folder in root.glob("*/*"):
        if not folder.is_dir() or (not folder.is_symlink() and folder.resolve() in links):
            continue
        paths = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        yield from _models(Hub.MODEL_SCOPE, f"{folder.parent.name}/{folder.name}", folder, paths)


def _models(hub: Hub, repository: str, folder: Path, paths: dict[Path, int]) -> Iterator[Held]:
    """Yield the models among the files of one repository."""
    ggufs: dict[str, list[Path]] = {}
    for path in sorted(paths):
        if path.suffix == ".gguf" and not path.name.startswith("mmproj"):
            ggufs.setdefault(stem(path.name), []).append(path)
    for name, parts in ggufs.items():
        choice = _choice(name, list(ggufs))
        yield Held(Name(hub, repository, choice), parts[0], tuple(parts), sum(paths[part] for part in parts))
    rest = tuple(path for path in sorted(paths) if path.suffix != ".gguf")
    if rest and (not ggufs or any(path.suffix in WEIGHTS for path in rest)):
        yield Held(Name(hub, repository), folder, rest, sum(paths[path] for path in rest))


def _choice(name: str, stems: Sequence[str]) -> str:
    """Return what names this file among those of its repository: its quantization where that is enough."""
    last = name.replace(".", "-").rsplit("-", 1)[-1]
    try:
        return last if choose(stems, last) == name else name
    except HubError:
        return name


def _drop(model: Held) -> int:
    scanned = _scan()
    repo = None if scanned is None else _repo(scanned.repos, model)
    if scanned is None or repo is None:
        raise HubError(f"{model.name} is not on this machine any more")
    names = {path.relative_to(_snapshot(repo, path)) for path in model.files}
    files = {file for revision in repo.revisions for file in revision.files}
    own = [file for file in files if file.file_path.relative_to(_snapshot(repo, file.file_path)) in names]
    others = files.difference(own)
    if any(file.file_path.suffix in WEIGHTS for file in others):
        strategy = scanned.delete_files(*own)
    else:
        # Revisions are named by their hashes alone, and copies of a repository have the same ones.
        alone = dataclasses.replace(scanned, repos=frozenset((repo,)))
        strategy = alone.delete_revisions(*(revision.commit_hash for revision in repo.revisions))
    strategy.execute()
    return strategy.expected_freed_size


def _repo(repos: Iterable[CachedRepoInfo], model: Held) -> CachedRepoInfo | None:
    alike = (each for each in repos if each.repo_type == "model" and each.repo_id == model.name.repository)
    return next(alike, None)


def _snapshot(repo: CachedRepoInfo, path: Path) -> Path:
    """Return the folder of the revision that a file is in."""
    snapshots = repo.repo_path / "snapshots"
    return snapshots / path.relative_to(snapshots).parts[0]


def _unlink(model: Held) -> int:
    folder = scope_cache(os.environ) / "models" / model.name.repository
    real = folder.resolve()
    if not real.is_relative_to(scope_cache(os.environ).resolve()):
        raise HubError(f"{folder} is a link to somewhere else: remove it yourself")
    others = [path for path in folder.rglob("*") if path.is_file() and path not in model.files]
    if any(path.suffix in WEIGHTS for path in others):
        for path in model.files:
            path.unlink()
        return model.size
    freed = model.size + sum(path.stat().st_size for path in others)
    shutil.rmtree(real)
    if folder.is_symlink():
        folder.unlink()
    return freed
