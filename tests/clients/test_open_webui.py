"""Open WebUI, as PyPI has it, with both of its connections to one gateway: OpenAI's and Ollama's."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.clients import packages
from tests.clients.calling import CHAT, call, called, config
from tests.clients.declared import OPEN_WEBUI
from tests.clients.programs.checks import WRONG_KEY
from tests.serving import Served, serving

KEY = "sk-of-the-tests"
SAID = "word0 word1 word2 word3 word4"
STARTING = 420.0
"""Seconds it may take to start: it makes its database, and imports what it never uses here."""
CITY = {"city": "Oslo"}
MODELS = {"chat": "m", "ollama_chat": "own.m"}
"""What the model is called in it, by the operation that its connection asks for."""

pytestmark = [pytest.mark.slow, pytest.mark.heavy, pytest.mark.timeout(900)]


class WebUi:
    """A running Open WebUI, as its own page uses it."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._token = ""

    async def ask(self, path: str, body: Any = None) -> tuple[int, str]:
        return await asyncio.to_thread(self._ask, path, body)

    async def enter(self) -> None:
        """Sign in as the one user there is without accounts."""
        status, text = await self.ask(
            "/api/v1/auths/signin", {"email": "admin@localhost", "password": "admin"}
        )
        assert status == 200, text
        self._token = json.loads(text)["token"]

    def _ask(self, path: str, body: Any) -> tuple[int, str]:
        headers = {"content-type": "application/json", "authorization": f"Bearer {self._token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@asynccontextmanager
async def open_webui(served: Served, folder: Path) -> AsyncIterator[WebUi]:
    """Run it until the block ends."""
    python = packages.of_pypi("open-webui", *OPEN_WEBUI.packages)
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as taken:
        port = taken.sockets[0].getsockname()[1]
    settings = {
        "DATA_DIR": str(folder / "data"),
        "WEBUI_AUTH": "False",
        "WEBUI_SECRET_KEY": "of-the-tests",
        "OPENAI_API_BASE_URLS": f"{served.url}/v1",
        "OPENAI_API_KEYS": KEY,
        "OLLAMA_BASE_URLS": served.url,
        "OLLAMA_API_CONFIGS": json.dumps({"0": {"enable": True, "prefix_id": "own", "key": KEY}}),
        # Nothing is fetched: neither models for search nor news of itself.
        "OFFLINE_MODE": "true",
        "HF_HUB_OFFLINE": "1",
        "RAG_EMBEDDING_ENGINE": "openai",
        "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
        "ENABLE_VERSION_UPDATE_CHECK": "false",
    }
    outside = {"HTTP_PROXY": packages.NOBODY, "HTTPS_PROXY": packages.NOBODY, "NO_PROXY": "127.0.0.1"}
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(python.with_name("open-webui"), "serve", "--host", "127.0.0.1", "--port", str(port)),
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **outside, **settings},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        found = WebUi(port)
        async with asyncio.timeout(STARTING):
            while not await listens(port):
                assert process.returncode is None, (folder / "log").read_text()[-2000:]
                await asyncio.sleep(0.5)
        await found.enter()
        yield found
    finally:
        process.terminate()
        await process.wait()


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def pieces(stream: str) -> list[str]:
    """Return the words of a stream, which its page gets in OpenAI's form whatever the connection is."""
    events = [line[6:] for line in stream.splitlines() if line.startswith("data: {")]
    said = [
        choice["delta"].get("content") for event in events for choice in json.loads(event).get("choices", ())
    ]
    return [piece for piece in said if piece]


def asked(model: str, text: str = "hi", **options: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "stream": False} | options


async def chats(page: WebUi, model: str) -> None:
    """Hold that a model answers, whole and as a stream, and calls a tool."""
    status, text = await page.ask("/api/chat/completions", asked(model))
    assert status == 200 and json.loads(text)["choices"][0]["message"]["content"] == SAID, text
    status, text = await page.ask("/api/chat/completions", asked(model, stream=True))
    assert status == 200 and "".join(pieces(text)) == SAID and len(pieces(text)) == 5, text
    tools = [{"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}]
    status, text = await page.ask("/api/chat/completions", asked(model, "call it", tools=tools))
    assert status == 200, text
    [made] = json.loads(text)["choices"][0]["message"]["tool_calls"]
    assert (made["function"]["name"], json.loads(made["function"]["arguments"])) == ("get", CITY), text
    status, text = await page.ask("/api/chat/completions", asked(model, "call it", tools=tools, stream=True))
    assert status == 200 and "get" in text and "Oslo" in text, text


async def test_open_webui_chats_over_both_of_its_connections(tmp_path: Path) -> None:
    match = {"path": CHAT, "contains": "call it"}
    rules = [
        {"match": match | {"stream": True}, "sse": {"events": list(call("get", CITY))}},
        {"match": match, "reply": {"body": called("get", CITY)}},
    ]
    async with (
        FakeEngine(defaults={"say": SAID}, rules=rules) as fake,
        serving(tmp_path, config(fake, key=KEY)) as served,
        open_webui(served, tmp_path) as page,
    ):
        status, text = await page.ask("/api/models")
        models = {model["id"] for model in json.loads(text)["data"]}
        assert status == 200 and models >= {*MODELS.values()}, text
        for operation, model in MODELS.items():
            await chats(page, model)
            assert served.metric("gateway_requests_total", operation=operation, outcome="ok") == 4
        await errors(page, served, fake)


async def errors(page: WebUi, served: Served, fake: FakeEngine) -> None:
    """Hold that it passes on what an engine says, and finds that a connection has a wrong key."""
    fake.set(rules=[{"match": {}, "reply": {"status": 400, "body": {"error": {"message": "too odd"}}}}])
    for model in MODELS.values():
        status, text = await page.ask("/api/chat/completions", asked(model))
        assert status == 400 and "too odd" in text, (status, text)
    for path, url in (("/openai/verify", f"{served.url}/v1"), ("/ollama/verify", served.url)):
        status, text = await page.ask(path, {"url": url, "key": KEY})
        assert status == 200, (path, status, text)
    status, text = await page.ask("/openai/verify", {"url": f"{served.url}/v1", "key": WRONG_KEY})
    assert status >= 400, (status, text)
