"""OpenAI's Codex, as npm installs it, at an engine that speaks only OpenAI's chat: commands, patches and MCP's tools.

Codex offers some tools only for models that it knows by name: `apply_patch`, and its search for those of MCP servers.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.clients import packages
from tests.clients.calling import CHAT, call, config
from tests.clients.declared import CODEX
from tests.clients.programs.checks import WRONG_KEY
from tests.serving import Served, serving

WORD = "heliotrope"
KNOWN = "gpt-5.5"
"""A model that Codex knows."""
SETTINGS = """
model = "{model}"
model_provider = "gateway"
analytics = {{enabled = false}}

[model_providers.gateway]
name = "gateway"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "GATEWAY_KEY"
request_max_retries = 0
stream_max_retries = 0

[mcp_servers.words]
command = {python}
args = [{server}, "secret", "It is {word}."]
default_tools_approval_mode = "approve"
"""
SERVER = Path(__file__).with_name("mcp_server.py")
Step = tuple[str, str, dict[str, Any]]
"""What the engine must have been told, and the name and the arguments of its call."""
OPTIONS = ("--skip-git-repo-check", "--json", "--sandbox", "danger-full-access")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(330)]


@pytest.fixture(scope="module")
def codex() -> Path:
    """Return the command; its installation is the package's own for this machine."""
    machines = {
        "x86_64": ("linux-x64", "x86_64-unknown-linux-musl"),
        "aarch64": ("linux-arm64", "aarch64-unknown-linux-musl"),
    }
    machine = machines.get(platform.machine())
    if machine is None:
        pytest.skip(f"Codex has no package for {platform.machine()}")
    modules = packages.of_npm("codex", *CODEX.packages)
    command = modules / "@openai" / f"codex-{machine[0]}" / "vendor" / machine[1] / "bin" / "codex"
    if not command.exists():
        pytest.skip("npm left out the package with the command")
    return command


def engine(*steps: Step, last: str) -> FakeEngine:
    """Return an engine that makes the call of each step and, once it has been told `last`, answers."""
    rules: list[dict[str, Any]] = [{"match": {"path": CHAT, "contains": last}, "say": "It is done."}]
    for word, name, arguments in reversed(steps):
        match = {"path": CHAT, "stream": True, "contains": word}
        rules.append({"match": match, "sse": {"events": list(call(name, arguments))}})
    return FakeEngine(rules=rules)


async def ask(codex: Path, served: Served, folder: Path, model: str, key: str = "any") -> packages.Ended:
    """Let Codex work in `folder/work`."""
    settings = folder / "home" / ".codex"
    settings.mkdir(parents=True)
    python, server = json.dumps(sys.executable), json.dumps(str(SERVER))
    told = SETTINGS.format(model=model, url=served.url, python=python, server=server, word=WORD)
    (settings / "config.toml").write_text(told)
    return await packages.ran(
        *(codex, "exec", *OPTIONS, "Do what is to be done."),
        folder=folder / "work",
        home=folder / "home",
        settings={"GATEWAY_KEY": key},
    )


def items(ended: packages.Ended, kind: str) -> list[dict[str, Any]]:
    """Return the items of one type that Codex has completed."""
    events = [json.loads(line) for line in ended.out.splitlines()]
    found = [event["item"] for event in events if event["type"] == "item.completed"]
    return [item for item in found if item["type"] == kind]


def sent(fake: FakeEngine) -> list[dict[str, Any]]:
    """Return the bodies of the requests for a chat."""
    return [json.loads(one.body) for one in fake.requests if one.method == "POST"]


def content(file: Path) -> str:
    return file.read_text()


def succeeded(served: Served, ended: packages.Ended, requests: int) -> None:
    """Hold that Codex ended well, and that all it asked was answered."""
    assert ended.status == 0, ended
    assert [item["text"] for item in items(ended, "agent_message")][-1] == "It is done."
    assert served.metric("gateway_requests_total", operation="responses", outcome="ok") == requests
    assert served.metric("gateway_requests_total") == requests


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    found = tmp_path / "work" / "word.txt"
    found.write_text(f"{WORD}\n")
    return found


