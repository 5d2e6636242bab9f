"""Chat templates: rendered as Hugging Face's tokenizers do, and what a tokenizer's folder must contain."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backends.base import OptionsError
from backends.engines.triton.prompting import Prompter

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
HELLO = [{"role": "user", "content": "Hello"}]


def folder(path: Path, template: Any = None, file: str | None = None, **config: Any) -> Path:
    """Write a tokenizer's folder with this template and return it."""
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, **config}))
    if file is not None:
        (path / "chat_template.jinja").write_text(file)
    return path


def test_the_demo_model() -> None:
    prompter = Prompter(DEMO)
    prompt = prompter.render([{"role": "system", "content": "Be brief."}, *HELLO], {})
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompter.count(prompter.render([{"role": "user", "content": "What is this gateway?"}], {})) == 16


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{{ messages[0].content }}", "Hello"),
        ("{{ messages[0]['content'] | tojson }}", '"Hello"'),
        ("{{ {'é': [1]} | tojson(indent=1) }}", '{\n "é": [\n  1\n ]\n}'),
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
        ("{{ strftime_now('%d %b %Y') }}", "21 Nov 2026"),
        ("{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}x{% endfor %}", ""),
        ("{% generation %}{{ 1 }}{% endgeneration %}", "1"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{% if tools %}t{% endif %}{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{{ enable_thinking }}", "False"),
    ],
)
def test_what_templates_use(template: str, prompt: str, tmp_path: Path) -> None:
    place = folder(tmp_path, template, bos_token={"content": "<s>"}, eos_token="</s>")
    prompter = Prompter(place, now=lambda: datetime(2026, 11, 21, tzinfo=UTC))
    assert prompter.render(HELLO, {"enable_thinking": False}) == prompt
    assert prompter.count("Hello") is None


def test_which_template(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    assert Prompter(folder(tmp_path, named)).render(HELLO, {}) == "d"
    assert Prompter(folder(tmp_path, named, file="f")).render(HELLO, {}) == "f"


@pytest.mark.parametrize(
    ("config", "tokenizer", "prompt"),
    [
        ({}, {}, "<s>Hello"),
        ({"add_bos_token": True}, {}, "Hello"),
        ({}, {"special_tokens": {"<s>": {"id": "<s>"}}}, "Hello"),
        ({}, {"special_tokens": {"<other>": {}}}, "<s>Hello"),
    ],
)
def test_the_first_token_does_not_come_twice(
    config: dict[str, Any],
    tokenizer: dict[str, Any],
    prompt: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = folder(tmp_path, "{{ bos_token }}{{ messages[0].content }}", bos_token="<s>", **config)
    (place / "tokenizer.json").write_text(json.dumps({"post_processor": tokenizer}))
    monkeypatch.setattr("backends.engines.triton.prompting.tokenizers", None)
    assert Prompter(place).render(HELLO, {}) == prompt


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ messages[5].content.x }}", "has no element 5"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_what_a_template_refuses_is_the_clients_mistake(template: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=why):
        Prompter(folder(tmp_path, template)).render(HELLO, {})


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r"cannot read .*tokenizer_config.json: No such file"):
        Prompter(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(OptionsError, match="is not JSON"):
        Prompter(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(OptionsError, match="holds no JSON object"):
        Prompter(tmp_path)
    with pytest.raises(OptionsError, match="there is no chat template in"):
        Prompter(folder(tmp_path))
    with pytest.raises(OptionsError, match=r"is not valid: .*endfor"):
        Prompter(folder(tmp_path, "{% for x in y %}"))
