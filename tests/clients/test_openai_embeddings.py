"""OpenAI's Python SDK asks for base64 unless told not to: it reads vectors of engines that give numbers alone."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from gateway.fake.engine import FakeEngine
from tests.api.asking import answering
from tests.serving import serving

VECTOR = [0.5, -0.25, 0.75, 1.0]
ANSWER = {
    "object": "list",
    "model": "up",
    "data": [{"object": "embedding", "index": 0, "embedding": VECTOR}],
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}
CONFIG = """
backends: {{a: {{engine: llama-cpp-python, url: "{url}"}}}}
models: {{m: {{targets: {{a: up}}}}}}
"""


async def test_vectors_of_any_engine_are_read(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], rules=[answering("/v1/embeddings", ANSWER)]) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url), alone=False) as served,
        openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="-", max_retries=0) as client,
    ):
        plain = await client.embeddings.create(model="m", input="x")
        assert plain.data[0].embedding == VECTOR
        assert engine.requests[-1].json()["encoding_format"] == "base64"
        numbers = await client.embeddings.create(model="m", input="x", encoding_format="float")
        assert numbers.data[0].embedding == VECTOR
        short = await client.embeddings.create(model="m", input="x", dimensions=2)
        assert short.data[0].embedding == pytest.approx([0.8944272, -0.4472136])
        with pytest.raises(openai.BadRequestError) as refused:
            await client.embeddings.create(model="m", input="x", dimensions=5)
        assert refused.value.param == "dimensions"
