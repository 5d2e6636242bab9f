"""`gateway models` alone: the models on this machine and those that a running gateway serves; and `gateway models rm`.

Rules:
- A gateway that does not answer is said and is no failure: what is on this machine can be listed without.
- `rm` removes what came from a hub and nothing else. What the given config launches stays, unless `--force` is given.
- Programs read `--json`; the rest is for people and may change.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.sizing.files import facts, parts, stored
from backends.sizing.hubs import Hub, HubError, parse
from backends.sizing.model import ModelError
from backends.sizing.need import shown
from gateway.config.file import load
from gateway.config.problems import ConfigError
from gateway.config.schema import Config
from gateway.console.client import Client, Failed, printable
from gateway.console.frames import table

if TYPE_CHECKING:
    from gateway.hub.cache import Held


@dataclass(frozen=True, slots=True)
class Listed:
    """A model on this machine."""

    name: str
    path: str
    size: int
    """Bytes of its files."""
    quantization: str | None
    """None where its files cannot be read; `problem` says why then."""
    context: int | None
    """Tokens that it was trained for."""
    used_by: tuple[str, ...]
    """The backends of the config that launch it."""
    problem: str | None = None


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a config."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the config whose backends may use the models"
    )


def add_remove(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gateway models rm`."""
    parser.add_argument("model", help="its name as `gateway models` lists it: hf:ORG/NAME:Q4_K_M")
    parser.add_argument("--force", action="store_true", help="also where a backend of the config launches it")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="the config whose backends may use the model",
    )
    parser.set_defaults(run=remove)


def show(options: argparse.Namespace) -> int:
    """List the models on this machine, and those that a running gateway serves. Return the exit status."""
    try:
        config = None if options.config is None else load(options.config)
        local = listed(config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except HubError as error:
        print(f"gateway: {printable(str(error))}", file=sys.stderr)
        return 1
    served, why = _served(options)
    if options.json:
        print(json.dumps(_told(local, config is not None, served, why), indent=2))
        return 0
    print("\n".join(_local_lines(local, config is not None)))
    if served is None:
        print(f"gateway: no gateway tells what it serves: {printable(why or '')}", file=sys.stderr)
    else:
        print("\n".join(("", *_served_lines(served))))
    return 0


def remove(options: argparse.Namespace) -> int:
    """Remove a model of a hub from this machine. Return the exit status."""
    # The library of the hub takes a quarter of a second to import.
    from gateway.hub import cache

    try:
        config = None if options.config is None else load(options.config)
        name = parse(options.model)
        if name.hub is Hub.OLLAMA:
            raise HubError(f"a backend's engine has it: gateway models delete BACKEND {name.repository}")
        model = cache.named(cache.held(), name)
        users = _users(_places(config), _of_held(model))
        if users and not options.force:
            whose = ", ".join(users)
            raise HubError(f"{model.name} is launched by {whose} in {options.config}: --force removes it")
        freed = cache.remove(model)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except HubError as error:
        print(f"gateway: {printable(str(error))}", file=sys.stderr)
        return 1
    print(f"{model.name} is removed: {shown(freed)} became free ({freed} bytes)")
    return 0


def listed(config: Config | None) -> list[Listed]:
    """Return the models on this machine: those of hubs, and those that a config launches from elsewhere.

    Raises HubError.
    """
    from gateway.hub import cache

    places = _places(config)
    models = cache.held()
    found = [
        _listed(str(model.name), model.where, model.size, _users(places, _of_held(model))) for model in models
    ]
    known = {path for model in models for path in _of_held(model)}
    others: dict[Path, tuple[str, list[str]]] = {}
    for backend, where in places.items():
        if not known & {_plain(where)}:
            others.setdefault(_plain(where), (str(where), []))[1].append(backend)
    return found + [
        _listed(name, path, sum(map(stored, _files(path))), users)
        for path, (name, users) in sorted(others.items())
    ]


def _listed(name: str, where: Path, size: int, users: Sequence[str]) -> Listed:
    try:
        found = facts(where)
    except ModelError as error:
        return Listed(name, str(where), size, None, None, tuple(users), str(error))
    return Listed(name, str(where), size, found.quantization, found.context, tuple(users))


def _places(config: Config | None) -> dict[str, Path]:
    """Return where the model of each launched backend is, as far as it is on this machine."""
    found = {} if config is None else config.backends
    places = {name: backend.launch.files() for name, backend in found.items() if backend.launch is not None}
    return {name: path for name, path in places.items() if path is not None}


def _users(places: dict[str, Path], own: set[Path]) -> list[str]:
    return [name for name, path in places.items() if _plain(path) in own]


def _of_held(model: Held) -> set[Path]:
    return {_plain(path) for path in (model.where, *model.files)}


def _plain(path: Path) -> Path:
    """Return a path as it can be compared: without links above it. The file itself may be a link into a cache."""
    return Path(os.path.realpath(path.parent)) / path.name


def _files(path: Path) -> Sequence[Path]:
    return [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else parts(path)


def _served(options: argparse.Namespace) -> tuple[list[dict[str, Any]] | None, str | None]:
    """Return what a running gateway serves; or None, and why that is not known."""
    try:
        return Client.of(options).models(), None
    except Failed as error:
        return None, str(error)


def _told(
    local: Sequence[Listed], is_known: bool, served: list[dict[str, Any]] | None, why: str | None
) -> dict[str, Any]:
    return {
        "local": [
            {
                "name": model.name,
                "path": model.path,
                "bytes": model.size,
                "quantization": model.quantization,
                "context": model.context,
                "used_by": list(model.used_by) if is_known else None,
                "problem": model.problem,
            }
            for model in local
        ],
        "served": served,
        "served_error": why,
    }


def _local_lines(local: Sequence[Listed], is_known: bool) -> list[str]:
    if not local:
        return ["no model of a hub is on this machine: `gateway pull` fetches one"]
    head = ("ON THIS MACHINE", "SIZE", "TYPE", "CONTEXT", "USED BY" if is_known else "")
    return table(head, [_local_row(model) for model in local])


def _local_row(model: Listed) -> tuple[str, ...]:
    context = "-" if model.context is None else str(model.context)
    last = ", ".join(model.used_by) if model.problem is None else model.problem
    return model.name, shown(model.size), model.quantization or "-", context, last


def _served_lines(served: Sequence[dict[str, Any]]) -> list[str]:
    if not served:
        return ["the gateway serves no model"]
    rows = [
        (
            str(model.get("name")),
            ", ".join(map(str, model.get("aliases") or ())) or "-",
            str(model.get("context") or "-"),
            ", ".join(str(target.get("backend")) for target in model.get("targets") or ()) or "-",
        )
        for model in served
    ]
    return table(("SERVED", "ALIASES", "CONTEXT", "BACKENDS"), rows)
