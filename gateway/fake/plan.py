"""Plan one answer as steps: the HTTP head, the framing, the body within, and the faults of the script.

Rules:
- A plan is pure; nothing is sent here.
- Whatever the script does not change is correct HTTP.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

from gateway.fake import sse, steps
from gateway.fake.answers import Asked, Generation, error
from gateway.fake.script import Behaviour, Fault
from gateway.fake.steps import Step

JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Fixed:
    """An answer that is not generated: the model list, health, an error."""

    status: int
    body: bytes


def plan(
    behaviour: Behaviour,
    asked: Asked,
    model: str,
    fixed: Fixed | None = None,
    *,
    keep: bool = True,
    seed: int = 0,
) -> Iterator[Step]:
    """Return everything that is sent for one request, faults included.

    `fixed` is the answer where nothing is generated. Without `keep` the connection ends with the answer, and its head
    says so.
    """
    answer = _Answer(behaviour, Generation(asked, behaviour, model), fixed, keep, seed)
    woven = steps.at_bytes(answer.wire(), behaviour.faults, "byte", seed)
    if behaviour.http.split:
        woven = steps.split(woven, behaviour.http.split)
    return steps.merged(steps.dripped(woven))


def on_accept(faults: Iterable[Fault], seed: int = 0) -> Iterator[Step]:
    """Yield what happens to a connection before its first request."""
    for fault in faults:
        yield from steps.struck(fault, None, seed)


@dataclass(frozen=True, slots=True)
class _Answer:
    behaviour: Behaviour
    generation: Generation
    fixed: Fixed | None
    keep: bool
    seed: int

    @property
    def status(self) -> int:
        said = self.behaviour.reply.status
        return (
            self.fixed.status
            if self.fixed and "status" not in self.behaviour.reply.model_fields_set
            else said
        )

    @property
    def body(self) -> bytes | None:
        """The body, or None where it is a stream."""
        reply = self.behaviour.reply
        if reply.body is not None:
            return reply.body
        if reply.status >= 300:
            return error(f"the fake engine was told to answer {reply.status}", "fake_error", reply.status)
        if self.fixed:
            return self.fixed.body
        return None if self._streams else self.generation.whole()

    @property
    def _streams(self) -> bool:
        form = self.behaviour.reply.form
        return form == "sse" or (form == "asked" and self.generation.asked.stream)

    @property
    def framing(self) -> str:
        http = self.behaviour.http
        if self.status < 200 or self.status in (204, 304):
            return "none"
        if http.framing != "auto":
            return http.framing
        if http.version == "1.0":
            return "close"
        return "chunked" if self.body is None else "length"

    @property
    def wait(self) -> float:
        """Seconds until the first byte of the head or, with early headers, of the body."""
        behaviour, generation = self.behaviour, self.generation
        wait = behaviour.first_token
        if behaviour.reply.body is None and self.fixed is None and self.status < 300:
            wait += behaviour.prefill * generation.asked.prompt_tokens
            if not self._streams:
                wait += behaviour.pace * max(0, generation.count - 1)
        return wait

    def content(self, faults: tuple[Fault, ...]) -> Iterator[Step]:
        """Yield the body before framing, with the faults that are placed within the body."""
        at_head = [fault for fault in faults if fault.at.kind == "headers"]
        for fault in at_head:
            yield from steps.struck(fault, None, self.seed)
        if self.framing == "none" or any(fault.do == "end" for fault in at_head):
            return
        body, spell = self.body, partial(sse.spell, style=self.behaviour.sse)
        if body is None:
            if self.behaviour.endless:
                faults = tuple(fault for fault in faults if fault.at.number >= 0)
            woven = steps.at_events(sse.stream(self.generation), faults, spell, self.seed)
            woven = steps.coalesced(woven, self.behaviour.sse.coalesce)
        else:
            woven = iter((Step(0, body),))
        if self.behaviour.http.gzip:
            woven = _gzipped(woven)
        yield from steps.at_bytes(woven, faults, "body byte", self.seed)

    def wire(self) -> Iterator[Step]:
        """Yield the whole answer: interim replies, head, framed body, end."""
        faults, http = self.behaviour.faults, self.behaviour.http
        for fault in faults:
            if fault.at.kind == "request":
                yield from steps.struck(fault, None, self.seed)
        if http.interim:
            line = b"HTTP/1.1 %d %s\r\n\r\n" % (http.interim.status, _phrase(http.interim.status).encode())
            yield from (Step(http.interim.every, line) for _ in range(http.interim.count))
        length = self._length() if self.framing in ("length", "both") else None
        yield Step(0 if http.early_headers else self.wait, self._head(length))
        if http.early_headers and self.wait:
            yield Step(self.wait)
        sent = 0
        chunked = self.framing in ("chunked", "both")
        for step in self.content(faults):
            if chunked and step.data and not step.raw:
                yield step._replace(data=b"%x\r\n%b\r\n" % (len(step.data), step.data))
            else:
                yield step
            sent += len(step.data)
        if chunked:
            yield Step(0, b"0\r\n" + _lines(http.trailers) + b"\r\n")
        for fault in faults:
            if fault.at.kind == "end":
                yield from steps.struck(fault, None, self.seed)
        short = length is not None and self.framing == "length" and sent < length
        if short or self.framing == "close" or self._says_close or not self.keep:
            yield Step(0, last="over")

    def _length(self) -> int:
        """Return the Content-Length to declare: the length if nothing cuts the body short, plus the script's error."""
        adding = tuple(fault for fault in self.behaviour.faults if fault.do == "event")
        return sum(len(step.data) for step in self.content(adding)) + self.behaviour.http.length_off

    @property
    def _says_close(self) -> bool:
        lines = self.behaviour.reply.headers
        return any(name.lower() == "connection" and text.lower() == "close" for name, text in lines)

    def _head(self, length: int | None) -> bytes:
        reply, http = self.behaviour.reply, self.behaviour.http
        reason = _phrase(self.status) if reply.reason is None else reply.reason
        usual = {}
        if self.framing != "none":
            usual["content-type"] = (
                SSE if self._streams and (self.body is None or reply.body is not None) else JSON
            )
        if length is not None:
            usual["content-length"] = str(max(0, length))
        if self.framing in ("chunked", "both"):
            usual["transfer-encoding"] = "chunked"
        if not self.keep:
            usual["connection"] = "close"
        if http.gzip:
            usual["content-encoding"] = "gzip"
        given = {name.lower() for name, _ in reply.headers}
        lines = [(name, text) for name, text in usual.items() if name not in given]
        lines += reply.headers
        lines += [(f"x-extra-{n}", "x" * http.extra_header_size) for n in range(http.extra_headers)]
        status = f"HTTP/{http.version} {self.status} {reason}".rstrip()
        return f"{status}\r\n".encode("latin-1", "replace") + _lines(lines) + b"\r\n"


def _lines(headers: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(f"{name}: {text}\r\n".encode("utf-8", "surrogatepass") for name, text in headers)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _gzipped(woven: Iterable[Step]) -> Iterator[Step]:
    """Compress the body as one gzip member; flush after each step, so that a client can decode it at once."""
    packer = zlib.compressobj(wbits=31)
    for step in woven:
        if step.raw or not step.data:
            yield step
        else:
            yield step._replace(data=packer.compress(step.data) + packer.flush(zlib.Z_SYNC_FLUSH))
    yield Step(0, packer.flush())
