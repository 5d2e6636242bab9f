"""Turn messages into a prompt with a model's own chat template, for engines that take only text.

Rules:
- Templates are rendered as Hugging Face's tokenizers do it: with the same Jinja settings, the same helpers
  (`raise_exception`, `strftime_now`, `tojson`, loop controls, `generation` blocks) and the tokenizer's special tokens.
- Templates are untrusted code: they run in Jinja's sandbox, and what they raise is reported as the client's mistake.
- A prompt does not begin with the token that the engine's tokenizer adds again.
- `tokenizers` is an optional dependency: without it no tokens are counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from backends.base import OptionsError
from backends.facts.launching import place

try:
    import tokenizers
except ImportError:
    tokenizers = None  # type: ignore[assignment]

Members = dict[str, Any]

_REFUSALS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What a template may raise for messages it was not made for."""

TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILE = "tokenizer.json"
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


class _Generation(Extension):
    """Renders only the content of `{% generation %}` blocks, which mark the model's answers for training."""

    tags = {"generation"}  # noqa: RUF012  # how Jinja wants it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the content of a block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Prompter:
    """The chat template of one model, and its tokenizer where the `tokenizers` package is installed."""

    def __init__(
        self, folder: Path, now: Callable[[], datetime] = lambda: datetime.now().astimezone()
    ) -> None:
        """Read the tokenizer's folder. Raise OptionsError if it has no usable template."""
        config = _object(folder / CONFIG_FILE)
        self._special = {name: text for name in _SPECIAL if (text := _token(config.get(name)))}
        self._now = now
        source = _source(folder, config)
        try:
            self._template = self._environment().from_string(source)
        except jinja2.TemplateError as error:
            raise OptionsError(f"the chat template in {folder} is not valid: {error}") from error
        tokenizer = folder / TOKENIZER_FILE
        description = _object(tokenizer) if tokenizer.is_file() else {}
        self._doubled = self._what_would_double(config, description)
        known = tokenizers is not None and bool(description)
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(description)) if known else None

    def render(self, messages: Sequence[Members], extra: Mapping[str, Any]) -> str:
        """Return the prompt that asks for the next answer; `extra` are further variables of the template.

        Raise ValueError, with a message for the client, if the template cannot render these messages.
        """
        variables = {"tools": None, "documents": None, **extra, **self._special}
        try:
            prompt = self._template.render(variables, messages=messages, add_generation_prompt=True)
        except _REFUSALS as error:
            raise ValueError(f"the model's chat template cannot take these messages: {error}") from error
        return prompt.removeprefix(self._doubled)

    def count(self, text: str, special: bool = False) -> int | None:
        """Return the number of tokens in a text, with those added around a prompt if `special`; None if unknown."""
        if self._tokenizer is None:
            return None
        return len(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def _environment(self) -> ImmutableSandboxedEnvironment:
        """Return Jinja with the settings and helpers of Hugging Face's tokenizers."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: self._now().strftime(form)
        return environment

    def _what_would_double(self, config: Members, description: Members) -> str:
        """Return the beginning-of-text token if the tokenizer itself adds it to every prompt, else an empty text."""
        token = self._special.get("bos_token", "")
        steps = json.dumps(description.get("post_processor"), ensure_ascii=False)
        adds = config.get("add_bos_token") or json.dumps(token, ensure_ascii=False) in steps
        return token if adds else ""


def _object(path: Path) -> Members:
    """Return the JSON object in a file. Raise OptionsError if there is none."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise OptionsError(f"cannot read {place(path)}: {error.strerror}") from error
    except ValueError as error:
        raise OptionsError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise OptionsError(f"{path} holds no JSON object")
    return found


def _source(folder: Path, config: Members) -> str:
    """Return the template: from its own file, else from the config, which may name several and a default."""
    file = folder / TEMPLATE_FILE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {str(one.get("name")): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default") or next(iter(named.values()), None)
    if not isinstance(found, str):
        raise OptionsError(
            f"there is no chat template in {folder}: neither {TEMPLATE_FILE} nor in {CONFIG_FILE}"
        )
    return found


def _token(value: Any) -> str:
    """Return a special token, which is a text or an object with that text."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML, which would change the prompt.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
