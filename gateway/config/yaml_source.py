"""YAML text to plain values that remember where they stand: the only reader of YAML that a user has written.

Rules:
- Built on the parser's events, so no tag can build an object and every value and key keeps its line and column.
- Plain scalars follow YAML 1.2: `on`, `no`, `1:30` and dates are text. Keys are always text.
- Bounded: nesting, what aliases expand to. Anchors are allowed, tags and merge keys are not.
- Substitutions are filled in where the caller wants them, inside values, never inside keys. A node keeps what was
  written, so that no problem has to show what was filled in.
- Whatever is wrong becomes a `Problem`; nothing but `ConfigError` leaves this module.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from gateway.config.problems import ConfigError, Problem, quote
from gateway.config.substitution import Substitution, has_some

DEPTH = 32
"""The deepest nesting."""
ALIASED = 100_000
"""How many values all aliases of a file together may stand for."""

Step = str | int
Where = tuple[Step, ...]
"""The way to a value: map keys and list positions from the top of the file."""


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file; both numbers count from 1."""

    line: int
    column: int
    file: str


@dataclass(slots=True)
class Node:
    """One value of the file: `content` is a scalar, a list of nodes or a map of nodes."""

    place: Place
    content: str | int | float | bool | list[Node] | dict[str, Node] | None
    keys: dict[str, Place] = field(default_factory=dict)
    written: str = ""
    """A scalar as the file has it, before anything was filled in: safe to show."""
    substituted: bool = False
    broken: bool = False
    """A problem is known already that says why this value cannot be used."""
    quoted: bool = False
    weight: int = 1
    """How many values this one stands for, aliases expanded."""

    @property
    def empty(self) -> bool:
        """Whether nothing, `~` or `null` stands here."""
        return self.content is None

    def plain(self) -> Any:
        """Return the value as dicts, lists and scalars; a fresh copy."""
        if isinstance(self.content, dict):
            return {key: node.plain() for key, node in self.content.items()}
        if isinstance(self.content, list):
            return [node.plain() for node in self.content]
        return self.content

    def child(self, step: Step) -> Node | None:
        """Return the value under a map's key or at a list's position; None where there is none."""
        if isinstance(self.content, dict):
            return self.content.get(str(step))
        if isinstance(self.content, list) and isinstance(step, int) and step < len(self.content):
            return self.content[step]
        return None

    def walk(self, where: Where = ()) -> Iterator[tuple[Where, Node]]:
        """Yield this value and every one below it, each with the way to it."""
        yield where, self
        if isinstance(self.content, dict):
            for key, node in self.content.items():
                yield from node.walk((*where, key))
        elif isinstance(self.content, list):
            for index, node in enumerate(self.content):
                yield from node.walk((*where, index))


@dataclass(slots=True)
class Source:
    """What was read, of one file or several: its values, and what was wrong already while reading."""

    file: str
    root: Node
    problems: list[Problem]

    def find(self, where: Where) -> Node | None:
        """Return the value at `where`; None where the file has none."""
        node: Node | None = self.root
        for step in where:
            node = node.child(step) if node else None
        return node

    def nearest(self, where: Where) -> Node | None:
        """Return the value at `where`, or the scalar that stands where something deeper was looked for."""
        node: Node | None = self.root
        for step in where:
            if node is None or not isinstance(node.content, dict | list):
                break
            node = node.child(step)
        return node

    def names(self, section: str) -> dict[str, Node]:
        """Return the entries of a top-level map; none where the section is missing or no map."""
        node = self.root.child(section)
        return node.content if node and isinstance(node.content, dict) else {}

    def problem(self, where: Where, message: str, *, at_key: bool = False) -> Problem:
        """Return a problem with the value at `where`, or with its key.

        What the file lacks is placed at what should hold it.
        """
        place, node = self.root.place, self.root
        for depth, step in enumerate(where, 1):
            found = node.child(step)
            if found is None:
                break
            as_key = depth == len(where) and at_key
            place = node.keys.get(str(step), found.place) if as_key else found.place
            node = found
        return Problem(place.file, place.line, place.column, message)


