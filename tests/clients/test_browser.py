"""A page in headless Chromium that calls the gateway of another origin: preflights, answers, streams and errors.

Rules:
- The browser is the one on the PATH, Debian's `chromium`; without one the tests are skipped.
- The page tells the server that it came from what it got.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from gateway.keys import hash_key
from tests.serving import serving

PAGE = Path(__file__).resolve().parent / "programs" / "page.html"
KEY = "sk-of-the-page"
SAID = "word0 word1 word2 word3 word4"
CHROMIUM = shutil.which("chromium")
OPTIONS = (
    "--headless",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


class Site:
    """Serves the page, and takes what it tells."""

    def __init__(self) -> None:
        self.told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = b""
        if head.startswith(b"POST"):
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self.told.set_result(json.loads(await reader.readexactly(int(length.partition(b":")[2]))))
        elif head.startswith(b"GET / "):
            body = PAGE.read_bytes()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await writer.drain()
        writer.close()


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    found = Site()
    server = await asyncio.start_server(found.answer, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield found


async def shown(page: Site, gateway: str, folder: Path) -> dict[str, Any]:
    """Return what the page got of the gateway."""
    assert CHROMIUM is not None
    # Its sandbox cannot be had by root, as whom containers run this.
    browser = await asyncio.create_subprocess_exec(
        *(CHROMIUM, *OPTIONS, "--no-sandbox", f"--user-data-dir={folder / 'browser'}"),
        f"{page.url}/#{gateway},{KEY}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        return await asyncio.wait_for(page.told, 80)
    finally:
        browser.terminate()
        await browser.wait()


def config(engine: FakeEngine, origins: list[str]) -> str:
    return f"""
server: {{cors: {json.dumps(origins)}}}
keys:
  page: {{hash: "{hash_key(KEY)}"}}
backends:
  a: {{engine: openai, url: "{engine.url}", native: {{messages: false}}}}
models:
  m: {{targets: {{a: fake}}}}
"""


async def test_a_page_whose_origin_is_listed(tmp_path: Path) -> None:
    async with site() as page, FakeEngine() as fake, serving(tmp_path, config(fake, [page.url])) as served:
        told = await shown(page, served.url, tmp_path)
    assert told["models"] == ["m"]
    for dialect in ("chat", "messages"):
        assert told[dialect] == SAID
    assert "".join(told["stream"]) == SAID and len(told["stream"]) == 5
    assert told["request id"]
    assert told["wrong model"] == [404, "model_not_found"]
    assert told["wrong key"] == [401, "invalid_api_key"]


async def test_a_page_whose_origin_is_not_listed(tmp_path: Path) -> None:
    async with site() as page, FakeEngine() as fake, serving(tmp_path, config(fake, [])) as served:
        told = await shown(page, served.url, tmp_path)
        assert {name: value["error"] for name, value in told.items()} == dict.fromkeys(told, "TypeError")
        assert len(told) == 7 and not [one for one in fake.requests if one.method == "POST"]
