"""aider, as PyPI has it, at an engine that speaks only OpenAI's chat: it changes a file, asked in three dialects."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.fake.engine import FakeEngine
from tests.clients import packages
from tests.clients.calling import CHAT, config
from tests.clients.declared import AIDER
from tests.clients.programs.checks import WRONG_KEY
from tests.serving import Served, serving

MODELS = {"chat": "openai/", "messages": "anthropic/", "ollama_chat": "ollama_chat/"}
"""What stands before the name of a model, by the operation that aider then asks for."""
CHANGED = "word.txt\n```\nmauve\n```\n"
QUIET = (
    *(
        "--no-git",
        "--yes-always",
        "--no-check-update",
        "--analytics-disable",
        "--no-pretty",
        "--map-tokens",
        "0",
    ),
    *("--no-show-model-warnings", "--no-show-release-notes", "--no-gitignore", "--edit-format", "whole"),
)

pytestmark = [pytest.mark.slow, pytest.mark.heavy, pytest.mark.timeout(330)]


@pytest.fixture(scope="module")
def aider() -> Path:
    return packages.of_pypi("aider", *AIDER.packages).with_name("aider")


async def ask(
    aider: Path, served: Served, folder: Path, model: str, *more: str, key: str = "any"
) -> packages.Ended:
    """Let aider change `folder/word.txt`."""
    (folder / "word.txt").write_text("heliotrope\n")
    settings = {
        "OPENAI_API_BASE": f"{served.url}/v1",
        "OPENAI_API_KEY": key,
        "ANTHROPIC_API_BASE": served.url,
        "ANTHROPIC_API_KEY": key,
        "OLLAMA_API_BASE": served.url,
    }
    asked = ("--model", model, *QUIET, *more, "--message", "Change the word.", "word.txt")
    return await packages.ran(aider, *asked, folder=folder, home=folder, settings=settings, patience=200)


@pytest.mark.parametrize("operation", MODELS)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_aider_changes_a_file(aider: Path, tmp_path: Path, operation: str, stream: bool) -> None:
    rule = {"match": {"path": CHAT}, "say": CHANGED}
    async with FakeEngine(rules=[rule]) as fake, serving(tmp_path, config(fake)) as served:
        how = "--stream" if stream else "--no-stream"
        ended = await ask(aider, served, tmp_path, MODELS[operation] + "m", how)
        assert ended.status == 0, ended
        assert (tmp_path / "word.txt").read_text() == "mauve\n", ended
        assert served.metric("gateway_requests_total", operation=operation, outcome="ok") >= 1


async def test_aider_tells_its_user_what_is_wrong(aider: Path, tmp_path: Path) -> None:
    async with FakeEngine() as fake, serving(tmp_path, config(fake)) as served:
        ended = await ask(aider, served, tmp_path, "openai/no-such-model")
        assert "there is no model 'no-such-model'" in ended.out + ended.err, ended
        assert (tmp_path / "word.txt").read_text() == "heliotrope\n"


@pytest.mark.parametrize("operation", ["chat", "messages"])
async def test_aider_tells_its_user_of_a_wrong_key(aider: Path, tmp_path: Path, operation: str) -> None:
    async with FakeEngine() as fake, serving(tmp_path, config(fake, key="sk-right")) as served:
        ended = await ask(aider, served, tmp_path, MODELS[operation] + "m", key=WRONG_KEY)
        # It breaks lines wherever they are full.
        assert "theAPIkeyisnotvalid" in "".join(ended.out.split()), ended
        assert (tmp_path / "word.txt").read_text() == "heliotrope\n"
