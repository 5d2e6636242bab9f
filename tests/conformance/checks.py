"""What must hold for every engine, as named checks: answers and refusals. What clients send is fixed here, once.

Failures of the engine, its health and its clients' leaving are in `faults.py`, in the same form.

Rules:
- A function with `@check` is one check, under its own name. One parameter named `answer`: it reads the answer to the
  check's request, and that request too if it has another named `body`. One named `stage`: it plays all of it.
- Bodies never change without the recordings: the replay server compares what reaches the engine with them.
- A check asks for one thing. What an engine does otherwise stands in `engines.py`, with the reason.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from backends.base import Operation
from tests.conformance import shapes
from tests.conformance.shapes import MODEL
from tests.conformance.stage import CHECKS, Stage, check
from tests.serving import Answer

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RERANK = "/v1/rerank"
SCORE = "/v1/score"
TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"

QUESTION = "What is this gateway?"


def user(text: str) -> list[dict[str, Any]]:
    """Return a conversation of one question."""
    return [{"role": "user", "content": text}]


def asking(text: str = QUESTION, **more: Any) -> dict[str, Any]:
    """Return a chat request, greedy and short unless `more` says otherwise."""
    return {"model": MODEL, "messages": user(text), "max_tokens": 24, "temperature": 0, **more}


STREAM: dict[str, Any] = {"stream": True}
STREAM_USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


# --- chat


@check(CHAT, asking())
def chat(answer: Answer) -> None:
    shapes.content(shapes.completion(answer))


@check(CHAT, asking(**STREAM))
def chat_stream(answer: Answer) -> None:
    told = shapes.streamed(answer)
    assert told.text and told.chunks > 1
    assert not told.usage_alone, "nobody asked for usage"


@check(CHAT, asking(**STREAM_USAGE))
def chat_stream_usage(answer: Answer) -> None:
    told = shapes.streamed(answer)
    assert told.text
    assert told.usage is not None and told.usage["completion_tokens"] > 0
    assert answer.events[-2]["usage"] == told.usage, "usage comes in the last chunk"


@check(
    CHAT,
    asking() | {"messages": [{"role": "system", "content": "You are the gateway's guide."}, *user(QUESTION)]},
)
def chat_system(answer: Answer) -> None:
    shapes.content(shapes.completion(answer))


@check(
    CHAT,
    asking()
    | {
        "messages": [
            *user("What is the default port of Ollama?"),
            {"role": "assistant", "content": "Ollama listens on port 11434."},
            *user("And SGLang?"),
        ]
    },
)
def chat_multi_turn(answer: Answer) -> None:
    shapes.content(shapes.completion(answer))


@check(CHAT, asking("Was heißt 网关, and what is a 🚀 for?"))
def chat_unicode(answer: Answer) -> None:
    shapes.content(shapes.completion(answer))


@check(CHAT, asking("Say 你好, ñandú and 🚀."), replayed=True)
def chat_unicode_answer(answer: Answer) -> None:
    text = shapes.content(shapes.completion(answer))
    assert all(word in text for word in ("你好", "ñandú", "🚀")), text


@check(CHAT, asking("Say 你好, ñandú and 🚀.", **STREAM), replayed=True)
def chat_unicode_stream(answer: Answer) -> None:
    text = shapes.streamed(answer).text
    assert all(word in text for word in ("你好", "ñandú", "🚀")), text


@check(CHAT, asking("The gateway is one URL in front of many engines. " * 40 + QUESTION))
def chat_long(answer: Answer) -> None:
    body = shapes.completion(answer)
    assert body["usage"]["prompt_tokens"] > 300


@check(CHAT, asking() | {"max_tokens": 4})
def chat_length(answer: Answer) -> None:
    body = shapes.completion(answer)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] <= 4


@check(
    CHAT,
    {"model": MODEL, "messages": user(QUESTION), "max_completion_tokens": 4, "temperature": 0},
)
def chat_max_completion_tokens(answer: Answer) -> None:
    body = shapes.completion(answer)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] <= 4


@check(CHAT, asking(stop=[" OpenAI"]))
def chat_stop(answer: Answer) -> None:
    body = shapes.completion(answer)
    assert body["choices"][0]["finish_reason"] == "stop"
    assert "OpenAI" not in shapes.content(body)


@check(CHAT, asking("Which engines does the gateway support?"))
async def chat_greedy(stage: Stage) -> None:
    own = CHECKS["chat_greedy"]
    answers = [await stage.ask(own.path, own.body) for _ in range(2)]
    first, second = (shapes.content(shapes.completion(answer)) for answer in answers)
    assert first == second


@check(CHAT, asking("What is a fallback?", seed=7) | {"temperature": 1})
async def chat_seed(stage: Stage) -> None:
    own = CHECKS["chat_seed"]
    answers = [await stage.ask(own.path, own.body) for _ in range(2)]
    first, second = (shapes.content(shapes.completion(answer)) for answer in answers)
    assert first == second


@check(CHAT, asking(n=2) | {"temperature": 1})
def chat_n(answer: Answer) -> None:
    shapes.completion(answer, choices=2)


@check(CHAT, asking(logprobs=True, top_logprobs=2))
def chat_logprobs(answer: Answer) -> None:
    tokens = shapes.completion(answer)["choices"][0]["logprobs"]["content"]
    assert tokens
    for token in tokens:
        assert isinstance(token["token"], str) and token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 2


@check(CHAT, asking())
async def chat_together(stage: Stage) -> None:
    own = CHECKS["chat_together"]
    answers = await asyncio.gather(*(stage.ask(own.path, own.body) for _ in range(4)))
    assert len({shapes.content(shapes.completion(answer)) for answer in answers}) == 1


# --- JSON, tools, reasoning


@check(
    CHAT, asking("Name an engine, as JSON.", response_format={"type": "json_object"}) | {"max_tokens": 200}
)
def chat_json(answer: Answer) -> None:
    assert isinstance(json.loads(shapes.content(shapes.completion(answer))), dict)


ENGINE = {"type": "string", "enum": ["vllm", "ollama"]}
ONE_ENGINE: dict[str, Any] = {
    "type": "object",
    "properties": {"engine": ENGINE},
    "required": ["engine"],
    "additionalProperties": False,
}


@check(
    CHAT,
    asking(
        "Name an engine, as JSON.",
        response_format={"type": "json_schema", "json_schema": {"name": "engine", "schema": ONE_ENGINE}},
    )
    | {"max_tokens": 200},
)
def chat_json_schema(answer: Answer) -> None:
    said = json.loads(shapes.content(shapes.completion(answer)))
    assert set(said) == {"engine"} and said["engine"] in ENGINE["enum"]


PORT = {"name": "get_port", "description": "The port of an engine.", "parameters": ONE_ENGINE}
PORT_TOOL = {"type": "function", "function": PORT}
WITH_TOOLS = asking("Which port does Ollama use?", tools=[PORT_TOOL], tool_choice="required") | {
    "max_tokens": 200
}


@check(CHAT, WITH_TOOLS)
def chat_tools(answer: Answer) -> None:
    (choice,) = shapes.completion(answer)["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function" and call["function"]["name"] == "get_port"
    assert "engine" in shapes.called({"id": call["id"], "arguments": call["function"]["arguments"]})
    assert choice["finish_reason"] == "tool_calls"


@check(CHAT, WITH_TOOLS | STREAM)
def chat_tools_stream(answer: Answer) -> None:
    told = shapes.streamed(answer)
    (call,) = told.tool_calls.values()
    assert call["name"] == "get_port" and "engine" in shapes.called(call)
    assert told.finish_reason == "tool_calls"


TOOL_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_port", "arguments": '{"engine": "ollama"}'},
}


@check(
    CHAT,
    asking()
    | {
        "messages": [
            *user("Which port does Ollama use?"),
            {"role": "assistant", "content": "", "tool_calls": [TOOL_CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "11434"},
        ],
        "tools": [PORT_TOOL],
    },
)
def chat_tool_result(answer: Answer) -> None:
    shapes.content(shapes.completion(answer))


@check(CHAT, asking("Think, then answer: what is a route?") | {"max_tokens": 200}, replayed=True)
def chat_reasoning(answer: Answer) -> None:
    body = shapes.completion(answer)
    message = body["choices"][0]["message"]
    thought = next((message[key] for key in shapes.REASONING if message.get(key)), "")
    assert thought and shapes.content(body) and thought not in shapes.content(body)


@check(CHAT, asking("Think, then answer: what is a route?", **STREAM) | {"max_tokens": 200}, replayed=True)
def chat_reasoning_stream(answer: Answer) -> None:
    told = shapes.streamed(answer)
    assert told.reasoning and told.text


# --- the other operations

COMPLETING = {"model": MODEL, "prompt": "The gateway is", "max_tokens": 16, "temperature": 0}


@check(COMPLETIONS, COMPLETING)
def completions(answer: Answer) -> None:
    shapes.text_completion(answer)


@check(COMPLETIONS, COMPLETING | STREAM)
def completions_stream(answer: Answer) -> None:
    told = shapes.streamed(answer, "text_completion")
    assert told.text and not told.usage_alone


@check(EMBEDDINGS, {"model": MODEL, "input": "What is a gateway?"})
def embeddings(answer: Answer) -> None:
    shapes.vectors(answer, 1)


@check(EMBEDDINGS, {"model": MODEL, "input": ["What is a gateway?", "Which port does Ollama use?"]})
def embeddings_list(answer: Answer) -> None:
    first, second = shapes.vectors(answer, 2)
    assert first != second


DOCUMENTS = ["Ollama listens on port 11434.", "A route is a rule.", "The port of vLLM is 8000."]


@check(RERANK, {"model": MODEL, "query": "Which port does Ollama use?", "documents": DOCUMENTS, "top_n": 2})
def rerank(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    body = answer.json()
    assert body["model"] == MODEL
    indices = [result["index"] for result in body["results"]]
    scores = [result["relevance_score"] for result in body["results"]]
    assert len(indices) == len(set(indices)) == 2 and set(indices) < {0, 1, 2}
    assert all(isinstance(score, float | int) for score in scores) and scores == sorted(scores, reverse=True)


@check(SCORE, {"model": MODEL, "text_1": "Which port does Ollama use?", "text_2": DOCUMENTS[:2]})
def score(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    body = answer.json()
    assert [item["index"] for item in body["data"]] == [0, 1]
    assert all(isinstance(item["score"], float | int) for item in body["data"])


TEXT = "What is a gateway, 网关 🚀?"


TO_TOKENIZE = {"model": MODEL, "prompt": TEXT, "add_special_tokens": False}


@check(TOKENIZE, TO_TOKENIZE)
def tokenize(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    tokens = answer.json()["tokens"]
    assert tokens and all(type(token) is int for token in tokens) and answer.json()["count"] == len(tokens)


@check(DETOKENIZE, {"model": MODEL, "tokens": [1, 2, 3]}, operation=Operation.DETOKENIZE)
async def detokenize(stage: Stage) -> None:
    tokens = (await stage.ask(TOKENIZE, TO_TOKENIZE)).json()["tokens"]
    back = await stage.ask(DETOKENIZE, {"model": MODEL, "tokens": tokens})
    assert back.status == 200, back.body[:500]
    assert back.json()["prompt"] == TEXT


@check("/v1/models")
def models(answer: Answer) -> None:
    assert answer.status == 200
    listed = {card["id"]: card for card in answer.json()["data"]}
    assert MODEL in listed and listed[MODEL]["object"] == "model"


# --- what is wrong with a request


@check(CHAT, asking() | {"model": "missing"})
def model_missing(answer: Answer) -> None:
    shapes.error(answer, 502, "upstream_model_missing")


TOO_LONG = "The gateway is one URL in front of many engines. " * 800


@check(CHAT, asking(TOO_LONG))
def context_overflow(answer: Answer) -> None:
    found = shapes.error(answer, 400, "context_length_exceeded")
    assert found["type"] == "invalid_request_error"


@check(CHAT, asking(TOO_LONG, **STREAM))
def context_overflow_stream(answer: Answer) -> None:
    shapes.error(answer, 400, "context_length_exceeded")


@check(CHAT, asking() | {"n": -7})
def bad_parameter(answer: Answer) -> None:
    assert answer.status in (400, 422), answer.body[:500]
    assert answer.error["type"] == "invalid_request_error"


@check(CHAT, asking() | {"messages": [{"role": "user", "content": 7}]})
def wrong_type(answer: Answer) -> None:
    assert answer.status in (400, 422), answer.body[:500]
    assert answer.error["type"] == "invalid_request_error"


@check(CHAT, asking() | {"max_tokens": "many"})
def wrong_type_known(answer: Answer) -> None:
    assert shapes.error(answer, 400)["param"] == "max_tokens"


@check(CHAT, asking() | {"messages": []})
def no_messages(answer: Answer) -> None:
    assert shapes.error(answer, 400)["param"] == "messages"
