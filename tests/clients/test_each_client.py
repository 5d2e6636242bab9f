"""Each client that a program runs, unmodified: the same checks in every dialect it speaks, passed and translated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients import packages
from tests.clients.declared import CLIENTS, WAYS, Client, Dialect, Source
from tests.clients.process import Running
from tests.clients.programs.checks import NO_MODEL
from tests.clients.scripted import ANSWER, CHOICE, CITY, KEY, SCRIPTED

PROGRAMS = Path(__file__).resolve().parent / "programs"
DEMO = "one OpenAI-compatible URL"
"""What the demo model says of the gateway, among other words."""

PATIENCE = 400.0
"""Seconds that a program may take for all of its ways; on a machine with nothing else to do it is some ten."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def clients() -> list[Any]:
    found = [client for client in CLIENTS if client.program]
    return [
        pytest.param(client, id=client.slug, marks=[pytest.mark.heavy] if client.heavy else [])
        for client in found
    ]


def command(client: Client) -> list[str | Path]:
    """Return the command that runs a client's program; it installs the client where that is not done."""
    program = PROGRAMS / client.program
    if client.source is Source.PYPI:
        return [packages.of_pypi(client.slug, *client.packages), program]
    return [packages.node(), program, packages.of_npm(client.slug, *client.packages).parent]


def ways(client: Client) -> list[tuple[Dialect, str, tuple[str, ...]]]:
    """Return the dialects that a client is asked to speak, for which model, and what is checked then."""
    return [(each, model, client.checked(each, model)) for each in client.dialects for model in WAYS[each]]


def is_answer(said: Any, model: str) -> bool:
    return DEMO in said if model == "demo" else bool(said == SCRIPTED)


def is_choice(said: Any, model: str) -> bool:
    if model != "demo":
        return bool(said == CHOICE)
    return {name: type(value) for name, value in said.items()} == {"engine": str, "gpu": bool}


RIGHT: dict[str, Callable[[Any, str], bool]] = {
    "whole answer": is_answer,
    "stream": lambda said, model: is_answer("".join(said), model) and len([one for one in said if one]) > 4,
    "streamed answer": is_answer,
    "tool call": lambda said, _: bool(said == ["get_weather", CITY]),
    "streamed tool call": lambda said, _: bool(said == ["get_weather", CITY]),
    "tool result": lambda said, _: ANSWER in said[0] and said[1:] == ["Oslo"],
    "streamed tool result": lambda said, _: ANSWER in said[0] and said[1:] == ["Oslo"],
    "structured answer": is_choice,
    "structured answer by a tool": is_choice,
    "streamed structured answer": is_choice,
    "token count": lambda said, _: said > 0,
    "embeddings": lambda said, _: len(said) == 2 and said[0] == said[1] > 1,
    "model list": lambda said, _: (
        {one.removesuffix(":latest") for one in said} == {"demo", "scripted-chat", "scripted-ollama"}
    ),
}
"""What each check must have come to."""


def right(client: Client, dialect: Dialect, model: str, check: str, told: dict[str, Any]) -> bool:
    """Return whether what a program tells of a check is what it must be."""
    if check == "wrong model":
        return told.get("raised") == client.wrong_model.get(dialect) and NO_MODEL in told["text"]
    if check == "wrong key":
        return told.get("raised") == client.wrong_key.get(dialect) and "key" in told["text"]
    return "said" in told and RIGHT[check](told["said"], model)


@pytest.mark.parametrize("client", clients())
async def test_each_check(client: Client, scripted: Running, tmp_path: Path) -> None:
    asked = [{"dialect": each, "model": model, "checks": checks} for each, model, checks in ways(client)]
    settings = {"GATEWAY": scripted.url, "KEY": KEY, "WAYS": json.dumps(asked)}
    ended = await packages.ran(
        *command(client), folder=tmp_path, home=tmp_path, settings=settings, patience=PATIENCE
    )
    assert ended.status == 0, ended
    found = json.loads(ended.out.rstrip().rpartition("\n")[2])
    wrong = [
        (dialect, model, check, told[check])
        for (dialect, model, checks), told in zip(ways(client), found, strict=True)
        for check in checks
        if not right(client, dialect, model, check, told[check])
    ]
    assert not wrong, "\n".join(map(str, wrong))
