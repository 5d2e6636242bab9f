"""A model's parameters and system prompt, from the config to the engine's socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.serving import Served, serving

CONFIG = """
backends:
  one: {{engine: openai, url: "{one}", models: [up]}}
  two: {{engine: openai, url: "{two}", models: [up]}}
models:
  plain: {{targets: {{two: up}}}}
  pirate:
    targets: {{one: up}}
    fallback: [sailor]
    system: Arr.
    parameters:
      set: {{temperature: 0.25}}
      default: {{max_tokens: 7, chat_template_kwargs.enable_thinking: false}}
      strip: [logit_bias]
      clamp: {{top_p: [0.1, 0.9], n: [1, 1]}}
  sailor: {{targets: {{two: up}}, system: {{text: Ahoy., mode: replace}}, parameters: {{default: {{max_tokens: 9}}}}}}
"""
SAYS = [{"say": "yes"}]


async def sent(served: Served, engine: FakeEngine, body: bytes, path: str = "/v1/chat/completions") -> bytes:
    answer = await served.post(path, body)
    assert answer.status == 200, answer.body
    return engine.requests[-1].body


async def test_a_persona_to_the_byte(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], rules=SAYS) as one,
        FakeEngine(models=["up"], rules=SAYS) as two,
        serving(tmp_path, CONFIG.format(one=one.url, two=two.url)) as served,
    ):
        tail = b'"messages" : [{"role":"user", "content":"\\u00e9"}] , "logit_bias": {"1": 2},"top_p":1.00, "n" : 1}'
        assert await sent(served, one, b'{ "model":"pirate",' + tail) == (
            b'{ "max_tokens":7,"chat_template_kwargs":{"enable_thinking":false},"temperature":0.25,"model":"up",'
            b'"messages" : [{"role":"system","content":"Arr."},{"role":"user", "content":"\\u00e9"}],"top_p":0.9, '
            b'"n" : 1}'
        )
        assert await sent(served, two, b'{ "model":"plain",' + tail) == b'{ "model":"up",' + tail


async def test_a_fallback_has_rules_of_its_own(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], rules=[{"reply": {"status": 500}}]) as one,
        FakeEngine(models=["up"], rules=SAYS) as two,
        serving(tmp_path, CONFIG.format(one=one.url, two=two.url)) as served,
    ):
        body = {
            "model": "pirate",
            "messages": [{"role": "system", "content": "I"}, {"role": "user", "content": "x"}],
        }
        answer = await served.post("/v1/chat/completions", body)
        assert (answer.status, answer.headers["x-gateway-model"]) == (200, "sailor")
        first, second = one.requests[-1].json(), two.requests[-1].json()
        assert (first["max_tokens"], first["temperature"], first["messages"]) == (7, 0.25, body["messages"])
        assert second == {
            "max_tokens": 9,
            "model": "up",
            "messages": [{"role": "system", "content": "Ahoy."}, {"role": "user", "content": "x"}],
        }


async def test_an_answer_for_each_choice_that_is_left(tmp_path: Path) -> None:
    """A client that asked for four choices has its whole answer with the one that the rules left."""
    async with (
        FakeEngine(models=["up"], rules=SAYS) as one,
        serving(tmp_path, CONFIG.format(one=one.url, two=one.url)) as served,
    ):
        body = {"model": "pirate", "n": 4, "stream": True, "messages": [{"role": "user", "content": "x"}]}
        answer = await served.post("/v1/chat/completions", body)
        assert one.requests[-1].json()["n"] == 1
        assert answer.whole and answer.events[-1] == "[DONE]"
        assert {choice["index"] for event in answer.events[:-1] for choice in event["choices"]} == {0}


@pytest.mark.parametrize(
    ("path", "body", "then"),
    [
        (
            "/v1/responses",
            {"input": "x"},
            {"instructions": "Arr.", "max_output_tokens": 7, "temperature": 0.25},
        ),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3},
            {"system": "Arr.", "max_tokens": 3, "temperature": 0.25},
        ),
        ("/v1/completions", {"prompt": "x"}, {"max_tokens": 7, "temperature": 0.25}),
    ],
)
async def test_other_apis(path: str, body: dict[str, Any], then: dict[str, Any], tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as one,
        serving(tmp_path, CONFIG.format(one=one.url, two=one.url).replace("openai", "vllm")) as served,
    ):
        await served.post(path, {"model": "pirate", **body})
        asked = [made.json() for made in one.requests if made.path == path]
        assert asked and asked[0].items() >= then.items()


async def test_a_form_and_its_boundary(tmp_path: Path) -> None:
    text = CONFIG.replace("default: {{", "default: {{prompt: a--B, language: de, ", 1)
    async with (
        FakeEngine(models=["up"]) as one,
        serving(tmp_path, text.format(one=one.url, two=one.url)) as served,
    ):

        def form(mark: str) -> bytes:
            lines = []
            for name, value in (("model", "pirate"), ("file", "abc")):
                lines.append(f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n')
            return "".join([*lines, f"--{mark}--\r\n"]).encode()

        kind = "multipart/form-data; boundary="
        await served.post("/v1/audio/transcriptions", form("X"), content_type=kind + "X")
        upload = next(made.body for made in one.requests if made.method == "POST")
        for name, value in (("prompt", "a--B"), ("language", "de"), ("temperature", "0.25"), ("model", "up")):
            assert f'name="{name}"\r\n\r\n{value}\r\n--X'.encode() in upload
        asked = len(one.requests)
        refused = await served.post("/v1/audio/transcriptions", form("B"), content_type=kind + "B")
        assert refused.status == 400 and "boundary" in refused.error["message"]
        assert not [made for made in one.requests[asked:] if made.method == "POST"]
