"""What accepted files mean: defaults, every form a value may have, and that nothing of it can be changed."""

from __future__ import annotations

import hashlib
import ipaddress
import textwrap
from pathlib import Path
from typing import Any

import pydantic
import pytest

from backends import registry
from gateway.config.address import Listen
from gateway.config.defaults import Retry, Timeouts
from gateway.config.inherit import retry, timeouts
from gateway.config.model import Target
from gateway.config.schema import Config
from tests.config.files import config, lines
from tests.config.toy import Shape, ToyOptions

SMALLEST = "backends: {a: {engine: openai, url: 'http://h:1'}}\n"


def server(folder: Path, text: str) -> Any:
    """Return the `server` section of a file with one backend."""
    return config(folder, f"server: {text}\n{SMALLEST}").server


def test_the_smallest_file_gets_every_default(tmp_path: Path) -> None:
    found = config(tmp_path, SMALLEST)
    assert found.server.listen == Listen("127.0.0.1", 8080)
    assert (found.server.auth, found.server.drain) == ("keys", 30.0)
    assert found.server.limits.model_dump() == {
        "body": 10 * 2**20,
        "values": 500_000,
        "headers": 32 * 2**10,
        "header_count": 100,
        "reply": 256 * 2**20,
        "event": 32 * 2**20,
        "connections": 10000,
        "background": 100,
    }
    assert found.server.timeouts.model_dump() == {
        "headers": 10.0,
        "body": 60.0,
        "keep_alive": 75.0,
        "write": 60.0,
    }
    assert found.server.log.model_dump() == {
        "level": "info",
        "format": "text",
        "access": None,
        "access_format": "json",
        "access_rate": 1000,
    }
    assert found.server.tracing is None
    assert found.defaults.timeouts == Timeouts(queue=30, connect=2, first_token=60, idle=60, total=1800)
    assert found.defaults.retry == Retry(attempts=2)
    backend = found.backends["a"]
    assert (backend.api_key, backend.models, backend.launch, dict(backend.labels)) == (None, None, None, {})
    assert not found.models and not found.keys


@pytest.mark.parametrize(
    "text",
    [
        f"server:\ndefaults:\nmodels:\nkeys: ~\n{SMALLEST}",
        f"models: {{}}\nkeys: {{}}\nserver: {{}}\ndefaults: {{timeouts: {{}}, retry: {{}}}}\n{SMALLEST}",
        f"\ufeff{SMALLEST}",
        f"---\n{SMALLEST}...\n",
        SMALLEST.replace("\n", "\r\n"),
        '{"backends": {"a": {"engine": "openai", "url": "http://h:1"}}}',
        "backends: {a: &one {engine: openai, url: 'http://h:1'}}",
    ],
    ids=["empty sections", "empty maps", "byte order mark", "document marks", "windows", "json", "anchor"],
)
def test_forms_of_the_same_file(text: str, tmp_path: Path) -> None:
    assert config(tmp_path, text) == config(tmp_path, SMALLEST)


def test_an_alias_stands_for_its_anchor(tmp_path: Path) -> None:
    found = config(tmp_path, "backends:\n  a: &a {engine: openai, url: 'http://h:1'}\n  b: *a\n")
    assert found.backends["a"] == found.backends["b"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    {
        "250ms": 0.25,
        "30s": 30,
        "5m": 300,
        "1h": 3600,
        "1m30s": 90,
        "1h1m1s1ms": 3661.001,
        "1.5s": 1.5,
        "0.5h": 1800,
        "720h": 2592000,
        "0s": 0,
        "'0ms'": 0,
        "007s": 7,
    }.items(),
)
def test_durations(text: str, seconds: float, tmp_path: Path) -> None:
    assert server(tmp_path, f"{{drain: {text}}}").drain == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    {
        "1": 1,
        "4096": 4096,
        "'4096'": 4096,
        "100B": 100,
        "64KB": 64000,
        "64MB": 64 * 10**6,
        "1GB": 10**9,
        "512KiB": 2**19,
        "10MiB": 10 * 2**20,
        "1GiB": 2**30,
    }.items(),
)
def test_sizes(text: str, size: int, tmp_path: Path) -> None:
    assert server(tmp_path, f"{{limits: {{body: {text}}}}}").limits.body == size


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("127.9.9.9:0", "127.9.9.9", 0, True),
        ("localhost:80", "localhost", 80, True),
        ("LocalHost:80", "LocalHost", 80, True),
        ("'[::1]:8080'", "::1", 8080, True),
        ("'[0:0:0:0:0:0:0:1]:8080'", "::1", 8080, True),
        ("0.0.0.0:65535", "0.0.0.0", 65535, False),
        ("'[::]:8080'", "::", 8080, False),
        # Python 3.13 writes such an address with dots, older ones as ::ffff:a00:1.
        ("'[::ffff:10.0.0.1]:80'", str(ipaddress.ip_address("::ffff:a00:1")), 80, False),
        ("gateway.example:8080", "gateway.example", 8080, False),
        ("localhost.example:8080", "localhost.example", 8080, False),
    ],
)
def test_listen(text: str, host: str, port: int, loopback: bool, tmp_path: Path) -> None:
    listen = server(tmp_path, f"{{listen: {text}, auth: none}}").listen
    assert (listen.host, listen.port, listen.loopback) == (host, port, loopback)
    assert config(tmp_path, f"server: {{listen: '{listen}', auth: none}}\n{SMALLEST}").server.listen == listen


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h", "http://h"),
        ("http://h:8000/", "http://h:8000"),
        ("https://h:8000/v1", "https://h:8000"),
        ("https://h/v1/", "https://h"),
        ("http://h/engines/a/v1", "http://h/engines/a"),
        ("http://h/engines/v1beta/", "http://h/engines/v1beta"),
        ("http://h/v1/openai/", "http://h/v1/openai"),
        ("https://h/api/v3/", "https://h/api/v3"),
        ("https://h/models", "https://h/models"),
        ("https://h/chat", "https://h/chat"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://10.0.0.1:1/a", "http://10.0.0.1:1/a"),
        ("http://vllm_a.svc:8000", "http://vllm_a.svc:8000"),
    ],
)
def test_urls(text: str, url: str, tmp_path: Path) -> None:
    assert config(tmp_path, SMALLEST.replace("http://h:1", text)).backends["a"].url == url


