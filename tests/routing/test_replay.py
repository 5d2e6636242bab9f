"""The access log of a running gateway, and its replay against another config."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from gateway.__main__ import main
from gateway.outlet import Outlet
from tests.faults.clients import CHAT, until
from tests.routing.test_routes import MODELS, ask, model_of, routed

RULES = """
  - {name: batch, match: {header: {X-Tier: batch}, metadata: {team: "*"}}, to: small}
  - {name: long, match: {prompt_tokens: {min: 500}}, to: small}
"""


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


async def test_each_request_is_a_line_without_what_nobody_needs_to_know(tmp_path: Path) -> None:
    file = tmp_path / "access.jsonl"
    more = f'server: {{listen: "127.0.0.1:0", log: {{access: "{file}"}}}}'
    async with routed(tmp_path, RULES, more=more) as (served, _, _):
        secret = {"x_tier": "batch", "authorization": "Bearer hidden-key", "x_other": "hidden-header"}
        await ask(served, headers=secret, metadata={"team": "a", "other": "hidden-entry"}, user="ann")
        await ask(served, "none")
        await ask(served, stream=True, messages=[{"role": "user", "content": "hidden-prompt"}])
        await until(lambda: len(lines(file)) == 3, "all are written")
        batch, unknown, stream = lines(file)
        assert "hidden" not in file.read_text()
        assert batch["asked"] == {
            "model": "big",
            "key": "anyone",
            "user": "ann",
            "prompt_tokens": batch["asked"]["prompt_tokens"],
            "headers": {"x-tier": "batch"},
            "metadata": {"team": "a"},
        }
        assert (batch["rule"], batch["model"], batch["backend"]) == ("batch", "small", "second")
        assert (batch["outcome"], batch["attempts"]) == ("ok", 1)
        assert batch["tokens"]["out"] > 0
        assert unknown["outcome"] == "client_error"
        assert "rule" not in unknown
        assert stream["asked"]["stream"] is True
        for line in (batch, unknown, stream):
            assert sum(line["hops"].values()) == pytest.approx(line["milliseconds"], abs=0.02)


async def test_a_log_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = f'server: {{listen: "127.0.0.1:0", log: {{access: "{tmp_path}/none/access.jsonl"}}}}'
    async with routed(tmp_path, RULES, more=more) as (served, _, _):
        assert model_of(await ask(served)) == "big"
    assert "there is no access log" in caplog.text


async def test_a_log_that_is_rotated_is_begun_anew(tmp_path: Path) -> None:
    file, old = tmp_path / "access.jsonl", tmp_path / "access.jsonl.1"
    more = f'server: {{listen: "127.0.0.1:0", log: {{access: "{file}"}}}}'
    async with routed(tmp_path, RULES, more=more) as (served, _, _):
        await ask(served)
        await until(lambda: len(lines(file)) == 1, "it is written")
        file.rename(old)
        await ask(served)
        await until(lambda: len(lines(file)) == 1, "the next one is in a new file")
        file.unlink()
        file.write_text("")
        await ask(served)
        await until(lambda: len(lines(file)) == 1, "it is in the file that somebody made")
        assert len(lines(old)) == 1


async def test_a_stop_waits_until_the_last_lines_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Outlet._write

    def slowly(outlet: Outlet, data: bytes) -> None:
        sleep(0.1)  # in the outlet's own thread: a slow disk
        write(outlet, data)

    monkeypatch.setattr(Outlet, "_write", slowly)
    file = tmp_path / "access.jsonl"
    more = f'server: {{listen: "127.0.0.1:0", log: {{access: "{file}"}}}}'
    async with routed(tmp_path, RULES, more=more) as (served, _, _):
        for _ in range(3):
            await ask(served)
    assert len(lines(file)) == 3


OTHER = """
  - {name: batch, match: {header: {X-Tier: batch}}, to: big}
  - {name: long, match: {prompt_tokens: {min: 500}}, to: small}
  - {name: tools, match: {tools: true}, to: small}
