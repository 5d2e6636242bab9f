"""`gateway batch`: a file of requests from the terminal, as it goes on where it was ended."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from gateway.batches.lines import Line
from gateway.console.client import Failed
from gateway.console.progress import words
from gateway.console.requested import How, Output, checked, requests
from gateway.fake.engine import FakeEngine
from tests.console.commands import command
from tests.faults.clients import config
from tests.serving import serving


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def openai(name: str, body: dict[str, Any], url: str = "/v1/chat/completions") -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


def write(file: Path, rows: Iterable[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def answers(file: Path) -> dict[str, Any]:
    """Return the lines of an output file by id; fails where one is there twice."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = {row["custom_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


async def test_every_kind_of_line_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        openai("a", chat("one")),
        chat("two"),
        {"custom_id": "mine", "prompt": "three", "model": "m"},
        {"input": "four", "model": "m"},
        "five",
        openai("r", {"model": "m", "input": "six"}, "/v1/responses"),
    ]
    file = write(tmp_path / "in.jsonl", rows)
    with file.open("a") as more:
        more.write("\n  \n")
    async with (
        FakeEngine(models=["up"], defaults={"text": "echo"}) as engine,
        serving(
            tmp_path, config(engine.url).replace("models: [up]", "models: [up], native: {responses: false}")
        ) as served,
    ):
        said = await command(capsys, served, "batch", str(file), "--model", "m")
        assert (said.status, said.out) == (0, ""), said.err
        assert "6/6" in said.err
        assert str(tmp_path / "in.out.jsonl") in said.err
        waits = {
            entry.headers.get("x-gateway-priority")
            for entry in engine.journal.exchanges
            if entry.path != "/v1/models"
        }
    assert waits, "the engine was asked"
    found = answers(tmp_path / "in.out.jsonl")
    assert set(found) == {"a", "line-2", "mine", "line-4", "line-5", "r"}
    assert {row["response"]["status_code"] for row in found.values()} == {200}
    kinds = {name: row["response"]["body"]["object"] for name, row in found.items()}
    assert kinds == {
        "a": "chat.completion",
        "line-2": "chat.completion",
        "mine": "text_completion",
        "line-4": "list",
        "line-5": "chat.completion",
        "r": "response",
    }
    assert found["a"]["response"]["request_id"].startswith("req-")


async def test_a_run_goes_on_where_the_last_one_was_cut_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "in.jsonl", [chat(str(number)) for number in range(20)])
    output = tmp_path / "answers.jsonl"
    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(engine.url)) as served:
        first = await command(capsys, served, "batch", str(file), "--output", str(output))
        assert first.status == 0
        whole = output.read_bytes().splitlines(keepends=True)
        output.write_bytes(b"".join(whole[:7]) + whole[7][:30])
        engine.journal.clear()
        again = await command(capsys, served, "batch", str(file), "--output", str(output))
        assert (again.status, "20/20" in again.err) == (0, True)
        asked = [entry for entry in engine.journal.exchanges if entry.path == "/v1/chat/completions"]
        assert len(asked) == 13
        assert len(answers(output)) == 20
        engine.journal.clear()
        assert (await command(capsys, served, "batch", str(file), "--output", str(output))).status == 0
        assert not [entry for entry in engine.journal.exchanges if entry.path == "/v1/chat/completions"]


