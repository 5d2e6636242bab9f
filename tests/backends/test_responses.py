"""The Responses API of engines that leave out what strict clients need."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from backends.base import Operation, Reply, Request
from backends.dialect import responses
from backends.dialect.passed import ResponseEvents
from backends.engines.openai import OpenAI
from backends.surfaces.dialects import SURFACES
from backends.surfaces.surface import Broken, ErrorFacts

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ASKED = {"model": "public", "input": "hi", "max_output_tokens": 5, "tools": [], "metadata": {"a": "b"}}
USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
CALL = {
    "type": "function_call",
    "call_id": "fc_1",
    "name": "get_port",
    "arguments": "{}",
    "status": "completed",
}
MESSAGE: dict[str, Any] = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [],
}
PART = {"type": "output_text", "text": "Hi"}


def request(**more: Any) -> Request:
    return Request(Operation.RESPONSES, json.dumps(ASKED | more).encode(), "public", stream=True)


def played(*events: dict[str, Any], **asked: Any) -> tuple[list[dict[str, Any]], ResponseEvents]:
    """Return the events that a client gets for a stream of these."""
    decoder = OpenAI().decoder(request(**asked), "private")
    assert isinstance(decoder, ResponseEvents)
    said = b"".join(
        decoder.feed(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()) for event in events
    )
    assert decoder.failure is None
    found = []
    for block in said.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found, decoder


def bare(end: str = "response.completed", **last: Any) -> list[dict[str, Any]]:
    """Return a stream as llama.cpp writes it: a message, then a call of a tool."""
    response = {"id": "resp_1", "object": "response", "status": "in_progress"}
    said = {"id": "resp_1", "object": "response", "model": "private", "status": "completed", "usage": USAGE}
    return [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "item": MESSAGE | {"status": "in_progress"}},
        {
            "type": "response.content_part.added",
            "item_id": "msg_1",
            "part": {"type": "output_text", "text": ""},
        },
        {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "Hi"},
        {"type": "response.output_text.done", "item_id": "msg_1", "text": "Hi"},
        {"type": "response.content_part.done", "item_id": "msg_1", "part": PART},
        {"type": "response.output_item.done", "item": MESSAGE | {"content": [PART]}},
        {"type": "response.output_item.added", "item": CALL | {"arguments": "", "status": "in_progress"}},
        {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": "{}"},
        {"type": "response.output_item.done", "item": CALL},
        {"type": end, "response": {**said, "output": [MESSAGE | {"content": [PART]}, CALL], **last}},
    ]


def test_events_get_their_numbers_and_indexes() -> None:
    events, decoder = played(*bare())
    for event in events:
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(11))
    assert [event.get("output_index") for event in events] == [None, 0, 0, 0, 0, 0, 0, 1, 1, 1, None]
    assert [event.get("content_index") for event in events[2:6]] == [0, 0, 0, 0]
    assert events[7]["item"]["id"] == events[9]["item"]["id"] == "fc_1"
    assert decoder.events == 11 and decoder.finished
    for event in (events[0], events[-1]):
        response = event["response"]
        Response.model_validate(response)
        assert (response["model"], response["metadata"], response["max_output_tokens"]) == (
            "public",
            {"a": "b"},
            5,
        )


@pytest.mark.parametrize("indexed", [False, True])
def test_items_whose_ids_are_empty_are_told_apart(indexed: bool) -> None:
    """By their indexes, or where there are none by their order."""
    told = json.loads(json.dumps(bare()).replace('"msg_1"', '""'))
    for event in told:
        if indexed and event["type"] not in ("response.created", "response.completed"):
            is_call = event.get("item_id") == "fc_1" or event.get("item", {}).get("type") == "function_call"
            event["output_index"] = int(is_call)
        if event.get("item_id") == "fc_1":
            event["item_id"] = ""
        for item in (event.get("item", {}), *event.get("response", {}).get("output", ())):
            if item.get("type") == "function_call":
                item["id"] = ""
    events, _ = played(*told)
    for event in events:
        EVENT.validate_python(event)
    assert [event.get("output_index") for event in events] == [None, 0, 0, 0, 0, 0, 0, 1, 1, 1, None]
    message, call = [item["id"] for item in events[-1]["response"]["output"]]
    assert message and call and message != call
    assert [event.get("item_id") for event in events[2:6]] == [message] * 4
    assert [events[place]["item"]["id"] for place in (1, 6, 7, 9)] == [message, message, call, call]
    assert events[8]["item_id"] == call


@pytest.mark.parametrize("numbered", [False, True])
def test_an_answer_that_its_limit_ended_is_incomplete(numbered: bool) -> None:
    stream = bare()
    if numbered:
        stream = [{**event, "sequence_number": place + 3} for place, event in enumerate(stream)]
    events, decoder = played(*stream, max_output_tokens=4)
    assert (events[-1]["type"], events[-1]["response"]["status"]) == ("response.incomplete", "incomplete")
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert decoder.events == (14 if numbered else 11)
    whole = json.dumps(bare()[-1]["response"]).encode()
    reply = OpenAI().reply(
        Request(Operation.RESPONSES, json.dumps(ASKED | {"max_output_tokens": 4}).encode(), "public"),
        "private",
        ((b"content-type", b"application/json"),),
        whole,
    )
    assert isinstance(reply, Reply)
    assert json.loads(reply.body)["status"] == "incomplete"
    Response.model_validate_json(reply.body)


def test_the_last_event_is_called_as_its_response_ended() -> None:
    why: dict[str, Any] = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    stream = [{**event, "sequence_number": place} for place, event in enumerate(bare(**why))]
    events, decoder = played(*stream)
    assert events[-1]["type"] == "response.incomplete" and decoder.finished


@pytest.mark.parametrize(
    "odd",
    [{"output": None}, {"output": 7}, {"output": [7, {"content": "a"}, {"content": [7], "id": 3}]}, {"usage": 7},
     {"usage": {"input_tokens_details": 7, "output_tokens": "many"}}, {"model": None}],
)  # fmt: skip
def test_odd_members_pass_as_they_are(odd: dict[str, Any]) -> None:
    first, *rest = bare(**odd)
    item = {"type": "response.output_item.added", "item": {"id": [], "content": 7}}
    events, decoder = played(first, item, *rest)
    assert decoder.failure is None and decoder.finished
    assert events[1]["item"] == item["item"] and events[-1]["type"] == "response.completed"
    whole = json.dumps(bare(**odd)[-1]["response"]).encode()
    assert json.loads(responses.whole(request(), whole))["object"] == "response"


def test_events_that_are_numbered_keep_what_they_say() -> None:
    stream = [{**event, "sequence_number": place, "logprobs": []} for place, event in enumerate(bare())]
    events, _ = played(*stream)
    assert events[:-1] == stream[:-1]
    del stream[3]["logprobs"]
    assert played(*stream)[0][3]["logprobs"] == []
    assert events[-1]["type"] == "response.completed"


def test_the_error_that_ends_a_stream_has_the_next_number() -> None:
    facts = ErrorFacts("broken", "upstream_error", None, "upstream_reset")
    read = ResponseEvents(OpenAI(), request())
    read.events, read.identity = 7, "resp_1"
    event = SURFACES[Operation.RESPONSES].error_event(facts, Broken(request(), b"r", read))
    told = [EVENT.validate_json(block.partition(b"data: ")[2]) for block in event.split(b"\n\n")[:-1]]
    assert [(one.type, one.sequence_number) for one in told] == [("error", 7), ("response.failed", 8)]
