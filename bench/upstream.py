"""An OpenAI-shaped upstream that costs next to nothing: `python -m bench.upstream PORT [--faults SHARE]`.

Rules:
- What it sends is prepared in advance. A request is searched with a few regular expressions and never parsed as JSON.
- `max_tokens` sets how many pieces a stream has; `gap-ms=20`, anywhere in the prompt, sets the pause between them. The
  first piece is sent at once.
- It answers as an engine would: pieces differ, the model has a name of its own, usage is sent to those who ask for it.
- With `--faults` that share of the requests ends badly, in one of `FAULTS`. The seed makes a run repeatable.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import struct
from random import Random
from typing import Any, cast

import uvloop

MODEL = "bench/upstream-7b"
"""What this upstream calls its model."""

FAULTS = ("close", "reset", "hang", "cut", "error", "stall")
"""Closed or reset before an answer, no answer, a stream cut or reset halfway, a 503, a stream that falls silent."""

WORDS = (
    " The",
    " answer",
    " is",
    " not",
    " as",
    " simple",
    ",",
    " but",
    " it",
    " fits",
    " in",
    " a",
    " line",
    ".",
)

_LENGTH = re.compile(rb"content-length:[ \t]*(\d+)", re.IGNORECASE)
_TOKENS = re.compile(rb'"max_(?:completion_)?tokens":[ ]?(\d+)')
_GAP = re.compile(rb"gap-ms=(\d+)")
_STREAM = re.compile(rb'"stream":[ ]?true')
_USAGE = re.compile(rb'"include_usage":[ ]?true')

_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
_END = b"0\r\n\r\n"


def _http(status: str, body: Any) -> bytes:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    event = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    text = json.dumps({**event, "choices": choices, **more}, separators=(",", ":"))
    return _chunk(f"data: {text}\n\n".encode())


def _piece(delta: dict[str, str], finish: str | None = None) -> bytes:
    return _event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}])


_ROLE = _piece({"role": "assistant", "content": ""})
_PIECES = [_piece({"content": word}) for word in WORDS]
_STOP = _piece({}, "stop")
_DONE = _chunk(b"data: [DONE]\n\n")


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}


_ANSWER = _http(
    "200 OK",
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(WORDS)},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _usage(len(WORDS)),
    },
)
_MODELS = _http(
    "200 OK",
    {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "bench"}]},
)
_BUSY = _http("503 Service Unavailable", {"error": {"message": "overloaded", "type": "server_error"}})


class Upstream:
    """What all connections share: how often and how requests fail, and how much is open."""

    def __init__(self, faults: float = 0.0, seed: int = 1) -> None:
        """Let `faults`, a share from 0 to 1, of the requests end badly."""
        self.share = faults
        self.rng = Random(seed)
        self.connections = 0
        self.streams = 0
        self.faulty = 0

    def fault(self) -> str:
        """Choose the fault of the next request; "" for none."""
        if not self.share or self.rng.random() >= self.share:
            return ""
        self.faulty += 1
        return self.rng.choice(FAULTS)

    def answer(self, path: bytes) -> bytes:
        """Return what a GET gets: the model list, this program's counts, or an empty object for any health check."""
        if path.endswith(b"/models"):
            return _MODELS
        if path == b"/counts":
            return _http(
                "200 OK",
                {"connections": self.connections, "streams": self.streams, "faults": self.faulty},
            )
        return _http("200 OK", {})


class Connection(asyncio.Protocol):
    """One connection from a gateway: request after request, each answered in turn."""

    __slots__ = (
        "_buffer",
        "_fault",
        "_gap",
        "_left",
        "_shared",
        "_timer",
        "_tokens",
        "_transport",
        "_wants_usage",
    )

    def __init__(self, shared: Upstream) -> None:
        self._shared = shared
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None
        self._fault = ""
        self._gap = 0.0
        self._left = self._tokens = 0
        self._wants_usage = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._shared.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        self._shared.connections -= 1
        if self._timer is not None:
            self._timer.cancel()
            self._stop_counting()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while self._buffer and not self._transport.is_closing():
            end = self._buffer.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            length = _LENGTH.search(self._buffer, 0, end)
            size = end + (int(length[1]) if length else 0)
            if len(self._buffer) < size:
                return
            request, self._buffer = self._buffer[:size], self._buffer[size:]
            self._on_request(request)

    def _on_request(self, request: bytes) -> None:
        if request.startswith(b"GET "):
            self._transport.write(self._shared.answer(request.split(b" ", 2)[1]))
            return
        self._fault = self._shared.fault()
        if self._fault in {"close", "error", "hang"} or (
            self._fault == "reset" and self._shared.rng.random() < 0.5
        ):
            self._fail()
        elif _STREAM.search(request):
            self._stream(request)
        elif self._fault:
            self._fail()
        else:
            self._transport.write(_ANSWER)

    def _stream(self, request: bytes) -> None:
        tokens, gap = _TOKENS.search(request), _GAP.search(request)
        self._tokens = self._left = int(tokens[1]) if tokens else 16
        self._gap = int(gap[1]) / 1000 if gap else 0.0
        self._wants_usage = _USAGE.search(request) is not None
        self._shared.streams += 1
        self._transport.write(_STREAM_HEAD + _ROLE + self._next())
        self._wait()

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._gap, self._tick)

    def _tick(self) -> None:
        if self._fault and self._left <= self._tokens // 2:
            self._timer = None
            self._stop_counting()
            self._fail()
        elif self._left:
            self._transport.write(self._next())
            self._wait()
        else:
            self._timer = None
            self._stop_counting()
            usage = _event([], usage=_usage(self._tokens)) if self._wants_usage else b""
            self._transport.write(_STOP + usage + _DONE + _END)

    def _next(self) -> bytes:
        self._left -= 1
        return _PIECES[self._left % len(_PIECES)]

    def _stop_counting(self) -> None:
        self._shared.streams -= 1

    def _fail(self) -> None:
        if self._fault == "error":
            self._transport.write(_BUSY)
        elif self._fault == "reset":
            raw = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        elif self._fault in {"close", "cut"}:
            self._transport.close()
        # hang, stall: nothing more comes


async def serve(port: int, shared: Upstream) -> None:
    """Answer on loopback until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(shared), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="bench.upstream", description="A cheap OpenAI-shaped upstream.")
    parser.add_argument("port", type=int)
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests that end badly")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    uvloop.run(serve(options.port, Upstream(options.faults, options.seed)))


if __name__ == "__main__":
    main()
