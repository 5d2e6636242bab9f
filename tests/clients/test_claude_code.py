"""Claude Code's command, as npm installs it, at an engine that speaks only OpenAI's chat: it reads a file by a call."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.clients import npm
from tests.serving import Served, serving

VERSION = "2.1.197"
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
    modules = npm.installed("claude-code", f"@anthropic-ai/claude-code@{VERSION}")
    command = modules / "@anthropic-ai" / f"claude-code-{machine}" / "claude"
    if not command.exists():
        pytest.skip("npm left out the package with the command")
    return command


def chunks(*deltas: dict[str, Any], reason: str) -> Iterator[Any]:
    """Yield a stream as OpenAI's API has it."""
    about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
    for delta in deltas:
        yield about | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield about | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    yield about | {
        "choices": [],
        "usage": {"prompt_tokens": 100, "completion_tokens": 9, "total_tokens": 109},
    }
    yield "[DONE]"


def call(name: str, arguments: dict[str, Any]) -> Iterator[Any]:
    """Yield a stream that thinks, says a word and calls a tool, whose arguments come in two pieces."""
    text = json.dumps(arguments)
    begin = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": piece}} for piece in (text[:9], text[9:])]
    thought = {"role": "assistant", "reasoning_content": "There is a file."}
    said = {"content": "I look."}
    return chunks(thought, said, *[{"tool_calls": [each]} for each in (begin, *pieces)], reason="tool_calls")


def engine(file: Path) -> FakeEngine:
    """Return an engine that has the file read and, once it has its text, answers."""
    reading = {"sse": {"events": list(call("Read", {"file_path": str(file)}))}}
    answering = {"match": {"path": CHAT, "contains": WORD}, "say": f"The word is {WORD}."}
    return FakeEngine(rules=[answering, {"match": {"path": CHAT, "stream": True}, **reading}])


async def ask(claude: Path, served: Served, folder: Path) -> npm.Ended:
    home = folder / "home"
    home.mkdir()
    question = ("-p", "What is the word in word.txt?", "--model", "m", "--output-format", "json")
    settings = QUIET | {"ANTHROPIC_BASE_URL": served.url, "ANTHROPIC_AUTH_TOKEN": "any"}
    return await npm.ran(claude, *question, folder=folder / "work", home=home, settings=settings)


def config(engine: FakeEngine) -> str:
    return f"""
backends:
  a: {{engine: openai, url: "{engine.url}", native: {{messages: false}}}}
models:
  m: {{targets: {{a: fake}}}}
"""


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
