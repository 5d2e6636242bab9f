"""What a response tells beside its text, as `include` asks: log probabilities, and thoughts to send back."""

from __future__ import annotations

from typing import Any

import pytest

from backends.base import Operation, RequestError
from tests.conformance import sdk
from tests.surfaces import chatting
from tests.surfaces.chatting import chunk, counted, said, translation

ASKED: dict[str, Any] = {"model": "m", "input": "hi"}
LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
THOUGHTS = {"include": ["reasoning.encrypted_content"]}
OTHER = {"token": "B", "logprob": -3.5, "bytes": [66]}
TOKEN = {"token": "A", "logprob": -0.5, "bytes": [65], "top_logprobs": [OTHER]}
END = [chunk({}, "stop"), counted(3, 2)]


def streamed(more: dict[str, Any], *events: dict[str, Any]) -> list[dict[str, Any]]:
    found = translation(Operation.RESPONSES, ASKED | {"stream": True} | more)
    made = chatting.events(chatting.streamed(found, chatting.stream(events)))
    for event in made:
        sdk.fits_response_event(event)
    return made


def piece(text: str, *tokens: dict[str, Any]) -> dict[str, Any]:
    return chunk({"content": text}, logprobs={"content": list(tokens)})


def test_log_probabilities_are_asked_for_and_told() -> None:
    body = said(Operation.RESPONSES, ASKED | LOGPROBS)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 1)
    told = chatting.whole(
        Operation.RESPONSES, ASKED | LOGPROBS, {"content": "A"}, "stop", logprobs={"content": [TOKEN]}
    )
    sdk.fits(told)
    assert told["output"][0]["content"][0]["logprobs"] == [TOKEN]


def test_each_event_has_those_of_its_text_and_the_end_has_all() -> None:
    second = TOKEN | {"token": "C", "bytes": [67]}
    made = streamed(LOGPROBS, piece("A", TOKEN), piece("C", second), piece("C", second), *END)
    deltas = [event for event in made if event["type"] == "response.output_text.delta"]
    assert [(event["delta"], event["logprobs"]) for event in deltas] == [
        ("A", [TOKEN]),
        ("C", [second]),
        ("C", [second]),
    ]
    everything = [TOKEN, second, second]
    (done,) = [event for event in made if event["type"] == "response.output_text.done"]
    assert (done["text"], done["logprobs"]) == ("ACC", everything)
    assert made[-1]["response"]["output"][0]["content"][0]["logprobs"] == everything


def test_bytes_that_the_engine_leaves_out_are_those_of_the_token() -> None:
    bare = {"token": "ä", "logprob": -1.0}
    made = streamed(LOGPROBS, piece("ä", bare), *END)
    (delta,) = [event for event in made if event["type"] == "response.output_text.delta"]
    assert delta["logprobs"] == [{**bare, "bytes": [195, 164], "top_logprobs": []}]


def test_who_does_not_ask_gets_none() -> None:
    made = streamed({}, piece("A", TOKEN), *END)
    assert all(event.get("logprobs", []) == [] for event in made)
    found = translation(Operation.RESPONSES, ASKED | {"top_logprobs": 3})
    assert found.dropped == ("top_logprobs",) and "logprobs" not in said(Operation.RESPONSES, ASKED)


def test_thoughts_come_in_a_form_that_is_sent_back() -> None:
    message = {"reasoning_content": "Hm, ä.", "content": "yes"}
    told = chatting.whole(Operation.RESPONSES, ASKED | THOUGHTS, message, "stop")
    sdk.fits(told)
    made = streamed(THOUGHTS, chunk({"reasoning_content": "Hm, "}), chunk({"reasoning_content": "ä."}), *END)
    (streaming,) = made[-1]["response"]["output"]
    kept = told["output"][0]["encrypted_content"]
    assert streaming["encrypted_content"] == kept and streaming["content"][0]["text"] == "Hm, ä."
    # Some clients send back nothing but this, and the sum, which is empty here.
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": kept}
    answer = {"role": "assistant", "content": "yes"}
    body = said(Operation.RESPONSES, ASKED | {"input": [thought, answer, {"role": "user", "content": "so"}]})
    assert (body["messages"][0]["reasoning_content"], body["messages"][0]["content"]) == ("Hm, ä.", "yes")


@pytest.mark.parametrize("content", ["gAAAAB-of-openai", "thought-1.%%%", "thought-1./w==", None, 5])
def test_thoughts_of_another_service_are_left_out(content: Any) -> None:
    thought = {"type": "reasoning", "summary": [], "encrypted_content": content}
    body = said(Operation.RESPONSES, ASKED | {"input": [thought, {"role": "user", "content": "so"}]})
    assert body["messages"] == [{"role": "user", "content": "so"}]


def test_who_does_not_ask_for_thoughts_to_send_back_gets_none() -> None:
    made = streamed({}, chunk({"reasoning_content": "Hm"}), *END)
    assert "encrypted_content" not in made[-1]["response"]["output"][0]


def test_what_answers_here_have_not_is_no_matter() -> None:
    known = ["file_search_call.results", "web_search_call.action.sources", "code_interpreter_call.outputs"]
    assert translation(Operation.RESPONSES, ASKED | {"include": known}).dropped == ()


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"include": ["odd"]}, "include.0"),
        ({"include": ["reasoning.encrypted_content", 5]}, "include.1"),
        ({"include": "reasoning.encrypted_content"}, "include"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": -1}, "top_logprobs"),
    ],
)
def test_mistakes_have_their_place(more: dict[str, Any], place: str) -> None:
    with pytest.raises(RequestError) as caught:
        translation(Operation.RESPONSES, ASKED | more)
    assert caught.value.failure.param == place
