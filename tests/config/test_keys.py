"""New keys are strong, differ, and fit into the config file as they are printed."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from gateway.keys import hash_key, new_key
from tests.config.files import config, lines

SMALLEST = "backends: {a: {engine: openai, url: 'http://h:1'}}\nkeys:\n"


def test_a_key_and_its_line(tmp_path: Path) -> None:
    plain, line = new_key("team-a")
    assert re.fullmatch(r"gw-[A-Za-z0-9_-]{43}", plain)
    assert line == f'team-a: {{hash: "sha256:{hashlib.sha256(plain.encode()).hexdigest()}"}}'
    key = config(tmp_path, f"{SMALLEST}  {line}\n").keys["team-a"]
    assert f"sha256:{key.sha256}" == hash_key(plain)
    assert plain not in line


def test_keys_differ() -> None:
    assert len({new_key("x")[0] for _ in range(100)}) == 100


@pytest.mark.parametrize("name", ["a b", "a: b", "#x", "*x", "ä", ""])
def test_a_name_that_the_config_refuses_is_refused_there(name: str, tmp_path: Path) -> None:
    found = lines(tmp_path, f"{SMALLEST}  {new_key(name)[1]}\n")
    assert len(found) == 1 and "expected a name" in found[0]
