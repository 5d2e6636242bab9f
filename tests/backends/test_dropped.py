"""Which of a client's members are told to be left out, and that its answer says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.base import Operation, Request
from backends.dialect.dropped import dropped
from backends.engines.ollama.engine import Ollama
from backends.engines.tensorrt_llm import TensorRTLLM
from backends.engines.transformers import Transformers
from gateway.fake.engine import FakeEngine
from tests.serving import serving

CHAT = "/v1/chat/completions"
ASKED = {"model": "public", "messages": [{"role": "user", "content": "Hi"}]}


def test_what_asks_for_nothing_is_left_out_without_a_word() -> None:
    idle = dict.fromkeys(("a", "b", "c"), b"null") | {"d": b"false", "e": b"[]", "f": b'""'}
    assert dropped({**idle, "user": b'"u"', "metadata": b'{"a":"b"}', "model": b'"m"'}, ()) == ()
    assert dropped({"top_k": b"3", "kept": b"1"}, ("kept",)) == ("top_k",)


def test_only_names_that_are_safe_in_a_header_are_told() -> None:
    strange = ("a\r\nx: y", "a b", "größe", "a" * 65, "", "a,b")
    assert dropped(dict.fromkeys((*strange, "fine"), b"1"), ()) == ("fine",)
    assert len(dropped({f"name_{number}": b"1" for number in range(99)}, ())) == 16


@pytest.mark.parametrize("engine", [Ollama(), TensorRTLLM(), Transformers()])
def test_engines_that_take_known_members_only_say_what_they_are_not_sent(
    engine: Ollama | TensorRTLLM | Transformers,
) -> None:
    body = json.dumps({**ASKED, "n": 1, "temperature": 0, "user": "u", "mirostat_tau": 5}).encode()
    call = engine.call(Request(Operation.CHAT, body, "public"), "m")
    assert call.dropped == ("mirostat_tau",)
    assert b"mirostat_tau" not in call.body


async def test_the_answer_names_what_was_dropped(tmp_path: Path) -> None:
    async with FakeEngine(models=["demo"]) as engine:
        text = (
            f'backends: {{e: {{engine: tensorrt-llm, url: "{engine.url}"}}}}\n'
            "models: {public: {targets: {e: demo}}}\n"
        )
        async with serving(tmp_path, text) as served:
            for stream in (False, True):
                asked = {**ASKED, "stream": stream, "mirostat_tau": 5, "other": [1]}
                answer = await served.post(CHAT, asked)
                assert (answer.status, answer.headers["x-gateway-dropped"]) == (200, "mirostat_tau, other")
            assert "x-gateway-dropped" not in (await served.post(CHAT, ASKED)).headers
