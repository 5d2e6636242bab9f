"""Whatever a config file holds, it is accepted or refused with a ConfigError; nothing else ever comes out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.config.file import load
from gateway.config.problems import ConfigError, Problem
from gateway.config.schema import Config
from tests.config.files import written

ENVIRON = {"A": "one", "N": "8", "BAD": "\udcff"}

WORDS = st.sampled_from(
    "server listen auth drain limits body headers header_count connections timeouts keep_alive write log level format "
    "defaults queue connect first_token idle total retry attempts backends engine url api_key models labels launch "
    "model parallel embeddings lora env extra_args token start_timeout aliases targets weight balance fallback keys "
    "hash value tags a b m openai toy least_loaded none 30s 10MiB http://h:1 0.0.0.0:80 <<".split()
)
SCALARS = st.one_of(
    WORDS,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.sampled_from(
        [
            "${env.A}",
            "${env.N}",
            "${env.NONE}",
            "${env.BAD}",
            "${env.NONE:-x}",
            "${",
            "$${",
            "${x}",
            "${file:/}",
        ]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(WORDS, st.text(max_size=4)), inner, max_size=5)
    ),
    max_leaves=25,
)
ENTRIES = st.dictionaries(st.sampled_from("ab"), VALUES, max_size=2)
SHAPED = st.fixed_dictionaries(
    {"backends": ENTRIES}, optional={"models": ENTRIES, "keys": ENTRIES, "server": VALUES, "defaults": VALUES}
)
INDICATORS = st.text(alphabet="ab:-{}[]#&*!|>'\"%@`,? \n\t\\$.~<=0\u2028\ufeffé\x00", max_size=40)


def problems(text: str | bytes) -> tuple[Problem, ...]:
    """Return what is wrong with `text`; only a ConfigError may say so."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            assert isinstance(load(written(Path(folder), text), ENVIRON), Config)
        except ConfigError as error:
            return error.problems or (Problem("", 0, 0, ""),)
    return ()


def survives(text: str | bytes) -> None:
    """Check that nothing but a ConfigError comes out, and that each problem has a place and is one plain line."""
    for problem in problems(text):
        assert problem.file.endswith("gateway.yaml") and problem.line >= 1 and problem.column >= 1
        assert problem.message and "\n" not in problem.message and "pydantic" not in problem.message


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    survives(data)


@given(INDICATORS)
@example("backends: {a: {engine: toy, launch: {model: m, env: {x: }}}}")
@example("? \n: a")
@example("&a *a")
@example("a: !<tag:yaml.org,2002:int> x")
@example('"\\x00": 1')
@settings(max_examples=400)
def test_any_indicators(text: str) -> None:
    survives(text)


@given(st.one_of(SHAPED, VALUES))
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_any_values(value: Any) -> None:
    survives(yaml.safe_dump(value, allow_unicode=True))


@given(st.text(alphabet="bckends: {}a,ngi'tohpurl/1\n$v.xm", max_size=60))
def test_any_tail(tail: str) -> None:
    survives("backends: {a: {engine: openai, url: 'http://h:1'}}\nmodels: " + tail)
