"""OpenAI's Python SDK, unmodified, with llama.cpp behind the gateway: every way of asking gets its answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from tests.clients.questions import QUESTIONS

pytestmark = pytest.mark.slow

ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is this gateway?"}]
ANSWER = "one OpenAI-compatible URL"
EXACT: dict[str, Any] = {"model": "demo", "messages": ASKED, "temperature": 0}
STREAMS = 20


def text(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def finish_reasons(chunks: list[ChatCompletionChunk]) -> list[str]:
    return [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]


@pytest.fixture(scope="module")
def answer(client: openai.OpenAI) -> str:
    """Return the model's whole answer to ASKED at temperature 0."""
    said = client.chat.completions.create(**EXACT).choices[0].message.content
    assert said and ANSWER in said
    return str(said)


def test_chat(client: openai.OpenAI, answer: str) -> None:
    completion = client.chat.completions.create(model="demo", messages=ASKED, temperature=0)
    assert completion.object == "chat.completion"
    assert completion.model == "demo"
    [choice] = completion.choices
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "stop", "assistant")
    assert choice.message.content == answer
    assert completion.usage is not None
    assert completion.usage.completion_tokens > 5
    assert (
        completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    )


async def test_chat_async(async_client: openai.AsyncOpenAI, answer: str) -> None:
    completion = await async_client.chat.completions.create(**EXACT)
    assert completion.choices[0].message.content == answer


def test_stream(client: openai.OpenAI, answer: str) -> None:
    chunks = list(client.chat.completions.create(**EXACT, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert text(chunks) == answer
    assert len(chunks) > 10, "tokens must come one by one"
    assert finish_reasons(chunks) == ["stop"]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1


async def test_stream_async(async_client: openai.AsyncOpenAI, answer: str) -> None:
    stream = await async_client.chat.completions.create(**EXACT, stream=True)
    chunks = [chunk async for chunk in stream]
    assert text(chunks) == answer
    assert finish_reasons(chunks) == ["stop"]


def test_a_stream_without_usage_has_none(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**EXACT, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_a_stream_with_usage_has_it_once_at_its_end(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**EXACT).usage
    *chunks, last = client.chat.completions.create(
        **EXACT, stream=True, stream_options={"include_usage": True}
    )
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None and whole is not None
    assert last.usage.prompt_tokens == whole.prompt_tokens
    assert last.usage.completion_tokens == whole.completion_tokens


def test_the_stream_helper_of_the_sdk(client: openai.OpenAI, answer: str) -> None:
    with client.chat.completions.stream(**EXACT) as stream:
        kinds = {event.type for event in stream}
        assert stream.get_final_completion().choices[0].message.content == answer
    assert {"chunk", "content.delta", "content.done"} <= kinds


def test_an_alias_is_the_model_by_the_name_that_was_asked_for(client: openai.OpenAI, answer: str) -> None:
    asked = EXACT | {"model": "gpt-4o-mini"}
    completion = client.chat.completions.create(**asked)
    assert (completion.model, completion.choices[0].message.content) == ("gpt-4o-mini", answer)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert ({chunk.model for chunk in chunks}, text(chunks)) == ({"gpt-4o-mini"}, answer)
    vectors = client.embeddings.create(model="gpt-4o-mini", input="hello")
    assert vectors.model == "gpt-4o-mini"


@pytest.mark.parametrize("stream", [False, True])
def test_headers_of_the_raw_answer(client: openai.OpenAI, stream: bool) -> None:
    raw = client.chat.completions.with_raw_response.create(
        **EXACT, stream=stream, extra_headers={"x-request-id": "my-own-id"}
    )
    assert raw.headers["x-request-id"] == "my-own-id"
    assert raw.headers["x-gateway-backend"] == "local"
    assert raw.headers["x-gateway-model"] == "demo"
    assert raw.headers["x-gateway-attempts"] == "1"
    assert raw.headers["content-type"].startswith("text/event-stream" if stream else "application/json")
    answer: Any = raw.parse()
    reasons = finish_reasons(list(answer)) if stream else [answer.choices[0].finish_reason]
    assert reasons == ["stop"]


def test_request_ids_differ(client: openai.OpenAI) -> None:
    ids = [client.chat.completions.create(**EXACT, max_tokens=1)._request_id for _ in range(3)]
    assert all(ids) and len(set(ids)) == 3


def test_with_streaming_response(client: openai.OpenAI, answer: str) -> None:
    with client.chat.completions.with_streaming_response.create(**EXACT) as response:
        assert response.headers["x-gateway-backend"] == "local"
        body = json.loads(b"".join(response.iter_bytes()))
    assert body["choices"][0]["message"]["content"] == answer
    with client.chat.completions.with_streaming_response.create(**EXACT, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"


def test_completions(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "demo", "prompt": "The gateway is", "temperature": 0, "max_tokens": 20}
    completion = client.completions.create(**asked)
    assert completion.object == "text_completion"
    assert completion.choices[0].text.strip()
    chunks = list(client.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == completion.choices[0].text
    assert chunks[-1].choices[0].finish_reason == completion.choices[0].finish_reason


def test_embeddings_as_base64_and_as_numbers(client: openai.OpenAI) -> None:
    sentences = ["What is vLLM?", "What is Ollama?"]
    default = client.embeddings.create(model="demo", input=sentences)
    numbers = client.embeddings.create(model="demo", input=sentences, encoding_format="float")
    raw = client.embeddings.create(model="demo", input=sentences, encoding_format="base64")
    assert all(isinstance(item.embedding, str) for item in raw.data), (
        "base64 is what the SDK's default asks for"
    )
    assert [item.index for item in default.data] == [0, 1]
    for ours, theirs in zip(default.data, numbers.data, strict=True):
        assert len(ours.embedding) == len(theirs.embedding) == 256
        assert ours.embedding == pytest.approx(theirs.embedding, abs=1e-6)
    assert default.data[0].embedding != default.data[1].embedding
    assert default.usage.prompt_tokens > 0


async def test_embeddings_async(async_client: openai.AsyncOpenAI) -> None:
    answer = await async_client.embeddings.create(model="demo", input="hello")
    assert len(answer.data[0].embedding) == 256


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo", "gpt-4o-mini"]
    for name in ("demo", "gpt-4o-mini"):
        model = client.models.retrieve(name)
        assert (model.id, model.object) == (name, "model")


def test_json_object(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        **EXACT, response_format={"type": "json_object"}, max_tokens=200
    )
    assert completion.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(completion.choices[0].message.content or ""), dict)


class Choice(BaseModel):
    """A shape to answer in."""

    engine: Literal["vllm", "ollama"]
    gpu: bool


def test_json_schema(client: openai.OpenAI) -> None:
    completion = client.chat.completions.parse(**EXACT, response_format=Choice, max_tokens=200)
    assert isinstance(completion.choices[0].message.parsed, Choice)


def test_json_schema_in_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**EXACT, response_format=Choice, max_tokens=200) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Choice)


TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "port_of",
            "parameters": {
                "type": "object",
                "properties": {"engine": {"type": "string"}},
                "required": ["engine"],
            },
        },
    }
]


