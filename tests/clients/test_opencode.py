"""OpenCode's command, as npm installs it, at an engine that speaks only OpenAI's chat: it reads a file by a call."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.clients import packages
from tests.clients.calling import CHAT, call, config
from tests.clients.declared import OPENCODE
from tests.clients.programs.checks import WRONG_KEY
from tests.serving import Served, serving

WORD = "heliotrope"
PROVIDERS = {
    "chat": "@ai-sdk/openai-compatible",
    "messages": "@ai-sdk/anthropic",
    "responses": "@ai-sdk/openai",
}
"""The providers within OpenCode, by the dialect that each speaks."""

pytestmark = [pytest.mark.slow, pytest.mark.heavy, pytest.mark.timeout(330)]


@pytest.fixture(scope="module")
def opencode() -> Path:
    """Return the command; its installation is the package's own for this machine."""
    machine = {"x86_64": "linux-x64-baseline", "aarch64": "linux-arm64"}.get(platform.machine())
    if machine is None:
        pytest.skip(f"OpenCode has no package for {platform.machine()}")
    command = packages.of_npm("opencode", *OPENCODE.packages) / f"opencode-{machine}" / "bin" / "opencode"
    if not command.exists():
        pytest.skip("npm left out the package with the command")
    return command


async def ask(
    opencode: Path, served: Served, folder: Path, dialect: str, model: str = "m", key: str = "any"
) -> packages.Ended:
    """Let OpenCode answer a question about `folder/work`."""
    home = folder / "home"
    home.mkdir()
    provider = {
        "npm": PROVIDERS[dialect],
        "options": {"baseURL": f"{served.url}/v1", "apiKey": key},
        "models": {model: {"tool_call": True}},
    }
    settings: dict[str, Any] = {
        "provider": {"gateway": provider},
        "autoupdate": False,
        # It would ask for a title of the session beside the answer.
        "agent": {"title": {"disable": True}},
    }
    (folder / "work" / "opencode.json").write_text(json.dumps(settings))
    question = ("run", "--model", f"gateway/{model}", "--format", "json", "What is the word in word.txt?")
    return await packages.ran(
        opencode, *question, folder=folder / "work", home=home, settings={}, patience=200
    )


def events(ended: packages.Ended, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in ended.out.splitlines() if line.startswith("{")]
    return [event["part"] for event in found if event["type"] == kind]


@pytest.mark.parametrize("dialect", PROVIDERS)
async def test_opencode_reads_a_file_by_a_call(opencode: Path, tmp_path: Path, dialect: str) -> None:
    (tmp_path / "work").mkdir()
    file = tmp_path / "work" / "word.txt"
    file.write_text(f"{WORD}\n")
    answering = {"match": {"path": CHAT, "contains": WORD}, "say": f"The word is {WORD}."}
    reading = {
        "match": {"path": CHAT, "stream": True},
        "sse": {"events": list(call("read", {"filePath": str(file)}))},
    }
    async with FakeEngine(rules=[answering, reading]) as fake, serving(tmp_path, config(fake)) as served:
        ended = await ask(opencode, served, tmp_path, dialect)
        assert ended.status == 0, ended
        assert [part["text"] for part in events(ended, "text")][-1] == f"The word is {WORD}.", ended
        (used,) = events(ended, "tool_use")
        assert used["tool"] == "read" and used["state"]["status"] == "completed"
        assert served.metric("gateway_requests_total", operation=dialect, outcome="ok") == 2
        second = [json.loads(one.body) for one in fake.requests if one.method == "POST"][-1]
        assert second["messages"][-1]["role"] == "tool" and WORD in second["messages"][-1]["content"]


async def test_opencode_tells_its_user_what_is_wrong(opencode: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    async with FakeEngine() as fake, serving(tmp_path, config(fake)) as served:
        ended = await ask(opencode, served, tmp_path, "chat", "no-such-model")
        assert "there is no model 'no-such-model'" in ended.out + ended.err, ended


@pytest.mark.parametrize("dialect", PROVIDERS)
async def test_opencode_tells_its_user_of_a_wrong_key(opencode: Path, tmp_path: Path, dialect: str) -> None:
    (tmp_path / "work").mkdir()
    async with FakeEngine() as fake, serving(tmp_path, config(fake, key="sk-right")) as served:
        ended = await ask(opencode, served, tmp_path, dialect, key=WRONG_KEY)
        assert "the API key is not valid" in ended.out + ended.err, ended