def parse(data: bytes, file: str, what: str, substitution: Substitution | None = None) -> Source:
    """Return the values of one YAML document, which may be empty.

    `file` is the name that stands before each problem, `what` says what the document is. Without `substitution`,
    `${` has no meaning.

    Raises:
        ConfigError: It is no YAML, or uses what is not supported so that the rest cannot be read.
    """
    try:
        builder = _Builder(_decode(data, file), file, what, substitution)
        root = builder.document()
    except _Fatal as fatal:
        raise ConfigError([Problem(file, fatal.place.line, fatal.place.column, fatal.message)]) from None
    problems = [Problem(file, place.line, place.column, message) for place, message in builder.complaints]
    return Source(file, root, problems)


class _Fatal(Exception):
    """The file cannot be read any further."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _place(text: str, index: int, file: str) -> Place:
    """Return line and column of a character, counting line breaks as YAML does."""
    breaks = list(_BREAK.finditer(text, 0, index))
    return Place(len(breaks) + 1, index - (breaks[-1].end() if breaks else 0) + 1, file)


def _decode(data: bytes, file: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8-sig")
        byte = error.object[error.start]
        raise _Fatal(
            _place(before, len(before), file), f"not UTF-8 text: unexpected byte 0x{byte:02x}"
        ) from None
    if bad := _FORBIDDEN.search(text):
        raise _Fatal(_place(text, bad.start(), file), f"control character U+{ord(bad[0]):04X} is not allowed")
    return text


_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,18}|[0-9]{1,18}(\.[0-9]{0,18})?)([eE][-+]?[0-9]{1,3})?")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def resolve(text: str) -> str | int | float | bool | None:
    """Return what an unquoted scalar means: null, true, false, a number, or else text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


