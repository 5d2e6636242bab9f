"""The command `llm`: its own class for OpenAI's chat, and its plugin for Ollama."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from checks import CHOOSE, HELLO, NO_MODEL, WEATHER, Checks, Way, tell
from click.testing import CliRunner
from llm.cli import cli

SCHEMA = {
    "type": "object",
    "properties": {"engine": {"type": "string"}, "gpu": {"type": "boolean"}},
    "required": ["engine", "gpu"],
}
FOLDER = Path(tempfile.mkdtemp())
"""Its settings: one folder for all ways, since it takes seconds to set one up."""
TOOL = """
def get_weather(city: str) -> str:
    "Tell the weather of a city."
    return f"It is sunny in {city}."
"""


class CommandFailed(Exception):
    """The command ended with another status than 0; its text is what it told the user."""


def run(way: Way, *arguments: str) -> str:
    settings = {"LLM_USER_PATH": str(FOLDER), "OLLAMA_HOST": way.url, "OLLAMA_API_KEY": way.key}
    done = CliRunner().invoke(cli, arguments, env=settings)
    if done.exit_code:
        raise CommandFailed(done.stderr)
    return str(done.stdout)


def checks(way: Way) -> Checks:
    models = [
        {"model_id": name, "model_name": name, "api_base": f"{way.url}/v1", "api_key_name": "gateway"}
        | {"supports_tools": True, "supports_schema": True}
        for name in (way.model, NO_MODEL)
    ]
    if way.dialect == "chat":
        # JSON is YAML too.
        (FOLDER / "extra-openai-models.yaml").write_text(json.dumps(models))
        (FOLDER / "keys.json").write_text(json.dumps({"gateway": way.key}))

    model = way.model if way.dialect == "chat" else f"ollama/{way.model}"

    def ask(text: str, *more: str) -> str:
        return run(way, "prompt", "-m", model, *more, text).strip()

    def used() -> Any:
        said = ask(WEATHER, "--functions", TOOL)
        logged = json.loads(run(way, "logs", "list", "--json", "-n", "2"))
        calls = [call for answer in logged for call in answer["tool_calls"]]
        return [said, *[call["arguments"]["city"] for call in calls]]

    return {
        "whole answer": lambda: ask(HELLO, "--no-stream"),
        "streamed answer": lambda: ask(HELLO),
        "tool result": used,
        "structured answer": lambda: json.loads(ask(CHOOSE, "--schema", json.dumps(SCHEMA))),
    }


tell(checks)
