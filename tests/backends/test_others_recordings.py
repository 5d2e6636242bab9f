"""The Ollama adapter with answers of real servers that other projects recorded.

The files belong to those projects and are not in this repository: the environment variable `FIELD_RECORDINGS` names the
folder with `ollama/*`. Without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from backends.base import Kind, ModelCard, Operation, Reply, Request, Signal, Status, Usage
from backends.engines.ollama.engine import Ollama, OllamaOptions

FOLDER = Path(os.environ.get("FIELD_RECORDINGS", "")) / "ollama"

pytestmark = pytest.mark.skipif(
    "FIELD_RECORDINGS" not in os.environ, reason="FIELD_RECORDINGS names no folder"
)


def cassette(name: str) -> tuple[dict[str, Any], bytes, str]:
    """Return the request's body, the answer's bytes and its content type."""
    (exchange,) = yaml.safe_load((FOLDER / f"{name}.cassette.yaml").read_text(encoding="utf-8"))[
        "interactions"
    ]
    answer = exchange["response"]
    return (
        json.loads(exchange["request"]["body"]),
        answer["body"]["string"].encode(),
        answer["headers"]["Content-Type"][0],
    )


def recording(name: str) -> tuple[dict[str, Any], Any]:
    """Return a request and its answer as objects of an SDK."""
    told = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return told["request"]["body"], told["response"]


def events(stream: bytes) -> list[dict[str, Any]]:
    *chunks, done, _ = stream.split(b"\n\n")
    assert done == b"data: [DONE]"
    return [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
def test_a_chat_stream_of_2024(size: int) -> None:
    asked, answer, kind = cassette("api_chat_stream")
    assert kind.encode().startswith(Ollama.stream_types)
    request = Request(Operation.CHAT, b"{}", "public", True, True, True)
    decoder = Ollama().decoder(request, asked["model"])
    out = (
        b"".join([decoder.feed(answer[at : at + size]) for at in range(0, len(answer), size)])
        + decoder.close()
    )
    assert (decoder.failure, decoder.finished, decoder.usage) == (None, True, Usage(17, 50))
    chunks = events(out)
    for chunk in chunks:
        assert ChatCompletionChunk.model_validate(chunk, strict=True).model == "public"
    said = [json.loads(line)["message"]["content"] for line in answer.splitlines()]
    assert "".join(
        choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]
    ) == "".join(said)
    assert (chunks[-2]["choices"][0]["finish_reason"], chunks[-1]["usage"]["total_tokens"]) == ("stop", 67)


def test_a_completion_stream_of_2024() -> None:
    asked, answer, _ = cassette("api_generate_stream")
    request = Request(Operation.COMPLETIONS, b"{}", "public", True)
    decoder = Ollama().decoder(request, asked["model"])
    chunks = events(decoder.feed(answer) + decoder.close())
    lines = [json.loads(line) for line in answer.splitlines()]
    assert decoder.finished and decoder.usage is not None
    assert decoder.usage.output == lines[-1]["eval_count"]
    for chunk in chunks[:-1]:
        # OpenAI's type requires a reason in every chunk; engines send it only in the last one.
        chunk["choices"][0]["finish_reason"] = "stop"
    assert "".join(Completion.model_validate(chunk).choices[0].text for chunk in chunks) == "".join(
        line["response"] for line in lines
    )


@pytest.mark.parametrize(
    ("name", "operation"),
    [("api_chat_stream", Operation.CHAT), ("api_generate_stream", Operation.COMPLETIONS)],
)
def test_what_the_official_client_sent_is_what_goes_out(name: str, operation: Operation) -> None:
    """Except for members that the client of 2024 sent empty, and that the gateway's completions are raw."""
    asked, _, _ = cassette(name)
    body = {key: asked[key] for key in ("model", "messages", "prompt", "stream") if key in asked}
    call = Ollama().call(Request(operation, json.dumps(body).encode(), body["model"], True), asked["model"])
    sent = json.loads(call.body)
    raw = {"raw": True, "think": False} if operation is Operation.COMPLETIONS else {}
    assert sent == body | raw
    assert all(not asked[key] for key in asked.keys() - sent.keys())


def test_nothing_in_memory() -> None:
    _, answer = recording("api_ps")
    told = json.dumps(answer["body"]["__data__"]).encode()
    reading = Ollama().signals_of([told])[Signal.MODELS]
    assert (reading.status, reading.value, reading.names) == (Status.OK, 0.0, ())


OVER_V1 = Ollama(OllamaOptions(api="openai"))


@pytest.mark.parametrize("name", ["v1_chat_stream_usage", "v1_completions_stream"])
def test_streams_of_v1(name: str) -> None:
    _, answer = recording(name)
    chunks = [json.dumps(part["__data__"]).encode() for part in answer["body"]]
    decoder = OVER_V1.decoder(
        Request(Operation.CHAT, b"{}", "public", True, True, True), "llama3.2:3b-instruct-fp16"
    )
    stream = b"".join(b"data: " + chunk + b"\n\n" for chunk in [*chunks, b"[DONE]"])
    out = decoder.feed(stream) + decoder.close()
    assert decoder.finished and decoder.failure is None and decoder.content > 0
    assert {chunk["model"] for chunk in events(out)} == {"public"}


def test_a_whole_answer_of_v1() -> None:
    _, answer = recording("v1_chat_nonstream")
    body = json.dumps(answer["body"]["__data__"]).encode()
    reply = OVER_V1.reply(Request(Operation.CHAT, b"{}", "public"), "llama3.2:3b-instruct-fp16", (), body)
    assert isinstance(reply, Reply) and reply.usage == Usage(29, 20)


def test_an_error_of_v1() -> None:
    _, answer = recording("v1_chat_error")
    told = answer["exception_data"]
    failure = OVER_V1.failure(told["status_code"], (), json.dumps({"error": told["body"]}).encode())
    assert (failure.kind, failure.message) == (Kind.REJECTED, "invalid image input")


def test_the_models_of_v1_are_asked_for_by_tags() -> None:
    """Recordings of `/v1/models` have the same names as `/api/tags`, and nothing else of use."""
    _, answer = recording("v1_models")
    names = [model["__data__"]["id"] for model in answer["body"]]
    tags = json.dumps({"models": [{"name": name} for name in names]}).encode()
    assert OVER_V1.models_of(tags) == tuple(map(ModelCard, names))
