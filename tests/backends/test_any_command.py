"""A server started by any command: what is filled in, and what is refused."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from backends import registry
from backends.base import Health, LaunchError
from backends.engines.openai import OpenAILaunch, OpenAIOptions


def options(**given: Any) -> OpenAILaunch:
    return OpenAILaunch.model_validate_json(json.dumps(given))


def test_the_address_and_the_model_are_filled_in_everywhere() -> None:
    made = options(
        command=[
            sys.executable,
            "-p",
            "{port}",
            "--on={host}:{port}",
            "--json",
            '{"a": "{{port}}", "b": {}}',
            "{model}",
        ],
        model="small",
        env={"PORT": "{port}", "PLAIN": "{x}"},
        stop=["docker", "stop", "gateway-{model}-{port}"],
        stop_timeout="7s",
        key_env="KEY",
    ).launch("127.0.0.1", 4321)
    words = ["-p", "4321", "--on=127.0.0.1:4321", "--json", '{"a": "{{port}}", "b": {}}', "small"]
    assert made.argv == (sys.executable, *words)
    assert made.env == {"PORT": "4321", "PLAIN": "{x}"}
    assert made.stop == ("docker", "stop", "gateway-small-4321")
    assert (made.port, made.stop_timeout, made.key_env) == (None, 7.0, "KEY")


def test_a_fixed_port_is_the_servers_own() -> None:
    made = options(command=[sys.executable, "--port={port}"], port=9999).launch("127.0.0.1", 4321)
    assert (made.port, made.argv[1:]) == (9999, ("--port=9999",))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"command": ["a"]}, "has {port}: tell the server where to listen"),
        ({"command": ["a", "{{port}}"]}, "has {port}"),
        ({"command": ["a", "{port}", "{model}"]}, "{model} needs the option 'model'"),
        ({"command": ["a"], "port": 1, "stop": ["{model}"]}, "{model} needs the option 'model'"),
        ({"command": []}, "at least 1"),
        ({"command": ["a"], "port": 0}, "greater than or equal to 1"),
        ({"command": ["a"], "port": 1, "health": "health"}, "match pattern"),
        ({"command": ["a"], "port": 1, "key_env": "A B"}, "match pattern"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        options(**given)
    assert words in str(caught.value)


def test_a_missing_program_is_named() -> None:
    with pytest.raises(LaunchError, match="there is no program no-such-program: install it"):
        options(command=["no-such-program"], port=1).launch("127.0.0.1", 4321)


def test_which_models_it_serves() -> None:
    assert options(command=["a"], port=1, model="m").served_names() == ("m",)
    assert options(command=["a"], port=1).served_names() == ()


def test_a_health_check_of_its_own() -> None:
    plain = registry.create("openai", OpenAIOptions(), options(command=["a"], port=1))
    assert plain.health().path == "/v1/models"
    assert (plain.health_of(404, b""), plain.health_of(503, b"")) == (Health.READY, Health.DOWN)
    for engine in (
        registry.create("openai", None, options(command=["a"], port=1, health="/health")),
        registry.create("openai", OpenAIOptions(health="/health"), None),
    ):
        assert (engine.health().path, engine.health().method) == ("/health", "GET")
        found = [engine.health_of(status, b"") for status in (200, 204, 301, 401, 404, 500, 503)]
        assert found == [Health.READY] * 2 + [Health.DOWN] * 4 + [Health.LOADING]
