"""A whole answer that is gathered from an engine's stream keeps the stream's clock, and is no stream in the metrics."""

from __future__ import annotations

from pathlib import Path

from tests.faults.support import FAULTY, HEALTHY, stage, text_of

STREAMS = {"reply": {"form": "sse"}}


async def test_an_engine_that_falls_silent_within_its_answer_is_found_out(tmp_path: Path) -> None:
    """Though the client sees no stream: the limit between two pieces of content applies, not only the total one."""
    async with stage(tmp_path, clocks="idle: 200ms") as at:
        at.misbehave(**STREAMS, faults=[{"at": "event 3", "do": "hang"}])
        answer = await at.ask("alone")
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_stream")
        assert text_of(await at.ask("pair")) == HEALTHY or at.attempts(result="timeout") == 2


async def test_an_engine_that_never_begins_has_the_limit_of_its_first_byte(tmp_path: Path) -> None:
    """The head of a stream is no beginning."""
    async with stage(tmp_path, clocks="answer: 200ms") as at:
        at.misbehave(**STREAMS, faults=[{"at": "headers", "do": "hang"}])
        answer = await at.ask("alone")
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_first_byte")


async def test_a_slow_answer_that_goes_on_is_not_cut(tmp_path: Path) -> None:
    async with stage(tmp_path, clocks="idle: 400ms, answer: 400ms") as at:
        at.misbehave(**STREAMS, gap=0.15)
        assert text_of(await at.ask("alone")) == FAULTY


async def test_only_streams_have_a_time_between_tokens(tmp_path: Path) -> None:
    async with stage(tmp_path) as at:
        at.misbehave(**STREAMS)
        gaps = "gateway_time_between_tokens_seconds_count"
        for model in ("alone", "pair"):
            await at.ask(model)
        assert at.served.metric(gaps, backend="faulty") == 0
        await at.ask("alone", stream=True)
        assert at.served.metric(gaps, backend="faulty") > 0
