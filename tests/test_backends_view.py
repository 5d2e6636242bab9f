"""`gateway backends` and `gateway models`: the table, the words on the terminal, the exit statuses, merged views.

Rules:
- Commands are run in this process against a real gateway in a process of its own, or against nothing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backends.base import Health
from gateway.__main__ import main
from gateway.console.backends import table
from gateway.console.client import Failed
from gateway.console.models import Display, arguments_of
from gateway.fleet.breaker import State
from gateway.fleet.view import BackendView, ErrorView, OrdersView, merged
from tests.clients.process import Running, running

NOW = datetime(2026, 11, 21, 12, 0, 30, tzinfo=UTC)
GONE = """
server: {listen: "127.0.0.1:0"}
backends:
  gone: {engine: openai, url: "http://127.0.0.1:9", models: [m]}
  absent: {engine: llamacpp, launch: {model: models/demo.gguf, runtime: no-such-llama-server}}
keys: {boss: {value: "${env.BOSS}", admin: true}, team: {value: "${env.TEAM}"}}
"""
ENVIRON = {"BOSS": "sk-boss", "TEAM": "sk-team"}


def view(**changes: Any) -> BackendView:
    facts: dict[str, Any] = {
        "name": "a",
        "engine": "vllm",
        "url": "http://a:1",
        "launched": None,
        "state": Health.READY,
        "reason": "",
        "orders": OrdersView(drained=False, drained_left=None, weight=1.0, weight_left=None),
        "breaker": State.CLOSED,
        "in_flight": 0,
        "models": (),
        "signals": {},
        "last_error": None,
        "labels": {},
        "actions": (),
        "checked": "x",
    }
    return BackendView(**facts | changes)


def error(message: str, second: int) -> ErrorView:
    return ErrorView(message=message, time=datetime(2026, 11, 21, 12, 0, second, tzinfo=UTC))


def signal(
    status: str, value: float | None, age: float | None = 1.0, names: tuple[str, ...] = ()
) -> dict[str, Any]:
    return {"status": status, "value": value, "names": names, "source": "x", "age": age}


def shown(*views: BackendView, width: int | None = None) -> list[str]:
    return table([found.model_dump(mode="json") for found in views], NOW, width)


def test_the_views_of_all_processes_are_one() -> None:
    own = [view(reason="master"), view(name="b")]
    first = [view(in_flight=2, last_error=error("old", 1)), view(name="b", breaker=State.RESTING)]
    second = [view(in_flight=3, last_error=error("new", 2)), view(name="b", breaker=State.OPEN)]
    a, b = merged(own, [first, second])
    assert (a.in_flight, a.reason, a.last_error) == (5, "master", error("new", 2))
    assert (b.breaker, b.in_flight, b.last_error) == (State.OPEN, 0, None)


def test_the_table_says_what_can_be_relied_on() -> None:
    signals = {
        "running": signal("ok", 3.0),
        "waiting": signal("stale", 2.0, 95.0),
        "kv_use": signal("ok", 0.414),
        "prefix_hits": signal("missing", None, None),
        "loras": signal("ok", 1.0, names=("sql",)),
    }
    models = [{"id": name, "context": None} for name in ("m1", "m2", "m3")]
    head, row = shown(
        view(signals=signals, models=models, in_flight=4, breaker="resting", last_error=error("it broke", 18))
    )
    assert head.split() == [
        "BACKEND",
        "ENGINE",
        "STATE",
        "MODELS",
        "IN",
        "FLIGHT",
        "SIGNALS",
        "LAST",
        "ERROR",
    ]
    cells = [cell.strip() for cell in row.split("  ") if cell.strip()]
    assert cells == [
        "a",
        "vllm",
        "ready (resting)",
        "m1, m2 +1",
        "4",
        "running 3, waiting 2 (2 min old), kv_use 41%, prefix_hits missing, loras 1 (sql)",
        "12 s ago: it broke",
    ]


def test_the_table_shows_what_an_operator_has_ordered() -> None:
    def ordered(**changes: Any) -> OrdersView:
        none = {"drained": False, "drained_left": None, "weight": 1.0, "weight_left": None}
        return OrdersView(**none | changes)

    _, a, b, c = shown(
        view(state="drained", orders=ordered(drained=True, drained_left=540.0)),
        view(name="b", state="drained", orders=ordered(drained=True), breaker="open"),
        view(name="c", orders=ordered(weight=0.25, weight_left=30.0)),
    )
    assert "  drained (9 min left)  " in a
    assert "  drained (open)  " in b
    assert "  ready (weight 0.25, 30 s left)  " in c


def test_the_table_fits_the_terminal_and_cannot_command_it() -> None:
    lines = shown(view(last_error=error("\x1b[2J\x07" + "long " * 100, 0)), view(name="b"), width=80)
    assert len(lines) == 3 and max(map(len, lines)) == 80
    assert all(line.isprintable() for line in lines)
    assert lines[0].index("LAST") == lines[2].rindex("-")


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["pull", "qwen:0.5b"], {"model": "qwen:0.5b"}),
        (["copy", "a", "b"], {"source": "a", "destination": "b"}),
        (["load_lora", "sql", "/loras/sql"], {"name": "sql", "path": "/loras/sql"}),
        (
            ["load", "7", "keep_alive=10m", "context=4096"],
            {"model": "7", "keep_alive": "10m", "context": 4096},
        ),
        (["wake", 'tags=["weights"]'], {"tags": ["weights"]}),
        (["show", "m", "verbose=true"], {"model": "m", "verbose": True}),
        (["list"], {}),
    ],
)
def test_arguments_on_a_command_line(words: list[str], arguments: dict[str, Any]) -> None:
    assert arguments_of(words[0], words[1:]) == arguments


def test_an_argument_from_a_file_and_one_too_many(tmp_path: Path) -> None:
    file = tmp_path / "Modelfile"
    file.write_text("FROM qwen\n")
    assert arguments_of("create", ["m", f"modelfile=@{file}"]) == {"model": "m", "modelfile": "FROM qwen\n"}
    with pytest.raises(Failed, match="what is 'more'"):
        arguments_of("pull", ["m", "more"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


PROGRESS = [
    b'{"status":"pulling manifest"}',
    b'{"status":"pulling abc","total":200,"completed":50}',
    b'{"status":"pulling abc","total":200,"completed":200}',
    b"",
    b'{"status":"success"}',
]


def test_progress_is_written_over_on_a_terminal_and_told_once_elsewhere() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        display = Display(io.StringIO(), stream)
        for line in PROGRESS:
            display.take(line)
        display.close()
    assert terminal.getvalue() == ("pulling manifest\npulling abc 25%\r\x1b[2Kpulling abc 100%\nsuccess\n")
    assert file.getvalue() == "pulling manifest\npulling abc\nsuccess\n"


def test_an_answer_goes_to_stdout_and_an_error_is_raised() -> None:
    out, progress = io.StringIO(), io.StringIO()
    display = Display(out, progress)
    display.take(b'{"models":[]}')
    display.close()
    assert (json.loads(out.getvalue()), progress.getvalue()) == ({"models": []}, "")
    for line in (b'{"error":{"message":"no such model"}}', b'{"error":"no such model"}'):
        with pytest.raises(Failed, match="no such model"):
            display.take(line)
    silent = Display(out, progress)
    silent.close()
    assert progress.getvalue() == "done\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("gateway"), GONE, ENVIRON) as started:
        started.log.wait_for("'gone' is down")
        yield started


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(words)
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.mark.slow
def test_the_table_of_a_running_gateway(
    gateway: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_KEY", "sk-boss")
    status, out, err = command(capsys, "backends", "--url", gateway.url)
    assert (status, err) == (0, "")
    _, gone, absent = out.splitlines()
    assert gone.split()[:4] == ["gone", "openai", "down", "m"] and "could not be reached" in gone
    assert absent.split()[:3] == ["absent", "llamacpp", "down"]
    assert "there is no program no-such-llama-server: install llama-server" in absent
    assert sum("no-such-llama-server" in line for line in gateway.log.lines) == 1, "once is enough"

    monkeypatch.setenv("MY_KEY", "sk-boss")
    status, out, err = command(capsys, "backends", "--json", "--url", gateway.url, "--key-env", "MY_KEY")
    first, second = json.loads(out)
    launched = {"state": "failed", "pid": None, "restarts": 0}
    assert (status, err, first["name"], second["launched"]) == (0, "", "gone", launched)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "words", "said"),
    [
        ("", ["backends"], "no API key given"),
        ("sk-wrong", ["backends"], "put a key with `admin: true` into the environment variable GATEWAY_KEY"),
        ("sk-team", ["backends"], "may not manage engines: give it `admin: true` in the config"),
        (
            "sk-boss",
            ["models", "pull", "gone", "m"],
            "the engine openai of backend 'gone' has no actions",
        ),
        ("sk-boss", ["models", "list", "nobody"], "there is no backend 'nobody'"),
    ],
)
def test_a_refusal_is_one_line(
    gateway: Running,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.setenv("GATEWAY_KEY", key)
    status, out, err = command(capsys, *words, "--url", gateway.url)
    assert (status, out) == (1, "")
    assert err.startswith("gateway: ") and said in err and err.count("\n") == 1


@pytest.mark.parametrize("words", [["backends"], ["models", "list", "a"]])
def test_a_gateway_that_does_not_run_is_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    status, out, err = command(capsys, *words, "--url", "http://127.0.0.1:9")
    assert (status, out) == (1, "")
    assert err == "gateway: cannot reach the gateway at http://127.0.0.1:9: Connection refused\n"


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "http://x:port"])
def test_what_is_no_url_is_one_line(capsys: pytest.CaptureFixture[str], url: str) -> None:
    status, out, err = command(capsys, "backends", "--url", url)
    assert (status, out) == (1, "")
    assert err.startswith(f"gateway: {url!r} is no URL") and err.count("\n") == 1
