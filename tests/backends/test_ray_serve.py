"""The Ray Serve engine: the meaning of its proxy's answers, its signals, and how applications are launched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from backends.base import Action, Health, Kind, LaunchError, Operation, Request, Signal, Status
from backends.engines.ray_serve.engine import MODEL_HEADER, RUNNER, RayServe, RayServeLaunch, RayServeOptions
from gateway.config.section import validate

ENGINE = RayServe()
NOT_DEPLOYED = b"Path '/v1/models' not found. Ping http://.../-/routes for available routes."
CHAT = Request(Operation.CHAT, b'{"model":"public","messages":[]}', "public")


def options(**given: Any) -> RayServeLaunch:
    return validate(RayServeLaunch, given)


def test_adapters_are_models() -> None:
    call = ENGINE.call(CHAT, "base:guide")
    assert json.loads(call.body)["model"] == "base:guide"
    assert call.headers == ()
    listed = b'{"object":"list","data":[{"id":"base"},{"id":"base:guide"}]}'
    assert [card.id for card in ENGINE.models_of(listed)] == ["base", "base:guide"]


def test_a_multiplexed_application_is_told_the_model_in_a_header() -> None:
    call = RayServe(RayServeOptions(multiplexed=True)).call(CHAT, "guide")
    assert call.headers == ((MODEL_HEADER, b"guide"),)


@pytest.mark.parametrize(
    ("status", "body", "health"),
    [
        (200, b'{"object":"list","data":[]}', Health.READY),
        (401, b"", Health.READY),
        (404, NOT_DEPLOYED, Health.LOADING),
        (404, b"Not Found", Health.DOWN),
        (503, b"Route table is not populated yet.", Health.LOADING),
        (500, b"Internal Server Error", Health.DOWN),
    ],
)
def test_health(status: int, body: bytes, health: Health) -> None:
    assert ENGINE.health().path == "/v1/models"
    assert ENGINE.health_of(status, body) is health


def test_an_application_that_is_not_there_yet_is_loading() -> None:
    assert ENGINE.failure(404, (), NOT_DEPLOYED).kind is Kind.LOADING
    assert ENGINE.failure(404, (), b'{"error":{"message":"no such model"}}').kind is Kind.MISSING
    assert ENGINE.failure(503, (), b"Request dropped due to backpressure").kind is Kind.OVERLOADED


def test_signals_of_all_replicas_together() -> None:
    page = b"\n".join(
        b'%s{ReplicaId="%s"} %s' % (name, replica, value)
        for name, values in {
            b"ray_vllm_num_requests_running": (b"2", b"1"),
            b"ray_vllm_num_requests_waiting": (b"0", b"4"),
            b"ray_vllm_kv_cache_usage_perc": (b"0.2", b"0.4"),
        }.items()
        for replica, value in zip((b"a", b"b"), values, strict=True)
    )
    told = ENGINE.signals_of([page])
    assert told[Signal.RUNNING].value == 3
    assert told[Signal.WAITING].value == 4
    assert told[Signal.KV_USE].value == pytest.approx(0.3)
    assert told[Signal.PREFIX_HITS].status is Status.MISSING


def test_actions() -> None:
    assert (
        ENGINE.action(Action.SLEEP, {"model": "a", "level": 1}).body == b'{"model":"a","options":{"level":1}}'
    )
    assert ENGINE.action(Action.WAKE, {"model": "a"}).path == "/wakeup"
    with pytest.raises(ValueError, match="needs the argument 'model'"):
        ENGINE.action(Action.WAKE, {})


def python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = folder / "python"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return program


def test_launch_of_an_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = python(tmp_path, monkeypatch)
    launch = options(app="my_app:app", args={"replicas": 2}).launch("127.0.0.1", 4321)
    assert " ".join(launch.argv) == (
        f"{program} {RUNNER} --host 127.0.0.1 --port 4321 --app my_app:app "
        f'--args {{"replicas":2}} --app-dir {Path.cwd()}'
    )
    assert options(app="my_app:app").served_names() == ()


def test_launch_of_a_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python(tmp_path, monkeypatch)
    file = tmp_path / "serve.yaml"
    with pytest.raises(LaunchError, match="there is no config file"):
        options(config=str(file)).launch("127.0.0.1", 4321)
    file.write_text("applications: []")
    assert options(config=str(file)).launch("127.0.0.1", 4321).argv[-4:-2] == ("--config", str(file))


@pytest.mark.parametrize(
    "given", [{}, {"app": "a:b", "config": "c.yaml"}, {"config": "c.yaml", "args": {"a": 1}}]
)
def test_either_an_application_or_a_file(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        options(**given)


def test_why_it_died() -> None:
    assert ENGINE.crash_reason(["ModuleNotFoundError: No module named 'ray'"]) == (
        "the Python package ray is not installed there"
    )
    assert (
        ENGINE.crash_reason(["ray_serve_runner: the config a.yaml is no map"])
        == "the config a.yaml is no map"
    )
