"""What a model settles of its requests: parameters and a system prompt, in every API, to the byte."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.base import Kind, Operation, Request, RequestError
from backends.dialect.parameters import Parameters
from backends.dialect.prompting import Mode, System
from backends.framing import multipart

CHAT, MESSAGES, RESPONSES = Operation.CHAT, Operation.MESSAGES, Operation.RESPONSES
TYPE = b"multipart/form-data; boundary=B"


def rules(
    set: dict[str, object] | None = None,
    default: dict[str, object] | None = None,
    strip: tuple[str, ...] = (),
    clamp: dict[str, tuple[float, float]] | None = None,
    system: System | None = None,
) -> Parameters:
    return Parameters(set or {}, default or {}, strip, clamp or {}, system)


def after(made: Parameters, body: bytes, operation: Operation = CHAT) -> bytes:
    request = Request(operation, body, "m")
    edited = made.applied(request)
    if edited.body == body:
        assert edited is request or edited.choices != request.choices
    return edited.body


@pytest.mark.parametrize(
    ("made", "before", "then"),
    [
        (
            rules(set={"top_k": 5}),
            b'{"model":"m", "messages": [] }',
            b'{"top_k":5,"model":"m", "messages": [] }',
        ),
        (rules(set={"top_k": 5}), b'{ "top_k" : 7.0 , "model":"m"}', b'{ "top_k" : 5 , "model":"m"}'),
        (rules(default={"top_k": 5}), b'{"top_k":7}', b'{"top_k":7}'),
        (rules(default={"top_k": 5}), b'{"top_k": null}', b'{"top_k": 5}'),
        (rules(strip=("a", "c")), b'{"a":1, "b":2 ,"c":3}', b'{"b":2}'),
        (rules(strip=("a",), default={"a": 2}), b'{"a":1}', b'{"a":2}'),
        (rules(clamp={"temperature": (0, 1.5)}), b'{"temperature": 2}', b'{"temperature": 1.5}'),
        (rules(clamp={"temperature": (0.5, 1)}), b'{"temperature":-1e0}', b'{"temperature":0.5}'),
        (rules(clamp={"temperature": (0, 1)}), b'{"temperature":1.0}', b'{"temperature":1.0}'),
        (rules(clamp={"temperature": (0, 1)}), b'{"temperature":"hot"}', b'{"temperature":"hot"}'),
        (rules(clamp={"temperature": (0, 1)}), b'{"x":1}', b'{"x":1}'),
        (
            rules(clamp={"max_tokens": (1, 9)}),
            b'{"max_completion_tokens":10}',
            b'{"max_completion_tokens":9}',
        ),
        (rules(clamp={"max_completion_tokens": (1, 9)}), b'{"max_tokens":10}', b'{"max_tokens":9}'),
        (rules(clamp={"max_tokens": (2, 9)}), b'{"max_tokens":-1}', b'{"max_tokens":9}'),
        (
            rules(default={"max_tokens": 4}, clamp={"max_tokens": (1, 3)}),
            b'{"x":1}',
            b'{"max_tokens":3,"x":1}',
        ),
        (rules(default={"max_tokens": 4}), b'{"max_completion_tokens":2}', b'{"max_completion_tokens":2}'),
        (rules(default={"max_completion_tokens": 4}), b'{"x":1}', b'{"max_completion_tokens":4,"x":1}'),
        (
            rules(set={"max_tokens": 4}),
            b'{"max_completion_tokens":2,"max_tokens":3}',
            b'{"max_completion_tokens":2}'.replace(b"2", b"4").replace(
                b"max_completion_tokens", b"max_tokens"
            ),
        ),
        (rules(strip=("max_tokens",)), b'{"max_completion_tokens":2,"x":1}', b'{"x":1}'),
        (
            rules(set={"chat_template_kwargs.enable_thinking": False}),
            b'{"chat_template_kwargs" : {"x": 1}}',
            b'{"chat_template_kwargs" : {"enable_thinking":false,"x": 1}}',
        ),
        (rules(set={"a.b.c": 1}), b'{"x":1}', b'{"a":{"b":{"c":1}},"x":1}'),
        (rules(set={"a.b": 1}), b'{"a":"x"}', b'{"a":{"b":1}}'),
        (rules(default={"a.b": 1}), b'{"a":"x"}', b'{"a":"x"}'),
        (rules(strip=("a.b",)), b'{"a":{"b":1,"c":2}}', b'{"a":{"c":2}}'),
        (rules(strip=("a.b",)), b'{"a":[1]}', b'{"a":[1]}'),
        (rules(clamp={"a.b": (0, 1)}), b'{"a":{"b":7}}', b'{"a":{"b":1}}'),
        (rules(set={"stop": "END"}), b'{"x":1}', b'{"stop":"END","x":1}'),
        (rules(set={"voice": "x", "dimensions": 3}), b'{"x":1}', b'{"x":1}'),
    ],
)
def test_a_chat(made: Parameters, before: bytes, then: bytes) -> None:
    assert after(made, before) == then


@pytest.mark.parametrize(
    ("operation", "set", "then"),
    [
        (Operation.COMPLETIONS, {"max_completion_tokens": 3}, {"max_tokens": 3}),
        (RESPONSES, {"max_tokens": 3}, {"max_output_tokens": 3}),
        (RESPONSES, {"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
        (MESSAGES, {"max_completion_tokens": 3}, {"max_tokens": 3}),
        (MESSAGES, {"stop": "END"}, {"stop_sequences": ["END"]}),
        (Operation.INFILL, {"max_tokens": 3}, {"n_predict": 3}),
        (Operation.EMBEDDINGS, {"temperature": 1, "dimensions": 3, "top_k": 1}, {"dimensions": 3}),
        (Operation.RERANK, {"temperature": 1, "top_n": 3}, {"top_n": 3}),
        (
            Operation.SPEECH,
            {"voice": "x", "response_format": "mp3"},
            {"voice": "x", "response_format": "mp3"},
        ),
        (Operation.SPEECH, {"response_format": {"type": "json_object"}}, {}),
        (CHAT, {"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
        (CHAT, {"response_format": "mp3"}, {}),
        (Operation.COUNT_TOKENS, {"temperature": 1}, {}),
        (Operation.TOKENIZE, {"temperature": 1}, {}),
    ],
)
def test_each_api_has_its_own_names(
    operation: Operation, set: dict[str, object], then: dict[str, Any]
) -> None:
    for made in (rules(set=set), rules(default=set)):
        assert json.loads(after(made, b'{"model":"m"}', operation)) == {"model": "m", **then}


def test_the_number_of_choices_follows() -> None:
    request = Request(CHAT, b'{"n":4,"x":1}', "m", choices=4)
    assert rules(clamp={"n": (1, 2)}).applied(request).choices == 2
    assert rules(strip=("n",)).applied(request).choices == 1
    assert rules(set={"n": 3}).applied(request).choices == 3
    assert rules(set={"top_k": 3}).applied(request).choices == 4


@pytest.mark.parametrize(
    ("mode", "before", "then"),
    [
        (
            "default",
            b'{"messages": [ {"role":"user"}]}',
            b'{"messages": [ {"role":"system","content":"Be."},{"role":"user"}]}',
        ),
        (
            "default",
            b'{"messages":[{"role":"system","content":"I"}]}',
            b'{"messages":[{"role":"system","content":"I"}]}',
        ),
        ("default", b'{"messages":"x"}', b'{"messages":"x"}'),
        ("default", b'{"messages":[]}', b'{"messages":[{"role":"system","content":"Be."}]}'),
        (
            "prepend",
            b'{"messages":[{"role":"developer", "content": "I \\u0041"},{"role":"user"}]}',
            b'{"messages":[{"role":"developer", "content": "Be.\\n\\nI \\u0041"},{"role":"user"}]}',
        ),
        (
            "prepend",
            b'{"messages":[{"role":"system","content":[{"type":"text","text":"I"}]}]}',
            b'{"messages":[{"role":"system","content":[{"type":"text","text":"Be."},{"type":"text","text":"I"}]}]}',
        ),
        ("prepend", b'{"messages":[{"role":"system"}]}', b'{"messages":[{"content":"Be.","role":"system"}]}'),
        (
            "replace",
            b'{"messages":[{"role":"system","content":"I"}, {"role":"developer"} , {"role":"user"},{"role":"system"}]}',
            b'{"messages":[{"role":"system","content":"Be."},{"role":"user"},{"role":"system"}]}',
        ),
    ],
)
def test_the_system_prompt_of_a_chat(mode: str, before: bytes, then: bytes) -> None:
    assert after(rules(system=System("Be.", Mode(mode))), before) == then


@pytest.mark.parametrize(
    ("operation", "mode", "before", "then"),
    [
        (MESSAGES, "default", {}, {"system": "Be."}),
        (MESSAGES, "default", {"system": "I"}, {"system": "I"}),
        (MESSAGES, "prepend", {"system": "I"}, {"system": "Be.\n\nI"}),
        (
            MESSAGES,
            "prepend",
            {"system": [{"type": "text", "text": "I"}]},
            {"system": [{"type": "text", "text": "Be."}, {"type": "text", "text": "I"}]},
        ),
        (MESSAGES, "replace", {"system": "I"}, {"system": "Be."}),
        (Operation.COUNT_TOKENS, "default", {}, {"system": "Be."}),
        (RESPONSES, "default", {"input": "x"}, {"input": "x", "instructions": "Be."}),
        (RESPONSES, "default", {"instructions": "I"}, {"instructions": "I"}),
        (RESPONSES, "default", {"instructions": None}, {"instructions": "Be."}),
        (RESPONSES, "default", {"input": [{"role": "system"}]}, {"input": [{"role": "system"}]}),
        (RESPONSES, "prepend", {"instructions": "I"}, {"instructions": "Be.\n\nI"}),
        (
            RESPONSES,
            "replace",
            {"input": [{"role": "developer"}, {"role": "user"}], "instructions": "I"},
            {"input": [{"role": "user"}], "instructions": "Be."},
        ),
        (
            Operation.TOKENIZE,
            "default",
            {"messages": []},
            {"messages": [{"role": "system", "content": "Be."}]},
        ),
        (Operation.TOKENIZE, "default", {"prompt": "x"}, {"prompt": "x"}),
        (Operation.COMPLETIONS, "replace", {"prompt": "x"}, {"prompt": "x"}),
        (Operation.EMBEDDINGS, "replace", {"input": "x"}, {"input": "x"}),
    ],
)
def test_the_system_prompt_of_other_apis(
    operation: Operation, mode: str, before: dict[str, Any], then: dict[str, Any]
) -> None:
    made = rules(system=System("Be.", Mode(mode)))
    assert json.loads(after(made, json.dumps(before).encode(), operation)) == then


def form(*parts: tuple[str, bytes]) -> bytes:
    text = b"".join(
        b'--B\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)
        for name, value in parts
    )
    return text + b"--B--\r\n"


@pytest.mark.parametrize(
    ("made", "before", "then"),
    [
        (rules(set={"language": "de"}), [], [("language", b"de")]),
        (rules(set={"language": "de"}), [("language", b"en"), ("language", b"fr")], [("language", b"de")]),
        (
            rules(default={"language": "de", "temperature": 0}),
            [("language", b"en")],
            [("temperature", b"0"), ("language", b"en")],
        ),
        (rules(strip=("prompt",)), [("prompt", b"x"), ("user", b"u")], [("user", b"u")]),
        (rules(clamp={"temperature": (0, 0.5)}), [("temperature", b"1")], [("temperature", b"0.5")]),
        (
            rules(set={"timestamp_granularities[]": ["word", "segment"]}),
            [],
            [("timestamp_granularities[]", b"word"), ("timestamp_granularities[]", b"segment")],
        ),
        (rules(set={"top_k": 3, "voice": "x"}, system=System("Be.")), [], []),
    ],
)
@pytest.mark.parametrize("lead", [b"", b"\r\n"])
def test_a_form(
    made: Parameters, before: list[tuple[str, bytes]], then: list[tuple[str, bytes]], lead: bytes
) -> None:
    fixed = [("model", b"m"), ("file", b"\x00--\r\n--A")]
    request = Request(Operation.TRANSCRIPTIONS, lead + form(*fixed, *before), "m", content_type=TYPE)
    edited = made.applied(request)
    new = [part for part in then if part not in before]
    old = [part for part in then if part in before]
    assert edited.body == lead + form(*new, *fixed, *old)
    multipart.parts_of(edited.body, b"B")


def test_a_forms_boundary_cannot_stand_in_a_value() -> None:
    request = Request(Operation.TRANSCRIPTIONS, form(("model", b"m")), "m", content_type=TYPE)
    with pytest.raises(RequestError) as caught:
        rules(set={"prompt": "x\r\n--B\r\n"}).applied(request)
    assert caught.value.failure.kind is Kind.REJECTED
