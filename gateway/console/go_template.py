"""A template of Go's `text/template`, read into what it is made of: as much of the language as prompts need.

Source: the documentation of Go's text/template (1.24). Whitespace is trimmed where the template says so, and what
remains is said by nodes alone.

Rules:
- Pure and strict: what is not known here raises `Refused`, with the line and what stands there.
- Nothing is judged that needs the values: which fields there are, and what may be compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

SPACE: Final = " \t\r\n"
"""What trimming takes away."""
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)|(?P<number>-?\d+)|(?P<variable>\$\w*)|(?P<field>\.\w+)"""
    r"""|(?P<dot>\.)|(?P<word>[A-Za-z_]\w*)|(?P<sign>:=|[=(),|]))"""
)
_REFUSED: Final = ("with", "define", "template", "block", "break", "continue")


class Refused(Exception):
    """The template holds something that is not known here. `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Token:
    """A word of an action: its kind, its text, and whether it follows the one before without a space."""

    kind: str
    text: str
    glued: bool


@dataclass(frozen=True, slots=True)
class Term:
    """A value: a text, number or truth; a dot or variable with fields; or a function with its arguments.

    `kind` is `text`, `number`, `truth`, `dot`, `variable` or `call`; `name` is the text, the variable or the function.
    """

    line: int
    kind: str
    name: str = ""
    arguments: tuple[Term, ...] = ()
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """Text as it stands."""

    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """A value that is written, or given to a variable: `declares` a new one, or changes one that there is."""

    value: Term
    variable: str = ""
    declares: bool = False


@dataclass(frozen=True, slots=True)
class Branch:
    """A condition, or with `over` a loop, whose dot is each item.

    `names` are a loop's variables: that of the item, and before it that of the index if there is one.
    """

    value: Term
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...] = ()
    over: bool = False
    names: tuple[str, ...] = ()


Node = Text | Action | Branch


def parse(text: str) -> tuple[Node, ...]:
    """Return what a template is made of. Raise Refused."""
    reader = _Reader(list(_pieces(text)))
    nodes, end = reader.nodes()
    if end is not None:
        raise Refused(end[0], f"{{{{ {end[1]} }}}} without a beginning")
    return nodes


def _pieces(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield the line and the text of each piece, and whether it is an action."""
    at, trims = 0, False
    while True:
        begin = text.find("{{", at)
        plain = text[at:] if begin < 0 else text[at:begin]
        opened = (
            begin >= 0 and text[begin + 2 : begin + 3] == "-" and text[begin + 3 : begin + 4] in tuple(SPACE)
        )
        plain = plain.lstrip(SPACE) if trims else plain
        plain = plain.rstrip(SPACE) if opened else plain
        if plain:
            yield 0, plain, False
        if begin < 0:
            return
        line = text.count("\n", 0, begin) + 1
        inside = begin + (3 if opened else 2)
        end = _end(text, inside, line)
        trims = text[end - 1] == "-" and text[end - 2] in SPACE
        body = text[inside : end - 1 if trims else end].strip(SPACE)
        if not (body.startswith("/*") and body.endswith("*/")):
            yield line, body, True
        at = end + 2


def _end(text: str, at: int, line: int) -> int:
    """Return where an action ends, whose strings may hold anything."""
    start = text[at:].lstrip(SPACE)
    if start.startswith("/*"):
        at = text.find("*/", at)
    quote = ""
    while 0 <= at < len(text):
        if quote:
            if text[at] == "\\" and quote == '"':
                at += 1
            elif text[at] == quote:
                quote = ""
        elif text[at] in '"`':
            quote = text[at]
        elif text.startswith("}}", at):
            return at
        at += 1
    raise Refused(line, "an action that is not closed")


@dataclass(slots=True)
class _Reader:
    """Reads pieces, one after the other."""

    pieces: list[tuple[int, str, bool]]
    at: int = 0

    def nodes(self) -> tuple[tuple[Node, ...], tuple[int, str] | None]:
        """Return nodes up to an `end` or `else`, and that with its line; None where the template is over."""
        found: list[Node] = []
        while self.at < len(self.pieces):
            line, text, acts = self.pieces[self.at]
            self.at += 1
            if not acts:
                found.append(Text(text))
                continue
            word = text.split(None, 1)[0] if text else ""
            if word in ("end", "else"):
                return tuple(found), (line, text)
            if word in _REFUSED:
                raise Refused(line, f"{{{{ {word} }}}} is not known here")
            found.append(self._branch(line, text) if word in ("if", "range") else _action(line, text))
        return tuple(found), None

    def _branch(self, line: int, text: str) -> Branch:
        word, *rest = text.split(None, 1)
        over = word == "range"
        words = _Words(line, "".join(rest))
        names = words.names() if over else ()
        value = words.whole()
        body, end = self.nodes()
        otherwise: tuple[Node, ...] = ()
        if end is not None and end[1] != "end":
            if end[1] == "else":
                otherwise, end = self.nodes()
            elif not over and end[1].split()[1:2] == ["if"]:
                otherwise, end = (self._branch(end[0], end[1].split(None, 1)[1]),), (0, "end")
            else:
                raise Refused(end[0], f"{{{{ {end[1]} }}}} is not known here")
        if end is None or end[1] != "end":
            raise Refused(line, f"{{{{ {word} }}}} without its end")
        return Branch(value, body, otherwise, over, names)