def test_models_and_keys(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        textwrap.dedent("""
            backends:
              a: {engine: openai, url: "http://h:1", models: [x, y/z:1], labels: {gpu: h200, no: on}}
              b: {engine: openai, url: "http://h:2"}
            models:
              m/1:2@3+4-5:
                aliases: [on, "2", "gpt-*", {name: "x?", unlisted: true}]
                targets: {b: up, a: {model: "a name", weight: 3}}
                balance: round_robin
                fallback: [other]
                retry: {attempts: 1}
              n: {targets: {a: 1.0.0}, fallback: [on]}
              other: {targets: {a: x}}
            keys:
              k: {hash: "sha256:HASH", models: ["m/*", "?"], tags: [one, two]}
              l: {value: "${env.KEY}"}
        """).replace("HASH", "0" * 64),
        {"KEY": "gw-key"},
    )
    model = found.models["m/1:2@3+4-5"]
    assert dict(model.targets) == {"b": Target(model="up"), "a": Target(model="a name", weight=3)}
    assert list(model.targets) == ["b", "a"]
    assert (model.names, model.balance.policy, model.fallback) == (("on", "2"), "round_robin", ("other",))
    assert (model.globs, [alias.unlisted for alias in model.aliases]) == (
        ("gpt-*", "x?"),
        [False] * 3 + [True],
    )
    assert dict(found.backends["a"].labels) == {"gpu": "h200", "no": "on"}
    assert found.backends["a"].models == ("x", "y/z:1")
    assert (found.keys["k"].sha256, found.keys["k"].models) == ("0" * 64, ("m/*", "?"))
    assert found.keys["l"].sha256 == hashlib.sha256(b"gw-key").hexdigest()
    assert (found.keys["l"].models, found.keys["l"].tags) == (None, ())


def test_launch_options_are_the_engines_own_type(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        "backends: {a: {engine: toy, launch: {model: ../m.gguf, lora: [a, b], extra_args: [-x, '1'], shape: square,"
        " start_timeout: 1m, scale: 2, env: {A: b}}}}",
    )
    assert found.backends["a"].launch == ToyOptions(
        model=Path("../m.gguf"),
        lora=(Path("a"), Path("b")),
        extra_args=["-x", "1"],
        shape=Shape.SQUARE,
        start_timeout=60.0,
        scale=2.0,
        env={"A": "b"},
    )


@pytest.mark.parametrize("name", ["a", "0", "A.b_c-d", "x" * 64])
def test_names(name: str, tmp_path: Path) -> None:
    assert list(config(tmp_path, SMALLEST.replace("{a:", f"{{{name}:")).backends) == [name]


@pytest.mark.parametrize("name", ["x" * 65, ".a", "_a", "'a/b'", "ä", "''"])
def test_bad_names(name: str, tmp_path: Path) -> None:
    assert "expected a name" in "".join(lines(tmp_path, SMALLEST.replace("{a:", f"{{{name}:")))


def test_open_to_others_with_a_key_or_without_auth(tmp_path: Path) -> None:
    everywhere = f"server: {{listen: '0.0.0.0:80'}}\n{SMALLEST}"
    assert lines(tmp_path, f"{everywhere}keys: {{k: {{hash: 'sha256:{'0' * 64}'}}}}") == []
    assert lines(tmp_path, everywhere.replace("'0.0.0.0:80'", "'0.0.0.0:80', auth: none")) == []
    assert len(lines(tmp_path, everywhere)) == 1


