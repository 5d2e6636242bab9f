"""OpenAI's Python SDK on the operations beside chat: the Responses API, its forms, sound, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from gateway.fake.engine import FakeEngine
from gateway.fake.script import Fault, Http
from tests.api.asking import EVENTS, SPEECH, STREAMS, TRANSCRIPTIONS, WAV, answered, answering, event
from tests.serving import Served

pytestmark = pytest.mark.slow

ANSWER = "one OpenAI-compatible URL"
QUESTION = "What is this gateway?"


def test_a_response(client: openai.OpenAI) -> None:
    said = client.responses.create(model="demo", input=QUESTION, max_output_tokens=24, temperature=0)
    assert ANSWER in said.output_text
    assert (said.model, said.usage and said.usage.output_tokens) == ("demo", 24)


def test_a_streamed_response(client: openai.OpenAI) -> None:
    asked = client.responses.create(
        model="demo", input=QUESTION, max_output_tokens=24, temperature=0, stream=True
    )
    events = list(asked)
    text = "".join(one.delta for one in events if one.type == "response.output_text.delta")
    assert ANSWER in text
    assert (events[0].type, events[-1].type) == ("response.created", "response.incomplete")


REFUSED: dict[str, Callable[[openai.OpenAI], object]] = {
    "speech": lambda client: client.audio.speech.create(model="demo", input="hi", voice="x"),
    "images": lambda client: client.images.generate(model="demo", prompt="a cat"),
    "transcriptions": lambda client: client.audio.transcriptions.create(model="demo", file=("a.wav", WAV)),
}


@pytest.mark.parametrize("operation", REFUSED)
def test_what_the_engine_cannot_do_is_asked_for_once(operation: str, client: openai.OpenAI) -> None:
    """Also by an SDK that repeats what failed with a status of 500 or more."""
    answers = []
    patient = client.with_options(max_retries=2)
    patient._client.event_hooks["response"].append(lambda answer: answers.append(answer.status_code))
    try:
        with pytest.raises(openai.BadRequestError) as caught:
            REFUSED[operation](patient)
    finally:
        patient._client.event_hooks["response"].clear()
    assert (caught.value.status_code, caught.value.code) == (400, "not_supported")
    assert answers == [400]


def sdk(served: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="-", max_retries=0)


async def test_a_transcription(tmp_path: Path) -> None:
    async with (
        answered(tmp_path, answering(TRANSCRIPTIONS, {"text": "hello"})) as (engine, served),
        sdk(served) as client,
    ):
        said = await client.audio.transcriptions.create(
            model="public", file=("a.wav", WAV), language="en", timestamp_granularities=["word", "segment"]
        )
        assert said.text == "hello"
        assert WAV in posted(engine) and b'name="model"\r\n\r\nprivate\r\n' in posted(engine)


async def test_a_streamed_transcription(tmp_path: Path) -> None:
    said = event("transcript.text.delta", delta="Hi") + event("transcript.text.done", text="Hi")
    async with (
        answered(tmp_path, answering(TRANSCRIPTIONS, said, EVENTS)) as (_, served),
        sdk(served) as client,
    ):
        asked = await client.audio.transcriptions.create(model="public", file=("a.wav", WAV), stream=True)
        assert [one.type async for one in asked] == ["transcript.text.delta", "transcript.text.done"]


async def test_speech(tmp_path: Path) -> None:
    sound = bytes(range(256)) * 100
    async with (
        answered(tmp_path, answering(SPEECH, sound, "audio/mpeg")) as (_, served),
        sdk(served) as client,
        client.audio.speech.with_streaming_response.create(model="public", input="hi", voice="x") as said,
    ):
        assert said.headers["content-type"] == "audio/mpeg"
        assert b"".join([piece async for piece in said.iter_bytes()]) == sound


async def test_a_response_that_breaks_off_is_no_success(tmp_path: Path) -> None:
    begin = STREAMS["responses"].begin
    pause = Fault(at=f"body byte {len(begin)}", do="hang", duration=0.05)
    rule = answering("/v1/responses", begin + " ", EVENTS, http=Http(framing="chunked"), faults=[pause])
    events: list[str] = []

    async def read(client: openai.AsyncOpenAI) -> None:
        async for said in await client.responses.create(model="public", input="hi", stream=True):
            events.append(said.type)  # noqa: PERF401 -- it must not be lost when the stream breaks

    async with answered(tmp_path, rule) as (_, served), sdk(served) as client:
        await read(client)
    assert events == ["response.created", "response.output_text.delta", "error", "response.failed"]


def posted(engine: FakeEngine) -> bytes:
    return engine.requests[-1].body
