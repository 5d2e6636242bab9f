"""The command `gateway replay`: what a config would have done with the requests of an access log.

Rules:
- A request is rebuilt of what its line tells: rules find in it what they found in the real one, and nothing else.
- Nothing runs: backends count as up and idle, so what depends on load (`warm`, `overflow`, a canary) is not told.
- Chance is drawn anew where no user is named, the same in each run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from backends.base import Operation, Request
from gateway.asked import Asked
from gateway.auth import ANYONE, Keys
from gateway.config.file import load
from gateway.config.problems import ConfigError
from gateway.errors import GatewayError

SHOWN = 20
"""Kinds of changes that are printed, those first that concern most requests."""
_IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]}


class Went(NamedTuple):
    """Where a request went: the rule, `-` where none decided, and the model or why there was none."""

    rule: str
    model: str

    def __str__(self) -> str:
        return self.model if self.rule == "-" else f"{self.model} by rule '{self.rule}'"


def add_command(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    command.add_argument("file", type=Path, help="the YAML config file")
    command.add_argument("log", type=Path, help="an access log (`server.log.access`); - for standard input")
    command.add_argument(
        "--json", action="store_true", help="print a line of JSON for each request that changes"
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Replay a log. Return the exit status: 0 where nothing changes, 1 where something does or cannot be read."""
    try:
        config = load(options.file)
        text = sys.stdin if str(options.log) == "-" else options.log.open(encoding="utf-8", errors="replace")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot read {options.log}: {error.strerror}", file=sys.stderr)
        return 1
    # The other commands do not pay for the gateway's modules.
    from gateway.app import Gateway
    from gateway.routing.decision import Moment

    snapshot = Gateway(config).core.snapshot
    rng, total, unread = Random(1), 0, 0
    changes: Counter[tuple[Went, Went]] = Counter()
    with text:
        for line in _lines(text):
            asked = None if line is None else _asked(line, snapshot.keys)
            if line is None or asked is None:
                unread += 1
                continue
            total += 1
            before = Went(line.get("rule") or "-", str(line.get("model")))
            try:
                decision = snapshot.router.decide_at(asked, Moment(0.0, float(line.get("time", 0)), rng))
                now = Went(decision.rule or "-", decision.plan.model)
            except GatewayError as error:
                now = Went("-", f"an error: {error.facts.code or error.facts.type}")
            if now != before:
                changes[before, now] += 1
                if options.json:
                    change = {"id": line.get("id"), "before": before._asdict(), "now": now._asdict()}
                    print(json.dumps(change))
    if not options.json:
        print("\n".join(report(total, unread, changes)))
    return 1 if changes or unread else 0


def report(total: int, unread: int, changes: Counter[tuple[Went, Went]]) -> Iterator[str]:
    """Yield what changes, in words."""
    yield f"{total} requests, of which {sum(changes.values())} would go elsewhere or by another rule"
    for (before, now), count in changes.most_common(SHOWN):
        yield f"  {count} from {before} to {now}"
    if len(changes) > SHOWN:
        yield f"  and {len(changes) - SHOWN} other kinds of changes"
    if unread:
        yield f"{unread} lines are not of an access log, or of requests that were refused before they were read"


def _lines(text: Iterable[str]) -> Iterator[dict[str, Any] | None]:
    """Yield each line as an object; None for one that is none."""
    for line in text:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        yield found if isinstance(found, dict) else None


def _asked(line: dict[str, Any], keys: Keys) -> Asked | None:
    """Return the request that a line tells of; None where it tells of none."""
    told = line.get("asked")
    try:
        operation = Operation(line["operation"])
        model = told["model"]  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        return None
    assert isinstance(told, dict)
    body: dict[str, Any] = {
        "model": model,
        "user": told.get("user", ""),
        "metadata": told.get("metadata", {}),
    }
    if told.get("max_tokens") is not None:
        body["max_tokens"] = told["max_tokens"]
    if told.get("tools"):
        body["tools"] = [{}]
    if told.get("images"):
        body["messages"] = [_IMAGE]
    known = Asked(Request(operation, json.dumps(body).encode(), model), {}, ANYONE).prompt_tokens
    body["prompt"] = "x" * max(0, 4 * (int(told.get("prompt_tokens", 0)) - known) - 2)
    headers = {name.encode(): value.encode("latin-1") for name, value in told.get("headers", {}).items()}
    request = Request(operation, json.dumps(body).encode(), model, stream=bool(told.get("stream")))
    return Asked(request, headers, keys.named(told.get("key", "")) or ANYONE)