def test_nothing_can_be_changed(tmp_path: Path) -> None:
    found: Any = config(tmp_path, f"models: {{m: {{targets: {{a: x}}}}}}\n{SMALLEST}")
    for part, field in (
        (found, "server"),
        (found.defaults.timeouts, "queue"),
        (found.backends["a"], "url"),
        (found.models["m"].targets["a"], "weight"),
        (found.server.listen, "port"),
    ):
        with pytest.raises((pydantic.ValidationError, AttributeError)):
            setattr(part, field, None)
    for frozen in (
        found.backends,
        found.models,
        found.keys,
        found.backends["a"].labels,
        found.models["m"].targets,
    ):
        with pytest.raises(TypeError):
            frozen["x"] = 1


TIMEOUTS = """
defaults: {timeouts: {queue: 1s, connect: 1s}, retry: {attempts: 4}}
backends:
  a: {engine: openai, url: "http://h:1", timeouts: {connect: 2s, idle: 2s}}
  b: {engine: openai, url: "http://h:2"}
models:
  m: {targets: {a: x, b: x}, timeouts: {idle: 3s, total: 3s}, retry: {attempts: 1}}
  n: {targets: {a: x}, aliases: [o]}
"""


@pytest.mark.parametrize(
    ("model", "backend", "queue", "connect", "first_token", "idle", "total"),
    [
        ("m", "a", 1, 2, 60, 3, 3),
        ("m", "b", 1, 1, 60, 3, 3),
        ("n", "a", 1, 2, 60, 2, 1800),
        (None, "a", 1, 2, 60, 2, 1800),
        ("not configured", "b", 1, 1, 60, 60, 1800),
    ],
)
def test_model_over_backend_over_defaults(
    model: str | None,
    backend: str,
    queue: float,
    connect: float,
    first_token: float,
    idle: float,
    total: float,
    tmp_path: Path,
) -> None:
    found = timeouts(config(tmp_path, TIMEOUTS), model, backend)
    shown = (found.queue, found.connect, found.first_token, found.idle, found.total)
    assert shown == (queue, connect, first_token, idle, total)


SLOW = """
defaults: {{timeouts: {{queue: 1s{defaults}}}}}
backends: {{a: {{engine: {engine}, url: "http://h:1"{backend}}}}}
"""


@pytest.mark.parametrize("engine", ["llamacpp", "llama-cpp-python", "ollama", "transformers"])
def test_engines_on_cpus_have_long_for_their_first_content_unless_the_config_says_otherwise(
    engine: str, tmp_path: Path
) -> None:
    for defaults, backend, expected in (
        ("", "", (600, 600)),
        (", first_token: 20s", "", (600, 20)),
        (", first_token: 60s, first_byte: 60s", "", (60, 60)),
        ("", ", timeouts: {first_token: 5s}", (600, 5)),
        ("", ", timeouts: {first_byte: 5s}", (5, 600)),
    ):
        text = SLOW.format(engine=engine, defaults=defaults, backend=backend)
        found = timeouts(config(tmp_path, text), None, "a")
        assert (found.first_byte, found.first_token, found.queue) == (*expected, 1)
    assert "10m at llama.cpp, llama-cpp-python, Ollama and Transformers" in str(
        Timeouts.model_fields["first_token"].description
    )


def test_only_they_have() -> None:
    long = {name for name in registry.ENGINES if registry.engine(name).first_token is not None}
    assert long == {"llamacpp", "llama-cpp-python", "ollama", "transformers"}


def test_timeouts_of_an_unknown_backend(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        timeouts(config(tmp_path, TIMEOUTS), "m", "c")


@pytest.mark.parametrize(("model", "attempts"), [("m", 1), ("n", 4), (None, 4), ("not configured", 4)])
def test_retry_of_the_model_or_the_defaults(model: str | None, attempts: int, tmp_path: Path) -> None:
    assert retry(config(tmp_path, TIMEOUTS), model).attempts == attempts


def test_code_may_give_seconds_as_numbers() -> None:
    assert Timeouts(idle=0.5).idle == 0.5
    assert Timeouts(queue=0).queue == 0
    with pytest.raises(pydantic.ValidationError):
        Timeouts(idle=0)
    with pytest.raises(pydantic.ValidationError):
        Timeouts(queue=-1)


def test_equal_files_are_equal_configs(tmp_path: Path) -> None:
    found = config(tmp_path, TIMEOUTS)
    assert found == config(tmp_path, f"# a comment\n{TIMEOUTS}")
    assert found != config(tmp_path, TIMEOUTS.replace("total: 3s", "total: 4s"))
    assert isinstance(found, Config)
