"""Write server-sent events as a script asks: line ends, spaces, comments, fields, and when each is due."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from gateway.fake.answers import DONE, Generation, Payload
from gateway.fake.script import Sse
from gateway.fake.steps import Step

_BOM = b"\xef\xbb\xbf"
# How lines end, and how the blank line ends that closes an event. "mixed" takes them in turn; a CR before an LF would
# read as one line end, so no style ends a line with CR and the blank line with LF.
_NEWLINES = {
    "lf": [(b"\n", b"\n")],
    "crlf": [(b"\r\n", b"\r\n")],
    "cr": [(b"\r", b"\r")],
    "mixed": [(b"\n", b"\n"), (b"\r\n", b"\r\n"), (b"\r", b"\r"), (b"\r\n", b"\n"), (b"\n", b"\r\n")],
}


def spell(payload: bytes, style: Sse, number: int = 0) -> bytes:
    """Return one event that holds the payload; `number` is its index in the stream."""
    styles = _NEWLINES[style.newline]
    end, blank = styles[number % len(styles)]
    lines = []
    if style.id:
        lines.append(b"id: %d" % number)
    if style.event is not None:
        lines.append(b"event: " + style.event.encode())
    if style.retry is not None:
        lines.append(b"retry: %d" % style.retry)
    label = b"data: " if style.space else b"data:"
    lines += [label + line for line in _lines(payload, style.multiline)]
    return end.join(lines) + end + blank


def _lines(payload: bytes, several: bool) -> list[bytes]:
    """Return the payload's lines: one, or if `several` one for each line break that JSON allows."""
    if not several:
        return [payload]
    try:
        text = json.dumps(json.loads(payload), ensure_ascii=False, indent=1)
    except ValueError:
        return [payload]
    return text.encode("utf-8", "surrogatepass").split(b"\n")


def stream(generation: Generation) -> Iterator[Step]:
    """Yield the healthy stream, one step per event; one that carries a token is due one pace after the last."""
    style, pace = generation.behaviour.sse, generation.behaviour.pace
    choices = generation.asked.choices if style.events is None else 1
    said = 0
    for number, payload in enumerate(_payloads(generation)):
        before = _BOM if style.bom and not number else b""
        if style.comment_every and number % style.comment_every == 0:
            before += b": comment\n\n"
        after = pace if payload.tokens and said and said % choices == 0 else 0.0
        said += payload.tokens
        yield Step(after, before + spell(payload.text, style, number), events=1, tokens=payload.tokens)


def _payloads(generation: Generation) -> Iterable[Payload]:
    style = generation.behaviour.sse
    if style.events is not None:
        yield from (Payload(text, int(text != DONE)) for text in style.events)
    else:
        yield from generation.events()
    if style.after_done is not None:
        yield Payload(style.after_done)
