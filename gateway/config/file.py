"""Reading the config: from the path of its file to a complete, checked and frozen `Config`.

Rules:
- `read` returns an immutable `Config` or raises `ConfigError` with every problem there is, each with its place.
- What it takes is beside it: the types in `schema`, reading YAML in `yaml_source`, several files in `include`, rules
  between values in `check`. What is filled in, names and types are checked in the whole, when all files are one.
"""

from __future__ import annotations

import hashlib
import os
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.config import certificate, check, explain, open_secrets
from gateway.config.disk import Disk, Files
from gateway.config.include import gather
from gateway.config.inherit import with_pull
from gateway.config.persona import expanded
from gateway.config.problems import ConfigError, Problem, quote
from gateway.config.schema import Config
from gateway.config.section import validate
from gateway.config.yaml_source import Source, Where

NAMED = frozenset(
    name for name, field in Config.model_fields.items() if typing.get_origin(field.annotation) is Mapping
)
"""The sections whose entries the user names."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A config that was read, with what it was read from."""

    config: Config
    version: str
    """A short hash of the text of its files. What is filled in into them is no part of it."""
    files: tuple[str, ...]
    """The files in the order in which they were read."""
    warnings: tuple[Problem, ...] = ()
    """What is no mistake and should not stay so, in the order of the files."""


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check the config file. Raises ConfigError with every problem found."""
    return read(path, environ).config


def read(path: Path, environ: Mapping[str, str] = os.environ, files: Files | None = None) -> Loaded:
    """Read and check the config file and those that it includes; `files` are read from, or else this machine's.

    Raises ConfigError with every problem found.
    """
    files = files or Disk()
    found = gather(str(path), environ, files, NAMED)
    version = hashlib.sha256(b"".join(b"%d:%s" % (len(text), text) for text in found.contents))
    config = _checked(found.source, files)
    warnings = tuple(sorted(open_secrets.found(config, found.source)))
    return Loaded(config, version.hexdigest()[:12], found.names, warnings)


def _checked(source: Source, files: Files) -> Config:
    names = explain.Names()
    data = {key: value for key, value in source.root.plain().items() if value is not None}
    broken, found = list(_broken(source)), [*source.problems, *_empty(source)]
    try:
        config = _validate(source, data)
    except ValidationError as error:
        broken += (detail["loc"] for detail in _details(error))
        found += explain.problems(source, error, names)
    if broken:
        config = _sound_part(data, broken)
    found += check.check(config, source, names)
    if config.server.tls is not None:
        found += certificate.load(config.server.tls, source, files)
    if found:
        raise ConfigError(found)
    return with_pull(expanded(config))


def _validate(source: Source, data: dict[str, Any]) -> Config:
    try:
        return validate(Config, data)
    except ValidationError as error:
        if not explain.read_late(source, error, data):
            raise
        return validate(Config, data)


def _broken(source: Source) -> Iterator[Where]:
    return (where for where, node in source.root.walk() if where and (node.broken or node.empty))


def _empty(source: Source) -> Iterator[Problem]:
    """Yield a problem for each key and list item without a value. Only a whole section may be left empty."""
    for where, node in source.root.walk():
        if node.empty and len(where) > 1:
            what = quote(where[-1]) if isinstance(where[-1], str) else "this item"
            yield source.problem(where, f"{what} has no value", at_key=True)


def _sound_part(data: dict[str, Any], broken: Iterable[Where]) -> Config:
    """Return the config without its broken values, so that the sound ones can be checked as well. Empties `data`."""
    for *above, last in sorted({_held(data, where) for where in broken} - {()}, key=len, reverse=True):
        holder = data
        for step in above:
            holder = holder[step]
        del holder[last]
    try:
        return validate(Config, data)
    except ValidationError as error:
        return _sound_part(data, [detail["loc"] for detail in _details(error)])


def _held(data: dict[str, Any], where: Where) -> tuple[str, ...]:
    """Return the way to what can be left out for the sake of `where`: the nearest entry of a map."""
    found: list[str] = []
    for step in where:
        if not isinstance(data, dict) or step not in data:
            break
        found.append(str(step))
        data = data[str(step)]
    return tuple(found)


def _details(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_input=False, include_context=False)
