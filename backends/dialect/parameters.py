"""What the operator settles for a model: parameters set, filled in, left out or kept within bounds; a system prompt.

Rules:
- The canonical request is edited before any engine's adapter sees it; every other byte stays (`dialect.members`).
- First what is to be left out goes, then defaults fill in, then what is set wins, then bounds are kept. A member that
  is null counts as left out.
- `max_tokens` means the limit of the answer in every API, under whichever name (`LIMITS`), and `stop` the stop strings.
- What is set or filled in goes only where it means something: `temperature` into no embedding, `voice` into no chat.
- In a form the values stand as text. A value that holds the form's own boundary is no value: the request is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from backends.base import Failure, Kind, Operation, Request, RequestError
from backends.dialect.members import Members
from backends.dialect.openai import FORMS
from backends.dialect.prompting import Examples, System
from backends.dialect.selection import Selection
from backends.framing import multipart

LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict")
"""The names of the limit of an answer: OpenAI's two, the Responses API's, llama.cpp's."""
STOPS: Final = ("stop", "stop_sequences")
"""The names of the stop strings: OpenAI's, Anthropic's."""
RESERVED: Final = frozenset(
    ("model", "stream", "stream_options", "stream_format", "messages", "input", "file", "system")
)
"""Members that no parameter may be: the gateway decides by them, or they are the request itself."""

_WRITTEN: Final = (
    Operation.CHAT,
    Operation.COMPLETIONS,
    Operation.RESPONSES,
    Operation.MESSAGES,
    Operation.INFILL,
)
_HEARD: Final = (Operation.TRANSCRIPTIONS, Operation.TRANSLATIONS)
_PICTURES: Final = (Operation.IMAGES, Operation.IMAGE_EDITS, Operation.IMAGE_VARIATIONS)
_MEDIA: Final = (*_HEARD, Operation.SPEECH, *_PICTURES)
_TEMPLATED: Final = (Operation.CHAT, Operation.TOKENIZE)
"""The operations whose requests may have a chat template."""
_TEMPLATE: Final = "chat_template"
_EMBEDDED: Final = (Operation.EMBEDDINGS,)
_COMPARED: Final = (Operation.RERANK, Operation.SCORE)
_AT: Final[Mapping[str, tuple[Operation, ...]]] = {
    "temperature": (*_WRITTEN, *_HEARD),
    "dimensions": _EMBEDDED,
    "encoding_format": _EMBEDDED,
    "input_type": _EMBEDDED,
    "truncate_prompt_tokens": (*_EMBEDDED, *_COMPARED),
    "top_n": (Operation.RERANK,),
    "return_documents": (Operation.RERANK,),
    "language": _HEARD,
    "prompt": _HEARD,
    "timestamp_granularities[]": _HEARD,
    "voice": (Operation.SPEECH,),
    "speed": (Operation.SPEECH,),
    "instructions": (Operation.SPEECH,),
    "size": _PICTURES,
    "quality": (Operation.IMAGES, Operation.IMAGE_EDITS),
    "style": (Operation.IMAGES,),
}
"""The operations that a parameter belongs to; all others belong to those that write text."""

Path = tuple[str, ...]
"""The way to a member, from the top."""


class Bounds:
    """The least and the greatest number that a parameter may have."""

    __slots__ = ("_highest", "_lowest", "high", "low")

    def __init__(self, low: object, high: object) -> None:
        """Take two numbers. What takes a number's place is written as the config has it: compiled, 9 becomes 9.0."""
        assert isinstance(low, int | float) and isinstance(high, int | float)
        self._lowest: bytes = msgspec.json.encode(low)
        self._highest: bytes = msgspec.json.encode(high)
        self.low: float = low
        self.high: float = high

    def kept(self, value: bytes, limit: bool) -> bytes | None:
        """Return the number that takes the place of one out of bounds; None where it is within, or is no number.

        A limit below zero is none at all, as some engines have it: the greatest takes its place.
        """
        number = _number(value)
        if number is None:
            return None
        if number > self.high or (limit and number < 0):
            return self._highest
        return self._lowest if number < self.low else None


class Rule:
    """A value that one parameter is to have, in one API."""

    __slots__ = ("names", "own", "value")

    def __init__(self, path: Path, value: object, operation: Operation) -> None:
        self.names: tuple[Path, ...] = _names(path, operation)
        self.own: Path = _own(path, operation)
        self.value: object = value


class Steps:
    """The rules of one model for one API."""

    __slots__ = ("clamp", "default", "set", "strip")

    def __init__(
        self, strip: list[Path], default: list[Rule], set: list[Rule], clamp: list[tuple[Path, Bounds]]
    ) -> None:
        self.strip: list[Path] = strip
        self.default: list[Rule] = default
        self.set: list[Rule] = set
        self.clamp: list[tuple[Path, Bounds]] = clamp


