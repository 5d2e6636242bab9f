"""Google's Gemini CLI, as npm installs it, at an engine that speaks only OpenAI's chat: it reads a file by a call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.fake.engine import FakeEngine
from tests.clients import packages
from tests.clients.calling import CHAT, call, config
from tests.clients.declared import GEMINI_CLI
from tests.clients.programs.checks import WRONG_KEY
from tests.serving import Served, serving

WORD, KEY = "heliotrope", "sk-of-the-tests"
SETTINGS = {
    "security": {"auth": {"selectedType": "gemini-api-key"}},
    "privacy": {"usageStatisticsEnabled": False},
    "general": {"disableAutoUpdate": True},
}
OPTIONS = ("-m", "m", "--approval-mode", "yolo", "--skip-trust", "--output-format", "json")

pytestmark = [pytest.mark.slow, pytest.mark.heavy, pytest.mark.timeout(330)]


@pytest.fixture(scope="module")
def command() -> Path:
    """Return the program that Node runs."""
    found = (
        packages.of_npm("gemini-cli", *GEMINI_CLI.packages)
        / "@google"
        / "gemini-cli"
        / "bundle"
        / "gemini.js"
    )
    if not found.exists():
        pytest.skip("npm left out the command")
    return found


async def ask(command: Path, served: Served, folder: Path, key: str = KEY) -> packages.Ended:
    """Let the command answer a question about `folder/work`."""
    settings, work = folder / "home" / ".gemini", folder / "work"
    settings.mkdir(parents=True)
    work.mkdir()
    (settings / "settings.json").write_text(json.dumps(SETTINGS))
    (work / "word.txt").write_text(f"The word is {WORD}.\n")
    return await packages.ran(
        *(packages.node(), command, "-p", "What is the word in word.txt?", *OPTIONS),
        folder=work,
        home=folder / "home",
        settings={"GEMINI_API_KEY": key, "GOOGLE_GEMINI_BASE_URL": served.url},
    )


def engine() -> FakeEngine:
    """Return an engine that reads the file by a call and, once it knows the word, says it."""
    reads = {"sse": {"events": list(call("read_file", {"file_path": "word.txt"}))}}
    return FakeEngine(
        rules=[
            {"match": {"path": CHAT, "contains": WORD}, "say": f"It is {WORD}."},
            {"match": {"path": CHAT, "contains": "word.txt", "stream": True}, **reads},
        ]
    )


async def test_gemini_cli_reads_a_file_by_a_call(command: Path, tmp_path: Path) -> None:
    async with engine() as fake, serving(tmp_path, config(fake, key=KEY)) as served:
        ended = await ask(command, served, tmp_path)
        assert ended.status == 0, ended
        told = json.loads(ended.out)
        assert told["response"] == f"It is {WORD}."
        assert told["stats"]["tools"]["byName"]["read_file"]["success"] == 1
        sent = fake.requests[-1].json()
        assert [turn["role"] for turn in sent["messages"]][-2:] == ["assistant", "tool"]
        assert sent["messages"][-2]["tool_calls"][0]["id"] == sent["messages"][-1]["tool_call_id"]


async def test_gemini_cli_tells_its_user_of_a_wrong_key(command: Path, tmp_path: Path) -> None:
    async with engine() as fake, serving(tmp_path, config(fake, key=KEY)) as served:
        ended = await ask(command, served, tmp_path, WRONG_KEY)
        assert ended.status, ended
        assert "API key is not valid" in ended.out + ended.err
