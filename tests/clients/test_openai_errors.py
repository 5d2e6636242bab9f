"""What OpenAI's SDK raises when the gateway refuses: the exception a program expects, with words a person can use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.clients.process import Running, running

pytestmark = pytest.mark.slow

ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is this gateway?"}]
TEAM_KEY = "team-key-of-some-length-0123456789abcdef"
CONTEXT = 2048


def ask(client: openai.OpenAI, **options: Any) -> Any:
    asked: dict[str, Any] = {"model": "demo", "messages": ASKED, "max_tokens": 5}
    return client.chat.completions.create(**asked | options)


def test_an_unknown_model_is_named_with_the_one_that_was_meant(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"'demoo' \(did you mean 'demo'\?\)") as caught:
        ask(client, model="demoo")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id
    with pytest.raises(openai.NotFoundError, match="models here: demo, gpt-4o-mini"):
        client.models.retrieve("another/one")


def test_an_unknown_url(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="/v1/vector_stores") as caught:
        client.vector_stores.create(name="a gateway")
    assert caught.value.code == "unknown_url"


@pytest.mark.parametrize(
    ("options", "param", "words"),
    [
        ({"temperature": "hot"}, "temperature", "temperature"),
        ({"messages": "hello"}, "messages", "messages"),
        ({"messages": []}, "messages", "messages"),
        ({"n": 1.5}, "n", "'n'"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream"),
        ({"model": ""}, "model", "model"),
        ({"messages": [{"role": "user"}]}, None, "content"),
        ({"response_format": {"type": "nonsense"}}, None, "nonsense"),
    ],
    ids=str,
)
def test_a_bad_request(client: openai.OpenAI, options: dict[str, Any], param: str | None, words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        ask(client, **options)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long(client: openai.OpenAI, stream: bool) -> None:
    words: list[ChatCompletionMessageParam] = [{"role": "user", "content": "port " * (CONTEXT + 100)}]
    with pytest.raises(openai.BadRequestError, match=str(CONTEXT)) as caught:
        ask(client, messages=words, stream=stream)
    assert caught.value.code == "context_length_exceeded"


def test_an_embedding_that_is_too_long(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="demo", input="port " * (CONTEXT + 100))
    assert caught.value.code == "context_length_exceeded"


def test_after_all_that_the_next_request_works(client: openai.OpenAI) -> None:
    assert ask(client).choices[0].message.content


@pytest.fixture(scope="module")
def keyed(gateway: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield a gateway that asks for a key, with the other gateway as its engine."""
    config = f"""
server: {{listen: "127.0.0.1:0"}}
backends:
  behind: {{engine: openai, url: "{gateway.url}"}}
models:
  demo: {{targets: {{behind: demo}}}}
  other: {{targets: {{behind: demo}}}}
keys:
  team: {{value: "${{env.TEAM_KEY}}", models: [demo]}}
"""
    with running(tmp_path_factory.mktemp("keyed"), config, {"TEAM_KEY": TEAM_KEY}) as started:
        started.wait_ready()
        yield started


@pytest.fixture(scope="module")
def team(keyed: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=TEAM_KEY, max_retries=0) as sdk:
        yield sdk


def test_the_right_key(team: openai.OpenAI) -> None:
    raw = team.chat.completions.with_raw_response.create(model="demo", messages=ASKED, temperature=0)
    assert raw.headers["x-gateway-backend"] == "behind"
    assert raw.parse().choices[0].finish_reason == "stop"
    chunks = list(ask(team, stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("key", ["wrong", TEAM_KEY[:-1], TEAM_KEY + "x", TEAM_KEY.upper()])
def test_a_wrong_key(team: openai.OpenAI, key: str) -> None:
    stranger = team.with_options(api_key=key)
    for attempt in (lambda: ask(stranger), lambda: ask(stranger, stream=True), stranger.models.list):
        with pytest.raises(openai.AuthenticationError) as caught:
            attempt()
        assert caught.value.code == "invalid_api_key"
        assert key not in str(caught.value)


def test_a_model_the_key_may_not_use(team: openai.OpenAI) -> None:
    """It is answered like one that does not exist, and the answer names those the key may use."""
    with pytest.raises(openai.NotFoundError, match="'other' for this API key; models here: demo") as caught:
        ask(team, model="other")
    assert caught.value.code == "model_not_found"
    assert [model.id for model in team.models.list()] == ["demo"]
    with pytest.raises(openai.NotFoundError):
        team.models.retrieve("other")
