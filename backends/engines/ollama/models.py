"""Actions on Ollama's models as HTTP requests, and Modelfiles as the fields that Ollama accepts today.

Facts: ollama/ollama v0.33.0-rc2, `server/routes.go`, `server/create.go`, `docs/modelfile.md`.

Rules:
- `load` takes the backend's `context` and `keep_alive` where it is given none: with another context the first request
  would load the model again.
- An argument that is missing, unknown or of the wrong type is refused here, in one line that names it.
- Since v0.5.5 Ollama's server accepts no Modelfile, only its parts. A Modelfile is parsed here. A reference in it to a
  file on disk is refused, because only digests can be sent: upload the file to `/api/blobs/DIGEST` first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from backends.base import Action, Call
from backends.engines.ollama.requests import Defaults
from backends.facts.actions import checked_arguments
from backends.facts.units import MODEL_NAME

Members = dict[str, Any]

MODEL_FILES = ("/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs/")
"""Where the files of models are managed."""
ACTIONS = frozenset(
    {
        Action.LIST,
        Action.PS,
        Action.SHOW,
        Action.PULL,
        Action.CREATE,
        Action.COPY,
        Action.DELETE,
        Action.LOAD,
        Action.UNLOAD,
    }
)


_number: msgspec.json.Decoder[int | float | bool] = msgspec.json.Decoder(int | float | bool)


class _Spoken(msgspec.Struct):
    role: str
    content: str


class _Create(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, rename={"from_": "from"}):
    """The arguments of `create`: what the model is made from, and what is changed."""

    model: str
    from_: str | None = None
    files: dict[str, str] | None = None
    """File names and the digests (`sha256:...`) of uploaded blobs."""
    adapters: dict[str, str] | None = None
    template: str | None = None
    system: str | None = None
    license: str | list[str] | None = None
    parameters: dict[str, Any] | None = None
    messages: list[_Spoken] | None = None
    quantize: str | None = None
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    modelfile: str | None = None


def call_for(action: Action, given: Mapping[str, Any], defaults: Defaults) -> Call:
    """Return the request that carries out an action; `defaults` are the backend's settings for its requests.

    Raise ValueError for a missing, unknown or wrong argument.
    """
    match action:
        case Action.LIST:
            checked_arguments(action, given, {})
            return Call("/api/tags", method="GET")
        case Action.PS:
            checked_arguments(action, given, {})
            return Call("/api/ps", method="GET")
        case Action.SHOW:
            return _call("/api/show", checked_arguments(action, given, {"model": str}, {"verbose": bool}))
        case Action.PULL:
            return _call(
                "/api/pull", checked_arguments(action, given, {"model": str}, {"insecure": bool}), stream=True
            )
        case Action.CREATE:
            return _call("/api/create", _created(given), stream=True)
        case Action.COPY:
            return _call("/api/copy", checked_arguments(action, given, {"source": str, "destination": str}))
        case Action.DELETE:
            return _call("/api/delete", checked_arguments(action, given, {"model": str}), method="DELETE")
        case Action.LOAD:
            return _call("/api/generate", _loaded(given, defaults), stream=False)
        case Action.UNLOAD:
            there = checked_arguments(action, given, {"model": str})
            return _call("/api/generate", {**there, "keep_alive": 0}, stream=False)
    raise NotImplementedError(f"ollama has no action {action}")


def _call(path: str, body: Members, method: str = "POST", stream: bool | None = None) -> Call:
    """Return a request with this body. Raise ValueError if a name in it is not a model name."""
    for name in ("model", "source", "destination"):
        if not re.fullmatch(MODEL_NAME, body.get(name, "x")):
            raise ValueError(f"{name!r} is no model name")
    if stream is not None:
        body = {**body, "stream": stream}
    return Call(path, msgspec.json.encode(body), method)


def _loaded(given: Mapping[str, Any], defaults: Defaults) -> Members:
    """Return the body of a request without a prompt, which loads the model.

    `keep_alive` is in seconds or a text such as `10m`; -1 means forever.
    """
    rest = {name: value for name, value in given.items() if name != "keep_alive"}
    there = checked_arguments(Action.LOAD, rest, {"model": str}, {"context": int})
    context = there.pop("context", defaults.context)
    if context is not None:
        there["options"] = {"num_ctx": context}
    keep_alive = given.get("keep_alive")
    if keep_alive is None:
        return there if defaults.keep_alive is None else {**there, "keep_alive": defaults.keep_alive}
    if not (
        type(keep_alive) in (int, float) or (isinstance(keep_alive, str) and _GO_TIME.fullmatch(keep_alive))
    ):
        raise ValueError("load: 'keep_alive' must be seconds, or a text such as 10m")
    return {**there, "keep_alive": keep_alive}


_GO_TIME = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|ms|s|m|h))+")


def _created(given: Mapping[str, Any]) -> Members:
    """Return the body for `create`, with the fields of the Modelfile if there is one."""
    try:
        fields: Members = msgspec.to_builtins(msgspec.convert(dict(given), _Create))
    except msgspec.ValidationError as error:
        raise ValueError(f"create: {str(error).replace('`', chr(39))}") from error
    text = fields.pop("modelfile", None)
    if text is not None:
        beside = sorted(fields.keys() - {"model", "quantize", "files", "adapters"})
        if beside:
            raise ValueError(f"create: the modelfile says it all, {beside[0]!r} cannot stand beside it")
        fields = {**from_modelfile(text, fields.keys()), **fields}
    if not (fields.get("from") or fields.get("files")):
        raise ValueError(
            "create needs 'from' (a model), 'files' (uploaded ones), or a 'modelfile' that says it"
        )
    return fields


def from_modelfile(text: str, given: Collection[str] = ()) -> Members:
    """Return the fields of a Modelfile. If `files` or `adapters` are given, its references to files mean those.

    Raise ValueError, with the line number, for what cannot be parsed or cannot be sent.
    """
    found: Members = {}
    for number, name, value in _instructions(text):
        try:
            _take(found, name, value, given)
        except ValueError as error:
            raise ValueError(f"modelfile, line {number}: {error}") from None
    if "from" not in found and "files" not in given:
        raise ValueError("the modelfile has no FROM")
    return found


def _take(found: Members, name: str, value: str, given: Collection[str]) -> None:
    """Add one instruction to the fields."""
    match name:
        case "from" if not _is_path(value):
            found["from"] = value
        case "from" | "adapter" if _PLACES[name] in given:
            pass
        case "from" | "adapter":
            raise ValueError(
                f"{name.upper()} names a file; upload it and name its digest in '{_PLACES[name]}'"
            )
        case "template" | "system" | "renderer" | "parser" | "requires":
            found[name] = value
        case "license":
            found.setdefault("license", []).append(value)
        case "parameter":
            key, _, said = value.partition(" ")
            said = _unquoted(said.strip())
            parameters = found.setdefault("parameters", {})
            if key.lower() == "stop":
                parameters.setdefault("stop", []).append(said)
            else:
                parameters[key.lower()] = _typed(said)
        case "message":
            role, _, said = value.partition(" ")
            if role not in ("system", "user", "assistant") or not said:
                raise ValueError("MESSAGE needs a role (system, user, assistant) and a text")
            found.setdefault("messages", []).append({"role": role, "content": _unquoted(said.strip())})
        case _:
            raise ValueError(f"unknown instruction {name.upper()!r}")


_PLACES = {"from": "files", "adapter": "adapters"}


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line number, name in lower case, and value of each instruction; three quotes enclose several lines."""
    lines = iter(enumerate(text.replace("\r\n", "\n").split("\n"), 1))
    for number, line in lines:
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, _, value = stripped.partition(" ")
        value = value.strip()
        open_at = value.find('"""')
        if open_at >= 0 and value.find('"""', open_at + 3) < 0:
            pieces = [value]
            for _, more in lines:
                pieces.append(more)
                if '"""' in more:
                    break
            else:
                raise ValueError(f'modelfile, line {number}: the text after """ has no end')
            value = "\n".join(pieces)
        if not value:
            raise ValueError(f"modelfile, line {number}: {name.upper()} says nothing")
        yield number, name.lower(), value if name.lower() in ("parameter", "message") else _unquoted(value)


def _unquoted(value: str) -> str:
    """Return a value without its quotes."""
    for quote in ('"""', '"'):
        if len(value) >= 2 * len(quote) and value.startswith(quote) and value.endswith(quote):
            return value[len(quote) : -len(quote)]
    return value


def _typed(value: str) -> int | float | bool | str:
    """Return the value of a parameter as a number or a bool, if it is one."""
    try:
        return _number.decode(value.lower())
    except ValueError:
        return value


def _is_path(value: str) -> bool:
    """Return whether a value is the path of a file rather than the name of a model."""
    return value.startswith((".", "/", "~", "\\")) or value.lower().endswith(
        (".gguf", ".bin", ".safetensors")
    )