"""


async def test_a_replay_tells_what_would_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "access.jsonl"
    more = f'server: {{listen: "127.0.0.1:0", log: {{access: "{file}"}}}}'
    async with routed(tmp_path, RULES, more=more) as (served, _, _):
        for _ in range(2):
            await ask(served, headers={"x_tier": "batch"}, metadata={"team": "a"})
        await ask(served, tools=[{"type": "function", "function": {"name": "f"}}])
        await ask(served, messages=[{"role": "user", "content": "word " * 1000}])
        await ask(served)
        await ask(served, "none")
        await until(lambda: len(lines(file)) == 6, "all are written")
    with file.open("a") as log:
        log.write('{"time": 1, "dropped": 7}\n')
    same, other = tmp_path / "same.yaml", tmp_path / "other.yaml"
    for config, rules in ((same, RULES), (other, OTHER)):
        config.write_text(
            'backends:\n  first: {engine: openai, url: "http://127.0.0.1:1"}\n'
            f'  second: {{engine: openai, url: "http://127.0.0.1:2"}}\n{MODELS}\nroutes:\n{rules}'
        )
    assert await asyncio.to_thread(main, ["replay", str(other), str(file)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "5 requests, of which 3 would go elsewhere or by another rule",
        "  2 from small by rule 'batch' to big by rule 'batch'",
        "  1 from big to small by rule 'tools'",
        "left out: 1 requests that were refused before it was decided where they go",
        "missing in the log: 7 requests",
    ]
    assert await asyncio.to_thread(main, ["replay", str(same), str(file)]) == 0
    assert "5 requests, of which 0 would go elsewhere" in capsys.readouterr().out
    await asyncio.to_thread(main, ["replay", "--json", str(other), str(file)])
    changes = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(changes) == 3
    assert changes[2]["now"] == {"rule": "tools", "model": "small"}
    assert main(["replay", str(same), str(tmp_path / "none")]) == 1
    assert "cannot read" in capsys.readouterr().err


async def test_what_goes_by_user_or_session_goes_the_same_way_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, config = tmp_path / "access.jsonl", tmp_path / "gateway.yaml"
    rules = "  - {name: ab, match: {model: big}, to: {weighted: {big: 1, small: 1}}}"
    more = f'server: {{listen: "127.0.0.1:0", log: {{access: "{file}"}}}}'
    async with routed(tmp_path, rules, more=more) as (served, _, _):
        for number in range(8):
            await ask(served, headers={"x_session_id": f"s{number}"})
            await ask(served, prompt_cache_key=f"ü{number}")
            await ask(served, user=f"u{number}")
    backends = (
        "backends: {first: {engine: openai, url: 'http://h:1'}, second: {engine: openai, url: 'http://h:2'}}"
    )
    config.write_text(f"{backends}\n{MODELS}\nroutes:\n{rules}")
    assert await asyncio.to_thread(main, ["replay", str(config), str(file)]) == 0
    assert "24 requests, of which 0 would go elsewhere" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "[]",
        '{"time": 1}',
        '{"operation": "chat", "time": null, "asked": {"model": "big"}}',
        '{"operation": "chat", "time": 1e300, "asked": {"model": "big"}}',
        '{"operation": "sing", "time": 1, "asked": {"model": "big"}}',
        '{"operation": ["chat"], "time": 1, "asked": {"model": "big"}}',
        '{"operation": "chat", "time": 1, "rule": ["x"], "asked": {"model": "big"}}',
        '{"operation": "chat", "time": 1, "asked": {"model": 5}}',
        '{"operation": "chat", "time": 1, "asked": {"model": "big", "user": "\\ud800"}}',
        '{"operation": "chat", "time": 1, "asked": {"model": "big", "prompt_tokens": "many"}}',
        '{"operation": "chat", "time": 1, "asked": {"model": "big", "prompt_tokens": 1e30}}',
        '{"operation": "chat", "time": 1, "asked": {"model": "big", "prompt_tokens": 1000000000000}}',
        '{"operation": "chat", "time": 1, "asked": {"model": "big", "headers": {"x-tier": 5}}}',
        '{"operation": "chat", "time": 1, "asked": {"model": "big", "metadata": [1]}}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_line_that_is_none_is_said_and_stops_nothing(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = '{"model": "big", "headers": {"x-tier": "\u2028"}}'
    good = f'{{"operation": "chat", "time": 1, "model": "big", "asked": {asked}}}'
    config, log = tmp_path / "gateway.yaml", tmp_path / "access.jsonl"
    backends = (
        "backends: {first: {engine: openai, url: 'http://h:1'}, second: {engine: openai, url: 'http://h:2'}}"
    )
    config.write_text(f"{backends}\n{MODELS}\nroutes:\n{OTHER}")
    log.write_text(f"{line}\n{good}\n", encoding="utf-8")
    assert main(["replay", str(config), str(log)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "1 requests, of which 0 would go elsewhere or by another rule",
        "1 lines are not of an access log",
    ]


def test_what_a_log_holds_cannot_write_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, log = tmp_path / "gateway.yaml", tmp_path / "access.jsonl"
    config.write_text(
        "backends: {first: {engine: openai, url: 'http://h:1'}}\nmodels: {big: {targets: {first: m}}}"
    )
    log.write_text(
        '{"operation": "chat", "time": 1, "model": "\\u001b[2J", "rule": "\\u0007", "asked": {"model": "big"}}'
    )
    assert main(["replay", str(config), str(log)]) == 1
    assert "1 from ?[2J by rule '?' to big" in capsys.readouterr().out


async def test_what_a_rule_shadows_is_answered_twice_and_told_once(tmp_path: Path) -> None:
    rules = "  - {name: try, match: {model: big}, to: {shadow: {of: big, to: small, sample: 100%}}}"
    async with routed(tmp_path, rules) as (served, first, second):
        answer = await ask(served)
        assert model_of(answer) == "big"
        await until(lambda: served.metric("gateway_shadow_total", route="try") == 1, "the copy ended")
        chats = [[each for each in engine.requests if each.path == CHAT] for engine in (first, second)]
        assert [len(each) for each in chats] == [1, 1]
        assert served.metric("gateway_requests_total", model="small") == 0


async def test_a_rule_settles_the_class_in_the_queue(tmp_path: Path) -> None:
    models = MODELS.replace("aliases: [gpt-4]", "admission: {concurrency: 1, queue: 10}")
    rules = "  - {name: nightly, match: {header: {x-tier: batch}}, to: big, priority: batch}"
    async with routed(tmp_path, rules, models) as (served, first, _):
        first.set(rules=[{"gap": 0.05}])
        held = asyncio.create_task(ask(served))
        await first.arrived()
        waiting = asyncio.create_task(ask(served, headers={"x_tier": "batch"}))
        queued = "gateway_requests_queued"
        await until(lambda: served.metric(queued, model="big", priority="batch") == 1, "it waits as batch")
        assert served.metric(queued, model="big", priority="normal") == 0
        assert {model_of(await held), model_of(await waiting)} == {"big"}
