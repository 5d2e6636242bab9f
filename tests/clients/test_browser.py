"""Pages in headless Chromium that call the gateway of another origin: preflights, answers, streams and errors.

Rules:
- The browser is the one on the PATH, Debian's `chromium`; without one the tests are skipped.
- One page calls by itself; the other has the vendors' own SDKs in it, which send headers of their own.
- A page tells the server that it came from what it got.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from gateway.keys import hash_key
from tests.clients import packages
from tests.clients.declared import PAGE_SDKS
from tests.clients.programs.checks import NO_MODEL
from tests.serving import serving

PROGRAMS = Path(__file__).resolve().parent / "programs"
PAGE = (PROGRAMS / "page.html").read_bytes()
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
    """Serves a page, and takes what it tells."""

    def __init__(self, page: bytes) -> None:
        self._page = page
        self.told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            # A browser connects before it knows what to ask for.
            writer.close()
            return
        body = b""
        if head.startswith(b"POST"):
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self.told.set_result(json.loads(await reader.readexactly(int(length.partition(b":")[2]))))
        elif head.startswith(b"GET / "):
            body = self._page
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await writer.drain()
        writer.close()


@asynccontextmanager
async def site(page: bytes = PAGE) -> AsyncIterator[Site]:
    found = Site(page)
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
server: {{listen: "127.0.0.1:0", cors: {json.dumps(origins)}}}
keys:
  page: {{hash: "{hash_key(KEY)}"}}
backends:
  a: {{engine: openai, url: "{engine.url}", native: {{messages: false, responses: false}}}}
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


def bundled(folder: Path) -> bytes:
    """Return the page with the SDKs, all in one."""
    modules = packages.of_npm(PAGE_SDKS.slug, *PAGE_SDKS.packages)
    script = folder / "page.js"
    command = [packages.node(), modules / "esbuild" / "bin" / "esbuild", PROGRAMS / "page_sdks.mjs"]
    subprocess.run(
        [*command, "--bundle", "--format=esm", "--log-level=error", f"--outfile={script}"],
        check=True,
        env={"PATH": "", "NODE_PATH": str(modules)},
    )
    text = script.read_text().replace("</script>", "<\\/script>")
    return f'<!doctype html><meta charset="utf-8"><script type="module">{text}</script>'.encode()


async def test_the_sdks_in_a_page(tmp_path: Path) -> None:
    content = await asyncio.to_thread(bundled, tmp_path)
    async with (
        site(content) as page,
        FakeEngine(defaults={"say": SAID}) as fake,
        serving(tmp_path, config(fake, [page.url])) as served,
    ):
        told = await shown(page, served.url, tmp_path)
    for vendor in ("OpenAI", "Anthropic", "Ollama"):
        assert told[f"{vendor}'s models"] == ["m"]
    for dialect in ("chat", "responses", "messages", "ollama"):
        assert "".join(told[dialect]) == SAID and len(told[dialect]) == 5, told[dialect]
        model, key = told[f"{dialect}, wrong model"], told[f"{dialect}, wrong key"]
        assert NO_MODEL in model["text"] and "the API key is not valid" in key["text"]
        # The bundler numbers classes of two SDKs that have the same name.
        raised = [one["error"].rstrip("0123456789") for one in (model, key)]
        assert dialect == "ollama" or raised == ["NotFoundError", "AuthenticationError"]