def _action(line: int, text: str) -> Action:
    words = _Words(line, text)
    tokens = words.tokens
    if len(tokens) > 1 and tokens[0].kind == "variable" and tokens[1].text in (":=", "="):
        words.at = 2
        return Action(words.whole(), tokens[0].text, tokens[1].text == ":=")
    return Action(words.whole())


@dataclass(slots=True)
class _Words:
    """The words of one action."""

    line: int
    text: str
    at: int = 0
    tokens: list[Token] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = []
        at = 0
        while at < len(self.text.rstrip(SPACE)):
            found = _TOKEN.match(self.text, at)
            if found is None:
                raise Refused(self.line, f"{self.text[at:].strip()[:30]!r} is not known here")
            kind = str(found.lastgroup)
            self.tokens.append(Token(kind, found[kind], found.start(kind) == at and at > 0))
            at = found.end()

    def names(self) -> tuple[str, ...]:
        """Return the variables that a loop declares, and leave them behind."""
        signs = [at for at, token in enumerate(self.tokens) if token.text == ":=" and token.kind == "sign"]
        if not signs:
            return ()
        names = [token.text for token in self.tokens[: signs[0]] if token.kind == "variable"]
        if [token.text for token in self.tokens[: signs[0]]] not in (names, [*names[:1], ",", *names[1:]]):
            raise Refused(self.line, "variables of a loop that are not known here")
        self.at = signs[0] + 1
        return tuple(names)

    def whole(self) -> Term:
        """Return the value that all remaining words are."""
        value = self._call()
        if self.at < len(self.tokens):
            raise Refused(self.line, f"{self.tokens[self.at].text!r} is not known here")
        return value

    def _call(self) -> Term:
        """Return a function with its arguments, or a value alone."""
        if self.at < len(self.tokens) and self.tokens[self.at].kind == "word":
            name = self.tokens[self.at].text
            if name not in ("true", "false"):
                self.at += 1
                arguments = []
                while self.at < len(self.tokens) and self.tokens[self.at].text not in (")", "|"):
                    arguments.append(self._term())
                return Term(self.line, "call", name, tuple(arguments))
        return self._term()

    def _term(self) -> Term:
        if self.at == len(self.tokens):
            raise Refused(self.line, "a value is missing")
        token = self.tokens[self.at]
        self.at += 1
        fields: list[str] = []
        if token.kind == "text":
            return Term(self.line, "text", self._unquoted(token.text))
        if token.kind == "number" or token.text in ("true", "false"):
            return Term(self.line, "number" if token.kind == "number" else "truth", token.text)
        if token.text == "(" and token.kind == "sign":
            inner = self._call()
            if self.at == len(self.tokens) or self.tokens[self.at].text != ")":
                raise Refused(self.line, "a parenthesis that is not closed")
            self.at += 1
            return Term(self.line, inner.kind, inner.name, inner.arguments, (*inner.fields, *self._fields()))
        if token.kind == "field":
            fields.append(token.text[1:])
        elif token.kind not in ("dot", "variable"):
            raise Refused(self.line, f"{token.text!r} is not known here")
        kind = "variable" if token.kind == "variable" else "dot"
        return Term(self.line, kind, token.text if kind == "variable" else "", (), (*fields, *self._fields()))

    def _fields(self) -> list[str]:
        """Return the fields that follow without a space."""
        found = []
        while (
            self.at < len(self.tokens) and self.tokens[self.at].kind == "field" and self.tokens[self.at].glued
        ):
            found.append(self.tokens[self.at].text[1:])
            self.at += 1
        return found

    def _unquoted(self, text: str) -> str:
        if text.startswith("`"):
            return text[1:-1]
        try:
            return str(json.loads(text, strict=False))
        except ValueError:
            raise Refused(self.line, f"the text {text[:30]} is not known here") from None