async def test_what_fails_is_told_and_sent_again_if_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [openai("good", chat("x")), openai("bad", chat("x") | {"model": "none"})]
    file = write(tmp_path / "in.jsonl", rows)
    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(engine.url)) as served:
        said = await command(capsys, served, "batch", str(file))
        assert said.status == 1
        assert "1 of 2 requests failed" in said.err
        found = answers(tmp_path / "in.out.jsonl")
        assert found["bad"]["response"]["status_code"] == 404
        assert found["bad"]["response"]["body"]["error"]["code"] == "model_not_found"
        assert (await command(capsys, served, "batch", str(file))).status == 1
        write(file, [rows[0], openai("bad", chat("now good"))])
        assert (await command(capsys, served, "batch", str(file), "--retry-failed")).status == 0
        assert answers(tmp_path / "in.out.jsonl")["bad"]["response"]["status_code"] == 200
        assert not (tmp_path / "in.out.jsonl.new").exists()
        wrong = await command(
            capsys, served, "batch", str(file), "--model", "none", "--output", str(tmp_path / "o")
        )
        assert (wrong.status, "model" in wrong.err) == (1, True)
        assert (tmp_path / "o").read_bytes() == b"", "one answer is enough to know"


async def test_what_passes_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "in.jsonl", [chat(str(number)) for number in range(4)])
    busy = [{"match": {"times": 2}, "reply": {"status": 429}}]
    async with (
        FakeEngine(models=["up"], rules=busy) as engine,
        serving(tmp_path, config(engine.url)) as served,
    ):
        said = await command(capsys, served, "batch", str(file))
        assert said.status == 0, said.err
        assert len(answers(tmp_path / "in.out.jsonl")) == 4


async def test_a_key_is_asked_for_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "in.jsonl", [chat("x")])
    keys = 'keys:\n  a: {value: "${env.A}"}\n'
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, extra=keys), {"A": "sk-a"}) as served,
    ):
        said = await command(capsys, served, "batch", str(file))
        assert said.status == 1
        assert "put a key into the environment variable GATEWAY_KEY" in said.err
        assert (tmp_path / "in.out.jsonl").read_bytes() == b""


async def test_nothing_is_sent_of_a_file_with_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [openai("a", chat("x")), openai("a", chat("y")), openai("b", {"stream": True}), {"what": 1}]
    file = write(tmp_path / "in.jsonl", rows)
    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(engine.url)) as served:
        said = await command(capsys, served, "batch", str(file))
        assert said.status == 1
        assert "3 lines cannot be sent" in said.err
        assert f"{file}:2: line 1 has the same 'custom_id'" in said.err
        assert f"{file}:3: a batch has no streams" in said.err
        assert f"{file}:4: this line has no 'custom_id'" in said.err
        missing = await command(capsys, served, "batch", str(tmp_path / "none"))
        assert (missing.status, "No such file" in missing.err) == (1, True)


def test_texts_are_prompts_and_the_endpoint_may_be_named(tmp_path: Path) -> None:
    file = tmp_path / "in.txt"
    file.write_text('say "hi"\r\n\nsay more\n')
    how = How("m", "/v1/completions", text=True)
    assert checked(file, how) == 2
    bodies = [json.loads(found.body) for _, found in requests(file, how)]  # type: ignore[union-attr]
    assert bodies == [{"prompt": 'say "hi"', "model": "m"}, {"prompt": "say more", "model": "m"}]


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    found = requests(tmp_path / "in.txt", How("m", text=True))
    bodies = [json.loads(each.body) for _, each in found if isinstance(each, Line)]
    assert [body["messages"][0]["content"] for body in bodies] == ["one", "two"]


def test_an_output_file_belongs_to_one_run_and_holds_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    output = Output(file)
    with pytest.raises(Failed, match="another run writes"):
        Output(file)
    output.close()
    file.write_text('{"precious": 1}\n')
    with pytest.raises(Failed, match="none of a batch"):
        Output(file)
    assert file.read_text() == '{"precious": 1}\n'


def test_progress_in_words() -> None:
    assert words(0, 10, 0, 0, 0.0) == "0/10"
    assert words(30, 100, 2, 10, 4.0) == "30/100, 2 failed, 5.0/s, 0:14 left"
    assert words(50_000, 50_000, 0, 0, 25.0) == "50000/50000, 2000/s"
    assert words(100, 50_000, 0, 0, 10.0) == "100/50000, 10/s, 1:23:10 left"
