"""The TGI adapter with answers that other projects recorded.

The files belong to those projects and are not in this repository: the environment variable `FIELD_RECORDINGS` names the
folder with them. Without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from backends.base import Operation, Reply, Request
from backends.engines.tgi.engine import TGI

FOLDER = Path(os.environ.get("FIELD_RECORDINGS", "/nowhere")) / "tgi"
ENGINE = TGI()

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="FIELD_RECORDINGS is not set")


def recorded(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def request(stream: bool) -> Request:
    return Request(
        Operation.CHAT, b'{"model":"public","messages":[]}', "public", stream, include_usage=stream
    )


@pytest.mark.parametrize("name", ["test_flash_llama_simple", "test_flash_llama_grammar_tools_auto_nostream"])
def test_whole_answers(name: str) -> None:
    reply = ENGINE.reply(request(False), "up", (), json.dumps(recorded(name)).encode())
    assert isinstance(reply, Reply) and reply.usage is not None
    answer = json.loads(reply.body)
    (choice,) = answer["choices"]
    calls = choice["message"]["tool_calls"]
    assert answer["model"] == "public" and answer["id"]
    assert choice["finish_reason"] == ("tool_calls" if calls else "length")
    assert all(call["id"] != "0" for call in calls or ())
    assert reply.usage.output == recorded(name)["usage"]["completion_tokens"]


@pytest.mark.parametrize("name", ["test_chat_openai_nousage", "test_flash_llama_completion_stream_usage"])
def test_streams(name: str) -> None:
    chunks = recorded(name)
    stream = ENGINE.decoder(request(True), "up")
    data = b"".join(
        b"data:" + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n" for chunk in chunks
    )
    out = stream.feed(data) + stream.feed(b"data: [DONE]\n\n") + stream.close()
    said = [json.loads(event[6:]) for event in out.split(b"\n\n")[:-2]]
    text = "".join(c["choices"][0]["delta"]["content"] for c in chunks if c["choices"])
    assert "".join(event["choices"][0]["delta"]["content"] for event in said if event["choices"]) == text
    assert stream.finished and stream.failure is None and out.endswith(b"data: [DONE]\n\n")
    assert {event["model"] for event in said} == {"public"} and all(event["id"] for event in said)
    assert (stream.usage is not None) is bool(chunks[-1]["usage"])