class _Builder:
    """A builder of the nodes of one document from the parser's events."""

    def __init__(self, text: str, file: str, what: str, substitution: Substitution | None) -> None:
        self._text = text
        self._file = file
        self._what = what
        self._substitution = substitution
        self._events = self._parse()
        self._anchors: dict[str, Node | None] = {}
        self._aliased = 0
        self.complaints: list[tuple[Place, str]] = []

    def document(self) -> Node:
        """Return the one document of the text. Raises _Fatal."""
        next(self._events)
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return Node(Place(1, 1, self._file), None)
        root = self._node(next(self._events), 0)
        next(self._events)
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise _Fatal(self._start(event), f"a second document starts here: {self._what} holds one")
        return root

    def _parse(self) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(self._text, Loader=yaml.CSafeLoader)
        except yaml.MarkedYAMLError as error:
            raise self._not_yaml(error) from None
        except yaml.YAMLError:
            raise _Fatal(Place(1, 1, self._file), "not valid YAML") from None

    def _node(self, event: yaml.Event, depth: int) -> Node:
        place = self._start(event)
        if depth > DEPTH:
            raise _Fatal(place, f"nested more than {DEPTH} deep")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, place)
        if not isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent | yaml.ScalarEvent):
            raise _Fatal(place, "expected a value")
        if event.tag is not None:
            self.complaints.append(
                (place, "tags such as !!str are not supported; quote what is meant as text")
            )
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.MappingStartEvent):
            node = self._map(place, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._list(place, depth)
        else:
            node = self._scalar(event, place)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: yaml.AliasEvent, place: Place) -> Node:
        if event.anchor not in self._anchors:
            raise _Fatal(place, "this alias has no anchor before it; quote text that starts with '*'")
        node = self._anchors[event.anchor]
        if node is None:
            raise _Fatal(place, "this alias stands inside its own anchor")
        self._aliased += node.weight
        if self._aliased > ALIASED:
            raise _Fatal(place, f"the aliases stand for more than {ALIASED} values")
        return node

    def _list(self, place: Place, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return Node(place, items, weight=1 + sum(item.weight for item in items))

    def _map(self, place: Place, depth: int) -> Node:
        content: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        merged = False
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, start = self._key(event), self._start(event)
            value = self._node(next(self._events), depth + 1)
            if key in content:
                message = f"{quote(key)} is here twice; the first is on line {keys[key].line}"
                self.complaints.append((start, message))
            elif key == "<<":
                merged = True
                self.complaints.append((start, "merge keys (<<) are not supported; see `defaults`"))
            else:
                content[key], keys[key] = value, start
        weight = 1 + sum(value.weight for value in content.values())
        return Node(place, content, keys, broken=merged, weight=weight)

    def _key(self, event: yaml.Event) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise _Fatal(self._start(event), "a key must be text")
        if event.tag is not None or event.anchor is not None:
            self.complaints.append((self._start(event), "a key cannot have a tag or an anchor"))
        if "${" in event.value and self._substitution is not None:
            self.complaints.append(
                (self._start(event), "nothing is filled in inside keys: write ${…} in values only")
            )
        return str(event.value)

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> Node:
        quoted = bool(event.style)
        written: str = event.value
        if self._substitution is None or not has_some(written):
            return Node(place, written if quoted else resolve(written), written=written, quoted=quoted)
        before = len(self.complaints)
        text, substituted = self._substitution.fill(
            written, lambda message: self.complaints.append((place, message))
        )
        broken = len(self.complaints) > before
        return Node(place, text, written=written, substituted=substituted, broken=broken, quoted=quoted)

    def _start(self, event: yaml.Event) -> Place:
        return self._at(event.start_mark)

    def _at(self, mark: Any) -> Place:
        """Return the parser's mark, which counts from zero, as a place."""
        return Place(mark.line + 1, mark.column + 1, self._file)

    def _not_yaml(self, error: yaml.MarkedYAMLError) -> _Fatal:
        problem = str(error.problem or "")
        mark, opened = error.problem_mark or error.context_mark, error.context_mark
        at, index = (self._at(mark), mark.index) if mark else (Place(1, 1, self._file), 0)
        start = self._at(opened) if opened else at
        character = self._text[index : index + 1]
        if problem.startswith("found character"):
            if character == "\t":
                return _Fatal(at, "a tab cannot stand here: indent with spaces")
            return _Fatal(at, f"text that starts with {character!r} must be quoted")
        for beginning, at_start, message in _YAML_WORDS:
            if problem.startswith(beginning):
                if at_start and opened and "${" in self._text[opened.index : index + 1]:
                    return _Fatal(start, f"{message}; within brackets, text with ${{…}} must be quoted")
                return _Fatal(start if at_start else at, message)
        return _Fatal(at, f"not valid YAML: {problem}")


_YAML_WORDS: Sequence[tuple[str, bool, str]] = (
    ("did not find expected ',' or ']'", True, "a list that starts with '[' here is not closed with ']'"),
    ("did not find expected ',' or '}'", True, "a map that starts with '{' here is not closed with '}'"),
    ("found unexpected end of stream", True, "quoted text that starts here is not closed"),
    ("found a tab character", False, "a tab cannot stand here: indent with spaces"),
    ("found unexpected ':'", False, "unexpected ':'"),
    (
        "mapping values are not allowed",
        False,
        "unexpected ':': quote text that holds ': ', or check the indentation",
    ),
    ("did not find expected key", False, "expected a key or the end of the map: check the indentation"),
    ("could not find expected ':'", True, "expected 'key: value'"),
    (
        "did not find expected '-' indicator",
        False,
        "expected '-' or the end of the list: check the indentation",
    ),
    (
        "did not find expected node content",
        False,
        "expected a value; text that begins or ends with a bracket must be quoted",
    ),
    ("block sequence entries are not allowed", False, "a list that starts with '-' cannot stand here"),
)
"""How the parser's problem begins, whether to point at where the construct began, and what to say."""
