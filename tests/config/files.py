"""Config files for tests: written, loaded, and what is wrong with them as lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.config.file import load
from gateway.config.problems import ConfigError
from gateway.config.schema import Config


def written(folder: Path, text: str | bytes) -> Path:
    """Write a config file that holds `text`. Return its path."""
    file = folder / "gateway.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def config(folder: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> Config:
    """Return the config that `text` means."""
    return load(written(folder, text), environ or {})


def lines(folder: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return every problem of `text` as "line:column: message"; none if it is accepted."""
    file = written(folder, text)
    try:
        load(file, environ or {})
    except ConfigError as error:
        return [str(problem).removeprefix(f"{file}:") for problem in error.problems]
    return []
