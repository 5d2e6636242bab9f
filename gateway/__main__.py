"""The `gateway` command: its command line, and the commands that need no running gateway.

Rules:
- Exit 0: done. 1: the config or the machine is wrong, and stderr says how. 2: the command line is wrong. 130: Ctrl-C
  before there was anything to stop.
- Output meant for programs goes to stdout; messages for people go to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from gateway import keys, logs
from gateway.config import json_schema, notes
from gateway.config.disk import Disk
from gateway.config.file import Loaded, read
from gateway.config.problems import ConfigError, closest
from gateway.config.schema import Config
from gateway.config.texts import NAME
from gateway.console import (
    backends,
    batch,
    canaries,
    config,
    explain,
    fit,
    importing,
    models,
    orders,
    pull,
    replay,
    requests,
    status,
    top,
)
from gateway.console import logs as engine_logs
from gateway.fake import command
from gateway.store.failure import StoreError

log = logging.getLogger("gateway")

WORKER = "worker"
"""The command of the processes that `serve --workers` starts. People are not told of it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _worker_of(words[1:]) if words[:1] == [WORKER] else _options(words)
    status = 0
    try:
        status = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of the output has closed it, as `head` does. Nothing must be left to flush at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _options(words: list[str]) -> argparse.Namespace:
    """Return what a command line asks for. Exits with 2 if it is wrong: without a command, all commands are shown."""
    parser, names = _parser()
    if not words:
        parser.print_help(sys.stderr)
        parser.exit(2)
    if words[0] not in names and not words[0].startswith("-"):
        near = closest(words[0], sorted(names))
        hint = f" (did you mean {near!r}?)" if near else ""
        parser.error(f"there is no command {words[0]!r}{hint}; 'gateway --help' lists them")
    return parser.parse_args(words)


class _Version(argparse.Action):
    """The option `--version`, which needs no command beside it."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object) -> None:
        parser.exit(_version(namespace))


def _parser() -> tuple[argparse.ArgumentParser, Collection[str]]:
    """Return the parser of command lines, and the names of the commands."""
    parser = argparse.ArgumentParser(
        prog="gateway", description="One OpenAI-compatible URL in front of every LLM engine."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version, as the command does")
    commands = parser.add_subparsers(required=True, metavar="command")

    serve = _command(commands, "serve", "run the gateway with a config file")
    serve.add_argument("file", type=Path, help="the YAML config file")
    serve.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="processes to serve with (default: 1)"
    )
    serve.set_defaults(run=_serve)

    check = _command(commands, "check", "check a config file and show every mistake with its place")
    check.add_argument("file", type=Path, help="the YAML config file")
    check.set_defaults(run=_check)

    explain.add_command(_command(commands, "explain", "say where a config sends a request, and why"))
    config.add_diff(_command(commands, "diff", "say in words what another config would change"))
    config.add_profile(_command(commands, "profile", "show or choose the profile of a running gateway"))
    config.add_reload(_command(commands, "reload", "have a running gateway read its config anew"))

    replay.add_command(
        _command(commands, "replay", "say what a config would have done with the requests of an access log")
    )

    importing.add_command(_command(commands, "import", "make a persona in the config of an Ollama Modelfile"))
    schema = _command(commands, "schema", "print the JSON Schema of the config file")
    schema.set_defaults(run=_schema)

    key = _command(commands, "key", "make API keys").add_subparsers(required=True, metavar="command")
    new = _command(key, "new", "make a key and print the line for the config file")
    new.add_argument(
        "name", nargs="?", type=_key_name, default="my-key", help="who the key is for (default: my-key)"
    )
    new.set_defaults(run=_key_new)

    batch.add_command(
        _command(
            commands,
            "batch",
            "send the requests in a file to a running gateway, and go on where it was ended",
        )
    )

    _add_models(commands)
    _add_operating(commands)

    fake = _command(commands, "fake-engine", "run a pretend engine, for trying a config or a client")
    command.add_arguments(fake)
    fake.set_defaults(run=command.run)

    version = _command(commands, "version", "print the version, and whether the hot modules are compiled")
    version.set_defaults(run=_version)
    return parser, commands.choices


def _add_models(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands about models and their files."""
    fit.add_command(_command(commands, "fit", "say how much memory a model needs, and what it fits on"))
    pull.add_command(_command(commands, "pull", "fetch a model of a hub, or have a backend fetch one"))
    models.add_command(
        _command(
            commands, "models", "list models; pull, load, delete, ... them at a backend; remove them here"
        )
    )


