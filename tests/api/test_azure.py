"""Azure's paths: a deployment is a model, whatever the body names."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from gateway.api.azure import Meant, meant
from gateway.fake.engine import FakeEngine
from tests.api.asking import FORM, TRANSCRIPTIONS, WAV, answered, answering, form
from tests.serving import serving

CONFIG = """
backends: {{a: {{engine: openai, url: "{url}"}}}}
models:
  public: {{targets: {{a: up}}}}
  org/other: {{targets: {{a: up}}}}
keys: {{user: {{value: "${{env.USER}}"}}}}
"""
ENVIRON = {"USER": "sk-the-users-own-key"}


@pytest.mark.parametrize(
    ("path", "is_meant"),
    [
        ("/openai/deployments/m/chat/completions", Meant("/v1/chat/completions", "m")),
        ("/openai/deployments/org%2Fm/embeddings", Meant("/v1/embeddings", "org/m")),
        ("/openai/v1/chat/completions", Meant("/v1/chat/completions")),
        ("/openai/models", Meant("/v1/models")),
        ("/openai/deployments", Meant("/v1/deployments")),
        ("/openai/deployments/m", Meant("/v1/deployments/m")),
        ("/openai", Meant("/openai")),
        ("/v1/chat/completions", Meant("/v1/chat/completions")),
    ],
)
def test_what_a_path_means(path: str, is_meant: Meant) -> None:
    assert meant(path) == is_meant


@pytest.mark.parametrize("deployment", ["public", "org/other"])
async def test_azures_client_of_the_sdk(deployment: str, tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url), ENVIRON, alone=False) as served,
        openai.AsyncAzureOpenAI(
            azure_endpoint=served.url, api_key=ENVIRON["USER"], api_version="2024-10-21", max_retries=0
        ) as client,
    ):
        hello: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
        whole = await client.chat.completions.create(model=deployment, messages=hello)
        assert (whole.model, bool(whole.choices[0].message.content)) == (deployment, True)
        stream = await client.chat.completions.create(model=deployment, messages=hello, stream=True)
        pieces = [piece async for piece in stream]
        assert pieces[-1].choices[0].finish_reason == "stop"
        vectors = await client.embeddings.create(model=deployment, input=["a", "b"])
        assert len(vectors.data) == 2 and isinstance(vectors.data[0].embedding[0], float)
        assert "public" in [model.id async for model in client.models.list()]
        asked = [each for each in engine.requests if each.path == "/v1/chat/completions"]
        assert [each.json()["model"] for each in asked] == ["up", "up"]
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.chat.completions.create(model="none", messages=hello)
        assert unknown.value.code == "model_not_found"


async def test_the_deployment_counts_more_than_the_body(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url), ENVIRON) as served,
    ):
        path = "/openai/deployments/public/chat/completions?api-version=2024-10-21"
        hello = {"messages": [{"role": "user", "content": "hi"}]}
        for body in (hello, {**hello, "model": "org/other"}, {**hello, "model": "none"}):
            answer = await served.post(path, body, api_key=ENVIRON["USER"])
            assert (answer.status, answer.json()["model"]) == (200, "public")
        assert (await served.post(path, hello, api_key="sk-wrong")).status == 401


async def test_a_form_goes_to_its_deployment(tmp_path: Path) -> None:
    async with answered(tmp_path, answering(TRANSCRIPTIONS, {"text": "hello"})) as (_, served):
        path = "/openai/deployments/public/audio/transcriptions?api-version=2024-10-21"
        for parts in ((("file", WAV),), (("model", "none"), ("file", WAV))):
            answer = await served.post(path, form(*parts), content_type=FORM)
            assert (answer.status, answer.json()) == (200, {"text": "hello"})
