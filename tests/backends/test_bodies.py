"""What of a client's body is the engine's to judge, and what the gateway puts right on the way."""

import json
from typing import Any

import pytest

from backends.base import Operation, Request
from backends.dialect import rewrite
from backends.surfaces import bodies
from backends.surfaces.surface import InvalidRequest

USER = [{"role": "user", "content": "hi"}]
LONG = ["word " * 100] * 100


def read(operation: Operation, **members: Any) -> Request:
    return bodies.decode(operation, json.dumps({"model": "m", **members}).encode())


TAKEN: dict[str, tuple[Operation, dict[str, Any]]] = {
    "no limit, as llama.cpp says it": (Operation.CHAT, {"messages": USER, "max_tokens": -1, "stream": True}),
    "until the context is full": (
        Operation.INFILL,
        {"input_prefix": "", "input_suffix": "", "n_predict": -2},
    ),
    "no limit of a completion": (Operation.COMPLETIONS, {"prompt": "x", "max_tokens": -1, "seed": -1}),
    "no limit of a newer name": (Operation.CHAT, {"messages": USER, "max_completion_tokens": -1}),
    "no limit of a response": (Operation.RESPONSES, {"input": "x", "max_output_tokens": -1}),
    "no limit of a message": (Operation.MESSAGES, {"messages": USER, "max_tokens": -1}),
    "a message without a limit": (Operation.MESSAGES, {"messages": USER}),
    "the best of all": (Operation.RERANK, {"query": "q", "documents": ["a"], "top_n": -1}),
    "a response to what was said before": (Operation.RESPONSES, {"previous_response_id": "resp_1"}),
    "a response to a stored prompt": (Operation.RESPONSES, {"prompt": {"id": "pmpt_1"}, "input": None}),
    "a response in a conversation": (Operation.RESPONSES, {"conversation": "conv_1"}),
    "messages to embed": (Operation.EMBEDDINGS, {"messages": USER, "encoding_format": "float"}),
    "a prompt of vectors": (Operation.COMPLETIONS, {"prompt_embeds": "AAAA"}),
    "content to rank": (
        Operation.RERANK,
        {
            "query": {"content": [{"type": "text", "text": "q"}]},
            "documents": {"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]},
        },
    ),
    "objects to rank": (Operation.RERANK, {"query": "q", "documents": [{"text": "a"}, {"content": []}]}),
    "queries and documents to compare": (Operation.SCORE, {"queries": ["a"], "documents": ["b"]}),
    "data to compare": (Operation.SCORE, {"data_1": "a", "data_2": ["b"]}),
    "a query and items to compare": (Operation.SCORE, {"query": "a", "items": ["b"], "label_token_ids": [1]}),
    "long members": (
        Operation.RERANK,
        {"query": "q" * 5000, "documents": LONG, "x": {"y": LONG}, "z": [1.5] * 5000},
    ),
    "a long prompt of tokens": (Operation.COMPLETIONS, {"prompt": list(range(5000))}),
    "long texts of everything": (
        Operation.RESPONSES,
        {"input": "x" * 5000, "instructions": "y" * 5000, "tools": [{"name": "t" * 5000}]},
    ),
    "other letters below the top": (Operation.CHAT, {"messages": USER, "metadata": {"MODEL": "x", "N": 1}}),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_the_engines_to_judge_passes(name: str) -> None:
    operation, members = TAKEN[name]
    request = read(operation, **members)
    assert json.loads(rewrite.request_body(request, "up")).items() >= {"model": "up", **members}.items()


WHOLE = {
    "a limit": (Operation.CHAT, {"messages": USER, "max_tokens": 4096.0, "seed": 42.0}),
    "none at all": (Operation.CHAT, {"messages": USER, "max_tokens": -1.0}),
    "dimensions": (Operation.EMBEDDINGS, {"input": ["x"], "dimensions": 256.0}),
    "documents": (Operation.RERANK, {"query": "q", "documents": LONG, "top_n": 3.0}),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_number_written_as_a_fraction_becomes_one(name: str) -> None:
    """Go and Rust refuse it for a whole number, and Python takes it."""
    operation, members = WHOLE[name]
    sent = json.loads(read(operation, **members).body)
    assert sent == {"model": "m", **members}
    assert not [value for value in sent.values() if isinstance(value, float)]


@pytest.mark.parametrize("written", ["3.0", "3", "3e0", "30E-1", "0.3e1"])
def test_however_it_is_written_the_number_of_choices_is_known(written: str) -> None:
    body = f'{{"model":"m","messages":[{{}}],"temperature":3.0,"n":{written}}}'
    request = bodies.decode(Operation.CHAT, body.encode())
    assert request.choices == 3 and type(request.choices) is int
    assert request.body == body.replace(written + "}", "3}").encode()


REPEATED = {
    "a stream": (
        '"stream":false,"stream":true',
        {"stream": True, "stream_options": {"include_usage": True}},
    ),
    "a stream that is none": ('"stream":true,"stream":false', {"stream": False}),
    "a number of choices that Go keeps": ('"n":2,"n":null', {"n": None}),
    "what is asked of a stream": (
        '"stream":true,"stream_options":{},"stream_options":{"include_usage":true}',
        {"stream": True, "stream_options": {"include_usage": True}},
    ),
    "a model": ('"model":"x","model":"m"', {}),
}


@pytest.mark.parametrize("name", REPEATED)
def test_the_engine_reads_of_a_repeated_key_what_the_gateway_judged(name: str) -> None:
    written, judged = REPEATED[name]
    body = f'{{"model":"y",{written},"messages":[{{}}],"model":"m"}}'
    request = bodies.decode(Operation.CHAT, body.encode())
    pairs: list[tuple[str, Any]] = json.loads(rewrite.request_body(request, "up"), object_pairs_hook=list)
    assert len(pairs) == len(dict(pairs))
    sent = dict(pairs)
    assert sent.pop("messages") == [[]] and sent.pop("model") == "up"
    assert {name: dict(value) if isinstance(value, list) else value for name, value in sent.items()} == judged
    assert request.choices == 1 and request.stream == bool(judged.get("stream"))


@pytest.mark.parametrize(
    "name", ["MODEL", "Model", "max_toKens", "\u017feed", "\\u0053eed", "N", "Stream_Options"]
)
def test_a_key_in_other_letters_is_refused(name: str) -> None:
    body = f'{{"model":"m","messages":[{{}}],"{name}":null}}'
    with pytest.raises(InvalidRequest, match="write it") as refused:
        bodies.decode(Operation.CHAT, body.encode())
    assert refused.value.param == json.loads(f'"{name}"')


@pytest.mark.parametrize(
    "name", ["models", "model_", " model", "m\u00f6del", "\u217fodel", "mode\u017f", "streams"]
)
def test_another_key_is_none(name: str) -> None:
    assert read(Operation.CHAT, messages=USER, **{name: 1}).model == "m"