def _add_operating(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands that look at a running gateway, or change what it does."""
    status.add_command(_command(commands, "status", "say whether a running gateway is ready, and how it is"))
    top.add_command(_command(commands, "top", "show what a running gateway does, second by second"))
    requests.add_command(_command(commands, "requests", "show the requests that run, or cancel one"))
    engine_logs.add_command(_command(commands, "logs", "show what a launched engine prints, and follow it"))
    canaries.add_command(
        _command(commands, "canaries", "show the canaries of a running gateway, or begin one again")
    )
    listing = _command(commands, "backends", "show the backends of a running gateway")
    backends.add_command(listing)
    deeper = listing.add_subparsers(metavar="command")
    orders.add_weight(_command(deeper, "weight", "multiply a backend's weight in every model by a factor"))
    orders.add_reset_breaker(
        _command(deeper, "reset-breaker", "close a backend's breaker and hold nothing against it")
    )
    orders.add_drain(_command(commands, "drain", "send a backend no more requests; those under way finish"))
    orders.add_undrain(_command(commands, "undrain", "send a drained backend requests again"))
    orders.add_start(_command(commands, "start", "start the engine of a backend that the gateway launches"))
    orders.add_stop(_command(commands, "stop", "stop the engine of a backend that the gateway launches"))


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, job: str
) -> argparse.ArgumentParser:
    """Add a command whose job the list of commands and its own help say in the same words."""
    return commands.add_parser(name, help=job, description=job[0].upper() + job[1:] + ".")


def _worker_of(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of a worker, which `gateway.workers` writes. Its config comes on stdin."""
    parser = argparse.ArgumentParser(prog=f"gateway {WORKER}")
    parser.add_argument("--link", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.set_defaults(run=_work)
    return parser.parse_args(words)


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 256")
    return int(text)


def _key_name(text: str) -> str:
    if not re.fullmatch(NAME, text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: use letters, digits, '.', '_' and '-'")
    return text


def _load(file: Path, disk: Disk | None = None) -> Loaded | None:
    try:
        return read(file, files=disk)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return None


def _serve(options: argparse.Namespace) -> int:
    disk = Disk()
    loaded = _load(options.file, disk)
    if loaded is None:
        return 1
    own_log = loaded.config.server.log
    logs.configure(own_log.level, own_log.format)
    # The server's modules take a quarter of a second to import, which the other commands need not pay.
    from gateway.serve import serve

    for note in notes.startup(loaded.config):
        log.warning("%s", note)
    return _with_store(serve, loaded, disk, options.file, options.workers)


def _work(options: argparse.Namespace) -> int:
    from gateway.serve import work
    from gateway.together import received

    loaded, where, profile = received(sys.stdin.buffer.read())
    own_log = loaded.config.server.log
    logs.configure(own_log.level, own_log.format)
    return _with_store(work, loaded, where, options.link, options.workers, profile)


def _with_store(run: Callable[..., int], *arguments: object) -> int:
    """Return the exit status of what opens the store, after printing why that is impossible where it is."""
    try:
        return run(*arguments)
    except StoreError as error:
        for handler in logging.getLogger().handlers:
            handler.flush()  # the log has a writer of its own, whose lines would begin or end within this one
        print(f"gateway: {error}; `server.data` in the config says where it is", file=sys.stderr)
        return 1


def _check(options: argparse.Namespace) -> int:
    loaded = _load(options.file)
    if loaded is None:
        return 1
    config = loaded.config
    counts = ", ".join(
        f"{len(names)} {word if len(names) != 1 else word[:-1]}"
        for names, word in ((config.backends, "backends"), (config.models, "models"), (config.keys, "keys"))
    )
    print(f"{options.file}: ok ({counts})")
    if len(loaded.files) > 1:
        print("\n".join(("read in this order:", *(f"  {file}" for file in loaded.files))))
    for note in (*loaded.warnings, *notes.everything(config), *_oversized(config)):
        print(f"note: {note}", file=sys.stderr)
    return 0


def _oversized(config: Config) -> list[str]:
    if all(backend.launch is None for backend in config.backends.values()):
        return []
    # What tells of the machine takes a while to import.
    from gateway.console.oversized import oversized

    return asyncio.run(oversized(config))


def _schema(options: argparse.Namespace) -> int:
    print(json.dumps(json_schema.build(), indent=2))
    return 0


def _key_new(options: argparse.Namespace) -> int:
    plain, line = keys.new_key(options.name)
    print(
        f"key (shown once, give it to its holder):\n  {plain}\n\nline for the config, under `keys:`:\n  {line}"
    )
    return 0


def _build() -> str:
    """Say how the hot modules run: compiled by mypyc, or interpreted."""
    found = importlib.util.find_spec("gateway.wire.relay")
    compiled = found is not None and not str(found.origin).endswith(".py")
    return "compiled" if compiled else "pure Python"


def _version(options: argparse.Namespace) -> int:
    print(f"gateway {importlib.metadata.version('llm-serving-gateway')} ({_build()})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
