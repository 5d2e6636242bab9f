"""The fake engine as a program: `gateway fake-engine --port 9000 --script FILE.yaml`.

Rules:
- Options set what a script can set too; an option wins over the script.
- Exit 0 when told to stop, 1 where the script or the port cannot be used, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gateway.fake.engine import FakeEngine
from gateway.fake.reading import ScriptError, load, read
from gateway.fake.script import Script

_new_loop: Callable[[], asyncio.AbstractEventLoop] | None
try:
    from uvloop import new_event_loop as _new_loop
except ImportError:  # there is no build for this platform
    _new_loop = None

_DEFAULTS = "first_token prefill gap rate jitter tokens text".split()
_SCRIPT = "seed slots queue loading keep_alive".split()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to a parser."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=9000, help="port; 0 for any free one (default: 9000)")
    parser.add_argument("--script", type=Path, metavar="FILE", help="YAML file that says what to do")
    parser.add_argument("--model", action="append", metavar="NAME", help="a model to list; may be repeated")
    parser.add_argument("--first-token", metavar="TIME", help="from request to first token, such as 200ms")
    parser.add_argument("--prefill", metavar="TIME", help="added for each token of the prompt, such as 1ms")
    parser.add_argument("--gap", metavar="TIME", help="between tokens, such as 20ms")
    parser.add_argument("--rate", type=float, metavar="N", help="tokens per second, instead of --gap")
    parser.add_argument("--jitter", type=float, metavar="SHARE", help="vary every wait by this share, 0 to 1")
    parser.add_argument("--tokens", type=int, metavar="N", help="tokens of an answer, at most max_tokens")
    parser.add_argument("--text", choices=["count", "echo", "lorem", "unicode"], help="what answers say")
    parser.add_argument("--slots", type=int, metavar="N", help="requests that generate at the same time")
    parser.add_argument("--queue", type=int, metavar="N", help="requests that may wait for a slot")
    parser.add_argument("--loading", metavar="TIME", help="answer 503 for so long after the start")
    parser.add_argument("--keep-alive", metavar="TIME", help="close connections that are idle for so long")
    parser.add_argument("--seed", type=int, metavar="N", help="for everything random")


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop; return the exit status."""
    try:
        script = load(options.script) if options.script else Script()
        script = script.over(read(json.dumps(_said(options)), "command line"))
    except ScriptError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(_serve(script, options.host, options.port))
    except OSError as error:
        sys.stderr.write(f"cannot listen on {options.host}:{options.port}: {error}\n")
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse a command line and run it; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="gateway fake-engine",
        description="An OpenAI-compatible engine without a model, for trying things out.",
    )
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def _said(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were given, as the fields of a script."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    said: dict[str, Any] = {name: given[name] for name in _SCRIPT if name in given}
    defaults = {name: given[name] for name in _DEFAULTS if name in given}
    if defaults:
        said["defaults"] = defaults
    if "model" in given:
        said["models"] = given["model"]
    return said


async def _serve(script: Script, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    async with FakeEngine(script, host=host, port=port) as engine:
        sys.stdout.write(f"fake engine on {engine.url}\n")
        sys.stdout.flush()
        await stop.wait()