class Parameters:
    """The rules of one model."""

    __slots__ = (
        "_clamp", "_default", "_examples", "_made", "_selection", "_set", "_strip", "_system", "_template",
        "late_system_as_user",
    )  # fmt: skip

    def __init__(
        self,
        set: Mapping[str, object],
        default: Mapping[str, object],
        strip: Sequence[str],
        clamp: Mapping[str, tuple[object, object]],
        system: System | None,
        template: str | None = None,
        late_system_as_user: bool = False,
        selection: Selection | None = None,
        examples: Examples | None = None,
    ) -> None:
        """Take the rules as the config has them: values by the dotted names of members.

        `template` is a chat template in Jinja, which engines take as `chat_template`. `late_system_as_user` is for
        `backends.surfaces.anthropic.late_system`. `selection` is which LoRA adapters the answer is made with, where
        requests choose them. `examples` are turns that every conversation begins with.
        """
        self.late_system_as_user: bool = late_system_as_user
        self._set: list[tuple[Path, object]] = [(path_of(name), value) for name, value in set.items()]
        self._default: list[tuple[Path, object]] = [(path_of(name), value) for name, value in default.items()]
        self._strip: list[Path] = [path_of(name) for name in strip]
        self._clamp: list[tuple[Path, Bounds]] = [
            (path_of(name), Bounds(low, high)) for name, (low, high) in clamp.items()
        ]
        self._system: System | None = system
        self._template: bytes = b"" if template is None else msgspec.json.encode(template)
        self._selection: Selection | None = selection
        self._examples: Examples | None = examples
        self._made: dict[Operation, Steps] = {}

    def asks_for(self, operation: Operation, said_as: Operation) -> bool:
        """Tell whether an operation is to be said as another one, which alone has what the model settles."""
        if self._template:
            return True
        return self._selection is not None and self._selection.asks_for_chat(operation, said_as)

    def completed(self, said: Request, asked: Request) -> Request:
        """Return what is said instead of a client's request, with what only that API has."""
        if not self._template and self._selection is None:
            return said
        members = Members(said.body)
        if self._template and said.operation in _TEMPLATED:
            members.put(_TEMPLATE, self._template)
        if self._selection is not None:
            self._selection.keep(members, asked)
            self._selection.apply(members, said.operation)
        return msgspec.structs.replace(said, body=members.body()) if members.changed else said

    def applied(self, request: Request) -> Request:
        """Return the request as the rules have it. Raises RequestError where a form cannot take a value."""
        if request.operation in FORMS:
            return self._form(request)
        steps, members = self._steps(request.operation), Members(request.body)
        for path in steps.strip:
            _drop(members, path)
        for rule in steps.default:
            if not _has(members, rule.names):
                _put(members, rule.own, _value(rule.own, rule.value), False)
        for rule in steps.set:
            _settle(members, rule)
        for path, bounds in steps.clamp:
            _clamp(members, path, bounds)
        if self._system is not None:
            self._system.apply(members, request.operation)
        if self._examples is not None:
            self._examples.apply(members, request.operation)
        if self._template and request.operation in _TEMPLATED:
            members.put(_TEMPLATE, self._template)
        if self._selection is not None:
            self._selection.apply(members, request.operation)
        return _edited(request, members) if members.changed else request

    def _steps(self, operation: Operation) -> Steps:
        """Return the rules for one API; they are made once."""
        made = self._made.get(operation)
        if made is None:
            made = self._made[operation] = Steps(
                [name for path in self._strip for name in _names(path, operation)],
                [
                    Rule(path, value, operation)
                    for path, value in self._default
                    if _belongs(path, value, operation)
                ],
                [
                    Rule(path, value, operation)
                    for path, value in self._set
                    if _belongs(path, value, operation)
                ],
                [(name, bounds) for path, bounds in self._clamp for name in _names(path, operation)],
            )
        return made

    def _form(self, request: Request) -> Request:
        form = multipart.Form(request.body, multipart.boundary_of(request.content_type))
        operation = request.operation
        for path in self._strip:
            form.drop(path[0])
        for path, value in self._default:
            if _belongs(path, value, operation) and form.text(path[0]) is None:
                form.put(path[0], _texts(value))
        for path, value in self._set:
            if _belongs(path, value, operation):
                form.put(path[0], _texts(value))
        for path, bounds in self._clamp:
            text = form.text(path[0])
            kept = None if text is None else bounds.kept(text, path[0] in LIMITS)
            if kept is not None:
                form.put(path[0], [kept])
        if not form.changed:
            return request
        try:
            return msgspec.structs.replace(request, body=form.body())
        except multipart.FormError as error:
            raise RequestError(Failure(Kind.REJECTED, str(error))) from None


