"""The command `gateway explain`: where a config sends a request, and why.

Rules:
- Nothing runs and nobody is asked: backends count as up, as they do before they were looked at.
- The answer is that of `/v1/route:explain` of a gateway that has just started with this file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from random import Random
from time import time
from typing import Any

from backends.base import Operation
from backends.surfaces import naming
from backends.surfaces.dialects import surface_of
from backends.surfaces.surface import InvalidRequest
from gateway.asked import Asked
from gateway.auth import ANYONE, Caller
from gateway.config.file import load
from gateway.config.problems import ConfigError


def add_command(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    command.add_argument("file", type=Path, help="the YAML config file")
    command.add_argument(
        "request", type=Path, help="a file with the body of the request; - for standard input"
    )
    command.add_argument("--key", metavar="NAME", help="the name of the key it comes with")
    command.add_argument(
        "--header",
        type=_header,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a header of the request",
    )
    command.add_argument(
        "--operation",
        type=Operation,
        choices=list(Operation),
        default=Operation.CHAT,
        metavar="NAME",
        help="what is asked for (default: chat)",
    )
    command.add_argument(
        "--at", type=_time, metavar="TIME", help="when it comes, such as 2026-11-30T22:15+01:00"
    )
    command.add_argument("--json", action="store_true", help="print the answer of /v1/route:explain")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Explain one request. Return the exit status: 0 where it goes somewhere, else 1."""
    try:
        config = load(options.file)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    # The gateway's modules take a quarter of a second to import.
    from gateway.app import Gateway
    from gateway.routing.decision import Moment
    from gateway.routing.explanation import explain

    try:
        body = sys.stdin.buffer.read() if str(options.request) == "-" else options.request.read_bytes()
        headers = dict(options.header)
        operation, content_type = options.operation, headers.get(b"content-type", b"")
        surface = surface_of(operation)
        request = naming.read(surface, operation, content_type, body, config.defaults.model)
    except OSError as error:
        print(f"cannot read {options.request}: {error.strerror}", file=sys.stderr)
        return 1
    except (InvalidRequest, ValueError) as error:
        print(f"{options.request}: {error}", file=sys.stderr)
        return 1
    gateway = Gateway(config)
    snapshot = gateway.core.snapshot
    caller: Caller | None = ANYONE
    if options.key is not None:
        caller = snapshot.keys.named(options.key)
    if caller is None:
        print(f"{options.file}: there is no key '{options.key}'", file=sys.stderr)
        return 1
    when = time() if options.at is None else options.at
    asked, stand_in = Asked(request, headers, caller), config.defaults.unknown_model
    told = explain(snapshot.router, asked, Moment(0.0, when, Random()), stand_in)
    print(json.dumps(told, indent=2) if options.json else "\n".join(lines(told)))
    return 1 if "error" in told else 0


def lines(told: dict[str, Any]) -> Iterator[str]:
    """Yield an explanation for people."""
    asked = told["asked"]
    yield f"{asked['operation']} for the model '{asked['model']}', about {asked['prompt_tokens']} tokens of prompt"
    if "stand_in" in told:
        yield f"there is no such model: '{told['stand_in']}' stands in for it"
    for rule in told.get("rules", ()):
        yield f"rule '{rule['name']}': {rule['verdict']}"
        for held in rule["match"] + rule.get("unless", []):
            yield f"  {held['condition']}: wanted {held['wanted']}, found {held['found']}" + (
                "" if held["fits"] else "  <- does not fit"
            )
    if told.get("rule") is None and told.get("rules"):
        yield "no rule fits: to the model of that name"
    yield from told.get("choice", ())
    if "model" in told:
        yield f"served by the model '{told['model']}' ({told['reason']})"
    for each in told.get("candidates", ()):
        state = f"can be used{_weighed(each)}" if each["usable"] else each["against"]
        yield f"  backend '{each['backend']}' as '{each['upstream_model']}', {each['turn']}: {state}"
    if told.get("backend") is not None:
        yield f"the backend '{told['backend']}' would be chosen: {told['backend_why']}"
    elif "backend_why" in told:
        yield f"which backend is not certain: {told['backend_why']}"
    if "error" in told:
        yield f"refused with {told['error']['status']}: {told['error']['message']}"


def _weighed(candidate: dict[str, Any]) -> str:
    """Return in words what the balancer weighs for a candidate."""
    if candidate["policy"] is None:
        return ""
    score, chance = candidate["score"], candidate["chance"]
    said = (
        f"; {candidate['policy']}" + ("" if score is None else f" {score:.4g}") + f" ({candidate['weighed']})"
    )
    return said + ("" if chance is None else f", chosen with a chance of {chance:.3g}")


def _header(text: str) -> tuple[bytes, bytes]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no header: write NAME=VALUE")
    return name.strip().lower().encode(), value.strip().encode()


def _time(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 2026-11-30T22:15+01:00") from None
