"""An engine that answers from recordings, and only what it was asked word for word.

Rules:
- A request that matches no recording is answered with 599 and the reason, and noted: the check fails, whatever it
  expected. Strict: method, path, JSON body member by member, numbers as they are written, no member twice.
- Answers go out as they were recorded; a stream event by event. Only the framing of the body is made anew.
- A real server on loopback. Format of the files: README.md beside this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.talking import Conversation, opening
from tests.conformance.tap import Counter, is_request

ANY = b"*"
_SEPARATOR = re.compile(rb"\r?\n=====\r?\n")
_BLANK = re.compile(rb"\r?\n\r?\n")
_EVENTS = {
    b"text/event-stream": re.compile(rb"(?:\r?\n){2,}"),
    b"application/x-ndjson": re.compile(rb"\n"),
    b"application/jsonl": re.compile(rb"\n"),
}
_OWN = (b"content-length", b"transfer-encoding", b"connection", b"keep-alive")
"""Headers of the framing and the connection, which are this server's."""


class Strange(ValueError):
    """A recording that cannot be read."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One exchange: what must be asked, and what is answered."""

    name: str
    method: str
    path: str
    wanted: tuple[tuple[bytes, bytes], ...]
    """Headers the request must have; `*` for any value."""
    body: bytes
    status: bytes
    headers: tuple[bytes, ...]
    answer: bytes
    cut: bool
    """The connection breaks after the last byte."""

    @classmethod
    def read(cls, name: str, text: bytes) -> Recording | None:
        """Return the recording in a file; None where the file is of another kind (no line of `=====`)."""
        parts = _SEPARATOR.split(text, maxsplit=1)
        if len(parts) < 2:
            return None
        comments, asked = _without_comments(parts[0])
        head, _, body = _halves(asked)
        first, *wanted = head.splitlines()
        method, _, path = first.decode().partition(" ")
        top, _, answer = _halves(parts[1])
        status, *headers = top.splitlines()
        if not re.fullmatch(r"[A-Z]+ /\S*", first.decode()) or not status.startswith(b"HTTP/1.1 "):
            raise Strange(
                f"{name}: expected a request line and a status line, found {first!r} and {status!r}"
            )
        kept = tuple(line for line in headers if line.partition(b":")[0].strip().lower() not in _OWN)
        pairs = tuple((line.partition(b":")[0].lower(), line.partition(b":")[2].strip()) for line in wanted)
        cut = any(comment.lstrip(b"# ").startswith(b"cut") for comment in comments)
        return cls(name, method, path, pairs, body.strip(), status, kept, answer, cut)

    def differs(self, asked: Asked) -> str | None:
        """Why this is no answer to that request; None if it is."""
        if (self.method, self.path) != (asked.method, asked.path):
            return f"is for {self.method} {self.path}"
        for name, value in self.wanted:
            if asked.headers.get(name) is None or value not in (ANY, asked.headers[name]):
                return f"wants the header {name.decode()}: {value.decode()}"
        if self.body in (ANY, asked.body) or _canonical(self.body) == _canonical(asked.body):
            return None
        return f"has another body: {self.body[:400].decode(errors='replace')}"

    def events(self) -> list[bytes]:
        """Return the events of an answer that is a stream; none where it is not."""
        kinds = [
            line.split(b":", 1)[1].split(b";")[0].strip().lower()
            for line in self.headers
            if line.lower().startswith(b"content-type:")
        ]
        pattern = _EVENTS.get(kinds[0]) if kinds else None
        if pattern is None:
            return []
        ends = [found.end() for found in pattern.finditer(self.answer)]
        cuts = [0, *ends] + ([len(self.answer)] if not ends or ends[-1] < len(self.answer) else [])
        return [self.answer[start:end] for start, end in itertools.pairwise(cuts)]


@dataclass
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def is_request(self) -> bool:
        """A client is behind it; a probe's answer is never held back."""
        return is_request(f"{self.method} {self.path} ".encode())


class Replay(Counter):
    """A running replay server."""

    def __init__(self, recorded: Sequence[Recording], hold: bool) -> None:
        """Serve these recordings.

        With `hold`, answers to POST stop before their end until the gateway leaves: streams half-way, others before the
        first byte.
        """
        super().__init__()
        self.port = 0
        self.unmatched: list[str] = []
        """One explanation for each request that was answered with 599."""
        self.connections: set[_Connection] = set()
        self.begin(recorded, hold)

    def begin(self, recorded: Sequence[Recording], hold: bool) -> None:
        """Answer from other recordings from now on, as if nothing had been asked."""
        self.hold = hold
        self.unmatched.clear()
        self._recordings = recorded
        self._turns: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def recorded(self) -> Sequence[Recording]:
        """What it answers with."""
        return self._recordings

    def find(self, asked: Asked) -> Recording | None:
        """Return the recording to answer with: of several of one name in turn, the last one from then on."""
        found = [recording for recording in self._recordings if recording.differs(asked) is None]
        if not found:
            self.unmatched.append(self._why(asked))
            return None
        base = _base(found[0].name)
        series = [recording for recording in found if _base(recording.name) == base]
        turn = self._turns.get(base, 0)
        self._turns[base] = turn + 1
        return series[min(turn, len(series) - 1)]

    def _why(self, asked: Asked) -> str:
        others = "; ".join(
            f"{recording.name} {recording.differs(asked)}"
            for recording in self._recordings
            if recording.path == asked.path and recording.method == asked.method
        )
        body = asked.body[:2000].decode(errors="replace")
        return f"no recording answers {asked.method} {asked.path} {body} ({others or 'none has this path'})"


