"""What a file may cost: size, nesting, aliases, and that big files are checked in one go."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from gateway.config import include, yaml_source
from gateway.config.file import load
from gateway.config.problems import ConfigError
from tests.config.files import config, lines, written

BACKEND = "backends: {a: {engine: openai, url: 'http://h:1'}}\n"


def test_file_size(tmp_path: Path) -> None:
    padding = "#" * (include.FILE_BYTES - len(BACKEND))
    assert lines(tmp_path, BACKEND + padding) == []
    assert lines(tmp_path, BACKEND + padding + "#") == ["1:1: the file is larger than 4 MiB"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("none.yaml", "No such file or directory"), (".", "Is a directory"), ("\0", "not a usable path")],
)
def test_unreadable_file(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / name, {})
    assert str(caught.value) == f"{tmp_path / name}:1:1: cannot read the file: {reason}"


def test_nesting(tmp_path: Path) -> None:
    deep = "[" * yaml_source.DEPTH + "]" * yaml_source.DEPTH
    assert lines(tmp_path, f"{BACKEND}labels: {deep}")[0].startswith("2:1: unknown key")
    assert lines(tmp_path, f"a: [{deep}]") == ["1:36: nested more than 32 deep"]
    assert lines(tmp_path, "a: " + "[" * 100_000) == ["1:36: nested more than 32 deep"]
    assert lines(tmp_path, "- " * 100_000) == ["1:67: nested more than 32 deep"]


def test_alias_bomb(tmp_path: Path) -> None:
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    assert lines(tmp_path, "\n".join(bomb)) == ["6:10: the aliases stand for more than 100000 values"]


def test_many_aliases_are_fine(tmp_path: Path) -> None:
    text = "backends:\n  b: &b {engine: openai, url: 'http://h:1'}\n" + "".join(
        f"  b{n}: *b\n" for n in range(5000)
    )
    assert len(config(tmp_path, text).backends) == 5001


def big(models: int, keys: int, prefix: str = "m") -> str:
    """Return a file with so many models, each falling back to the next, and keys; `wrong` breaks every reference."""
    rows = [
        "backends:",
        *(f"  b{n}: {{engine: openai, url: 'http://h{n}:8000'}}" for n in range(100)),
        "models:",
    ]
    for n in range(models):
        fallback = f", fallback: [{prefix}{n + 1}]" if n + 1 < models else ""
        rows.append(f"  m{n}: {{aliases: [a{n}], targets: {{b{n % 100}: x, b{(n + 1) % 100}: y}}{fallback}}}")
    rows.append("keys:")
    for n in range(keys):
        digest = hashlib.sha256(str(n).encode()).hexdigest()
        rows.append(
            f"  k{n}: {{hash: 'sha256:{digest}', models: [{prefix}{n % models}, '{prefix}{n % models}*']}}"
        )
    return "\n".join(rows)


def test_a_thousand_models_and_ten_thousand_keys(tmp_path: Path) -> None:
    found = config(tmp_path, big(1000, 10_000))
    assert (len(found.models), len(found.keys)) == (1000, 10_000)


def test_a_big_file_that_is_wrong_everywhere(tmp_path: Path) -> None:
    """Every problem is listed, though names are no longer suggested after a while."""
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, big(300, 1000, prefix="zz")), {})
    assert len(caught.value.problems) == 299 + 2 * 1000


def test_a_long_circle(tmp_path: Path) -> None:
    rows = "".join(f"  m{n}: {{targets: {{a: x}}, fallback: [m{(n + 1) % 3000}]}}\n" for n in range(3000))
    found = lines(tmp_path, f"models:\n{rows}{BACKEND}")
    assert found == [
        "3001:39: the fallbacks go in a circle: m0 -> m1 -> m2 -> m3 -> … -> m2997 -> m2998 -> m2999 -> m0"
    ]


def test_of_very_many_unknown_keys_the_first_are_told_and_how_many_more_there_are(tmp_path: Path) -> None:
    text = BACKEND + "".join(f"k{number}: 1\n" for number in range(1000)) + "server: {x: 1}\n"
    found = lines(tmp_path, text)
    assert len([line for line in found if "unknown key 'k" in line]) == 100
    assert [line for line in found if "and 900 more in the same map" in line]
    assert [line for line in found if "unknown key 'x'" in line]
