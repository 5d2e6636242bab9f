"""A gateway with a store, and what the tests of files and batches do with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

from gateway.fake.engine import FakeEngine
from tests.serving import Answer, Served, serving

CHAT = "/v1/chat/completions"
TERMINAL = {"completed", "failed", "cancelled", "expired"}
BOUNDARY = "batch-test-boundary"


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def line(name: str, body: dict[str, Any] | None = None, url: str = CHAT, **changes: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": body or chat(name), **changes}


def jsonl(rows: Iterable[Any]) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def config_of(
    folder: Path, *engines: str, server: str = "", extra: str = "", models: str = "{targets: {e0: up}}"
) -> str:
    """Return a config with a store below `folder`, and the model `m` on the first of these engines."""
    backends = "\n".join(
        f'  e{number}: {{engine: openai, url: "{url}", models: [up], native: {{responses: false}}}}'
        for number, url in enumerate(engines)
    )
    return f"""
server: {{listen: "127.0.0.1:0", data: "{folder / "data"}", {server}}}
backends:
{backends}
models:
  m: {models}
{extra}
"""


@contextlib.asynccontextmanager
async def keeping(
    folder: Path, engine: FakeEngine, environ: Mapping[str, str] | None = None, **how: str
) -> AsyncIterator[Served]:
    """Serve with a store and one engine."""
    async with serving(folder, config_of(folder, engine.url, **how), environ, alone=False) as served:
        yield served


def form(data: bytes, filename: str = "in.jsonl", **values: str) -> bytes:
    """Return an uploaded form; underscores in names of values are brackets where they have to be."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in values.items()
    ]
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    return b"".join(parts) + head + data + f"\r\n--{BOUNDARY}--\r\n".encode()


async def uploaded(served: Served, data: bytes, key: str = "", **values: str) -> Answer:
    values = {"purpose": "batch", **values}
    headers = {"content_type": f"multipart/form-data; boundary={BOUNDARY}", "authorization": key}
    return await served.ask("POST", "/v1/files", form(data, **values), headers)


async def begun(
    served: Served, rows: Iterable[Any], key: str = "", url: str = CHAT, **more: Any
) -> dict[str, Any]:
    """Upload lines and have a batch of them. Return the batch."""
    file = await uploaded(served, jsonl(rows), key)
    assert file.status == 200, file.body
    body = {"input_file_id": file.json()["id"], "endpoint": url, "completion_window": "24h", **more}
    answer = await served.post("/v1/batches", body, authorization=key)
    assert answer.status == 200, answer.body
    return dict(answer.json())


async def batch(served: Served, id: str, key: str = "") -> dict[str, Any]:
    answer = await served.get(f"/v1/batches/{id}", authorization=key)
    assert answer.status == 200, answer.body
    return dict(answer.json())


async def ended(served: Served, id: str, key: str = "", patience: float = 40) -> dict[str, Any]:
    """Return a batch once it has ended."""
    async with asyncio.timeout(patience):
        while (found := await batch(served, id, key))["status"] not in TERMINAL:  # noqa: ASYNC110 (it is polled)
            await asyncio.sleep(0.05)
    return found


async def content(served: Served, file: str | None, key: str = "") -> dict[str, dict[str, Any]]:
    """Return the lines of an output file by their ids. Fails where an id is there twice."""
    assert file is not None
    answer = await served.get(f"/v1/files/{file}/content", authorization=key)
    assert (answer.status, answer.whole) == (200, True)
    rows = [json.loads(each) for each in answer.body.splitlines()]
    found = {row["custom_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found
