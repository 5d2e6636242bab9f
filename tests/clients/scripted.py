"""The engines and the gateway that clients are run against, each a process of its own.

Rules:
- Three engines, each of another kind: `demo` is a real llama.cpp with the demo model, `scripted-chat` speaks OpenAI's
  chat and nothing else, `scripted-ollama` speaks Ollama's own API. What the scripted ones answer follows from words of
  the prompt.
- A dialect passes through where the engine speaks it, and is translated elsewhere: each is tried both ways.
- The gateway has keys, so that a wrong one is told as one.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gateway.keys import hash_key
from tests.clients.calling import CHAT, call, called
from tests.clients.process import ROOT, Output, Running, running
from tests.clients.programs.checks import CHOOSE, SUNNY, WEATHER

KEY = "sk-of-the-tests"
PAGE = "https://page.example"
"""The origin of a page that may call the gateway from a browser."""
SCRIPTED = "word0 word1 word2 word3 word4 word5 word6 word7"
CITY = {"city": "Oslo"}
CHOICE = {"engine": "vllm", "gpu": True}
ANSWER = f"It is {SUNNY}."
TOOLS = ("Choice", "final_result", "json", "json_tool_call")
"""The names of the tools by whose calls some clients have a structured answer told."""
OLLAMA = "/api/chat"


class Cause(NamedTuple):
    """A text in a request, and the scripted answer: words, or the call of a tool with its arguments."""

    contains: str
    words: str = ""
    tool: str = ""
    arguments: dict[str, Any] = {}


CAUSES = (
    Cause(SUNNY, ANSWER),
    Cause(WEATHER, tool="get_weather", arguments=CITY),
    *(Cause(f"Do it by {name}.", tool=name, arguments=CHOICE) for name in TOOLS),
    Cause(CHOOSE, json.dumps(CHOICE)),
)


def speaks_chat() -> dict[str, Any]:
    """Return the script of an engine that speaks OpenAI's chat; it counts words where no cause is met."""
    rules: list[dict[str, Any]] = []
    for cause in CAUSES:
        asked = {"path": CHAT, "contains": cause.contains}
        if not cause.tool:
            rules.append({"match": asked, "say": cause.words})
            continue
        events = list(call(cause.tool, cause.arguments))
        rules.append({"match": asked | {"stream": True}, "sse": {"events": events}})
        rules.append({"match": asked, "reply": {"body": called(cause.tool, cause.arguments)}})
    return {"models": ["fake"], "defaults": {"say": SCRIPTED}, "rules": rules}


def speaks_ollama() -> dict[str, Any]:
    """Return the script of a server with Ollama's API, as Ollama 0.33 answers it."""
    rules: list[dict[str, Any]] = []
    for cause in (*CAUSES, Cause("", SCRIPTED)):
        for stream in (True, False):
            asked = {"path": OLLAMA, "contains": cause.contains, "stream": stream}
            rules.append({"match": asked, "reply": _ollama(_messages(cause), stream=stream)})
    details = {"family": "fake", "parameter_size": "1B", "quantization_level": "Q4_0"}
    listed = {
        "name": "fake:latest",
        "model": "fake:latest",
        "size": 1,
        "digest": "0" * 64,
        "details": details,
    }
    shown = {"details": details, "model_info": {}, "capabilities": ["completion", "tools"]}
    told = {
        "/api/version": {"version": "0.33.0"},
        "/api/tags": {"models": [listed]},
        "/api/ps": {"models": []},
        "/api/show": shown,
    }
    rules += [
        {"match": {"path": path}, "reply": {"status": 200, "body": body}} for path, body in told.items()
    ]
    return {"rules": rules}


def _messages(cause: Cause) -> list[dict[str, Any]]:
    """Return the messages of an answer's lines."""
    if cause.tool:
        function = {"name": cause.tool, "arguments": cause.arguments}
        return [{"role": "assistant", "content": "", "tool_calls": [{"function": function}]}]
    words = cause.words.split(" ")
    pieces = [words[0], *(f" {word}" for word in words[1:])]
    return [{"role": "assistant", "content": piece} for piece in pieces]


def _ollama(messages: list[dict[str, Any]], *, stream: bool) -> dict[str, Any]:
    """Return the reply that says `messages`: lines, or one object with all of their text."""
    about = {"model": "fake", "created_at": "2026-01-01T00:00:00.000000Z"}
    times = {"total_duration": 10, "load_duration": 1, "prompt_eval_duration": 4, "eval_duration": 5}
    counts = {"prompt_eval_count": 100, "eval_count": 9}
    end = {"done": True, "done_reason": "stop", **times, **counts}
    if not stream:
        whole = messages[0] | {"content": "".join(message["content"] for message in messages)}
        return {"status": 200, "body": about | {"message": whole} | end}
    lines = [about | {"message": message, "done": False} for message in messages]
    lines.append(about | {"message": {"role": "assistant", "content": ""}} | end)
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    return {"status": 200, "headers": {"content-type": "application/x-ndjson"}, "body": text}


def config(chat: str, ollama: str) -> str:
    """Return the config of a gateway in front of the three engines, two of which are at these URLs."""
    return f"""
server: {{listen: "127.0.0.1:0", cors: ["{PAGE}"]}}
keys:
  tests: {{hash: "{hash_key(KEY)}"}}
backends:
  local:
    engine: llamacpp
    launch: {{model: models/demo.gguf, embeddings: true, threads: 1, extra_args: [--sampling.temp=0]}}
  chat:
    engine: openai
    url: "{chat}"
    native: {{messages: false, count_tokens: false, responses: false}}
  own:
    engine: ollama
    url: "{ollama}"
models:
  demo: {{targets: {{local: demo}}}}
  scripted-chat: {{targets: {{chat: fake}}, context: 65536, capabilities: {{tools: true}}}}
  scripted-ollama: {{targets: {{own: fake}}, context: 65536, capabilities: {{tools: true}}}}
"""


@contextlib.contextmanager
def engine(folder: Path, name: str, script: dict[str, Any]) -> Iterator[str]:
    """Run a fake engine until the block ends. `folder` takes its script. Yield its URL."""
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(script), encoding="utf-8")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "gateway",
        "fake-engine",
        "--port",
        "0",
        "--script",
        file,
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        output = Output(process.stdout)
        try:
            yield output.wait_for(r"fake engine on (\S+)")[1]
        finally:
            process.terminate()
            process.wait()
            output.close()


@contextlib.contextmanager
def scripted(folder: Path) -> Iterator[Running]:
    """Run the engines and the gateway until the block ends."""
    with (
        engine(folder, "chat", speaks_chat()) as chat,
        engine(folder, "ollama", speaks_ollama()) as ollama,
        running(folder, config(chat, ollama)) as gateway,
    ):
        gateway.wait_ready()
        yield gateway
