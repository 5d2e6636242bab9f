"""Real replies of engines, from `tests/recordings/`, for the tests of their adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backends.base import Engine, Failure, Operation, Request, StreamDecoder
from tests.conformance.replay import Recording

FOLDER = Path(__file__).resolve().parents[1] / "recordings"


def recorded(engine: str, name: str) -> Recording:
    """Return the recording of this name."""
    found = Recording.read(name, (FOLDER / engine / f"{name}.http").read_bytes())
    assert found is not None
    return found


def request(operation: Operation, **body: Any) -> Request:
    """Return a client's request."""
    data = json.dumps({"model": "public", **body}).encode()
    return Request(operation, data, "public", stream=bool(body.get("stream")))


def refusal(engine: Engine, name: str) -> Failure:
    """Return what an error answer means."""
    found = recorded(engine.name, name)
    return engine.failure(int(found.status.split()[1]), (), found.answer)


def played(engine: Engine, asked: Request, name: str, size: int = 1 << 20) -> tuple[bytes, StreamDecoder]:
    """Return what a client gets of a streamed answer that arrives in pieces of this size, and its decoder."""
    data = recorded(engine.name, name).answer
    decoder = engine.decoder(asked, "demo")
    out = b""
    for start in range(0, len(data), size):
        if decoder.failure is not None or decoder.enough:
            return out, decoder
        out += decoder.feed(data[start : start + size])
    return out + decoder.close(), decoder
