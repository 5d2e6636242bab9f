"""What the tests of the real servers of LMDeploy and SGLang share: a gateway in front of one, and what it is asked.

Both have a scripted model behind them: what it says stands in the question, see `scripted/script.py`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.conformance.shapes import MODEL
from tests.engines.hosts import Hosts
from tests.serving import Answer, Served, serving

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"

CONFIG = """
backends:
  engine: {{engine: {engine}, url: "{url}", api_key: known, models: [demo, "demo:sql"]}}
models:
  {public}: {{targets: {{engine: demo}}}}
  adapter: {{targets: {{engine: "demo:sql"}}}}
"""

PORT = {
    "name": "get_port",
    "description": "The port of an engine.",
    "parameters": {"type": "object", "properties": {"engine": {"type": "string"}}, "required": ["engine"]},
}
WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TWO_CALLS = {"calls": [["get_port", {"engine": "ollama"}], ["get_weather", {"city": "Köln"}]]}


@contextlib.asynccontextmanager
async def gateway(hosts: Hosts, engine: str, folder: Path) -> AsyncIterator[Served]:
    """Yield a gateway in front of the engine's real server."""
    async with hosts.tap(engine) as tap:
        text = CONFIG.format(engine=engine, url=tap.url, public=MODEL)
        async with serving(folder, text, patient=False, alone=False) as served:
            yield served


def script(**said: Any) -> str:
    """Return a prompt that makes the scripted model say this."""
    return f"Go. @{json.dumps(said)}@"


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def history(arguments: str) -> list[dict[str, Any]]:
    """Return the messages of a chat in which the assistant has called a tool with these arguments."""
    call = {"id": "c", "type": "function", "function": {"name": "get_port", "arguments": arguments}}
    return [
        *user("Which port?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "11434"},
        *user(script(say="fine")),
    ]


def chat(**said: Any) -> dict[str, Any]:
    """Return a chat request to which the model says this."""
    return {"model": MODEL, "messages": user(script(**said)), "max_tokens": 200, "temperature": 0}


def completion(**said: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": script(**said), "max_tokens": 200, "temperature": 0}


def response(**said: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": script(**said), "max_output_tokens": 200}


def message(**said: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": user(script(**said)), "max_tokens": 200}


def prompt_of(answer: Answer) -> str:
    """Return what a model that says its prompt again was asked."""
    assert answer.status == 200, answer.body[:500]
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def events(answer: Answer) -> list[dict[str, Any]]:
    """Return the payloads of a stream of named events; `[DONE]` is left out."""
    assert answer.status == 200, answer.body[:500]
    lines = [line[6:] for line in answer.body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def text_of(answer: Answer) -> tuple[str, str | None]:
    """Return the text of a chat or completion, whole or streamed, and why it ended."""
    assert answer.status == 200, answer.body[:500]
    if answer.headers["content-type"].startswith("application/json"):
        (choice,) = answer.json()["choices"]
        return choice["message"]["content"] if "message" in choice else choice["text"], choice[
            "finish_reason"
        ]
    choices = [choice for event in events(answer) for choice in event["choices"]]
    text = "".join(
        (choice.get("delta") or choice).get("content") or choice.get("text") or "" for choice in choices
    )
    return text, choices[-1]["finish_reason"]


def untouched(served: Served) -> bool:
    """Return whether nothing was held against the backend."""
    return not served.gateway.pool.backends["engine"].breaker.open


def forgive(served: Served) -> None:
    """Forget the failures that a test has provoked, so that the next one finds the backend as at first."""
    backend = served.gateway.pool.backends["engine"]
    backend.breaker = backend.breaker.anew()
    backend.evidence.clear()
