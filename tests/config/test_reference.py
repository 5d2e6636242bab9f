"""What is told about the config elsewhere is true: the JSON Schema, the examples in `configs/`, and the docs."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from backends import registry
from backends.facts.residing import Residing
from gateway.config import json_schema
from gateway.config.backend import BackendConfig, engine_section
from gateway.config.data import Data
from gateway.config.defaults import Defaults
from gateway.config.file import load
from gateway.config.problems import ConfigError
from gateway.config.schema import Config
from gateway.config.section import Section, spelled
from gateway.config.server import Server
from gateway.config.tracing import Tracing
from tests.config import reference

EXAMPLES = sorted((reference.ROOT / "configs").rglob("*.yaml"))
ENVIRON = {"VLLM_KEY": "secret"}
TEXT = reference.PAGE.read_text(encoding="utf-8")


@pytest.fixture
def toy_engine() -> None:
    """Leave the toy engine out: only the real engines are part of the files checked here."""


@functools.cache
def validator() -> jsonschema.Draft7Validator:
    """Return a validator for the schema, which takes a tenth of a second to build."""
    return jsonschema.Draft7Validator(json_schema.build())


def schema_problems(value: object) -> list[str]:
    """Return what a validator of JSON Schema says of a file's plain values."""
    return [error.message for error in validator().iter_errors(value)]


def test_schema_file_is_fresh() -> None:
    assert reference.SCHEMA.read_text(encoding="utf-8") == reference.schema(), (
        "run python -m tests.config.reference"
    )


def test_schema_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(json_schema.build())


def test_reference_is_fresh() -> None:
    assert reference.page(TEXT) == TEXT, "run python -m tests.config.reference"


def fields(kind: type[Any], title: str) -> Iterator[str]:
    """Yield every key below a section as `way.key`, map entries as NAME."""
    for path, section in reference.sections(kind, title):
        yield from (f"{path}.{name}".lstrip(".") for name in spelled(section))


@pytest.mark.parametrize(
    "kind", [Config, *(registry.engine(name).launch_options for name in registry.names())]
)
def test_every_key_is_in_the_reference(kind: type[Any] | None) -> None:
    missing = (
        [path for path in fields(kind, "") if f"| `{path.rpartition('.')[2]}` |" not in TEXT] if kind else []
    )
    assert missing == []


def test_every_field_has_a_meaning() -> None:
    kinds: list[type[Any]] = [section for _, section in reference.sections(Config, "")]
    kinds += [kind for name in registry.names() if (kind := registry.engine(name).launch_options)]
    assert [f"{kind.__name__}.{name}" for kind in kinds for name, field in kind.model_fields.items()
            if not (field.description or "").endswith((".", "`"))] == []  # fmt: skip
    assert all(issubclass(section, Section) for _, section in reference.sections(Config, ""))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_accepted(path: Path) -> None:
    assert load(path, ENVIRON).backends
    text = path.read_text(encoding="utf-8")
    up = "../" * (len(path.relative_to(reference.SCHEMA.parent).parts) - 1)
    assert text.startswith(f"# yaml-language-server: $schema={up}schema.json\n")
    assert schema_problems(yaml.safe_load(text)) == []


def test_the_full_example_needs_no_environment_and_shows_the_defaults() -> None:
    found = load(reference.ROOT / "configs" / "full.yaml", {})
    assert found.server == Server()
    assert found.defaults == Defaults()


def test_the_full_example_has_every_key() -> None:
    shown = yaml.safe_load((reference.ROOT / "configs" / "full.yaml").read_text(encoding="utf-8"))
    there = set(keys_of(shown, ""))
    missing = set(fields(Config, "")) - there
    # In comments: a key's value excludes its hash, this engine has no options, and these defaults are none.
    none = {"defaults.timeouts.answer", "defaults.model", "defaults.unknown_model", "server.log.access"}
    none |= {"server.tls", "server.tls.cert", "server.tls.key", "server.metrics.listen"}
    none |= {"models.NAME.template", "models.NAME.loras", "models.NAME.lora_slots"}
    none |= {"server.engines.at_once", "server.engines.together"}
    none |= {"backends.NAME.native.NAME.since"}  # this engine tells no version
    none |= {"server.tracing", *(f"server.tracing.{name}" for name in Tracing.model_fields)}
    none |= {"server.data", *(f"server.data.{name}" for name in Data.model_fields)}
    none.add("server.engines.adopt")  # it needs `server.data`
    assert missing == {"keys.NAME.value", "backends.NAME.options"} | none


@pytest.mark.parametrize("name", sorted(set(registry.ENGINES)))
def test_an_engines_example_has_every_option(name: str) -> None:
    shown = yaml.safe_load(
        (reference.ROOT / "configs" / "engines" / f"{name}.yaml").read_text(encoding="utf-8")
    )
    backends = [entry for entry in shown["backends"].values() if entry["engine"] == name]
    for section in ("options", "launch"):
        kind = engine_section(name, section)
        told = {key for entry in backends for key in entry.get(section, {})}
        own = set(kind.model_fields) - set(Residing.model_fields) if kind else set()
        assert told == own, section


