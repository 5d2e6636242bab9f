"""How models of hubs are called, and where they are on this machine once they were fetched.

Rules:
- `hf:ORG/NAME`, `hf:ORG/NAME:Q4_K_M`, `ms:ORG/NAME`, `ollama:NAME`. Without a prefix, `ORG/NAME` is one of the Hugging
  Face hub. What follows the second colon chooses among GGUF files: a quantization, or a file's name.
- Nothing is fetched here, and no hub is asked.

Source: the layout of the caches of huggingface_hub 2.4 and of modelscope 1.30.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class Hub(enum.StrEnum):
    """Where models come from."""

    HUGGING_FACE = "hf"
    MODEL_SCOPE = "ms"
    OLLAMA = "ollama"


class HubError(Exception):
    """A hub does not do what is wanted. The message is one line for people."""

    def __init__(self, message: str, final: bool = True) -> None:
        """With `final`, asking again is of no use."""
        super().__init__(message)
        self.final = final


_PREFIXES = {
    "hf": Hub.HUGGING_FACE,
    "huggingface": Hub.HUGGING_FACE,
    "ms": Hub.MODEL_SCOPE,
    "modelscope": Hub.MODEL_SCOPE,
    "ollama": Hub.OLLAMA,
}
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_PART = re.compile(r"-(?P<number>[0-9]{5})-of-[0-9]{5}$")
USUAL = ("Q4_K_M", "Q4_K_S", "Q4_0", "MXFP4", "Q8_0", "F16", "BF16")
"""The GGUF file that is meant where none is named: the first of these that there is."""


@dataclass(frozen=True, slots=True)
class Name:
    """A model of a hub."""

    hub: Hub
    repository: str
    """`ORG/NAME`; for Ollama, the model as it names it."""
    choice: str = ""
    """Which of its GGUF files: a quantization or a file's name. Empty: the safetensors, or the usual GGUF file."""

    def __str__(self) -> str:
        """Return the name as the commands and the config take it."""
        return f"{self.hub}:{self.repository}{':' if self.choice else ''}{self.choice}"


def has_prefix(text: str) -> bool:
    """Return whether this names a model of a hub with the hub's prefix."""
    prefix, colon, _ = text.partition(":")
    return bool(colon) and prefix.lower() in _PREFIXES


def parse(text: str) -> Name:
    """Return the model of a hub with this name. Raise HubError."""
    prefix, _, rest = text.partition(":")
    hub = _PREFIXES[prefix.lower()] if has_prefix(text) else Hub.HUGGING_FACE
    rest = rest if has_prefix(text) else text
    if hub is Hub.OLLAMA:
        if not rest:
            raise HubError("ollama: needs the name of a model, such as ollama:qwen3:8b")
        return Name(hub, rest)
    repository, _, choice = rest.partition(":")
    if not _REPOSITORY.fullmatch(repository):
        raise HubError(f"{text!r} is no model of a hub: write ORG/NAME, or hf:ORG/NAME:Q4_K_M")
    return Name(hub, repository, choice)


def stem(name: str) -> str:
    """Return a GGUF file's name without its folder, its ending, and the number of its part."""
    return _PART.sub("", name.rsplit("/", 1)[-1].removesuffix(".gguf"))


def choose(stems: Sequence[str], choice: str) -> str:
    """Return which GGUF file is meant, of these names without parts. Raise HubError where it is none, or several."""
    for wanted in (choice,) if choice else USUAL:
        found = [name for name in stems if _means(name, wanted)]
        if len(found) == 1 or (found and not choice):
            return found[0]
        if len(found) > 1:
            raise HubError(f"{choice} means several of its files: {', '.join(found)}")
    if not choice and len(stems) == 1:
        return stems[0]
    raise HubError(f"{choice or 'the usual'} is none of its files: it has {', '.join(stems)}")


def _means(name: str, wanted: str) -> bool:
    word = wanted.lower().removesuffix(".gguf")
    return name.lower() == word or re.search(rf"(?:^|[-._/]){re.escape(word)}$", name.lower()) is not None


def local(text: str, env: Mapping[str, str] | None = None) -> Path | None:
    """Return where a model is that an option names: its folder, or the GGUF file that was chosen; None if nowhere here.

    `text` is a path or a hub's name. `env` are variables that win over the process's own.
    """
    if not has_prefix(text):
        path = Path(text)
        if path.exists():
            return path
        if path.is_absolute() or text.startswith(".") or text.count("/") != 1:
            return None
    try:
        name = parse(text)
    except HubError:
        return None
    folder = _folder(name, {**os.environ, **(env or {})})
    if folder is None or not folder.is_dir():
        return None
    return _inside(folder, name.choice)


def hub_cache(env: Mapping[str, str]) -> Path:
    """Return the folder in which `huggingface_hub` keeps what it has fetched."""
    told = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE")
    if told:
        return Path(told).expanduser()
    home = env.get("HF_HOME") or os.path.join(env.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(home).expanduser() / "hub"


def scope_cache(env: Mapping[str, str]) -> Path:
    """Return the folder in which `modelscope` keeps what it has fetched."""
    return Path(env.get("MODELSCOPE_CACHE") or "~/.cache/modelscope/hub").expanduser()


def repository_folder(cache: Path, repository: str) -> Path:
    """Return where `huggingface_hub` keeps all of a repository."""
    return cache / f"models--{repository.replace('/', '--')}"


def _folder(name: Name, env: Mapping[str, str]) -> Path | None:
    if name.hub is Hub.MODEL_SCOPE:
        return scope_cache(env) / "models" / name.repository
    if name.hub is Hub.OLLAMA:
        return None
    held = repository_folder(hub_cache(env), name.repository)
    try:
        revision = (held / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return held / "snapshots" / revision


def _inside(folder: Path, choice: str) -> Path | None:
    """Return the folder, or the GGUF file in it that is meant: the first of its parts."""
    ggufs: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.gguf")):
        if not path.name.startswith("mmproj"):
            ggufs.setdefault(stem(path.name), path)
    if not ggufs or (not choice and (folder / "config.json").is_file()):
        return None if choice else folder
    try:
        return ggufs[choose(list(ggufs), choice)]
    except HubError:
        return None
