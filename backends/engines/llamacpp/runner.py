"""A program that serves one model with llama.cpp's own HTTP server, from the Python package xllamacpp.

Rules:
- It is independent: it imports the standard library and xllamacpp, and nothing of this distribution.
- The key that clients must send is in the environment (LLAMA_API_KEY, as for `llama-server`), never an argument.
- SIGTERM and SIGINT end it at once, also while a model is loading. There is nothing to save.
- A failure is reported in one line that begins with `llamacpp_runner: `. The exit status is 1, or 2 for wrong
  arguments.
"""

from __future__ import annotations

import argparse
import difflib
import enum
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import xllamacpp

OURS = frozenset({"api_keys", "hostnames", "model.path", "model_alias", "port"})
"""Parameters that only the gateway may set: with other values it could not reach its engine."""
WARM_UP_FROM = 64 * 2**20
"""The size of a model file, in bytes, from which a warm-up run is worth its time: it reads the file into memory before
the first request. For a small file it would be the longest part of the start."""
WORDS = {
    "true": True,
    "on": True,
    "yes": True,
    "1": True,
    "false": False,
    "off": False,
    "no": False,
    "0": False,
}


def fail(words: str, status: int = 1) -> NoReturn:
    """Print the reason in one line and exit."""
    sys.stderr.write(f"llamacpp_runner: {words}\n")
    sys.exit(status)


class Arguments(argparse.ArgumentParser):
    """An argument parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Report wrong arguments and exit."""
        fail(message, 2)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line: our own options, then `--` and llama.cpp's parameters by name."""
    parser = Arguments(prog="llamacpp_runner", allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--context", type=int, default=0, help="tokens, the sum over all slots")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--gpu-layers", type=int)
    parser.add_argument("--chat-template")
    parser.add_argument("--chat-template-file")
    parser.add_argument("--lora", action="append", default=[], help="applied to every request")
    parser.add_argument(
        "--lora-on-request", action="append", default=[], help="applied where it is asked for"
    )
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--pooling", choices=["mean", "cls", "last", "rank"])
    parser.add_argument("--prompt-cache", type=int, help="MiB for prompts of earlier requests")
    parser.add_argument("--ubatch", type=int, help="tokens per step")
    parser.add_argument("--verbosity", type=int, default=2)
    parser.add_argument("parameters", nargs="*", help="--name value, --name=value")
    return parser.parse_args(argv)


def parameters(options: argparse.Namespace) -> Any:
    """Return the parameters llama.cpp is started with. Raise ValueError for wrong ones."""
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.name}
    params.hostnames, params.port = [options.host], options.port
    params.n_parallel, params.n_ctx = options.parallel, options.context
    params.endpoint_metrics, params.endpoint_slots = True, True
    params.ui, params.cors_origins = False, ""
    key = os.environ.get("LLAMA_API_KEY")
    params.api_keys = [key] if key else []
    params.verbosity = options.verbosity
    params.warmup = Path(options.model).stat().st_size >= WARM_UP_FROM
    params.embedding = options.embeddings
    if options.prompt_cache is not None:
        params.cache_ram_mib = options.prompt_cache
    if options.ubatch is not None:
        params.n_batch = params.n_ubatch = options.ubatch
    if options.pooling is not None:
        params.pooling_type = member(type(params.pooling_type), options.pooling)
    if options.threads is not None:
        params.cpuparams.n_threads = options.threads
    if options.gpu_layers is not None:
        params.n_gpu_layers = options.gpu_layers
    if options.chat_template_file is not None:
        params.chat_template = Path(options.chat_template_file).read_text(encoding="utf-8")
    elif options.chat_template is not None:
        params.chat_template = options.chat_template
    strengths = [(path, 1.0) for path in options.lora] + [(path, 0.0) for path in options.lora_on_request]
    if strengths:
        params.lora_adapters = [
            xllamacpp.CommonAdapterLoraInfo(path, strength) for path, strength in strengths
        ]
    for name, value in pairs(options.parameters):
        assign(params, name, value)
    return params


def pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the names and values in `--name value --name=value --switch`; a switch alone is true."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise ValueError(f"extra_args: expected --name, got {word!r}")
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        yield name.replace("-", "_"), value


def assign(params: Any, name: str, text: str) -> None:
    """Set one parameter, whose name may be dotted, from text. Raise ValueError with a message for the user."""
    if name in OURS:
        raise ValueError(f"extra_args: {name!r} is set by the gateway")
    owner, *path = params, *name.split(".")
    for step in path[:-1]:
        owner = attribute(owner, step, name)
    current = attribute(owner, path[-1], name)
    try:
        setattr(owner, path[-1], read(current, text))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"extra_args: {name!r} cannot be {text!r}: {error}") from error


def attribute(owner: Any, step: str, name: str) -> Any:
    """Return an attribute by one step of a dotted name. Raise ValueError, with a suggestion, if there is none."""
    known = [key for key in dir(owner) if not key.startswith("_")]
    if step not in known:
        near = difflib.get_close_matches(step, known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"extra_args: llama.cpp has no parameter {name!r}{hint}")
    return getattr(owner, step)


def read(current: Any, text: str) -> Any:
    """Return the text as a value of the parameter's current type."""
    match current:
        case bool():
            if text.lower() not in WORDS:
                raise ValueError("expected true or false")
            return WORDS[text.lower()]
        case enum.IntEnum():
            return member(type(current), text)
        case int() | float() | str():
            return type(current)(text)
        case list() if all(isinstance(item, str) for item in current):
            return text.split(",")
    raise ValueError("it cannot be set from text")


def member(kind: type[enum.IntEnum], text: str) -> enum.IntEnum:
    """Return a member of an enumeration by the end of its name: `q8_0` is GGML_TYPE_Q8_0."""
    found = [item for item in kind if item.name.lower().endswith(f"_{text.lower()}")]
    if not found:
        raise ValueError(f"expected one of {', '.join(item.name for item in kind)}")
    return min(found, key=lambda item: len(item.name))


def main(argv: Sequence[str]) -> None:
    """Serve until a signal arrives."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    options = arguments(argv)
    try:
        params = parameters(options)
    except (OSError, ValueError) as error:
        fail(str(error), 2)
    try:
        # The server answers 503 on every path while this loads the model; it returns once the model is loaded.
        server = xllamacpp.Server(params)
    except RuntimeError:
        # The log has the reason; the exception does not.
        sys.exit(1)
    while server:  # the server runs as long as it is referenced
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1:])