def keys_of(value: object, path: str) -> Iterator[str]:
    """Return the keys of a file as `way.key`, with the names of entries as NAME."""
    if isinstance(value, dict):
        named = path in {
            "backends",
            "models",
            "keys",
            "profiles",
            "models.NAME.targets",
            "backends.NAME.native",
        }
        for key, inner in value.items():
            step = f"{path}.{'NAME' if named else key}".lstrip(".")
            yield step
            yield from keys_of(inner, step)
    elif isinstance(value, list):
        for inner in value:
            yield from keys_of(inner, f"{path}[]")


@pytest.mark.parametrize(
    "change",
    [
        {"backends": {}},
        {"routes": [{"to": "m"}]},
        {"routes": [{"name": "r"}]},
        {"routes": [{"name": "r", "to": {"weigted": {"m": 1}}}]},
        {"routes": [{"name": "r", "to": "m", "match": {"time": {"after": "25:00"}}}]},
        {"routes": [{"name": "r", "to": "m", "match": {"operation": "chatting"}}]},
        {"backends": {"a": {"engine": "openai"}}},
        {"backends": {"a": {"engine": "openai", "url": "http://h", "launch": {"model": "m"}}}},
        {"backends": {"a": {"engine": "openai", "launch": {"model": "m"}}}},
        {"backends": {"a": {"engine": "opnai", "url": "http://h"}}},
        {"backends": {"a b": {"engine": "openai", "url": "http://h"}}},
        {"backends": {"a": {"engine": "openai", "url": "h:8000"}}},
        {"backends": {"a": {"engine": "openai", "url": "http://h", "timeouts": {"idle": 30}}}},
        {"backends": {"a": {"engine": "openai", "url": None}}},
        {"backends": {"a": {"engine": "llamacpp", "launch": {}}}},
        {"backends": {"a": {"engine": "llamacpp", "launch": {"model": "m", "modle": "m"}}}},
        {"backends": {"a": {"engine": "llamacpp", "launch": {"model": "m", "parallel": 0}}}},
        {"server": {"limits": {"body": "10mb"}}},
        {"server": {"auth": "key"}},
        {"server": {"drain": "30"}},
        {"defaults": {"retry": {"attempts": 6}}},
        {"defaults": {"retry": {"attempts": "3"}}},
        {"models": {"m": {"targets": {}}}},
        {"models": {"m": {}}},
        {"models": {"m": {"targets": {"a": {"weight": 2}}}}},
        {"models": {"m": {"targets": {"a": 5}}}},
        {"keys": {"k": {}}},
        {"keys": {"k": {"hash": "sha256:1"}}},
        {"keys": {"k": {"hash": "sha256:" + "0" * 64, "value": "${env.X}"}}},
    ],
    ids=json.dumps,
)
def test_schema_and_loader_refuse_the_same(change: dict[str, Any], tmp_path: Path) -> None:
    sound = {"backends": {"a": {"engine": "openai", "url": "http://h"}}}
    assert schema_problems(sound) == []
    assert schema_problems(sound | change) != []
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps(sound | change))
    with pytest.raises(ConfigError):
        load(file, {"X": "x"})


def test_schema_leaves_room_for_substitution() -> None:
    filled = "${env.A}"
    options = {
        "model": filled,
        "threads": filled,
        "embeddings": filled,
        "start_timeout": filled,
        "log_level": filled,
    }
    value = {
        "server": {"listen": filled, "auth": filled, "drain": filled, "limits": {"body": filled}},
        "defaults": {"retry": {"attempts": filled}},
        "backends": {
            "a": {"engine": "openai", "url": filled, "api_key": filled},
            "b": {"engine": "llamacpp", "launch": options},
        },
        "models": {
            "m": {"aliases": [filled], "targets": {"a": filled, "b": {"model": filled, "weight": filled}}}
        },
        "keys": {"k": {"hash": filled}, "l": {"value": filled, "models": [filled]}},
    }
    assert schema_problems(value) == []


WRONG = """\
defaults:
  # of every request
  timeouts: {queue: 30}
backends:
  a: {engine: opnai, url: "http://a:8000"}
  vllm-a: {engine: openai, url: "http://b:8000"}
models:
  qwen:
    targets: {vlm-a: x}
    fallbak: [y]
"""


def test_the_problems_in_the_docs_are_real(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(WRONG)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "gateway.yaml", {})
    shown = str(caught.value).replace(f"{tmp_path}/", "")
    assert f"```\n{shown}\n```" in TEXT


def test_backend_descriptions_reach_the_schema() -> None:
    described = json_schema.build()["$defs"]["BackendConfig"]["properties"]
    assert all(
        described[name]["description"] == field.description
        for name, field in BackendConfig.model_fields.items()
    )