class _Connection(asyncio.Protocol):
    """One connection, request after request."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._buffer = b""
        self._counted = 0
        self._talk: Conversation | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._replay.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._replay.connections.discard(self)
        self._done()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._talk is not None:
            self._talk.feed(data)
            return
        self._buffer += data
        asked = _received(self._buffer)
        if asked is None:
            return
        self._buffer = b""
        self._counted = int(asked.is_request)
        self._replay.count(self._counted)
        recording = self._replay.find(asked)
        if recording is None:
            said = json.dumps({"error": {"message": self._replay.unmatched[-1], "type": "replay"}}).encode()
            head = b"HTTP/1.1 599 No Recording\r\ncontent-type: application/json\r\n"
            self._send([head + b"content-length: %d\r\n\r\n%s" % (len(said), said)], self._done)
        elif recording.status.startswith(b"HTTP/1.1 101 "):
            assert self._transport is not None
            key = asked.headers[b"sec-websocket-key"]
            self._transport.write(b"\r\n".join([recording.status, *opening(key), b"", b""]))
            self._counted = 1
            self._replay.count(1)
            self._talk = Conversation(messages(recording), self._transport, self._replay.unmatched)
        else:
            self._answer(recording, holds=self._replay.hold and asked.is_request)

    def _answer(self, recording: Recording, holds: bool) -> None:
        events = recording.events()
        head = [recording.status, *recording.headers]
        if holds and not events:
            return
        if not events and not recording.cut:
            length = b"content-length: %d" % len(recording.answer)
            self._send([b"\r\n".join([*head, length, b"", recording.answer])], self._done)
            return
        pieces = [b"%x\r\n%s\r\n" % (len(event), event) for event in events or [recording.answer]]
        pieces.insert(0, b"\r\n".join([*head, b"transfer-encoding: chunked", b"", b""]))
        if holds:
            self._send(pieces[: 1 + max(4, len(events) // 2)], lambda: None)
        elif recording.cut:
            self._send(pieces, self.close)
        else:
            self._send([*pieces, b"0\r\n\r\n"], self._done)

    def _send(self, pieces: list[bytes], after: Callable[[], None]) -> None:
        """Send one piece in each round of the loop, then do what comes `after`."""
        if self._transport is None:
            return
        if pieces:
            self._transport.write(pieces[0])
            asyncio.get_running_loop().call_soon(self._send, pieces[1:], after)
        else:
            after()

    def _done(self) -> None:
        counted, self._counted = self._counted, 0
        self._replay.count(-counted)


def messages(recorded: Recording) -> list[tuple[bool, Any]]:
    """Return the messages of a recorded WebSocket in their order, each with whether it is the client's."""
    lines = [line for line in recorded.answer.decode().splitlines() if line.strip()]
    return [(line.startswith(">"), json.loads(line[1:])) for line in lines]


def recordings(folder: Path) -> list[Recording]:
    """Return the recordings in a folder, in no order."""
    found = (Recording.read(file.stem, file.read_bytes()) for file in folder.glob("*.http"))
    return [recording for recording in found if recording is not None]


def in_order(found: Sequence[Recording], first: str, last: Container[str] = ()) -> list[Recording]:
    """Return recordings in the order in which they are tried.

    Those named `first` come first, then all others by name, those named as in `last` at the end.
    """

    def order(recording: Recording) -> tuple[bool, bool, str, int]:
        base, number = _order(recording.name)
        return base != first, base in last, base, number

    return sorted(found, key=order)


@contextlib.asynccontextmanager
async def replaying(recorded: Sequence[Recording], *, hold: bool = False) -> AsyncIterator[Replay]:
    """Serve recordings on a free port."""
    replay = Replay(recorded, hold)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(replay), "127.0.0.1", 0)
    replay.port = server.sockets[0].getsockname()[1]
    try:
        yield replay
    finally:
        server.close()
        for connection in tuple(replay.connections):
            connection.close()
        while replay.connections:  # noqa: ASYNC110 (each round of the loop closes some)
            await asyncio.sleep(0)


def _received(data: bytes) -> Asked | None:
    """Return the request that has arrived; None until it is whole."""
    head, blank, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    if not blank or len(body) < int(headers.get(b"content-length", b"0")):
        return None
    assert b"transfer-encoding" not in headers, "the gateway sends bodies with their length"
    method, path, _ = first.decode().split(" ")
    return Asked(method, path, headers, body)


def _without_comments(text: bytes) -> tuple[list[bytes], bytes]:
    lines = text.split(b"\n")
    count = next((number for number, line in enumerate(lines) if not line.startswith(b"#")), len(lines))
    return lines[:count], b"\n".join(lines[count:])


def _halves(text: bytes) -> tuple[bytes, bytes, bytes]:
    found = _BLANK.search(text)
    return (text[: found.start()], found[0], text[found.end() :]) if found else (text, b"", b"")


@functools.lru_cache(maxsize=4096)
def _canonical(body: bytes) -> str | None:
    """JSON in one form for all that mean the same; a text of its own for what is not JSON or says a member twice."""
    try:
        return json.dumps(json.loads(body, object_pairs_hook=_once), sort_keys=True) if body else ""
    except ValueError:
        return repr(body)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a member stands twice")
    return found


def _base(name: str) -> str:
    """`chat.2` is one more answer of `chat`."""
    return re.sub(r"\.\d+$", "", name)


def _order(name: str) -> tuple[str, int]:
    number = name[len(_base(name)) + 1 :]
    return _base(name), int(number or 1)
