"""The examples of docs/fake-engine.md do what the page says, and the page names everything there is."""

import argparse
import ast
import asyncio
import inspect
import json
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.fake import command
from gateway.fake.engine import FakeEngine
from gateway.fake.reading import read
from gateway.fake.script import Behaviour, Fault, Http, Interim, Match, Reply, Script, Sse
from tests.fake.raw import Received, Wire, chat, connected, request

PAGE = Path(__file__).resolve().parents[2] / "docs" / "fake-engine.md"
TEXT = PAGE.read_text(encoding="utf-8")
PAIR = re.compile(r"^```yaml fake\n(.*?)^```\n\s*^```text fake\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    place: str
    script: str
    lines: list[str]


def examples() -> list[Example]:
    found = []
    for match in PAIR.finditer(TEXT):
        line = TEXT.count("\n", 0, match.start()) + 1
        found.append(Example(f"line {line}", match[1], match[2].strip().split("\n")))
    return found


def recipes() -> list[str]:
    table = TEXT.partition("### Recipes")[2].partition("\n## ")[0]
    return re.findall(r"^\| .* \| `(.*)` \|$", table, re.MULTILINE)


def sent(asked: str) -> bytes | None:
    """Return the request that a line's left side stands for; None where nothing is sent."""
    kind, _, rest = asked.partition(" ")
    if kind == "connect":
        return None
    if kind == "GET":
        return request(path=rest, method="GET", headers={"connection": "close"})
    model = re.search(r"model=(\S+)", rest)
    messages = [{"role": "user", "content": rest}]
    body = chat(stream=kind == "stream", model=model[1] if model else "m", messages=messages)
    return request(body, headers={"connection": "close"})


def outcome(answer: Received) -> str:
    """Return what came back, in the words of the page."""
    end = {"fin": "FIN", "reset": "RST", "silence": "silence"}[answer.end]
    if not answer.data.startswith(b"HTTP/"):
        return f"{len(answer.data)} bytes, {end}" if answer.data else f"nothing, {end}"
    words = [str(answer.status)]
    if "retry-after" in answer.headers:
        words.append(f"retry-after {answer.headers['retry-after']}")
    elif answer.headers["content-type"].startswith("text/event-stream"):
        count = len(answer.payloads)
        words.append(f"{count} event" + "s" * (count != 1))
        words += ["[DONE]"] * (answer.payloads[-1:] == [b"[DONE]"])
        words += [end] * (not answer.whole)
    else:
        words.append(
            "json" if answer.headers["content-type"] == "application/json" else f"{len(answer.body)} bytes"
        )
        assert words[-1] != "json" or json.loads(answer.body)
    return ", ".join(words)


async def received(engine: FakeEngine, wire: Wire, expected: str) -> Received:
    if not expected.endswith("silence"):
        return await wire.rest()
    await engine.until(lambda: engine.requests[-1].events > 0)
    return Received(await wire.until(b"\n\n\r\n"), "silence")


def test_there_are_enough() -> None:
    assert len(examples()) >= 7
    assert TEXT.count("```yaml fake") == TEXT.count("```text fake") == len(examples())
    assert len(recipes()) >= 30


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.place)
async def test_an_example_does_what_it_says(example: Example) -> None:
    async with FakeEngine(read(example.script)) as engine, AsyncExitStack() as stack, asyncio.timeout(10):
        for line in example.lines:
            asked, _, expected = line.partition(" -> ")
            wire = await stack.enter_async_context(connected(engine))
            if data := sent(asked):
                wire.send(data)
            assert f"{asked} -> {outcome(await received(engine, wire, expected))}" == line


@pytest.mark.parametrize("recipe", recipes())
def test_a_recipe_is_a_rule(recipe: str) -> None:
    (rule,) = read(f"rules: [{{{recipe}}}]").rules
    assert rule.model_fields_set


class Sent:
    """The client of the page's Python example."""

    def __init__(self, wire: Wire) -> None:
        self.close = wire.leave


async def test_the_python_example() -> None:
    (source,) = re.findall(r"^```python fake\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    wires = []

    async def send(url: str, stream: bool) -> Sent:
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        wires.append(writer)
        writer.write(request(chat(stream=stream)))
        await reader.readuntil(b"\r\n\r\n")
        return Sent(Wire(reader, writer))

    code = compile(source, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, {"send": send})
    assert inspect.isawaitable(result)
    await result
    for writer in wires:
        writer.close()


@pytest.mark.parametrize("model", [Script, Behaviour, Match, Reply, Sse, Http, Interim, Fault])
def test_every_setting_is_on_the_page(model: Any) -> None:
    assert [name for name in model.model_fields if f"`{name}`" not in TEXT and f"`{name}:" not in TEXT] == []


def test_every_option_is_on_the_page() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    command.add_arguments(parser)
    named = set(re.findall(r"`(--[a-z-]+)", TEXT))
    assert named == {action.option_strings[0] for action in parser._actions}
