"""`gateway import`: an Ollama Modelfile made a persona in this gateway's config.

Rules:
- What it prints passes `gateway check`. It is a config of its own; with `--from` it is a file to be included.
- What the Modelfile says and a config cannot is told twice: as a comment in the config, and on stderr.
- Nothing is asked of any server, and no model is pulled.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from backends.facts.units import MODEL_NAME
from backends.surfaces.ollama.options import sampling
from backends.surfaces.surface import InvalidRequest
from gateway.config.texts import PUBLIC_NAME
from gateway.console.go_template import Refused
from gateway.console.modelfile import Instruction, ModelfileError, parse
from gateway.console.prompt_template import to_jinja

URL: Final = "http://127.0.0.1:11434"
"""Where Ollama listens unless it is told otherwise."""
_LISTS: Final = ("stop",)
_WORDS: Final = {"true": True, "false": False}
_BLOB: Final = "sha256-"
"""How the names of the files begin in which Ollama keeps models."""
_BACKEND: Final = "ollama"
_LAUNCHED: Final = "llamacpp"
_SHAPES: Final = {"num_ctx": "context", "num_thread": "threads", "num_gpu": "gpu_layers"}
"""Parameters that shape how an engine runs the model, and the names of llama.cpp's launch options for them."""


def add_command(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "file", type=Path, metavar="Modelfile", help="the Modelfile, or - for what comes on stdin"
    )
    parser.add_argument(
        "--name", default="", help="what clients ask for (default: the name of the file's folder)"
    )
    parser.add_argument(
        "--from",
        dest="base",
        metavar="MODEL",
        default="",
        help="the model of your config that FROM means; the output is then a file to include in that config",
    )
    parser.add_argument(
        "--url", default=URL, help=f"where the Ollama is that has the model of FROM (default: {URL})"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the config of a Modelfile. Return the exit status."""
    try:
        text = sys.stdin.read() if str(options.file) == "-" else options.file.read_text(encoding="utf-8")
        name = options.name or _name_of(options.file)
        if not re.fullmatch(PUBLIC_NAME, name):
            raise ModelfileError(0, f"{name!r} cannot be the name of a model: choose one with --name")
        if name == options.base:
            raise ModelfileError(
                0, f"a model cannot be made from itself: choose another --name than {name!r}"
            )
        made = Import(name, options.base, options.url, options.file.parent)
        for instruction in parse(text):
            made.take(instruction)
        written = made.text()
    except ModelfileError as error:
        place = f"{options.file}:{error.line}" if error.line else "gateway"
        print(f"{place}: {error}", file=sys.stderr)
        return 1
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        print(f"gateway: cannot read {options.file}: {why}", file=sys.stderr)
        return 1
    print(written, end="")
    for line, note in sorted(made.notes):
        print(f"{options.file}:{line}: {note}", file=sys.stderr)
    return 0


def _name_of(file: Path) -> str:
    """Return what a model is called whose Modelfile is there: `mario` for `mario/Modelfile` and `mario.Modelfile`."""
    if str(file) == "-":
        return "persona"
    plain = file.name.lower() in ("modelfile", "modelfile.txt")
    return file.resolve().parent.name if plain else file.name.removesuffix(".Modelfile")


@dataclass(slots=True)
class Import:
    """A config that is made of instructions, one after the other.

    `base` is the model of an existing config that FROM means; empty if there is none. Paths are relative to `folder`.
    """

    name: str
    base: str
    url: str
    folder: Path
    notes: list[tuple[int, str]] = field(default_factory=list)
    """What the config does not say, with the line of the Modelfile."""
    _from: str = ""
    _template: Instruction | None = None
    _system: str = ""
    _given: dict[str, Any] = field(default_factory=dict)
    _shapes: dict[str, tuple[int, Any]] = field(default_factory=dict)
    _adapters: list[Instruction] = field(default_factory=list)
    _licenses: list[str] = field(default_factory=list)
    _messages: list[Instruction] = field(default_factory=list)

    def take(self, said: Instruction) -> None:
        """Take one instruction. Raises ModelfileError where its text cannot be meant."""
        if said.word == "FROM":
            if self._from:
                self._leave(said, "a second FROM, such as a projector for images")
            else:
                self._from = said.text
        elif said.word == "SYSTEM":
            self._system = said.text
        elif said.word == "PARAMETER":
            self._parameter(said)
        elif said.word == "ADAPTER":
            self._adapters.append(said)
        elif said.word == "LICENSE":
            self._licenses.append(said.text)
        elif said.word == "TEMPLATE":
            self._template = said
        elif said.word == "MESSAGE":
            self._messages.append(said)
        else:
            self._leave(said, f"{said.word} {said.text}")

    def _parameter(self, said: Instruction) -> None:
        name, value = said.name.lower(), _value(said.text)
        if name in _SHAPES and isinstance(value, int) and value > 0:
            self._shapes[name] = said.line, value
            return
        if name in _LISTS:
            value = [*self._given.get(name, []), said.text]
        dropped: list[str] = []
        try:
            members = sampling({"options": {name: value}}, dropped)
        except InvalidRequest as error:
            raise ModelfileError(said.line, f"PARAMETER {said.name}: {error}") from None
        if dropped:
            self._leave(said, f"PARAMETER {said.name}: it is no parameter of a request")
        elif name == "num_predict" and not members:
            self._given.pop("max_tokens", None)  # no limit, which is what leaving it out means
        self._given |= members

    def _leave(self, said: Instruction, what: str) -> None:
        self.notes.append((said.line, f"left out: {what}"))

    def text(self) -> str:
        """Return the config, after which `notes` are complete. Raises ModelfileError where none can be made."""
        config = self._config()
        lines = [f"# The persona {self.name!r}, made of a Modelfile by `gateway import`."]
        if self.base:
            lines.append("# Include this file in the config that has the model it is made from.")
        lines += [f"# Line {line}: {part}" for line, note in sorted(self.notes) for part in note.splitlines()]
        for text in self._licenses:
            lines += ["# License:", *(f"#   {part}".rstrip() for part in text.splitlines())]
        printable = [
            re.sub(r"[^\t\x20-\x7e\u00a0-\ud7ff\ue000-\ufefe\uff00-\ufffd]", "?", line) for line in lines
        ]
        return "\n".join([*printable, _yaml(config)])

    def _config(self) -> dict[str, Any]:
        persona: dict[str, Any] = {"from": self.base or self._base_name()}
        self._converse(persona)
        if self._given:
            persona["parameters"] = {"default": self._given}
        models: dict[str, Any] = {}
        backends: dict[str, Any] = {}
        template = self._jinja()
        if self.base:
            if template:
                persona["template"] = template
            self._unshaped("that is a matter of the engine, and of the model's 'context'")
            for adapter in self._adapters:
                self._leave(adapter, f"ADAPTER {adapter.text}: load it in the engine of the base model")
        elif self._is_file():
            own = {"chat_template": template} if template else {}
            backends[_LAUNCHED] = {"engine": "llamacpp", "launch": self._launch() | own}
            models[persona["from"]] = {"targets": {_LAUNCHED: persona["from"]}}
        else:
            context = self._shapes.pop("num_ctx", None)
            options = {} if context is None else {"options": {"context": context[1]}}
            backends[_BACKEND] = {"engine": "ollama", "url": self.url, **options}
            models[persona["from"]] = {"targets": {_BACKEND: self._from}}
            self._unshaped("Ollama takes it of its own Modelfile")
            for adapter in self._adapters:
                self._leave(adapter, f"ADAPTER {adapter.text}: an engine that is launched can load it")
        models[self.name] = persona
        made: dict[str, Any] = {"backends": backends, "models": models} if backends else {"models": models}
        return {section: _literal(entries) for section, entries in made.items()}

    def _jinja(self) -> str:
        """Return the template as engines take it; empty where there is none, or it is left out."""
        said = self._template
        if said is None:
            return ""
        if not self.base and not self._is_file():
            self._leave(said, "the template: Ollama takes it of its own Modelfile")
            return ""
        try:
            return to_jinja(said.text)
        except Refused as error:
            why = f"in line {said.line + max(error.line, 1) - 1}, {error}"
            self._leave(said, f"the template: {why}; the base model's own is used")
            return ""

    def _converse(self, persona: dict[str, Any]) -> None:
        """Put the system prompt and the example turns into a persona.

        A system message among these is the system prompt where there is no other.
        """
        turns = []
        for said in self._messages:
            if said.name != "system":
                turns.append({"role": said.name, "content": said.text})
            elif not self._system:
                self._system = said.text
            else:
                self._leave(said, "a second system prompt")
        if self._system:
            persona["system"] = self._system
        if turns:
            persona["messages"] = turns

    def _is_file(self) -> bool:
        """Tell whether FROM is a path. Raises ModelfileError where it is, and no GGUF file's."""
        path = Path(self._from)
        if path.suffix.lower() == ".gguf" or path.name.startswith(_BLOB):
            return True
        if self._from.startswith((".", "/", "~")):
            message = (
                f"FROM {self._from}: no GGUF file; name the model of your config that it is, with --from"
            )
            raise ModelfileError(0, message)
        return False

    def _base_name(self) -> str:
        """Return a name for the base model that is not the persona's."""
        if not self._is_file():
            return self._from if self._from != self.name else f"{self.name}-base"
        plain = Path(self._from).stem
        usable = re.fullmatch(MODEL_NAME, plain) and plain != self.name and not plain.startswith(_BLOB)
        return plain if usable else "base"

    def _launch(self) -> dict[str, Any]:
        launch: dict[str, Any] = {"model": str(self._place(self._from)), "name": self._base_name()}
        for name, (_, value) in self._shapes.items():
            launch[_SHAPES[name]] = value
        if self._adapters:
            launch["lora"] = [str(self._place(adapter.text)) for adapter in self._adapters]
        return launch

    def _place(self, text: str) -> Path:
        path = Path(text).expanduser()
        return path if path.is_absolute() else (self.folder / path).resolve()

    def _unshaped(self, why: str) -> None:
        for name, (line, value) in self._shapes.items():
            self.notes.append((line, f"left out: PARAMETER {name} {value}: {why}"))


def _literal(value: Any) -> Any:
    """Return a value of the config in which nothing is filled in."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, dict):
        return {key: _literal(inner) for key, inner in value.items()}
    return [_literal(inner) for inner in value] if isinstance(value, list) else value


def _value(text: str) -> Any:
    """Return what a parameter's text means: a number, true, false, or text."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block, which people can read and change."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _block)


def _yaml(config: dict[str, Any]) -> str:
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
