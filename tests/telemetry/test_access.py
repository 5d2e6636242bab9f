"""What a line of the access log tells of a request, for tools and for people, and how many lines there may be."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from gateway.telemetry.trace import read
from tests.faults.clients import CHAT, chat, until
from tests.serving import Served, serving

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def config(engine: FakeEngine, file: Path, log: str = "", more: str = "") -> str:
    return f"""
server: {{listen: "127.0.0.1:0", log: {{access: "{file}"{log}}}}}
backends: {{only: {{engine: openai, url: "{engine.url}"}}}}
models: {{m: {{targets: {{only: m}}}}}}
{more}"""


async def lines(file: Path, count: int) -> list[str]:
    await until(lambda: len(written(file)) >= count, f"{count} lines")
    return written(file)


def written(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


async def stream(served: Served, **headers: str) -> str:
    answer = await served.post(CHAT, chat(stream=True, stream_options={"include_usage": True}), **headers)
    assert answer.status == 200 and answer.whole
    return answer.headers["x-request-id"]


async def test_a_line_tells_how_a_request_went(tmp_path: Path) -> None:
    file = tmp_path / "log"
    keys = "keys: {ann: {value: '${env.KEY}', models: [m]}}"
    async with (
        FakeEngine(models=["m"]) as engine,
        serving(tmp_path, config(engine, file, more=keys), {"KEY": "hidden-key"}) as served,
    ):
        known = {"authorization": "Bearer hidden-key", "traceparent": PARENT}
        name = await stream(served, **known)
        assert (await served.post(CHAT, chat(model="other"), **known)).status == 404
        assert (await served.post(CHAT, chat(), authorization="Bearer hidden-wrong")).status == 401
        went, unknown, stranger = (json.loads(line) for line in await lines(file, 3))
        assert "hidden" not in "".join(written(file))
    assert went["id"] == name
    assert (went["status"], went["outcome"], went["trace"], went["client"]) == (200, "ok", TRACE, "127.0.0.1")
    assert went["asked"]["key"] == "ann" and "error" not in went and "key" not in went
    assert 0 < went["first_token"] <= went["milliseconds"]
    assert went["tokens"]["in"] > 0 and went["tokens"]["out"] > 0 and "cached" not in went["tokens"]
    assert went["bytes"]["in"] == len(json.dumps(chat(stream=True, stream_options={"include_usage": True})))
    assert sum(went["hops"].values()) == pytest.approx(went["milliseconds"], abs=0.02)
    assert (unknown["status"], unknown["error"], unknown["key"]) == (404, "model_not_found", "ann")
    assert (stranger["status"], stranger["error"]) == (401, "invalid_api_key")
    assert not {"key", "trace", "first_token", "tokens"} & stranger.keys()


async def test_a_line_for_people_says_who_what_where_and_how_long(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with (
        FakeEngine(models=["m"]) as engine,
        serving(tmp_path, config(engine, file, ", access_format: text")) as served,
    ):
        name = await stream(served)
        engine.set(rules=[{"reply": {"status": 500}}])
        assert (await served.post(CHAT, chat())).status == 502
        await served.post(CHAT, chat(model="\u001b[2J"))
        went, failed, odd = await lines(file, 3)
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d anyone@127\.0\.0\.1 chat m at only 200 ok tokens=\d+\+\d+ first=\d+ms total=\d+ms "
        + name,
        went,
    ), went
    assert re.search(r" chat m at only 502 upstream_error total=\d+ms req-", failed), failed
    assert re.search(r" chat - at - 404 client_error:model_not_found total=\d+ms ", odd), odd
    assert "\u001b" not in odd


async def test_more_lines_than_there_may_be_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with (
        FakeEngine(models=["m"]) as engine,
        serving(tmp_path, config(engine, file, ", access_rate: 2")) as served,
    ):
        await asyncio.gather(*(served.post(CHAT, chat()) for _ in range(20)))
        await lines(file, 2)
    told: list[dict[str, Any]] = [json.loads(line) for line in written(file)]
    left_out = sum(line.get("dropped", 0) for line in told)
    kept = sum("id" in line for line in told)
    assert kept + left_out == 20
    assert left_out > 0, "the rate was kept by chance alone"


@pytest.mark.parametrize(
    ("header", "valid"),
    [
        (PARENT, True),
        (PARENT[:-2] + "00", True),
        ("01" + PARENT[2:] + "-more", True),
        ("cc" + PARENT[2:], True),
        ("", False),
        (PARENT[:-1], False),
        (PARENT + "-more", False),
        ("01" + PARENT[2:] + "more", False),
        ("ff" + PARENT[2:], False),
        (PARENT.upper(), False),
        (PARENT.replace("-", "_"), False),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        ("é" * 30, False),
    ],
)
def test_a_trace_context_is_read_as_the_standard_says(header: str, valid: bool) -> None:
    found = read(header.encode())
    assert (found is not None) == valid
    if found is not None:
        assert (found.trace_id, found.span_id) == (TRACE.encode(), b"00f067aa0ba902b7")
        assert found.is_sampled == (header[53:55] == "01")
