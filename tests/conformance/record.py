"""Writes what went over a tap as recordings: one file for each request that no other file of the folder answers yet.

Rules:
- Bytes stay as they came. Only the framing is undone: chunks are put together, and the headers of it left out.
- Probes are recorded once: the model list, the health probe, the metrics.
- An exchange that was broken off by the client is kept as far as it came.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tests.conformance.replay import Recording, recordings
from tests.conformance.stage import CHECKS
from tests.conformance.tap import Exchange

LEFT_OUT = re.compile(rb"(?i)^(content-length|transfer-encoding|connection|keep-alive|date|server|vary):")
"""Headers of the framing, and those that say nothing."""
LEFT = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}"
"""What stands for an answer that nobody waited for."""
PROBES = (
    ("/metrics", "metrics"),
    ("health", "health"),
    ("/ready", "health"),
    ("/models", "models"),
    ("/loads", "loads"),
    ("/is_sleeping", "is_sleeping"),
)
"""Parts of the paths that are asked by GET, and the names of their recordings."""


def write(folder: Path, name: str, exchanges: Sequence[Exchange]) -> None:
    """Write the exchanges of the check of that name."""
    folder.mkdir(exist_ok=True)
    for exchange in exchanges:
        request, answer = bytes(exchange.request), bytes(exchange.answer)
        if not answer.partition(b"\r\n\r\n")[1]:
            answer = LEFT
        head, _, body = request.partition(b"\r\n\r\n")
        line = head.split(b"\r\n")[0].removesuffix(b" HTTP/1.1")
        text = b"%s\n\n%s\n=====\n%s" % (line, body, _unframed(answer))
        base = name
        if line.startswith(b"GET "):
            base = next(probe for part, probe in PROBES if part in line.decode())
        new = Recording.read(base, text)
        assert new is not None
        _keep(folder, base, new, text)


def _keep(folder: Path, base: str, new: Recording, text: bytes) -> None:
    """Write a recording that is not there; a second answer to the same request of a check gets a number."""
    known = [
        old.name
        for old in recordings(folder)
        if (old.method, old.path, old.body) == (new.method, new.path, new.body)
        and not (old.name in CHECKS and CHECKS[old.name].replayed)
    ]
    if known:
        return
    number = 1
    while (file := folder / (f"{base}.http" if number == 1 else f"{base}.{number}.http")).exists():
        number += 1
    file.write_bytes(text)


def _unframed(answer: bytes) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        body = _joined(body)
    kept = [line for line in lines if not LEFT_OUT.match(line)]
    return b"\n".join(kept) + b"\n\n" + body


def _joined(body: bytes) -> bytes:
    """Return the bytes in chunks, as far as they came."""
    parts, start = [], 0
    while (end := body.find(b"\r\n", start)) >= 0:
        count = int(body[start:end].split(b";")[0], 16)
        parts.append(body[end + 2 : end + 2 + count])
        start = end + 2 + count + 2
    return b"".join(parts)
