"""Answers that engines give in another way than asked for: as a whole (`Call.whole`), or in an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.backends.recorded import recorded
from tests.faults.support import Stage, stage
from tests.serving import Answer

CLOCKS = "first_byte: 250ms, first_token: 250ms"
LATER: Mapping[str, Any] = {"first_token": 0.6}
"""More seconds than `CLOCKS` gives a stream."""
TWO = {
    "id": "-1",
    "object": "text_completion",
    "choices": [{"index": index, "text": "said", "finish_reason": "stop"} for index in range(2)],
    "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
}
"""What LMDeploy answers to two prompts."""


async def _two_prompts(at: Stage, **more: Any) -> Answer:
    """Ask LMDeploy for two completions, which it is asked for as a whole."""
    asked = {"model": "alone", "prompt": ["one", "two"], "stream": True, **more}
    return await at.served.post("/v1/completions", asked)


async def test_the_time_limits_are_those_of_a_whole_answer(tmp_path: Path) -> None:
    async with stage(tmp_path, engine="lmdeploy", clocks=CLOCKS) as at:
        at.misbehave(**LATER, reply={"body": json.dumps(TWO)})
        answer = await _two_prompts(at)
        assert (answer.status, answer.events[-1]) == (200, "[DONE]")
        said = [choice for event in answer.events[:-1] for choice in event["choices"]]
        assert [(choice["index"], choice["text"]) for choice in said if choice["text"]] == [
            (0, "said"),
            (1, "said"),
        ]
        assert "stream" not in (at.faulty.requests[-1].json())
        at.misbehave(**LATER)
        streamed = await at.ask("alone", stream=True)
        assert (streamed.status, streamed.error["code"]) == (504, "upstream_timeout_first_byte")


async def test_the_limit_of_a_whole_answer_holds(tmp_path: Path) -> None:
    async with stage(tmp_path, engine="lmdeploy", clocks="answer: 250ms") as at:
        at.misbehave(**LATER)
        answer = await _two_prompts(at)
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_first_byte")
        assert (await at.ask("alone", stream=True)).status == 200


async def test_an_engine_that_streams_nevertheless_has_the_limits_of_a_stream(tmp_path: Path) -> None:
    async with stage(tmp_path, engine="lmdeploy", clocks=CLOCKS) as at:
        at.misbehave(
            reply={"form": "sse"}, faults=[{"at": "event 0", "do": "hang"}], http={"early_headers": True}
        )
        answer = await _two_prompts(at)
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_first_token")


async def test_an_answer_in_an_error_counts_against_nobody(tmp_path: Path) -> None:
    """TGI cannot read a call that its limit cut, and answers 422 with the text of it."""
    tool = {
        "type": "function",
        "function": {"name": "get_port", "parameters": {"type": "object", "properties": {}}},
    }
    async with stage(tmp_path, engine="tgi") as at:
        found = recorded("tgi", "tools_cut_in_arguments")
        at.misbehave(reply={"status": 422, "body": found.answer.decode()})
        for stream in (False, True) * 2:
            answer = await at.ask("alone", stream=stream, max_tokens=26, tools=[tool])
            assert answer.status == 200
            choices = (
                [choice for event in answer.events[:-1] for choice in event["choices"]] if stream else []
            )
            last = choices[-1] if stream else answer.json()["choices"][0]
            assert last["finish_reason"] == "length"
        assert at.attempts(result="ok") == 4 and not at.backend().breaker.open