def test_tools_are_accepted(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(**EXACT, tools=TOOLS, max_tokens=200).choices[0].message
    assert message.content or message.tool_calls, "the demo model's chat template knows no tools"
    history: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "What is the port of Ollama?"},
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "port_of", "arguments": '{"engine": "ollama"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "11434"},
    ]
    stream = client.chat.completions.create(
        model="demo", messages=history, tools=TOOLS, max_tokens=50, stream=True
    )
    assert len(finish_reasons(list(stream))) == 1


def test_stop(client: openai.OpenAI, answer: str) -> None:
    word = answer.split()[3]
    completion = client.chat.completions.create(**EXACT, stop=[word])
    assert completion.choices[0].finish_reason == "stop"
    assert completion.choices[0].message.content == answer[: answer.index(word)]


def test_max_tokens(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(**EXACT, max_completion_tokens=3)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None and completion.usage.completion_tokens == 3


def test_two_choices(client: openai.OpenAI, answer: str) -> None:
    completion = client.chat.completions.create(**EXACT, n=2)
    assert sorted(choice.index for choice in completion.choices) == [0, 1]
    assert [choice.message.content for choice in completion.choices] == [answer, answer]
    chunks = list(client.chat.completions.create(**EXACT, n=2, stream=True))
    assert finish_reasons(chunks) == ["stop", "stop"]
    for index in (0, 1):
        parts = [chunk for chunk in chunks if chunk.choices[0].index == index]
        assert text(parts) == answer


def test_the_same_seed_gives_the_same_answer(client: openai.OpenAI) -> None:
    def ask(seed: int) -> str | None:
        # Without these llama.cpp drops unlikely tokens before the temperature can lift them.
        completion = client.chat.completions.create(
            model="demo",
            messages=ASKED,
            temperature=5,
            seed=seed,
            max_tokens=30,
            top_p=1,
            extra_body={"min_p": 0, "top_k": 0},
        )
        return completion.choices[0].message.content

    assert ask(1) == ask(1)
    assert len({ask(seed) for seed in range(5)}) > 1, "at this temperature chance must show"


def test_temperature_zero_always_says_the_same(client: openai.OpenAI, answer: str) -> None:
    said = {client.chat.completions.create(**EXACT).choices[0].message.content for _ in range(5)}
    assert said == {answer}


def test_logprobs(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(**EXACT, logprobs=True, top_logprobs=2, max_tokens=3)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert len(logprobs.content) == 3
    for token in logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 2
    assert "".join(token.token for token in logprobs.content) == completion.choices[0].message.content


def test_unicode_comes_and_goes_unharmed(client: openai.OpenAI) -> None:
    words = "Grüße, 世界 🌍 \u2028 \\ud83d \"quoted\" {'model': 'demo'}"
    completion = client.completions.create(
        model="demo", prompt=words, max_tokens=1, extra_body={"return_tokens": True}
    )
    assert completion.usage is not None and completion.usage.prompt_tokens > 10
    chat = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": words}], max_tokens=1
    )
    assert chat.usage is not None and chat.usage.prompt_tokens > completion.usage.prompt_tokens


async def test_many_streams_at_once(async_client: openai.AsyncOpenAI) -> None:
    async def ask(question: str) -> list[ChatCompletionChunk]:
        stream = await async_client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": question}], temperature=0, stream=True
        )
        return [chunk async for chunk in stream]

    questions = [entry.question for entry in QUESTIONS[:STREAMS]]
    alone = [text(await ask(question)) for question in questions]
    answers = await asyncio.gather(*[ask(question) for question in questions])
    assert [text(chunks) for chunks in answers] == alone
    assert [finish_reasons(chunks) for chunks in answers] == [["stop"]] * STREAMS
    assert len({chunk.id for chunks in answers for chunk in chunks}) == STREAMS
