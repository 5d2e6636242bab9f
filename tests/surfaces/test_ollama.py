"""Ollama's API said in OpenAI's, and its answers: each case is one that its clients send or a real Ollama answers."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec
import pytest

from backends import registry
from backends.base import OLLAMA, Failure, Operation, Reply, Request, RequestError
from backends.surfaces.codecs import translated
from backends.surfaces.dialects import OLLAMA_API
from backends.surfaces.surface import Broken, ErrorFacts, InvalidRequest
from backends.surfaces.translation import Translation
from tests.surfaces import chatting
from tests.surfaces.chatting import ENGINE, NATIVE, chunk, counted

CHAT, GENERATE, EMBED = Operation.OLLAMA_CHAT, Operation.OLLAMA_GENERATE, Operation.OLLAMA_EMBED
OLDER = Operation.OLLAMA_EMBEDDINGS
HI = [{"role": "user", "content": "hi"}]
ASKED: dict[str, Any] = {"model": "m", "messages": HI, "stream": False}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()
BEGAN, STEP = 1_700_000_000_000_000_000, 1_000_000


def clock() -> Iterator[int]:
    return count(BEGAN, STEP)


def translation(operation: Operation, body: dict[str, Any]) -> Translation:
    """Return how a request is said, as it arrives; the time goes on by a millisecond whenever it is looked at."""
    times = clock()
    request = OLLAMA_API.read(operation, b"", msgspec.json.encode(body))
    found = translated(request, ENGINE, NATIVE, lambda: next(times))
    assert found is not None
    return found


def said(operation: Operation, body: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.json.decode(translation(operation, body).said.body)
    return made


def refused(operation: Operation, body: dict[str, Any]) -> tuple[str, str | None]:
    with pytest.raises((RequestError, InvalidRequest)) as caught:
        translation(operation, body)
    error = caught.value
    if isinstance(error, InvalidRequest):
        return error.message, error.param
    assert isinstance(error, RequestError)
    return error.failure.message, error.failure.param


def answered(operation: Operation, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return chatting.answered(translation(operation, body), answer)


def completion(message: dict[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "up", "choices": [choice]} | {
        "usage": usage,
        **more,
    }


def lines(data: bytes) -> list[dict[str, Any]]:
    assert data.endswith(b"\n")
    return [msgspec.json.decode(line) for line in data.split(b"\n")[:-1]]


def streamed(operation: Operation, body: dict[str, Any], *events: dict[str, Any]) -> list[dict[str, Any]]:
    stream = chatting.stream(events)
    made = [
        lines(chatting.streamed(translation(operation, body | {"stream": True}), stream, size))
        for size in (1, 7, 1 << 20)
    ]
    shapes = [[{name: line[name] for name in line if "time" not in name} for line in one] for one in made]
    for one in shapes:
        one[-1] = {
            name: value for name, value in one[-1].items() if "duration" not in name and name != "created_at"
        }
        for line in one:
            line.pop("created_at", None)
    assert shapes[0] == shapes[1] == shapes[2]
    return made[-1]


def test_options_become_parameters() -> None:
    options: dict[str, Any] = {
        "num_predict": 12,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "seed": 7,
    }
    options |= {"stop": ["x"], "presence_penalty": 1, "frequency_penalty": 2, "repeat_penalty": 1.1}
    made = said(CHAT, ASKED | {"options": options | {"num_ctx": 99, "fancy": 1}})
    assert made == {
        "model": "m",
        "messages": HI,
        **{name: options[name] for name in ("temperature", "top_p", "top_k", "min_p", "seed", "stop")},
        "max_tokens": 12,
        "presence_penalty": 1,
        "frequency_penalty": 2,
        "repetition_penalty": 1.1,
        "repeat_penalty": 1.1,
    }
    assert translation(CHAT, ASKED | {"options": {"num_ctx": 99, "fancy": 1}}).dropped == ("num_ctx", "fancy")
    assert "max_tokens" not in said(CHAT, ASKED | {"options": {"num_predict": -1}})


def test_an_option_that_an_engine_refuses_is_left_out_and_named() -> None:
    options = {"top_k": 3, "temperature": 0.5}
    found = translation(CHAT, ASKED | {"options": options})
    call = found.call(registry.create("tgi"), "up")
    assert b"top_k" not in call.body and b'"temperature":0.5' in call.body
    assert found.dropped == ("top_k",)


def test_a_stream_is_what_comes_unless_the_client_says_otherwise() -> None:
    body = {"model": "m", "messages": HI}
    assert (
        translation(CHAT, body).said.stream
        and translation(GENERATE, {"model": "m", "prompt": "x"}).said.stream
    )
    assert said(CHAT, body | {"stream": None})["stream_options"] == {"include_usage": True}
    assert not translation(CHAT, body | {"stream": False}).said.stream


@pytest.mark.parametrize(
    ("wish", "made"),
    [
        (True, {"chat_template_kwargs": {"enable_thinking": True}}),
        (False, {"chat_template_kwargs": {"enable_thinking": False}}),
        ("high", {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "high"}),
        (None, {}),
    ],
)
def test_thinking(wish: Any, made: dict[str, Any]) -> None:
    assert said(CHAT, ASKED | {"think": wish}) == {"model": "m", "messages": HI} | made


def test_the_form_of_an_answer() -> None:
    schema = {"type": "object", "properties": {"port": {"type": "integer"}}}
    made = said(CHAT, ASKED | {"format": schema})["response_format"]
    assert made == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }
    assert said(CHAT, ASKED | {"format": "json"})["response_format"] == {"type": "json_object"}
    assert "response_format" not in said(CHAT, ASKED | {"format": ""})


def test_images_get_their_types() -> None:
    jpeg = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(20)).decode()
    webp = base64.b64encode(b"RIFF\0\0\0\0WEBPVP8 " + bytes(20)).decode()
    asked = {"role": "user", "content": "what?", "images": [PNG, jpeg, webp]}
    made = said(CHAT, ASKED | {"messages": [asked]})["messages"][0]["content"]
    assert made[0] == {"type": "text", "text": "what?"}
    kinds = [part["image_url"]["url"].partition(";")[0] for part in made[1:]]
    assert kinds == ["data:image/png", "data:image/jpeg", "data:image/webp"]
    made = said(GENERATE, {"model": "m", "prompt": "what?", "images": [PNG]})["messages"][0]["content"]
    assert made[1]["image_url"]["url"] == f"data:image/png;base64,{PNG}"
    message, param = refused(CHAT, ASKED | {"messages": [{"role": "user", "images": ["?"]}]})
    assert param == "messages.0.images.0" and "base64" in message


def test_calls_and_results_find_each_other_by_name() -> None:
    calls = [{"function": {"name": name, "arguments": {"city": "Oslo"}}} for name in ("weather", "time")]
    turns = [
        *HI,
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "noon", "tool_name": "time"},
        {"role": "tool", "content": "12 C"},
    ]
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    made = said(CHAT, ASKED | {"messages": turns, "tools": tools})
    assert made["tools"] == tools
    first, second = made["messages"][1]["tool_calls"]
    assert first["function"] == {"name": "weather", "arguments": '{"city":"Oslo"}'}
    assert [turn["tool_call_id"] for turn in made["messages"][2:]] == [second["id"], first["id"]]


@pytest.mark.parametrize(
    ("operation", "body", "words", "param"),
    [
        (
            CHAT,
            {"options": {"temperature": "hot"}},
            'option "temperature" must be of type float32',
            "options.temperature",
        ),
        (CHAT, {"options": {"seed": 0.5}}, 'option "seed" must be of type integer', "options.seed"),
        (CHAT, {"options": {"stop": [1]}}, 'option "stop" must be of type array', "options.stop"),
        (CHAT, {"think": "ultra"}, 'invalid think value: "ultra"', "think"),
        (CHAT, {"format": "xml"}, r'invalid format: "\"xml\""; expected "json"', "format"),
        (CHAT, {"keep_alive": "soon"}, 'time: invalid duration "soon"', "keep_alive"),
        (CHAT, {"messages": "x"}, "'messages'", "messages"),
        (CHAT, {"messages": [{"role": "other"}]}, "expected user", "messages.0.role"),
        (GENERATE, {"prompt": "x", "context": [1, 2]}, "/api/chat", "context"),
        (GENERATE, {"prompt": "x", "template": "{{ .Prompt }}"}, "raw", "template"),
        (GENERATE, {"prompt": "x", "raw": True, "system": "s"}, "raw mode does not support", "system"),
        (EMBED, {"input": [1]}, "invalid input type", "input"),
    ],
)
def test_mistakes_have_their_place(
    operation: Operation, body: dict[str, Any], words: str, param: str
) -> None:
    base = ASKED if operation is CHAT else {"model": "m"}
    message, place = refused(operation, base | body)
    assert words in message and place == param


def test_a_prompt_is_a_chat_unless_it_is_raw() -> None:
    asked = {"model": "m", "prompt": "go on", "stream": False}
    assert said(GENERATE, asked | {"system": "s"})["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "go on"},
    ]
    raw = translation(GENERATE, asked | {"raw": True, "think": True})
    assert (raw.said.operation, raw.dropped) == (Operation.COMPLETIONS, ("think",))
    assert msgspec.json.decode(raw.said.body) == {"model": "m", "prompt": "go on"}
    between = translation(GENERATE, asked | {"suffix": "end"})
    assert between.said.operation is Operation.COMPLETIONS
    assert msgspec.json.decode(between.said.body)["suffix"] == "end"


@pytest.mark.parametrize(
    ("operation", "body", "nothing"),
    [
        (CHAT, {}, {"message": {"role": "assistant", "content": ""}}),
        (CHAT, {"messages": []}, {"message": {"role": "assistant", "content": ""}}),
        (GENERATE, {}, {"response": ""}),
        (GENERATE, {"prompt": "", "stream": True}, {"response": ""}),
    ],
)
@pytest.mark.parametrize(
    ("stay", "reason"), [({}, "load"), ({"keep_alive": 0}, "unload"), ({"keep_alive": "0s"}, "unload")]
)
def test_what_asks_for_nothing_loads_the_model(
    operation: Operation, body: dict[str, Any], nothing: dict[str, Any], stay: dict[str, Any], reason: str
) -> None:
    asked = {"model": "m"} | body | stay
    made = said(operation, asked)
    assert made["max_tokens"] == 1 and made.get("keep_alive") == stay.get("keep_alive")
    found = answered(operation, asked, completion({"content": "x"}, "length"))
    assert found.pop("created_at")
    assert found == {"model": "m", **nothing, "done": True, "done_reason": reason}


def test_a_whole_answer() -> None:
    found = answered(CHAT, ASKED, completion({"content": "hello", "reasoning_content": "hm"}, "length"))
    assert found == {
        "model": "m",
        "created_at": "2023-11-14T22:13:20.002000000Z",
        "message": {"role": "assistant", "content": "hello", "thinking": "hm"},
        "done": True,
        "done_reason": "length",
        "total_duration": STEP,
        "load_duration": 0,
        "prompt_eval_count": 5,
        "prompt_eval_duration": 0,
        "eval_count": 2,
        "eval_duration": STEP,
    }
    told = answered(CHAT, ASKED, completion({"content": "x"}, timings={"prompt_ms": 2.5, "predicted_ms": 4}))
    assert (told["prompt_eval_duration"], told["eval_duration"]) == (2_500_000, 4_000_000)
    assert told["done_reason"] == "stop"
    plain = answered(
        GENERATE, {"model": "m", "prompt": "x", "stream": False}, completion({"content": "hello"})
    )
    assert plain["response"] == "hello" and "message" not in plain and "context" not in plain


def test_a_raw_prompt_goes_on() -> None:
    choice = {"index": 0, "text": " a gateway", "finish_reason": "stop", "logprobs": None}
    answer = {"id": "c", "object": "text_completion", "created": 1, "model": "up", "choices": [choice]}
    found = answered(GENERATE, {"model": "m", "prompt": "x", "raw": True, "stream": False}, answer)
    assert (found["response"], found["done_reason"]) == (" a gateway", "stop")


def test_calls_have_objects_for_arguments() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    found = answered(CHAT, ASKED, completion({"content": None, "tool_calls": [call]}, "tool_calls"))
    function = {"index": 0, "name": "weather", "arguments": {"city": "Oslo"}}
    assert found["message"] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", "function": function}],
    }
    assert found["done_reason"] == "stop"


def test_an_answer_that_lacks_a_call_is_none() -> None:
    nameless = completion({"content": "x", "tool_calls": [{"function": {"arguments": "{}"}}]}, "tool_calls")
    found = translation(CHAT, ASKED).reply(Reply(msgspec.json.encode(nameless)))
    assert isinstance(found, Failure)


def test_a_stream_is_lines() -> None:
    made = streamed(
        CHAT,
        ASKED,
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "hm"}),
        *[chunk({"content": text}) for text in ("A", " fall", 'b"ack\n', "ü")],
        chunk({}, "length"),
        counted(16, 12),
    )
    messages = [line["message"] for line in made]
    assert messages[0] == {"role": "assistant", "content": "", "thinking": "hm"}
    assert "".join(message["content"] for message in messages) == 'A fallb"ack\nü' and len(made) == 6
    assert [line["done"] for line in made] == [*[False] * 5, True]
    last = made[-1]
    assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("length", 16, 12)
    assert last["total_duration"] == last["prompt_eval_duration"] + last["eval_duration"]
    assert last["prompt_eval_duration"] > 0 < last["eval_duration"]


def test_a_prompts_stream_is_lines() -> None:
    made = streamed(
        GENERATE, {"model": "m", "prompt": "x"}, chunk({"content": "A"}), chunk({"content": "b"}, "stop")
    )
    assert [(line["response"], line["done"]) for line in made] == [("A", False), ("b", False), ("", True)]
    text = [
        {
            "id": "c",
            "object": "text_completion",
            "model": "up",
            "choices": [{"index": 0, "text": said} | more],
        }
        for said, more in (
            ("A", {"finish_reason": None}),
            ("b", {"finish_reason": None}),
            ("", {"finish_reason": "stop"}),
        )
    ]
    made = streamed(GENERATE, {"model": "m", "prompt": "x", "raw": True}, *text)
    assert [line["response"] for line in made] == ["A", "b", ""]


def test_streamed_calls_are_told_when_they_are_complete() -> None:
    def piece(arguments: str, **more: Any) -> dict[str, Any]:
        function = {"arguments": arguments} | ({"name": more.pop("name")} if "name" in more else {})
        return chunk({"tool_calls": [{"index": 0, "function": function, **more}]})

    made = streamed(
        CHAT,
        ASKED,
        piece("", name="weather", id="c1"),
        piece('{"city":'),
        piece('"Oslo"}'),
        chunk({}, "tool_calls"),
    )
    assert len(made) == 2
    function = {"index": 0, "name": "weather", "arguments": {"city": "Oslo"}}
    assert made[0]["message"]["tool_calls"] == [{"id": "c1", "function": function}]
    assert made[1]["done_reason"] == "stop"


def test_log_probabilities_pass() -> None:
    told = [{"token": "A", "logprob": -0.1, "bytes": [65], "top_logprobs": []}]
    made = streamed(
        CHAT,
        ASKED | {"logprobs": True},
        chunk({"content": "A"}, logprobs={"content": told}),
        chunk({}, "stop"),
    )
    assert made[0]["logprobs"] == told


def test_embeddings() -> None:
    data = [{"object": "embedding", "index": at, "embedding": [at, 0.5]} for at in (1, 0)]
    answer = {"object": "list", "model": "up", "data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}}
    asked = {"model": "m", "input": ["a", "b"], "dimensions": 2, "truncate": False}
    assert said(EMBED, asked) == {"model": "m", "input": ["a", "b"], "dimensions": 2}
    assert translation(EMBED, asked).dropped == ("truncate",)
    found = answered(EMBED, asked, answer)
    assert (found["embeddings"], found["prompt_eval_count"], found["model"]) == ([[0, 0.5], [1, 0.5]], 2, "m")
    assert answered(OLDER, {"model": "m", "prompt": "a"}, answer | {"data": data[1:]}) == {
        "embedding": [0, 0.5]
    }


@pytest.mark.parametrize("nothing", ["", []])
def test_no_text_has_no_embedding(nothing: Any) -> None:
    answer = {
        "object": "list",
        "model": "up",
        "data": [{"object": "embedding", "index": 0, "embedding": [1]}],
    }
    assert answered(EMBED, {"model": "m", "input": nothing}, answer) == {"model": "m", "embeddings": []}


def test_errors_have_ollamas_shape() -> None:
    facts = ErrorFacts("there is no model 'x'", "invalid_request_error", "model", "model_not_found")
    assert OLLAMA_API.error(facts) == b'{"error":"model \'x\' not found"}'
    odd = facts._replace(message="""there is no model "it's; x" (did you mean 'y'?)""")
    assert OLLAMA_API.error(odd) == msgspec.json.encode(
        {"error": """model "it's; x" not found (did you mean 'y'?)"""}
    )
    assert (
        OLLAMA_API.error_event(facts._replace(code="upstream_reset"), Broken(None, b""))
        == b'{"error":"there is no model \'x\'"}\n'
    )
    with pytest.raises(InvalidRequest, match="missing request body"):
        OLLAMA_API.read(CHAT, b"", b"")


def test_no_engine_has_them_itself() -> None:
    assert all(
        translated(Request(one, b'{"model":"m"}', "m"), ENGINE, NATIVE, lambda: 0) is not None
        for one in OLLAMA
    )
    assert not OLLAMA & ENGINE.operations