async def test_codex_reads_a_file_by_a_command(codex: Path, file: Path, tmp_path: Path) -> None:
    reading = ("to be done", "exec_command", {"cmd": "cat word.txt"})
    async with engine(reading, last=WORD) as fake, serving(tmp_path, config(fake)) as served:
        ended = await ask(codex, served, tmp_path, "m")
        succeeded(served, ended, 2)
        (command,) = items(ended, "command_execution")
        assert command["exit_code"] == 0 and command["aggregated_output"] == f"{WORD}\n"
        first, second = sent(fake)
        assert first["messages"][0]["role"] == "system" and first["messages"][-1]["role"] == "user"
        asked, result = second["messages"][-2:]
        assert asked["content"] == "I look." and asked["reasoning_content"] == "There is a file."
        assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == {"cmd": "cat word.txt"}
        assert result["tool_call_id"] == asked["tool_calls"][0]["id"] and WORD in result["content"]


async def test_codex_changes_a_file_by_a_patch(codex: Path, file: Path, tmp_path: Path) -> None:
    patch = f"*** Begin Patch\n*** Update File: word.txt\n@@\n-{WORD}\n+mauve\n*** End Patch\n"
    patching = ("to be done", "apply_patch", {"input": patch})
    async with (
        engine(patching, last="Success. Updated") as fake,
        serving(tmp_path, config(fake, KNOWN)) as served,
    ):
        ended = await ask(codex, served, tmp_path, KNOWN)
        succeeded(served, ended, 2)
        (change,) = items(ended, "file_change")
        assert change["status"] == "completed"
        asked = sent(fake)[1]["messages"][-2]
        assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == {"input": patch}
    assert content(file) == "mauve\n"


async def test_codex_calls_a_tool_of_an_mcp_server(codex: Path, file: Path, tmp_path: Path) -> None:
    calling: Step = ("to be done", "mcp__words__secret", {})
    async with engine(calling, last=WORD) as fake, serving(tmp_path, config(fake)) as served:
        ended = await ask(codex, served, tmp_path, "m")
        succeeded(served, ended, 2)
        (called,) = items(ended, "mcp_tool_call")
        assert (called["server"], called["tool"], called["error"]) == ("words", "secret", None)
        first, second = sent(fake)
        assert "mcp__words__secret" in {tool["function"]["name"] for tool in first["tools"]}
        asked, result = second["messages"][-2:]
        assert asked["tool_calls"][0]["function"]["name"] == "mcp__words__secret"
        assert WORD in result["content"]


async def test_codex_searches_for_a_tool_and_calls_it(codex: Path, file: Path, tmp_path: Path) -> None:
    searching = ("to be done", "tool_search", {"query": "word"})
    calling: Step = ("can be called now", "mcp__words__secret", {})
    async with (
        engine(searching, calling, last=WORD) as fake,
        serving(tmp_path, config(fake, KNOWN)) as served,
    ):
        ended = await ask(codex, served, tmp_path, KNOWN)
        succeeded(served, ended, 3)
        assert [item["tool"] for item in items(ended, "mcp_tool_call")] == ["secret"]
        named = [{tool["function"]["name"] for tool in one["tools"]} for one in sent(fake)]
        assert ["mcp__words__secret" in names for names in named] == [False, True, True]


async def test_codex_tells_its_user_that_an_answer_broke_off(codex: Path, file: Path, tmp_path: Path) -> None:
    broken = {"match": {"path": CHAT}, "say": "a b c d e f", "faults": [{"at": "event 3", "do": "reset"}]}
    async with FakeEngine(rules=[broken]) as fake, serving(tmp_path, config(fake)) as served:
        ended = await ask(codex, served, tmp_path, "m")
        assert ended.status == 1 and "the engine closed the connection" in ended.out, ended


async def test_codex_tells_its_user_what_is_wrong(codex: Path, file: Path, tmp_path: Path) -> None:
    wrong = {
        "match": {"path": CHAT},
        "reply": {"status": 400, "body": {"error": {"message": "too many tools"}}},
    }
    async with FakeEngine(rules=[wrong]) as fake, serving(tmp_path, config(fake)) as served:
        ended = await ask(codex, served, tmp_path, "m")
        assert ended.status == 1 and "too many tools" in ended.out, ended


async def test_codex_tells_its_user_of_a_wrong_key(codex: Path, file: Path, tmp_path: Path) -> None:
    async with FakeEngine() as fake, serving(tmp_path, config(fake, key="sk-right")) as served:
        ended = await ask(codex, served, tmp_path, "m", WRONG_KEY)
        assert ended.status == 1 and "the API key is not valid" in ended.out, ended
