"""An Ollama Modelfile, read into its instructions.

The form is that of Ollama 0.33 (its reference of the Modelfile, and its parser): an instruction is a word in any case
and its text to the end of the line. Text that begins with one or three quotation marks goes on until a line ends with
as many; nothing in it is escaped. `#` begins a comment, where an instruction could begin.

Rules:
- Pure. Nothing of what stands in the file is left out, and what it means elsewhere is not judged here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

INSTRUCTIONS: Final = (
    *("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE", "REQUIRES"),
    *("RENDERER", "PARSER"),
)
_NAMED: Final = ("PARAMETER", "MESSAGE")
"""Instructions whose text begins with a name, or with a role."""
_ROLES: Final = ("system", "user", "assistant")
_MARKS: Final = '"""'


class ModelfileError(Exception):
    """A Modelfile cannot be read. `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: `name` is that of a parameter, or the role of a message; else it is empty."""

    line: int
    word: str
    text: str
    name: str = ""


def parse(text: str) -> list[Instruction]:
    """Return the instructions of a Modelfile in their order. Raises ModelfileError."""
    lines = text.removeprefix("\ufeff").splitlines()
    found: list[Instruction] = []
    at = 0
    while at < len(lines):
        line, begin = lines[at].strip(), at + 1
        at += 1
        if not line or line.startswith("#"):
            continue
        word, _, rest = _split(line)
        word = word.upper()
        if word not in INSTRUCTIONS:
            raise ModelfileError(
                begin, f"unknown instruction {word[:40]!r}: there are {', '.join(INSTRUCTIONS)}"
            )
        name = ""
        if word in _NAMED:
            name, _, rest = _split(rest)
            if word == "MESSAGE" and name not in _ROLES:
                raise ModelfileError(
                    begin, f"a message is of one of {', '.join(_ROLES)}, not of {name[:40]!r}"
                )
        value = _unquoted(rest)
        while value is None:
            if at == len(lines):
                raise ModelfileError(begin, f"the text of {word} that begins here is not closed")
            rest += "\n" + lines[at]
            at += 1
            value = _unquoted(rest)
        if not value:
            raise ModelfileError(begin, f"{word} says nothing")
        found.append(Instruction(begin, word, value, name))
    if not any(each.word == "FROM" for each in found):
        raise ModelfileError(1, "there is no FROM: it names the model that this one is made from")
    return found


def _split(line: str) -> tuple[str, str, str]:
    """Return the first word of a line, an empty text, and the rest without spaces before it."""
    words = line.split(None, 1)
    return (words[0] if words else "", "", words[1] if len(words) > 1 else "")


def _unquoted(text: str) -> str | None:
    """Return text without its quotation marks; None where it goes on in the next line."""
    whole = text.strip()
    for marks in (_MARKS, _MARKS[0]):
        if whole.startswith(marks):
            closed = len(whole) >= 2 * len(marks) and whole.endswith(marks)
            return whole[len(marks) : -len(marks)] if closed else None
    return whole
