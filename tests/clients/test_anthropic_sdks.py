"""Anthropic's SDKs, an old one for Python and the one for JavaScript, at an engine that speaks only OpenAI's chat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.clients import packages
from tests.clients.calling import CHAT, call, called, config
from tests.clients.declared import ANTHROPIC_NPM, OLD_ANTHROPIC
from tests.serving import serving

HERE = Path(__file__).resolve().parent
TEXT = "word0 word1 word2 word3 word4"
CITY = {"city": "Oslo"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(330)]


def engine() -> FakeEngine:
    """Return an engine that counts words, and calls a tool when asked to."""
    streamed = {"path": CHAT, "contains": "call it", "stream": True}
    whole = {"path": CHAT, "contains": "call it"}
    return FakeEngine(
        rules=[
            {"match": streamed, "sse": {"events": list(call("get", CITY))}},
            {"match": whole, "reply": {"body": called("get", CITY)}},
        ]
    )


async def told(folder: Path, *command: str | Path, **settings: str) -> dict[str, Any]:
    """Return what a client's program says of a gateway."""
    async with engine() as fake, serving(folder, config(fake)) as served:
        environment = settings | {"ANTHROPIC_BASE_URL": served.url, "ANTHROPIC_API_KEY": "any"}
        ended = await packages.ran(*command, folder=folder, home=folder, settings=environment)
        assert ended.status == 0, ended
        found: dict[str, Any] = json.loads(ended.out)
        return found


def check(found: dict[str, Any]) -> None:
    """Check what both get. The old one reads a stream's count of the prompt where it begins, when nobody has it yet."""
    said = [["text", TEXT]]
    for name in ("whole", "streamed"):
        assert (found[name]["content"], found[name]["reason"]) == (said, "max_tokens")
        assert found[name]["usage"][1] == 5
    assert found["whole"]["usage"][0] > 0
    assert found["pieces"] == TEXT
    content = [["thinking", "There is a file."], ["text", "I look."], ["tool_use", ["get", CITY]]]
    assert found["call"] == {"content": content, "reason": "tool_use", "usage": [100, 9]}
    assert found["streamed_call"]["reason"] == "tool_use" and found["streamed_call"]["usage"][1] == 9
    assert found["streamed_call"]["content"][1:] == content[1:]
    assert found["counted"] is True
    assert found["error"] == ["NotFoundError", 404, "not_found_error", True]


async def test_the_sdk_for_javascript(tmp_path: Path) -> None:
    modules = packages.of_npm(ANTHROPIC_NPM.slug, *ANTHROPIC_NPM.packages)
    found = await told(tmp_path, packages.node(), HERE / "anthropic_sdk.cjs", modules.parent)
    check(found)
    assert found["streamed_call"]["content"][0] == ["thinking", "There is a file."]
    assert found["streamed_call"]["usage"] == [100, 9]
    assert found["models"] == ["m"]


async def test_an_old_sdk_for_python(tmp_path: Path) -> None:
    python = packages.of_pypi(OLD_ANTHROPIC.slug, *OLD_ANTHROPIC.packages)
    found = await told(tmp_path, python, HERE / "anthropic_sdk_old.py")
    assert found["version"] == "0.40.0"
    check(found)
