"""Requests to Ollama: what OpenAI's clients send, how it is translated, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.base import Kind, Operation, Request, RequestError
from backends.engines.ollama.engine import Ollama, OllamaOptions

HELLO = [{"role": "user", "content": "Hello"}]
PNG = "iVBORw0KGgo="
PORT_TOOL = {
    "type": "function",
    "function": {
        "name": "get_port",
        "description": "A port.",
        "parameters": {"type": "object", "properties": {}},
    },
}


def request_for(operation: Operation, body: dict[str, Any]) -> Request:
    """Return a client's request as the gateway decodes it."""
    usage = bool((body.get("stream_options") or {}).get("include_usage"))
    return Request(
        operation, json.dumps(body).encode(), body["model"], bool(body.get("stream")), usage, usage
    )


def sent(operation: Operation, body: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Return the JSON sent to Ollama for a client's body; `options` are the backend's."""
    engine = Ollama(OllamaOptions.model_validate_json(json.dumps(options), strict=True))
    call = engine.call(request_for(operation, {"model": "public", **body}), "qwen3:0.6b")
    found = json.loads(call.body)
    assert found.pop("model") == "qwen3:0.6b"
    assert isinstance(found, dict)
    return found


def chat(**body: Any) -> dict[str, Any]:
    found = sent(Operation.CHAT, {"messages": HELLO, **body})
    if "messages" not in body:
        assert found.pop("messages") == HELLO
    return found


def completion(**body: Any) -> dict[str, Any]:
    return sent(Operation.COMPLETIONS, {"prompt": "The gateway is", **body})


def refused(operation: Operation, **body: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        sent(operation, body)
    return caught.value


@pytest.mark.parametrize(
    ("operation", "body", "path"),
    [
        (Operation.CHAT, {"messages": HELLO}, "/api/chat"),
        (Operation.COMPLETIONS, {"prompt": "a"}, "/api/generate"),
        (Operation.EMBEDDINGS, {"input": "a"}, "/api/embed"),
    ],
)
def test_paths(operation: Operation, body: dict[str, Any], path: str) -> None:
    call = Ollama().call(request_for(operation, {"model": "m", **body}), "m")
    assert (call.method, call.path, call.content_type) == ("POST", path, b"application/json")


def test_the_least_a_client_sends() -> None:
    assert chat() == {"stream": False}
    assert completion() == {"prompt": "The gateway is", "raw": True, "think": False, "stream": False}
    assert sent(Operation.EMBEDDINGS, {"input": ["a", "b"]}) == {"input": ["a", "b"]}


def test_a_stream_is_asked_for_as_the_client_did() -> None:
    assert chat(stream=True, stream_options={"include_usage": True}) == {"stream": True}
    assert completion(stream=True)["stream"] is True


def test_sampling_goes_into_options() -> None:
    asked = {
        "temperature": 0,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "typical_p": 0.7,
        "seed": 7,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repeat_last_n": 64,
    }
    named = {"max_tokens": 24, "repetition_penalty": 1.1, "stop": "END"}
    expected = {**asked, "num_predict": 24, "repeat_penalty": 1.1, "stop": ["END"]}
    assert chat(**asked, **named)["options"] == expected
    assert completion(**asked, **named)["options"] == expected
    assert chat(repeat_penalty=1.2, stop=["A", "B"])["options"] == {"repeat_penalty": 1.2, "stop": ["A", "B"]}


def test_the_newer_name_of_the_limit_wins() -> None:
    assert chat(max_tokens=1, max_completion_tokens=2)["options"] == {"num_predict": 2}


def test_what_changes_nothing_is_left_out() -> None:
    ordinary = {
        "n": 1,
        "user": "u",
        "metadata": {},
        "store": True,
        "service_tier": "auto",
        "parallel_tool_calls": False,
        "logit_bias": {},
        "tool_choice": None,
        "stop": None,
        "temperature": None,
        "modalities": ["text"],
        "nobody_knows": [1],
    }
    assert chat(**ordinary) == {"stream": False}


def test_ollamas_own_members_win_over_openais_and_these_over_the_backends() -> None:
    backend = {"context": 4096, "keep_alive": "10m", "truncate": False}
    expected = {
        "options": {"num_ctx": 4096},
        "keep_alive": 600,
        "truncate": False,
        "shift": False,
        "stream": False,
    }
    assert sent(Operation.CHAT, {"messages": HELLO}, **backend) == {"messages": HELLO, **expected}
    own = {
        "options": {"num_ctx": 8192, "temperature": 0.1, "use_mmap": None},
        "keep_alive": "-1",
        "truncate": True,
        "shift": True,
        "think": "high",
        "temperature": 1,
        "reasoning_effort": "low",
    }
    found = sent(Operation.CHAT, {"messages": HELLO, **own}, **backend)
    assert found["options"] == {"num_ctx": 8192, "temperature": 0.1, "use_mmap": None}
    assert (found["keep_alive"], found["truncate"], found["think"]) == ("-1", True, "high")
    assert "shift" not in found


def test_embeddings_take_the_backends_options_too() -> None:
    found = sent(
        Operation.EMBEDDINGS, {"input": "a", "dimensions": 64}, context=512, keep_alive="0s", truncate=False
    )
    expected = {
        "input": "a",
        "dimensions": 64,
        "keep_alive": 0,
        "truncate": False,
        "options": {"num_ctx": 512},
    }
    assert found == expected


@pytest.mark.parametrize(
    ("effort", "think"),
    [
        ("none", False),
        ("minimal", "low"),
        ("low", "low"),
        ("medium", "medium"),
        ("high", "high"),
        ("xhigh", "max"),
    ],
)
def test_reasoning_effort(effort: str, think: bool | str) -> None:
    assert chat(reasoning_effort=effort)["think"] == think


def test_response_format() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert "format" not in chat(response_format={"type": "text"})
    assert chat(response_format={"type": "json_object"})["format"] == "json"
    named = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    assert chat(response_format=named)["format"] == schema
    assert completion(response_format=named)["format"] == schema


def test_logprobs() -> None:
    assert "logprobs" not in chat(logprobs=False)
    assert chat(logprobs=True) == {"logprobs": True, "stream": False}
    assert chat(logprobs=True, top_logprobs=2)["top_logprobs"] == 2
    assert "logprobs" not in completion(logprobs=None)
    assert "top_logprobs" not in completion(logprobs=0) and completion(logprobs=0)["logprobs"] is True
    assert completion(logprobs=3)["top_logprobs"] == 3


def test_prompts() -> None:
    assert completion(prompt=["one"])["prompt"] == "one"
    between = completion(suffix="end")
    assert (between["suffix"], "raw" in between, "think" in between) == ("end", False, False)
    assert "raw" not in completion(raw=False)
    assert completion(think=True)["think"] is True


def test_tools() -> None:
    strict = {"type": "function", "function": {**PORT_TOOL["function"], "strict": True}}  # type: ignore[dict-item]
    assert chat(tools=[strict])["tools"] == [strict]
    assert chat(tools=[PORT_TOOL], tool_choice="auto")["tools"] == [PORT_TOOL]
    assert "tools" not in chat(tools=[PORT_TOOL], tool_choice="none")
    assert "tools" not in chat(tools=[])


def test_tool_calls_and_their_results() -> None:
    calls = [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "get_port", "arguments": '{"a": 1.50, "b": [2]}'},
        },
        {"id": "c2", "type": "function", "function": {"name": "list", "arguments": ""}},
    ]
    found = chat(
        messages=[
            *HELLO,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": calls,
                "reasoning_content": "I need a port.",
            },
            {"role": "tool", "tool_call_id": "c1", "content": "11434"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "none"}]},
            {"role": "tool", "tool_call_id": "c9", "name": "other", "content": "x"},
            {"role": "tool", "tool_call_id": "unknown", "content": "y"},
        ]
    )["messages"]
    assert found[1:] == [
        {
            "role": "assistant",
            "content": "",
            "thinking": "I need a port.",
            "tool_calls": [
                {"id": "c1", "function": {"name": "get_port", "arguments": {"a": 1.5, "b": [2]}}},
                {"id": "c2", "function": {"name": "list", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "11434", "tool_name": "get_port", "tool_call_id": "c1"},
        {"role": "tool", "content": "none", "tool_name": "list", "tool_call_id": "c2"},
        {"role": "tool", "content": "x", "tool_name": "other", "tool_call_id": "c9"},
        {"role": "tool", "content": "y", "tool_call_id": "unknown"},
    ]


def test_a_call_s_id_used_again_means_the_last_call_before_it() -> None:
    def call(name: str) -> dict[str, Any]:
        return {
            "role": "assistant",
            "tool_calls": [{"id": "0", "type": "function", "function": {"name": name, "arguments": "{}"}}],
        }

    result = {"role": "tool", "tool_call_id": "0", "content": "x"}
    found = chat(messages=[call("a"), result, call("b"), result])["messages"]
    assert [message.get("tool_name") for message in found] == [None, "a", None, "b"]


@pytest.mark.parametrize(
    ("arguments", "sent_on"),
    [
        ('{"city": "Par', {"city": "Par"}),
        ('{"city": "Paris", "da', {"city": "Paris"}),
        ("[1]", {"arguments": "[1]"}),
        ("the port, please", {"arguments": "the port, please"}),
        (" ", {}),
    ],
)
def test_of_arguments_that_were_cut_off_what_can_be_read_is_sent(arguments: str, sent_on: object) -> None:
    (message,) = chat(messages=of_call(arguments))["messages"]
    assert message["tool_calls"][0]["function"]["arguments"] == sent_on


@pytest.mark.parametrize(
    ("asked", "think"),
    [
        ({"reasoning_effort": "ultra"}, "max"),
        ({"reasoning_effort": ""}, None),
        ({"reasoning": {"effort": "minimal"}}, "low"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": True, "other": 1}}, True),
        ({"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "low"}, "low"),
        ({"reasoning_effort": "low", "think": False}, False),
    ],
)
def test_how_much_a_model_thinks_is_said_in_several_ways(asked: dict[str, Any], think: object) -> None:
    assert chat(**asked).get("think") == think


def test_arguments_keep_their_own_spelling() -> None:
    arguments = '{"big": 12345678901234567890123, "small": 1e-7}'
    asked = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    call = Ollama().call(request_for(Operation.CHAT, {"model": "m", "messages": [asked]}), "m")
    assert arguments.encode() in call.body


def test_parts_become_text_and_images() -> None:
    parts = [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
        {"type": "text", "text": "this?"},
        {"type": "image_url", "image_url": f"data:;base64,{PNG}"},
    ]
    found = chat(messages=[{"role": "user", "content": parts}])["messages"]
    assert found == [{"role": "user", "content": "What is\nthis?", "images": [PNG, PNG]}]


def test_roles() -> None:
    asked = [{"role": "developer", "content": "Be brief."}, {"role": "assistant", "content": None}]
    found = chat(messages=asked)["messages"]
    assert found == [{"role": "system", "content": "Be brief."}, {"role": "assistant", "content": ""}]


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
IMPOSSIBLE: dict[str, tuple[Operation, dict[str, Any], str]] = {
    "choices": (Operation.CHAT, {"messages": HELLO, "n": 2}, "n"),
    "bias": (Operation.CHAT, {"messages": HELLO, "logit_bias": {"1": 5}}, "logit_bias"),
    "forced tool": (
        Operation.CHAT,
        {"messages": HELLO, "tools": [PORT_TOOL], "tool_choice": "required"},
        "tool_choice",
    ),
    "named tool": (
        Operation.CHAT,
        {"messages": HELLO, "tool_choice": {"type": "function", "function": {"name": "a"}}},
        "tool_choice",
    ),
    "other tools": (Operation.CHAT, {"messages": HELLO, "tools": [{"type": "web_search"}]}, "tools"),
    "audio out": (Operation.CHAT, {"messages": HELLO, "modalities": ["text", "audio"]}, "modalities"),
    "format": (
        Operation.CHAT,
        {"messages": HELLO, "response_format": {"type": "grammar"}},
        "response_format",
    ),
    "logprobs": (Operation.CHAT, {"messages": HELLO, "logprobs": True, "top_logprobs": 21}, "logprobs"),
    "image by URL": (
        Operation.CHAT,
        {"messages": [{"role": "user", "content": [IMAGE]}]},
        "messages[0].content[0].image_url",
    ),
    "audio in": (
        Operation.CHAT,
        {"messages": [*HELLO, {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        "messages[1].content[0]",
    ),
    "echo": (Operation.COMPLETIONS, {"prompt": "a", "echo": True}, "echo"),
    "best of": (Operation.COMPLETIONS, {"prompt": "a", "best_of": 2}, "best_of"),
    "choices of a completion": (Operation.COMPLETIONS, {"prompt": "a", "n": 3}, "n"),
    "prompts": (Operation.COMPLETIONS, {"prompt": ["a", "b"]}, "prompt"),
    "prompt of tokens": (Operation.COMPLETIONS, {"prompt": [1, 2]}, "prompt"),
    "one token": (Operation.COMPLETIONS, {"prompt": [1]}, "prompt"),
    "tokens": (Operation.EMBEDDINGS, {"input": [1, 2]}, "input"),
    "lists of tokens": (Operation.EMBEDDINGS, {"input": [[1], [2]]}, "input"),
}


@pytest.mark.parametrize(("operation", "body", "param"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_ollama_cannot_do_may_be_asked_elsewhere(
    operation: Operation, body: dict[str, Any], param: str
) -> None:
    failure = refused(operation, **body).failure
    assert (failure.kind, failure.param) == (Kind.UNSUPPORTED, param)
    assert failure.message.startswith("Ollama cannot do this: ")


def of_call(arguments: Any) -> list[dict[str, Any]]:
    return [
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": arguments}}]}
    ]


def of_image(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


WRONG: dict[str, tuple[Operation, dict[str, Any], str]] = {
    "no text to embed": (Operation.EMBEDDINGS, {"input": 5}, "input"),
    "texts and others": (Operation.EMBEDDINGS, {"input": ["a", None]}, "input"),
    "no prompt": (Operation.COMPLETIONS, {"prompt": {"a": 1}}, "prompt"),
    "image without base64": (
        Operation.CHAT,
        {"messages": of_image("data:image/png,abc")},
        "messages[0].content[0].image_url",
    ),
    "no image": (
        Operation.CHAT,
        {"messages": of_image("data:text/html;base64,YQ==")},
        "messages[0].content[0].image_url",
    ),
    "content": (Operation.CHAT, {"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    "no role": (Operation.CHAT, {"messages": [{"content": "a"}]}, "messages[0]"),
    "bias": (Operation.CHAT, {"messages": HELLO, "logit_bias": "many"}, "logit_bias"),
    "stop": (Operation.CHAT, {"messages": HELLO, "stop": 1}, "stop"),
    "effort": (Operation.CHAT, {"messages": HELLO, "reasoning_effort": "huge"}, "reasoning_effort"),
    "schema": (
        Operation.CHAT,
        {"messages": HELLO, "response_format": {"type": "json_schema"}},
        "response_format",
    ),
    "tool": (Operation.CHAT, {"messages": HELLO, "tools": [{"type": "function"}]}, "tools"),
    "nothing to embed": (Operation.EMBEDDINGS, {"input": ""}, "input"),
    "an empty list": (Operation.EMBEDDINGS, {"input": []}, "input"),
    "encoding": (Operation.EMBEDDINGS, {"input": "a", "encoding_format": "hex"}, "encoding_format"),
}


@pytest.mark.parametrize(("operation", "body", "param"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_the_clients(operation: Operation, body: dict[str, Any], param: str) -> None:
    failure = refused(operation, **body).failure
    assert (failure.kind, failure.param) == (Kind.REJECTED, param)
    assert failure.message


def test_endless_nesting_is_the_clients_mistake() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"a","x":' + b"[" * 100_000
    with pytest.raises(RequestError) as caught:
        Ollama().call(Request(Operation.CHAT, body, "m"), "m")
    assert caught.value.failure.kind is Kind.REJECTED


def test_the_official_client_reads_every_request() -> None:
    """The types of Ollama's own client are strict about every member they know."""
    types = pytest.importorskip("ollama._types")
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ]
    rich = {
        "messages": [
            {"role": "user", "content": parts},
            *of_call('{"a": 1}'),
            {"role": "tool", "tool_call_id": "a", "content": "1"},
        ],
        "tools": [PORT_TOOL],
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
        "temperature": 0.5,
        "max_tokens": 5,
        "stop": "x",
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 2,
    }
    options = {"context": 4096, "keep_alive": "10m", "truncate": False}
    bodies = {
        "ChatRequest": sent(Operation.CHAT, rich, **options),
        "GenerateRequest": sent(Operation.COMPLETIONS, {"prompt": "a", "suffix": "b", "seed": 1}, **options),
        "EmbedRequest": sent(Operation.EMBEDDINGS, {"input": ["a"], "dimensions": 8}, **options),
    }
    unknown = {
        "ChatRequest": {"truncate", "shift"},
        "GenerateRequest": {"truncate", "shift"},
        "EmbedRequest": set(),
    }
    for name, body in bodies.items():
        kind = getattr(types, name)
        read = kind.model_validate({"model": "m", **body})
        assert body.keys() - kind.model_fields.keys() == unknown[name]
        # The client does not check `options`; these are the names it knows.
        assert types.Options.model_validate(body["options"]).model_fields_set == body["options"].keys()
        assert body["options"].keys() <= types.Options.model_fields.keys()
        assert read.model == "m"
    for message in bodies["ChatRequest"]["messages"]:
        # The client wraps an image to encode it; the request has the text.
        images = [types.Image(value=image) for image in message.get("images", ())]
        again = types.Message.model_validate({**message, "images": images or None}).model_dump(
            exclude_none=True
        )
        for call in message.get("tool_calls", ()):
            del call["id"]
        assert again == {name: value for name, value in message.items() if name != "tool_call_id"}
    tool = types.Tool.model_validate(bodies["ChatRequest"]["tools"][0])
    assert tool.function.name == "get_port"
