"""A secret of the config file is never printed: not in a problem, not in a repr, not in a dump."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.file import load
from gateway.config.problems import ConfigError
from tests.config.files import config, written

CANARY = "canary-5e1f"
SOUND = """
server: {listen: "127.0.0.1:0", drain: 30s, log: {level: info}}
defaults: {timeouts: {idle: 5s}, retry: {attempts: 2}}
backends:
  a:
    engine: openai
    url: http://h:1
    api_key: ${env.KEY}
    models: [x]
    labels: {x: y}
  b:
    engine: toy
    launch: {model: m, parallel: 1, embeddings: true, shape: round, extra_args: [--api-key, x], env: {T: x}, token: x}
models:
  m: {aliases: [n], targets: {a: {model: x, weight: 1}}, balance: least_loaded, fallback: [o], timeouts: {total: 1s}}
  o: {targets: {b: x}}
keys:
  k: {value: "${env.KEY}", models: [m], tags: [t]}
  l: {hash: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
"""


def test_not_in_a_repr_or_dump(tmp_path: Path) -> None:
    text = SOUND.replace("--api-key, x", "--api-key, '${env.KEY}'").replace("{T: x}", "{T: '${env.KEY}'}")
    found = config(tmp_path, text, {"KEY": CANARY})
    secret = found.backends["a"].api_key
    assert secret is not None and secret.get_secret_value() == CANARY
    assert found.keys["k"].value is not None and found.keys["k"].value.get_secret_value() == CANARY
    assert CANARY not in repr(found) + str(found)
    shown = found.model_dump_json()
    assert CANARY not in shown and "least_loaded" in shown


def scalars(text: str) -> Iterator[tuple[int, int]]:
    """Return the beginning and end of every value in the text of a config file."""
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    waiting: list[Any] = [document]
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.ScalarNode):
            yield node.start_mark.index, node.end_mark.index
        elif isinstance(node, yaml.MappingNode):
            waiting += [value for _, value in node.value]
        else:
            waiting += node.value


@pytest.mark.parametrize("span", list(scalars(SOUND)))
def test_not_in_a_problem_wherever_it_is_filled_in(span: tuple[int, int], tmp_path: Path) -> None:
    text = SOUND[: span[0]] + '"${env.CANARY}"' + SOUND[span[1] :]
    for canary in (CANARY, f"{CANARY} with spaces", f"http://user:{CANARY}@h", "5178125717"):
        try:
            load(written(tmp_path, text), {"KEY": "elsewhere", "CANARY": canary})
        except ConfigError as error:
            shown = "".join(traceback.format_exception(error, limit=0))
            assert canary.strip() not in shown and CANARY not in shown


@pytest.mark.parametrize("value", [CANARY, "5178125717", f"[{CANARY}]", f"{{x: {CANARY}}}", f"'{CANARY} x'"])
@pytest.mark.parametrize("place", ["api_key", "hash", "value", "token", "url", "T: ", "--api-key, ", "k: "])
def test_not_in_a_problem_where_it_was_written(place: str, value: str, tmp_path: Path) -> None:
    """Somebody who writes a key into the file does not find it again in a log."""
    texts = {
        "api_key": SOUND.replace("${env.KEY}\n", f"{value}\n"),
        "hash": SOUND.replace('hash: "sha256:' + "0" * 64 + '"', f"hash: {value}"),
        "value": SOUND.replace('value: "${env.KEY}"', f"value: {value}"),
        "token": SOUND.replace("token: x", f"token: {value}"),
        "url": SOUND.replace("http://h:1", value),
        "T: ": SOUND.replace("T: x", f"T: {value}"),
        "--api-key, ": SOUND.replace("--api-key, x", f"--api-key, {value}"),
        "k: ": SOUND.replace('k: {value: "${env.KEY}", models: [m], tags: [t]}', f"k: {value}"),
    }
    assert texts[place] != SOUND
    try:
        found = repr(load(written(tmp_path, texts[place]), {"KEY": "elsewhere"}))
    except ConfigError as error:
        found = "".join(traceback.format_exception(error, limit=0))
        assert "elsewhere" not in found
    assert CANARY not in found.replace(f"unknown key '{CANARY}'", "") and "5178125717" not in found


def test_the_names_of_models_may_come_from_outside_and_stay_hidden(tmp_path: Path) -> None:
    text = SOUND.replace("aliases: [n]", "aliases: ['${env.KEY}']").replace(
        "fallback: [o]", "fallback: [canary]"
    )
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text.replace("models: [m]", "models: [canary]")), {"KEY": CANARY})
    assert len(caught.value.problems) == 2 and CANARY not in str(caught.value)


def test_the_sound_file_is_sound(tmp_path: Path) -> None:
    assert list(config(tmp_path, SOUND, {"KEY": CANARY}).backends) == ["a", "b"]
