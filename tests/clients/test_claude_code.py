"""Claude Code's command, as npm installs it, at an engine that speaks only OpenAI's chat: it reads a file by a call."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from gateway.fake.engine import FakeEngine
from tests.clients import packages
from tests.clients.calling import call, config
from tests.clients.declared import CLAUDE_CODE
from tests.clients.programs.checks import WRONG_KEY
from tests.serving import Served, serving

WORD = "heliotrope"
CHAT = "/v1/chat/completions"
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_AUTOUPDATER": "1",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(330)]


@pytest.fixture(scope="module")
def claude() -> Path:
    """Return the command; its installation is the package's own for this machine."""
    machine = {"x86_64": "linux-x64", "aarch64": "linux-arm64"}.get(platform.machine())
    if machine is None:
        pytest.skip(f"Claude Code has no package for {platform.machine()}")
    modules = packages.of_npm("claude-code", *CLAUDE_CODE.packages)
    command = modules / "@anthropic-ai" / f"claude-code-{machine}" / "claude"
    if not command.exists():
        pytest.skip("npm left out the package with the command")
    return command


def engine(file: Path) -> FakeEngine:
    """Return an engine that has the file read and, once it has its text, answers."""
    reading = {"sse": {"events": list(call("Read", {"file_path": str(file)}))}}
    answering = {"match": {"path": CHAT, "contains": WORD}, "say": f"The word is {WORD}."}
    return FakeEngine(rules=[answering, {"match": {"path": CHAT, "stream": True}, **reading}])


async def ask(claude: Path, served: Served, folder: Path, key: str = "any") -> packages.Ended:
    home = folder / "home"
    home.mkdir()
    question = ("-p", "What is the word in word.txt?", "--model", "m", "--output-format", "json")
    settings = QUIET | {"ANTHROPIC_BASE_URL": served.url, "ANTHROPIC_AUTH_TOKEN": key}
    return await packages.ran(claude, *question, folder=folder / "work", home=home, settings=settings)


async def test_claude_code_reads_a_file_by_a_call(claude: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    file = work / "word.txt"
    file.write_text(f"{WORD}\n")
    async with engine(file) as fake, serving(tmp_path, config(fake)) as served:
        ended = await ask(claude, served, tmp_path)
        assert ended.status == 0, ended
        told = json.loads(ended.out)
        assert told["is_error"] is False and told["result"] == f"The word is {WORD}."
        assert told["num_turns"] == 2 and told["permission_denials"] == []
        assert told["usage"]["input_tokens"] > 100 and told["usage"]["output_tokens"] > 9
        assert served.metric("gateway_requests_total", operation="messages", outcome="ok") == 2
        assert served.metric("gateway_requests_total") == 2

        first, second = [json.loads(one.body) for one in fake.requests if one.method == "POST"]
        assert "Read" in {tool["function"]["name"] for tool in first["tools"]}
        assert "x-anthropic-billing-header" not in first["messages"][0]["content"]
        assert [message["role"] for message in second["messages"][-3:]] == ["user", "assistant", "tool"]
        asked, result = second["messages"][-2:]
        assert asked["content"] == "I look." and asked["reasoning_content"] == "There is a file."
        assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == {"file_path": str(file)}
        assert result["tool_call_id"] == asked["tool_calls"][0]["id"] and WORD in result["content"]


async def test_claude_code_tells_its_user_what_is_wrong(claude: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    wrong = {
        "match": {"path": CHAT},
        "reply": {"status": 400, "body": {"error": {"message": "too many tools"}}},
    }
    async with FakeEngine(rules=[wrong]) as fake, serving(tmp_path, config(fake)) as served:
        ended = await ask(claude, served, tmp_path)
        told = json.loads(ended.out)
        assert told["is_error"] is True and "too many tools" in told["result"], ended


async def test_claude_code_tells_its_user_of_a_wrong_key(claude: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    async with FakeEngine() as fake, serving(tmp_path, config(fake, key="sk-right")) as served:
        ended = await ask(claude, served, tmp_path, WRONG_KEY)
        told = json.loads(ended.out)
        assert told["is_error"] is True and "the API key is not valid" in told["result"], ended
        assert served.metric("gateway_requests_total", outcome="client_error") == 1, "asked once"
        assert not [one for one in fake.requests if one.method == "POST"]
