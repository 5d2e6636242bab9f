"""`gateway fit`: how much memory a model needs, and what of this machine it fits on.

Rules:
- The table has 80 columns at most. With `--json` the same comes for programs, in bytes.
- Of a model that is not here only the beginnings of its files are read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import PydanticCustomError

from backends.facts.units import size as size_of
from backends.sizing.files import facts as facts_of
from backends.sizing.hubs import Hub, HubError, local, parse
from backends.sizing.model import Form, ModelError, ModelFacts
from backends.sizing.need import Where, kv_cache, kv_per_token, shown
from backends.sizing.quantizations import plain
from gateway.console.client import printable
from gateway.console.fitting import Card, Load, Place, Row, load, places, reckoned, rows, suggested
from gateway.machine.host import HostSource
from gateway.machine.machine import gpu_sources

WIDTH = 80
COLUMNS = 4
"""The most places that are columns of the table; the first ones and RAM."""


def add_command(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "model", help="a GGUF file, a folder, or a hub's name: ORG/NAME, hf:ORG/NAME:Q4_K_M, ms:ORG/NAME"
    )
    parser.add_argument("--context", type=_number, metavar="N", help="tokens of a request, prompt and answer")
    parser.add_argument("--parallel", type=_number, metavar="N", help="requests at once (default: 4)")
    parser.add_argument(
        "--gpu",
        type=_size,
        action="append",
        metavar="SIZE",
        help="reckon for a GPU with this memory, such as 24GiB, instead of this machine's; once for each",
    )
    parser.add_argument("--ram", type=_size, metavar="SIZE", help="reckon for this much RAM")
    parser.add_argument("--json", action="store_true", help="for programs: JSON, with sizes in bytes")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Say what the model needs. Return the exit status."""
    try:
        facts, source, offered = found(options.model)
    except (ModelError, HubError) as error:
        print(f"gateway: {printable(str(error))}", file=sys.stderr)
        return 1
    use = load(facts, options.context, options.parallel)
    where = _where(options.gpu, options.ram)
    table = rows(facts, use, where, offered)
    config = suggested(facts, use, where, source)
    if options.json:
        print(json.dumps(_told(facts, use, where, table, config), indent=2))
    else:
        print("\n".join(_page(options.model, facts, use, where, table, config)))
    return 0


def found(model: str) -> tuple[ModelFacts, str, dict[str, int]]:
    """Return what is known of a model, what the config would call it, and its GGUF files at the hub with their bytes.

    Raises ModelError or HubError.
    """
    path = local(model)
    if path is not None:
        return facts_of(path), str(path.resolve()) if Path(model).exists() else model, {}
    if model.startswith((".", "/", "~")) or model.endswith(".gguf"):
        raise ModelError(f"there is no file or folder {model}")
    name = parse(model)
    if name.hub is Hub.OLLAMA:
        raise HubError("the registry of Ollama does not tell: pull the model, and ask for its file")
    # The libraries of hubs are large; a file that is here does not need them.
    from gateway.hub.open import repository
    from gateway.hub.remote import quantizations, remote_facts

    bare = name.hub is Hub.HUGGING_FACE and not name.choice
    there = repository(name)
    facts = remote_facts(there, name.choice)
    offered = quantizations(there.files()) if facts.form is Form.GGUF else {}
    return facts, name.repository if bare and not offered else str(name), offered


def _where(gpus: Sequence[int] | None, ram: int | None) -> tuple[Place, ...]:
    host = HostSource().read()
    if gpus is None:
        seen = [gpu for _, source in gpu_sources() for gpu in source.read()]
        cards = [
            Card(gpu.name, gpu.memory_total, gpu.memory_total - (gpu.memory_used or 0))
            for gpu in seen
            if gpu.memory_total is not None
        ]
    else:
        cards = [Card("GPU", size, size) for size in gpus]
    free = ram or host.memory_available or 0
    return places(cards, free, ram or host.memory_total or free)


