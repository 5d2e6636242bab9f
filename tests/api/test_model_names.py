"""Models may be called what their makers call them: with spaces, in brackets, in any script."""

import hashlib
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from gateway.fake.engine import FakeEngine
from gateway.globs import natural
from tests.serving import serving

NAMES = [
    "Qwen 2.5 (7B)",
    "通义千问",
    "claude-sonnet-4-5[1m]",
    "🦙 3.1",
    '"quoted" \\ name',
    "50% off #1 & more; org/model:tag@v1",
    "Ω{x}",
]


def config(url: str, keys: str = "") -> str:
    models = "".join(
        f"  {json.dumps(name, ensure_ascii=False)}: {{targets: {{one: up}}}}\n" for name in NAMES
    )
    return f'backends: {{one: {{engine: openai, url: "{url}", models: [up]}}}}\nmodels:\n{models}{keys}'


@pytest.mark.parametrize("name", NAMES)
async def test_a_model_of_any_name(name: str, tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], rules=[{"say": "one two"}]) as engine,
        serving(tmp_path, config(engine.url)) as served,
    ):
        listed = (await served.get("/v1/models")).json()
        assert [entry["id"] for entry in listed["data"]] == sorted(NAMES, key=natural)
        shown = await served.get("/v1/models/" + quote(name, safe=""))
        assert (shown.status, shown.json()["id"]) == (200, name)
        for escaped in (True, False):
            body = {"model": name, "messages": [{"role": "user", "content": name}], "stream": escaped}
            answer = await served.post(
                "/v1/chat/completions", json.dumps(body, ensure_ascii=escaped).encode()
            )
            assert answer.status == 200
            assert engine.requests[-1].json()["model"] == "up"
            told = answer.events[0] if escaped else answer.json()
            assert told["model"] == name
        assert served.metric("gateway_requests_total", model=name, outcome="ok") == 2
        assert (await served.get("/metrics")).status == 200


@pytest.mark.parametrize(
    ("glob", "allowed"),
    [
        ("claude-sonnet-4-5[1m]", ["claude-sonnet-4-5[1m]"]),
        ("claude-sonnet-4-5[?m]", ["claude-sonnet-4-5[1m]"]),
        ("通*", ["通义千问"]),
        ("? 3.1", ["🦙 3.1"]),
        ("*[*", ["claude-sonnet-4-5[1m]"]),
    ],
)
async def test_a_key_for_a_model_of_any_name(glob: str, allowed: list[str], tmp_path: Path) -> None:
    digest = hashlib.sha256(b"k").hexdigest()
    keys = f"keys: {{k: {{hash: 'sha256:{digest}', models: [{json.dumps(glob, ensure_ascii=False)}]}}}}"
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, keys)) as served,
    ):
        listed = (await served.get("/v1/models", authorization="Bearer k")).json()
        assert [entry["id"] for entry in listed["data"]] == allowed
