"""What goes through a stream.

Tool calls in order, tokens counted once, an answer that has no end, a whole one made a stream, signs of life before the
first token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.support import CONFIG, FAULTY, HEALTHY, asked, stage, text_of

BEATING = CONFIG.replace("  pair: {{", "  pair: {{heartbeat: 20ms, ")


def call(place: int, **function: Any) -> dict[str, Any]:
    """Return a chunk with one piece of one tool call."""
    delta = {"tool_calls": [{"index": place, "function": function}]}
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


async def test_pieces_of_tool_calls_pass_in_order(tmp_path: Path) -> None:
    pieces = [
        call(0, name="f", arguments=""),
        call(1, name="g", arguments='{"a'),
        call(0, arguments='{"x": "not clos'),
        call(1, arguments='": 1}'),
        call(0, arguments='ed \\"'),
    ]
    end = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    async with stage(tmp_path) as at:
        at.misbehave(sse={"events": [*map(json.dumps, [*pieces, end]), "[DONE]"]}, gap=0.005)
        answer = await at.ask("alone", stream=True)
        public = [{**piece, "model": "alone"} for piece in [*pieces, end]]
        assert answer.events == [*public, "[DONE]"]
        assert answer.whole


@pytest.mark.parametrize(
    ("told", "prompt"), [("asked", 2), ("always", 2), ("every", 2), ("null", 2), ("never", 0)]
)
@pytest.mark.parametrize("wanted", [False, True])
async def test_tokens_are_counted_once(told: str, prompt: int, wanted: bool, tmp_path: Path) -> None:
    async with stage(tmp_path) as at:
        at.misbehave(usage=told)
        more = {"stream_options": {"include_usage": True}} if wanted else {}
        answer = await at.ask("alone", stream=True, **more)
        assert text_of(answer) == FAULTY
        assert any(event["choices"] == [] for event in answer.events[:-1]) == (wanted and told != "never")
        assert at.served.metric("gateway_tokens_total", model="alone", direction="out") == 4
        assert at.served.metric("gateway_tokens_total", model="alone", direction="in") == prompt


async def test_a_stream_without_its_last_chunk_is_whole_and_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "gateway.relay")
    async with stage(tmp_path) as at:
        for stream in (False, True):
            at.misbehave(faults=[{"at": "event 8", "do": "close"}] if stream else [])
            assert text_of(await at.ask("alone", stream=stream)) == FAULTY
        [line] = [record for record in caplog.records if record.name == "gateway.relay"]
        assert (line.levelname, line.getMessage()) == (
            "DEBUG",
            f"{at.faulty.url}: a complete stream came without its last chunk",
        )
        assert at.attempts(result="ok") == 2


async def test_an_answer_without_end_is_cut(tmp_path: Path) -> None:
    async with stage(tmp_path, config=CONFIG.replace("event: 1MiB", "reply: 300000B")) as at:
        at.misbehave(endless=True)
        answer = await at.ask("alone", stream=True)
        assert (answer.status, answer.whole) == (200, False)
        assert answer.events[-1]["error"]["code"] == "answer_too_large"
        assert "[DONE]" not in answer.events
        assert len(answer.body) < 600_000
        await at.faulty.closed(1)


async def test_a_whole_answer_becomes_a_stream(tmp_path: Path) -> None:
    said: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    body = {
        "id": "c",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": said, "finish_reason": "tool_calls"}],
        "usage": usage,
    }
    async with stage(tmp_path) as at:
        at.misbehave(
            reply={"body": json.dumps(body, indent=1), "headers": {"content-type": "application/json"}}
        )
        answer = await at.ask("alone", stream=True, stream_options={"include_usage": True})
        assert (answer.status, answer.whole, answer.headers["content-type"]) == (
            200,
            True,
            "text/event-stream; charset=utf-8",
        )
        first, end, last, done = answer.events
        assert (first["id"], first["object"], first["model"], done) == (
            "c",
            "chat.completion.chunk",
            "alone",
            "[DONE]",
        )
        delta = first["choices"][0]["delta"]
        assert delta == {**said, "tool_calls": [{"index": 0, **said["tool_calls"][0]}]}
        assert first["choices"][0]["finish_reason"] is None
        assert (end["choices"][0]["delta"], end["choices"][0]["finish_reason"]) == ({}, "tool_calls")
        assert (last["choices"], last["usage"]) == ([], usage)
        assert at.served.metric("gateway_tokens_total", model="alone", direction="out") == 5


async def test_another_engine_may_take_over_after_signs_of_life(tmp_path: Path) -> None:
    async with stage(tmp_path, clocks="first_token: 250ms", config=BEATING) as at:
        at.misbehave(faults=[{"at": "request", "do": "hang"}])
        answer = await at.ask("pair", stream=True)
        beats, _, rest = answer.body.rpartition(b": keep-alive\n\n")
        assert beats and (answer.status, answer.whole) == (200, True)
        answer.body = rest
        assert (text_of(answer), answer.events[-1]) == (HEALTHY, "[DONE]")
        assert len(asked(at.faulty, "pair")) == len(asked(at.healthy, "pair")) == 1


@pytest.mark.parametrize(
    "behaviour", [{"reply": {"status": 400}}, {"faults": [{"at": "event 3", "do": "close"}]}]
)
async def test_a_failure_after_signs_of_life_is_told_in_the_stream(
    behaviour: dict[str, Any], tmp_path: Path
) -> None:
    async with stage(tmp_path, config=BEATING) as at:
        at.misbehave(first_token=0.1, gap=0.005, **behaviour)
        answer = await at.ask("pair", stream=True)
        assert (answer.status, answer.whole) == (200, False)
        answer.body = answer.body.rpartition(b": keep-alive\n\n")[2]
        assert "error" in answer.events[-1] and "[DONE]" not in answer.events
        assert asked(at.healthy, "pair") == []
