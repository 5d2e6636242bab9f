"""The section `profiles`: what is refused, and what the aliases of an active one change."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.inherit import in_profile
from tests.config.files import config, lines

BASE = """backends: {a: {engine: vllm, url: "http://a"}}
models:
  qwen: {aliases: [gpt-4, small], targets: {a: q}}
  coder: {aliases: ["gpt-4*"], targets: {a: c}, fallback: [gpt-4]}
  hidden: {internal: true, targets: {a: h}}
"""


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("{coding: {aliases: {gpt-4: coder, new: small, 'gpt-4*': qwen}}, night: {aliases: {gpt-4: qwen}}}", []),
        (
            "{coding: {aliases: {gpt-4: codr}}}",
            ["6:38: unknown model 'codr' (did you mean 'coder'?)"],
        ),
        (
            "{coding: {aliases: {qwen: coder}}}",
            ["6:31: 'qwen' is the name of a model: a profile gives aliases only"],
        ),
        ("{none: {aliases: {x: qwen}}}", ["6:12: 'none' means that no profile is active: choose another name"]),
        ("{p: {aliases: {x: hidden}}}", ["6:29: 'hidden' is internal: clients cannot be led to it"]),
        (
            "{p: {alias: {x: qwen}}}",
            ["6:16: unknown key 'alias' (did you mean 'aliases'?)"],
        ),
    ],
)  # fmt: skip
def test_problems(section: str, expected: list[str], tmp_path: Path) -> None:
    assert lines(tmp_path, f"{BASE}profiles: {section}\n") == expected


def test_profiles_need_models(tmp_path: Path) -> None:
    text = BASE.partition("\n")[0] + "\nprofiles: {p: {aliases: {x: m}}}"
    expected = "2:1: profiles need 'models': their aliases lead to models that are described there"
    assert lines(tmp_path, text) == [expected]


def test_a_key_may_name_the_aliases_of_profiles(tmp_path: Path) -> None:
    keys = f"keys: {{k: {{hash: 'sha256:{'0' * 64}', models: [x]}}}}\n"
    assert lines(tmp_path, f"{BASE}{keys}") != []
    assert lines(tmp_path, f"{BASE}{keys}profiles: {{p: {{aliases: {{x: qwen}}}}}}") == []


def test_aliases_of_the_active_profile_win(tmp_path: Path) -> None:
    given = config(
        tmp_path,
        f"{BASE}profiles: {{p: {{aliases: {{gpt-4: coder, 'gpt-4*': small, new: qwen}}}}, q: {{aliases: {{}}}}}}",
    )

    def aliases(profile: str | None) -> dict[str, list[str]]:
        found = in_profile(given, profile).models
        return {
            name: [alias.name for alias in model.aliases] for name, model in found.items() if model.aliases
        }

    assert aliases("p") == {"qwen": ["small", "gpt-4*", "new"], "coder": ["gpt-4"]}
    for other in (None, "q", "gone"):
        assert aliases(other) == {"qwen": ["gpt-4", "small"], "coder": ["gpt-4*"]}
    assert in_profile(given, None) is given