def _page(
    model: str, facts: ModelFacts, use: Load, where: Sequence[Place], table: Sequence[Row], config: Any
) -> list[str]:
    lines = [f"{printable(model)}: {facts.architecture}, {facts.form.value}, {facts.quantization}", ""]
    lines += [f"  {word:<12}{value}" for word, value in _shape(facts)]
    cache = sum(term.size for term in kv_cache(facts, use.context, use.parallel, batch=512))
    lines += [
        (
            f"  {'KV cache':<12}{shown(kv_per_token(facts))} a token; {shown(cache)} for {use.parallel} requests of "
            f"{use.context} tokens"
        ),
        "",
    ]
    lines += _table(where, table)
    lines += ["", "  * files that there are; the other lines are estimates", ""]
    if config is None:
        best = reckoned(facts, use, where[-1])
        lines.append(f"As it is, it fits nowhere here. In RAM it needs {shown(best.ram)}:")
        return [
            *lines,
            *(f"  {'+ ' if index else '  '}{part}" for index, part in enumerate(best.parts(Where.RAM))),
        ]
    text = yaml.safe_dump(config, sort_keys=False, width=1000)
    return [*lines, "A config for it (check it with `gateway check FILE`):", "", text.rstrip()]


def _shape(facts: ModelFacts) -> list[tuple[str, str]]:
    active = f", {facts.active / 1e9:.2f} billion for each token" if facts.active < facts.parameters else ""
    size = (
        f"{facts.parameters / 1e9:.2f} billion"
        if facts.parameters >= 1e8
        else f"{facts.parameters / 1e6:.2f} million"
    )
    kinds = f"{len(facts.layers)}"
    kinds += f", {facts.windows} with a window" if facts.windows else ""
    kinds += f", {facts.recurrent} recurrent" if facts.recurrent else ""
    heads = f"{facts.heads}, {facts.kv_heads} of keys and values, {facts.key_dim} wide"
    told = [("parameters", size + active), ("layers", kinds)]
    told.append(("attention", f"latent, {facts.latent} numbers a token" if facts.latent else heads))
    if facts.experts:
        told.append(("experts", f"{facts.experts}, {facts.experts_used} for each token"))
    told.append(("context", f"{facts.context} tokens" if facts.context else "not told"))
    told.append(("at least", ", ".join(f"{name} {shown(size)}" for name, size in plain(facts).items())))
    return told


def _table(where: Sequence[Place], table: Sequence[Row]) -> list[str]:
    columns = (*range(min(len(where), COLUMNS) - 1), len(where) - 1)
    heads = "".join(f"{where[index].name:>12}" for index in columns)
    free = "".join(f"{shown(where[index].free):>12}" for index in columns)
    lines = [f"  {'TYPE':<20}{'WEIGHTS':>10}{'IN ALL':>11}{heads}"[:WIDTH]]
    lines.append(f"  {'':<20}{'':>10}{'free:':>11}{free}"[:WIDTH])
    for row in table:
        verdicts = "".join(f"{'fits' if row.fits[index] else '-':>12}" for index in columns)
        name = ("* " if row.here else "  ") + row.quantization
        lines.append(f"{name:<22}{shown(row.weights):>10}{shown(row.whole):>11}{verdicts}"[:WIDTH].rstrip())
    return lines


def _told(
    facts: ModelFacts, use: Load, where: Sequence[Place], table: Sequence[Row], config: Any
) -> dict[str, Any]:
    return {
        "architecture": facts.architecture,
        "format": facts.form.value,
        "quantization": facts.quantization,
        "parameters": facts.parameters,
        "active_parameters": facts.active,
        "layers": len(facts.layers),
        "context": facts.context,
        "weights": facts.weights,
        "kv_cache_per_token": kv_per_token(facts),
        "kv_cache": sum(term.size for term in kv_cache(facts, use.context, use.parallel, batch=512)),
        "used_with": {"context": use.context, "parallel": use.parallel},
        "at_least": plain(facts),
        "quantizations": [
            {
                "type": row.quantization,
                "weights": row.weights,
                "in_all": row.whole,
                "estimated": not row.here,
                "fits_on": [place.name for place, able in zip(where, row.fits, strict=True) if able],
            }
            for row in table
        ],
        "places": [{"name": place.name, "gpus": place.gpus, "free": place.free} for place in where],
        "config": config,
    }


def _number(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _size(text: str) -> int:
    try:
        return size_of(text)
    except PydanticCustomError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 24GiB") from None
