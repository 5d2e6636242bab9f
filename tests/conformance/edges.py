"""What adapters were wrong in while plain chats were right: nulls, stop strings, full queues, cut calls.

Rules:
- Each kind is asked of every engine. Where neither a recording nor a real engine shows it, its row says so
  (`unproven`).
- A check looks at the text, not only at the shape: where an answer ends, and that streamed and whole are the same.
"""

from __future__ import annotations

from typing import Any

from tests.conformance import shapes
from tests.conformance.checks import (
    CHAT,
    COMPLETING,
    COMPLETIONS,
    STREAM,
    WITH_TOOLS,
    asking,
)
from tests.conformance.stage import Stage, check
from tests.serving import Answer

# --- what clients send and engines do not expect

NULLS = (
    *("stop", "seed", "n", "tools", "tool_choice", "response_format", "logprobs", "top_logprobs", "stream"),
    *("stream_options", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "user"),
    *(
        "max_completion_tokens",
        "parallel_tool_calls",
        "metadata",
        "store",
        "reasoning_effort",
        "service_tier",
    ),
)
"""Members that SDKs send as null where nothing was asked for."""


@check(CHAT, {**asking(), **dict.fromkeys(NULLS)})
def nulls(answer: Answer) -> None:
    shapes.content(shapes.completion(answer))


STOP = "URL in front"
"""Several tokens of what the demo model and the scripts say to `QUESTION`."""


def _cut(text: str, asked: dict[str, Any]) -> None:
    (stop,) = asked["stop"]
    assert text and stop not in text and not (len(stop) > 1 and text.endswith(stop[: len(stop) // 2 + 1])), (
        text
    )


@check(CHAT, asking(stop=[STOP]))
def stop_of_tokens(answer: Answer, body: dict[str, Any]) -> None:
    said = shapes.completion(answer, counted=False)
    assert said["choices"][0]["finish_reason"] == "stop"
    _cut(shapes.content(said), body)


@check(CHAT, asking(stop=[STOP], **STREAM))
def stop_of_tokens_stream(answer: Answer, body: dict[str, Any]) -> None:
    told = shapes.streamed(answer)
    assert told.finish_reason == "stop"
    _cut(told.text, body)


# --- ends


@check(COMPLETIONS, COMPLETING)
async def completions_end(stage: Stage) -> None:
    whole = shapes.text_completion(await stage.ask(COMPLETIONS, COMPLETING))
    told = shapes.streamed(await stage.ask(COMPLETIONS, COMPLETING | STREAM), "text_completion")
    (choice,) = whole["choices"]
    assert (told.text, told.finish_reason) == (choice["text"], choice["finish_reason"])
    assert "<|" not in told.text, "the name of a special token"


CUT = WITH_TOOLS | {"max_tokens": 12}
"""A call that its limit cuts. What is there of its arguments is given as it is."""


@check(CHAT, CUT)
def cut_in_call(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    (choice,) = answer.json()["choices"]
    assert choice["finish_reason"] == "length"
    for call in choice["message"].get("tool_calls") or ():
        assert call["id"] and call["function"]["name"] and isinstance(call["function"]["arguments"], str)


@check(CHAT, CUT | STREAM)
def cut_in_call_stream(answer: Answer) -> None:
    told = shapes.streamed(answer)
    assert told.finish_reason == "length"
    assert all(call["id"] for call in told.tool_calls.values())


@check(CHAT, asking("Be too busy.", **STREAM), replayed=True)
def overloaded_stream(answer: Answer) -> None:
    shapes.error(answer, 503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