def path_of(name: str) -> Path:
    """Return the way that a dotted name means."""
    return tuple(name.split("."))


def meaning(name: str) -> str:
    """Return the name that stands for all names of the same parameter."""
    return LIMITS[0] if name in LIMITS else STOPS[0] if name in STOPS else name


def _edited(request: Request, members: Members) -> Request:
    """Return the request with its edited body, and with the number of choices that it asks for now."""
    choices, raw = request.choices, members.get("n")
    if request.operation in (Operation.CHAT, Operation.COMPLETIONS):
        number = None if raw is None else _number(raw)
        choices = max(1, int(number)) if number is not None else 1
    return msgspec.structs.replace(request, body=members.body(), choices=choices)


def _names(path: Path, operation: Operation) -> tuple[Path, ...]:
    """Return every way under which a parameter may stand in a request."""
    if len(path) == 1:
        if path[0] in LIMITS:
            return tuple([(name,) for name in LIMITS])
        if path[0] in STOPS:
            return tuple([(name,) for name in STOPS])
        if path[0] == "reasoning_effort" and operation is Operation.RESPONSES:
            return (path, ("reasoning", "effort"))
    return (path,)


def _own(path: Path, operation: Operation) -> Path:
    """Return the way under which a parameter stands in an API."""
    if len(path) > 1:
        return path
    name = path[0]
    if name in LIMITS:
        if operation is Operation.RESPONSES:
            return ("max_output_tokens",)
        if operation is Operation.INFILL:
            return ("n_predict",)
        return path if operation is Operation.CHAT and name == "max_completion_tokens" else ("max_tokens",)
    if name in STOPS:
        return ("stop_sequences",) if operation is Operation.MESSAGES else ("stop",)
    if name == "reasoning_effort" and operation is Operation.RESPONSES:
        return ("reasoning", "effort")
    return path


def _belongs(path: Path, value: object, operation: Operation) -> bool:
    """Tell whether a parameter means something to an operation."""
    if path[0] == "response_format" and isinstance(value, str):
        return operation in _MEDIA
    return operation in _AT.get(path[0], _WRITTEN)


def _value(path: Path, value: object) -> bytes:
    """Return a value as JSON, as the API has it under this name."""
    if path == ("stop_sequences",) and isinstance(value, str):
        value = [value]
    return msgspec.json.encode(value)


def _texts(value: object) -> list[bytes]:
    """Return a value as a form has it: the texts of its parts."""
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value.encode() if isinstance(value, str) else msgspec.json.encode(value)]


def _number(value: bytes) -> float | None:
    """Return the number that JSON or text means; None if it is none."""
    if value[:1] not in _DIGITS or len(value) > _LONGEST_NUMBER:
        return None
    try:
        return float(value)
    except ValueError:
        return None


_DIGITS: Final = frozenset([b"%d" % digit for digit in range(10)] + [b"-"])
_LONGEST_NUMBER: Final = 64


def _settle(members: Members, rule: Rule) -> None:
    """Set a member; where it has several names, under the one that the client used."""
    used = [name for name in rule.names if _get(members, name) is not None]
    chosen = used[0] if used else rule.own
    for name in used[1:]:
        _drop(members, name)
    _put(members, chosen, _value(chosen, rule.value), True)


def _has(members: Members, names: tuple[Path, ...]) -> bool:
    for name in names:
        found = _get(members, name)
        if found is not None and found != b"null":
            return True
    return False


def _get(members: Members, path: Path) -> bytes | None:
    """Return the JSON at a path; None where there is none."""
    found = members.get(path[0])
    if len(path) == 1 or found is None:
        return found
    return _get(Members(found), path[1:]) if found[:1] == b"{" else None


def _put(members: Members, path: Path, value: bytes, override: bool) -> None:
    """Put a value at a path. What stands in its way and is no object gives way only to `override`."""
    name, rest = path[0], path[1:]
    if not rest:
        members.put(name, value)
        return
    found = members.get(name)
    if found is not None and found[:1] == b"{":
        inner = Members(found)
        _put(inner, rest, value, override)
        if inner.changed:
            members.put(name, inner.body())
    elif override or found is None or found == b"null":
        inner = Members(b"{}")
        _put(inner, rest, value, override)
        members.put(name, inner.body())


def _drop(members: Members, path: Path) -> None:
    """Leave out what stands at a path."""
    name, rest = path[0], path[1:]
    if not rest:
        members.drop(name)
        return
    found = members.get(name)
    if found is not None and found[:1] == b"{":
        inner = Members(found)
        _drop(inner, rest)
        if inner.changed:
            members.put(name, inner.body())


def _clamp(members: Members, path: Path, bounds: Bounds) -> None:
    found = _get(members, path)
    kept = None if found is None else bounds.kept(found, path[-1] in LIMITS)
    if kept is not None:
        _put(members, path, kept, False)
