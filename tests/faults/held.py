"""How long one thing that a client or a scraper sends holds the event loop, so that everybody else waits.

`python -m tests.faults.held` prints a row for each: the longest turn of the loop in milliseconds of CPU time, and what
was answered. The gateway runs in this thread, its clients in another; the time that others take does not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gateway.telemetry.timeline import HOPS
from tests.serving import Answer, Served, serving

MODELS, BACKENDS = 400, 8
CHAT, EMBED = "/v1/chat/completions", "/v1/embeddings"
SIZE = 9_900_000
"""Bytes of a large body: the default limit is 10 MiB."""


@dataclasses.dataclass
class Turns:
    """Looks at the clock in every turn of the loop."""

    longest: float = 0.0
    """Seconds of CPU time in the longest turn."""
    count: int = 0
    running: bool = True

    def look(self, last: float) -> None:
        now = time.thread_time()
        self.longest = max(self.longest, now - last)
        self.count += 1
        if self.running:
            asyncio.get_running_loop().call_soon(self.look, time.thread_time())

    def start(self) -> Turns:
        """Begin with the next turn."""
        asyncio.get_running_loop().call_soon(lambda: self.look(time.thread_time()))
        return self


ANSWERS = {
    "chat": b'{"id":"1","object":"chat.completion","created":1,"model":"up","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"one"},"finish_reason":"stop"}]}',
    "completions": b'{"id":"1","object":"text_completion","created":1,"model":"up","choices":[{"index":0,"text":"one",'
    b'"finish_reason":"stop"}]}',
    "embeddings": b'{"object":"list","model":"up","data":[{"object":"embedding","index":0,"embedding":[1.0]}]}',
    "detokenize": b'{"prompt":"one"}',
    "models": b'{"object":"list","data":[{"id":"up","object":"model"}]}',
}
"""What the engine of these measurements answers, by a word in the path."""


@contextlib.contextmanager
def engine() -> Iterator[str]:
    """Run an engine in threads, which reads requests and looks at nothing but the path. Yields its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file, contextlib.suppress(OSError):
            while first := file.readline():
                length = 0
                while (line := file.readline()) not in (b"\r\n", b""):
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                while length:
                    length -= len(file.read(min(length, 1 << 16)))
                body = next(body for word, body in ANSWERS.items() if word.encode() in first)
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                connection.sendall(head % len(body) + body)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def exchange(port: int, request: bytes) -> Answer:
    """Send a request in blocking calls and return its answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(request)
        parts = []
        while part := connection.recv(1 << 20):
            parts.append(part)
    return Answer.read(b"".join(parts))


def post(path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    )
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()


def chat(messages: bytes, more: bytes = b"") -> bytes:
    return post(CHAT, b'{"model":"model-7","messages":[' + messages + b"]" + more + b"}")


def said(text: bytes) -> bytes:
    return chat(b'{"role":"user","content":"' + text + b'"}')


def repeated(piece: bytes, size: int = SIZE) -> bytes:
    """Return a list of `size` bytes of this piece."""
    return piece * (size // len(piece)) + piece.rstrip(b",")


REQUESTS: dict[str, Callable[[], bytes]] = {
    "a small chat": lambda: said(b"hi"),
    "5 million messages": lambda: chat(repeated(b"1,")),
    "3 million empty messages": lambda: chat(repeated(b"{},")),
    "5 million items of no known member": lambda: chat(b"{}", b',"x":[' + repeated(b"1,") + b"]"),
    "lists in lists": lambda: chat(b"{}", b',"x":[' + repeated(b"[" * 400 + b"]" * 400 + b",") + b"]"),
    "a million keys": lambda: chat(b"{}", b"," + b",".join(b'"k%d":1' % key for key in range(800_000))),
    "a million keys below": lambda: chat(b"{" + b",".join(b'"k%d":1' % key for key in range(800_000)) + b"}"),
    "one key a million times": lambda: chat(b"{}", b"," + repeated(b'"n":1,')),
    "5 million inputs to embed": lambda: post(
        EMBED, b'{"model":"model-7","input":[' + repeated(b"1,") + b"]}"
    ),
    "3 million texts to embed": lambda: post(
        EMBED, b'{"model":"model-7","input":[' + repeated(b'"",') + b"]}"
    ),
    "5 million tokens": lambda: post(
        "/detokenize", b'{"model":"model-7","tokens":[' + repeated(b"1,") + b"]}"
    ),
    "half a MB of messages": lambda: chat(repeated(b"{},", 500_000)),
    "half a MB of items": lambda: chat(b"{}", b',"x":[' + repeated(b"1,", 500_000) + b"]"),
    "10 MB of text": lambda: said(b"a" * SIZE),
    "10 MB of Chinese": lambda: said("通".encode() * (SIZE // 3)),
    "10 MB of line breaks": lambda: said(b"\\n" * (SIZE // 2)),
    "10 MB of escapes": lambda: said(b"\\u0041" * (SIZE // 6)),
    "10 MB of quotes": lambda: said(b'\\"' * (SIZE // 2)),
    "10 MB of code": lambda: said(b'int a[] = {1, 2, 3};\\n \\"x\\"' * (SIZE // 29)),
    "10 MB of white space": lambda: chat(b"{}" + b" " * SIZE),
    "10 MB in 5000 messages": lambda: chat(
        repeated(b'{"role":"user","content":"' + b"a word " * 280 + b'"},')
    ),
    "a picture of 9 MB": lambda: said(b"data:image/png;base64," + b"A/b0" * (SIZE // 4)),
    "a prompt of 200,000 tokens": lambda: post(
        "/v1/completions", b'{"model":"model-7","prompt":[' + repeated(b"12345,", 1_200_000) + b"]}"
    ),
    "a model that is 10 MB long": lambda: post(
        CHAT, b'{"messages":[{}],"model":"' + b"\\n" * (SIZE // 2) + b'"}'
    ),
    "an unknown name": lambda: post(CHAT, b'{"messages":[{}],"model":"modle-%s"}' % (b"7" * 200)),
    "an unknown name near many": lambda: post(
        CHAT, b'{"messages":[{}],"model":"model-a-rather-long-name-77"}'
    ),
    "the list of models": lambda: get("/v1/models"),
    "one model": lambda: get("/v1/models/model-7"),
    "no model": lambda: get("/v1/models/model-a-rather-long-name-77"),
    "the reference": lambda: get("/openapi.json"),
    "the metrics": lambda: get("/metrics"),
}
"""What to send; each after a small chat, which pays for what only the first request does."""


def config(url: str) -> str:
    """Return a config of many models, each at many backends."""
    backends = [f'  b{number}: {{engine: openai, url: "{url}", models: [up]}}' for number in range(BACKENDS)]
    targets = ", ".join(f"b{number}: up" for number in range(BACKENDS))
    models = [f"  model-{number}: {{targets: {{{targets}}}}}" for number in range(MODELS)]
    aliases = [
        f"  model-a-rather-long-name-{number}-b: {{targets: {{b0: up}}}}" for number in range(MODELS // 2)
    ]
    return "\n".join(["backends:", *backends, "models:", *models, *aliases, ""])


def use_all(served: Served) -> None:
    """Make every cell of every target one that was used."""
    for model in range(MODELS):
        for backend in range(BACKENDS):
            of, names = served.gateway.metrics.requests, (f"model-{model}", f"b{backend}", "openai")
            cells = of.target(*names)
            routed = (*names, "-")
            ended = of.ended((*routed, "chat", "ok", "-"), served.gateway.metrics.keys.requests)
            hops = (of.hop.cell(hop, *routed, "ok") for hop in HOPS)
            for histogram in (
                *(ended.duration, cells.token_gap, of.first_token.cell(*routed), of.overhead.cell(*routed)),
                *hops,
            ):
                histogram.observe(0.1)
            ended.count.value += 1
            cells.input_tokens.value += 1
            cells.output_tokens.value += 1


async def measured(served: Served, request: bytes) -> tuple[Turns, Answer]:
    """Send one request, and return the turns that the loop had meanwhile, and the answer."""
    turns = Turns().start()
    answer = await asyncio.to_thread(exchange, served.port, request)
    turns.running = False
    return turns, answer


async def main(names: list[str]) -> None:
    """Print the rows of these names, or of all."""
    with tempfile.TemporaryDirectory() as folder, engine() as url:
        async with serving(Path(folder), config(url)) as served:
            await measured(served, REQUESTS["a small chat"]())
            for name, make in REQUESTS.items():
                if names and name not in names:
                    continue
                turns, answer = await measured(served, make())
                _say(name, turns, answer)
            if not names or "every metric" in names:
                use_all(served)
                turns, answer = await measured(served, get("/metrics"))
                _say("every metric", turns, answer)


def _say(name: str, turns: Turns, answer: Answer) -> None:
    told = f"{len(answer.body)} bytes" if answer.status == 200 else answer.error["message"][:60]
    sys.stdout.write(
        f"{name:36} {turns.longest * 1e3:8.1f} ms {turns.count:6} turns  {answer.status} {told}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
