"""LangChain's OpenAI classes, unmodified: asking, streaming, usage, structured answers, embeddings.

Rules:
- LangChain is imported by the tests that use it: it takes a second, in each process that collects this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pytest
from pydantic import BaseModel

from tests.clients.process import Running

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI

pytestmark = pytest.mark.slow

QUESTION = "What is this gateway?"
ANSWER = "one OpenAI-compatible URL"


def where(gateway: Running) -> dict[str, Any]:
    """Return the options every class of LangChain's takes; mypy knows them by other names."""
    return {"model": "demo", "base_url": f"{gateway.url}/v1", "api_key": "-", "max_retries": 0}


@pytest.fixture
def chat(gateway: Running) -> ChatOpenAI:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(**where(gateway), temperature=0)


def test_invoke(chat: ChatOpenAI) -> None:
    answer = chat.invoke(QUESTION)
    assert ANSWER in answer.content
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"] == "demo"
    usage = answer.usage_metadata
    assert usage is not None and usage["output_tokens"] > 5
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_a_conversation(chat: ChatOpenAI) -> None:
    from langchain_core.messages import HumanMessage, SystemMessage

    system = SystemMessage("You are a helpful assistant.")
    first = HumanMessage("What port does vLLM use?")
    answer = chat.invoke([system, first])
    assert "8000" in answer.content
    assert chat.invoke([system, first, answer, HumanMessage(QUESTION)]).content


def test_stream(chat: ChatOpenAI) -> None:
    from langchain_core.messages import AIMessageChunk

    whole = AIMessageChunk(content="")
    pieces = 0
    for chunk in chat.stream(QUESTION, stream_usage=True):
        assert isinstance(chunk, AIMessageChunk)
        whole += chunk
        pieces += 1
    assert pieces > 10
    assert whole.content == chat.invoke(QUESTION).content
    assert whole.usage_metadata is not None and whole.usage_metadata["output_tokens"] > 5


def test_stream_without_usage(chat: ChatOpenAI) -> None:
    assert not any(chunk.usage_metadata for chunk in chat.stream(QUESTION, stream_usage=False))


async def test_async(chat: ChatOpenAI) -> None:
    assert ANSWER in (await chat.ainvoke(QUESTION)).content
    assert ANSWER in "".join([str(chunk.content) async for chunk in chat.astream(QUESTION)])


def test_batch(chat: ChatOpenAI) -> None:
    answers = chat.batch([QUESTION] * 6)
    assert {answer.content for answer in answers} == {chat.invoke(QUESTION).content}


class Choice(BaseModel):
    """A shape to answer in."""

    engine: Literal["vllm", "ollama"]
    gpu: bool


def test_structured_output(chat: ChatOpenAI) -> None:
    structured = chat.with_structured_output(Choice, method="json_schema")
    assert isinstance(structured.invoke(QUESTION), Choice)


def test_embeddings(gateway: Running) -> None:
    from langchain_openai import OpenAIEmbeddings

    # Unless told not to, LangChain cuts the text into the tokens of OpenAI's own models.
    embeddings = OpenAIEmbeddings(**where(gateway), check_embedding_ctx_length=False)
    vectors = embeddings.embed_documents(["What is vLLM?", "What is Ollama?"])
    assert [len(vector) for vector in vectors] == [256, 256]
    assert vectors[0] != vectors[1]
    assert embeddings.embed_query("What is vLLM?") == pytest.approx(vectors[0], abs=1e-6)
