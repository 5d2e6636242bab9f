"""Models that are made from others, as the rest of the gateway sees them: what is inherited, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import diff
from gateway.config.persona import gate_of
from gateway.config.schema import Config
from tests.config.files import config, lines

CONFIG = """
backends:
  a: {engine: vllm, url: "http://h:1"}
  b: {engine: ollama, url: "http://h:2"}
models:
  grandchild: {from: kid, context: 100, parameters: {set: {max_tokens: 5}, clamp: {top_p: [0, 0.5]}}}
  base:
    targets: {a: up}
    aliases: [main]
    unlisted: true
    fallback: [other]
    context: 4096
    capabilities: {tools: true, vision: false}
    timeouts: {connect: 1s, total: 60s}
    retry: {attempts: 5}
    admission: {concurrency: 3}
    system: Base.
    parameters:
      set: {temperature: 0.1, seed: 1}
      default: {max_completion_tokens: 9, top_k: 4}
      strip: [logit_bias, n, user]
      clamp: {top_p: [0, 0.9], min_p: [0, 0.1]}
  child:
    from: main
    aliases: [kid]
    system: {text: Child., mode: replace}
    capabilities: {vision: true}
    timeouts: {connect: 2s}
    parameters: {default: {temperature: 0.7}, set: {n: 1}}
  other: {targets: {b: up}}
  moved: {from: base, targets: {b: down}}
  limited: {from: base, admission: {concurrency: 3}}
"""


@pytest.fixture
def made(tmp_path: Path) -> Config:
    return config(tmp_path, CONFIG)


def test_what_a_persona_has_of_its_base(made: Config) -> None:
    base, child = made.models["base"], made.models["child"]
    assert child.targets == base.targets
    for name in ("fallback", "context", "retry", "admission", "balance", "hedge", "heartbeat"):
        assert getattr(child, name) == getattr(base, name), name
    assert (child.timeouts.connect, child.timeouts.total) == (2.0, 60.0)
    assert (child.capabilities.tools, child.capabilities.vision) == (True, True)
    assert child.system is not None and (child.system.text, child.system.mode) == ("Child.", "replace")
    assert (child.parent, child.names, child.unlisted) == ("base", ("kid",), False)


def test_the_word_of_a_persona_on_a_parameter_is_the_last(made: Config) -> None:
    rules = made.models["child"].parameters
    assert dict(rules.set) == {"seed": 1, "n": 1}
    assert dict(rules.default) == {"max_completion_tokens": 9, "top_k": 4, "temperature": 0.7}
    assert rules.strip == ("logit_bias", "user")
    assert dict(rules.clamp) == {"top_p": (0, 0.9), "min_p": (0, 0.1)}


def test_a_chain_by_an_alias_and_before_its_base_in_the_file(made: Config) -> None:
    last = made.models["grandchild"]
    assert (last.parent, last.context, dict(last.targets)) == (
        "child",
        100,
        dict(made.models["base"].targets),
    )
    assert dict(last.parameters.set) == {"seed": 1, "n": 1, "max_tokens": 5}
    assert dict(last.parameters.default) == {"top_k": 4, "temperature": 0.7}
    assert dict(last.parameters.clamp) == {"min_p": (0, 0.1), "top_p": (0, 0.5)}
    assert last.system == made.models["child"].system


def test_whose_slots_a_persona_takes(made: Config) -> None:
    gates = {name: gate_of(made, name) for name in made.models}
    assert gates == {
        "grandchild": "base",
        "base": "base",
        "child": "base",
        "other": "other",
        "moved": "moved",
        "limited": "limited",
    }


def test_what_a_change_of_the_base_is_told_as(made: Config, tmp_path: Path) -> None:
    changed = config(
        tmp_path, CONFIG.replace("from: main", "from: other").replace("attempts: 5", "attempts: 4")
    )
    told = diff.changes(made, changed)
    assert any(line.startswith("model 'child' changes: from base -> other") for line in told)
    assert any(line.startswith("model 'moved' changes: retry.attempts 5 -> 4") for line in told)


def test_a_long_chain_is_no_matter_of_the_stack(tmp_path: Path) -> None:
    chain = "\n".join(f"  m{number}: {{from: m{number + 1}}}" for number in range(3000))
    made = config(
        tmp_path,
        f'backends: {{a: {{engine: vllm, url: "http://h:1"}}}}\nmodels:\n{chain}\n  m3000: {{targets: {{a: up}}}}\n',
    )
    assert made.models["m0"].targets["a"].model == "up"


def test_a_template_only_where_engines_take_one(tmp_path: Path) -> None:
    text = (
        CONFIG + "  styled: {from: base, template: '{{ x }}'}\n  wrong: {from: other, template: '{{ x }}'}\n"
    )
    text += "  led: {from: styled, targets: {b: up}}\n"
    engines = "these do: ray-serve, tensorrt-llm, vllm"
    assert lines(tmp_path, text) == [
        "34:24: the engine of backend 'b', ollama, takes no chat template with a request; " + engines,
        "35:23: the engine of backend 'b', ollama, takes no chat template with a request; " + engines,
    ]
