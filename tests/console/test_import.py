"""`gateway import`: Modelfiles, as Ollama reads them, and the configs made of them, which `gateway check` accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.console.modelfile import Instruction, ModelfileError, parse
from tests.config.files import config

WHOLE = '''# A comment.
from llama3.2:3b
PARAMETER temperature 1
parameter num_ctx 4096
PARAMETER stop "<|eot|>"
PARAMETER stop ${END}
PARAMETER num_predict 64
PARAMETER mirostat 2
PARAMETER top_k 40
SYSTEM """You are Mario.
  Costs "${5}".
"""
TEMPLATE """{{ .Prompt }}
#"""
MESSAGE user Is Toronto in Canada?
MESSAGE assistant "yes
indeed"
ADAPTER ./lora.gguf
LICENSE "MIT
or so"
'''


def test_what_the_instructions_are() -> None:
    found = parse(WHOLE)
    assert found[0] == Instruction(2, "FROM", "llama3.2:3b")
    assert found[3] == Instruction(5, "PARAMETER", "<|eot|>", "stop")
    assert found[8] == Instruction(10, "SYSTEM", 'You are Mario.\n  Costs "${5}".\n')
    assert found[9] == Instruction(13, "TEMPLATE", "{{ .Prompt }}\n#")
    assert found[11] == Instruction(16, "MESSAGE", "yes\nindeed", "assistant")
    assert found[13] == Instruction(19, "LICENSE", "MIT\nor so")
    assert len(found) == 14


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "there is no FROM"),
        ("FROM x\nSYSTM hi", 2, "unknown instruction 'SYSTM'"),
        ('FROM x\n\nSYSTEM """hi\nthere', 3, "is not closed"),
        ("FROM x\nMESSAGE tool hi", 2, "a message is of one of"),
        ("FROM x\nPARAMETER temperature", 2, "PARAMETER says nothing"),
        ("FROM", 1, "FROM says nothing"),
    ],
)
def test_what_is_no_modelfile(text: str, line: int, words: str) -> None:
    with pytest.raises(ModelfileError, match=words) as caught:
        parse(text)
    assert caught.value.line == line


def made(folder: Path, text: str, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, str]:
    """Return the config of a Modelfile and what was said on stderr. The config must pass `gateway check`."""
    file = folder / "mario" / "Modelfile"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    assert main(["import", str(file), *options]) == 0
    written, told = capsys.readouterr()
    return written, told


def test_a_model_of_ollama(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, told = made(tmp_path, WHOLE, capsys, "--url", "http://127.0.0.1:9999")
    found = config(tmp_path, written)
    mario = found.models["mario"]
    assert mario.parent == "llama3.2:3b" and mario.targets["ollama"].model == "llama3.2:3b"
    assert found.backends["ollama"].options.context == 4096  # type: ignore[union-attr]
    assert mario.system is not None and mario.system.text == 'You are Mario.\n  Costs "${5}".\n'
    assert dict(mario.parameters.default) == {
        "temperature": 1,
        "stop": ["<|eot|>", "${END}"],
        "max_tokens": 64,
        "top_k": 40,
    }
    left = [line.split(":")[-2] for line in told.splitlines() if ": left out" in line]
    assert [(turn.role, turn.content) for turn in mario.messages] == [
        ("user", "Is Toronto in Canada?"),
        ("assistant", "yes\nindeed"),
    ]
    assert len(left) == 3
    for line, word in ((8, "mirostat"), (13, "template"), (18, "ADAPTER")):
        assert any(
            each.startswith(f"{tmp_path}/mario/Modelfile:{line}: left out") and word in each
            for each in told.splitlines()
        )
        assert any(
            each.startswith(f"# Line {line}: left out") and word in each for each in written.splitlines()
        )
    assert "#   MIT\n#   or so\n" in written


def test_system_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first is the system prompt where there is no SYSTEM; a second prompt is told."""
    text = "FROM x\nMESSAGE system Be short.\nMESSAGE user Hi\nMESSAGE system Be long.\n"
    written, told = made(tmp_path, text, capsys)
    found = config(tmp_path, written).models["mario"]
    assert found.system is not None and found.system.text == "Be short."
    assert len(found.messages) == 1 and "Modelfile:4: left out: a second system prompt" in told
    written, told = made(tmp_path, text + "SYSTEM Be kind.\n", capsys)
    found = config(tmp_path, written).models["mario"]
    assert found.system is not None and found.system.text == "Be kind."
    assert told.count("a second system prompt") == 2


def test_a_file_and_its_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, _ = made(tmp_path, WHOLE.replace("llama3.2:3b", "./Tiny-Q4.gguf"), capsys, "--name", "it")
    found = config(tmp_path, written)
    launch = found.backends["llamacpp"].launch
    assert launch is not None and launch.files() is None
    told = launch.model_dump()
    assert (told["model"], told["context"]) == (tmp_path / "mario/Tiny-Q4.gguf", 4096)
    assert told["lora"] == (tmp_path / "mario/lora.gguf",)
    assert told["chat_template"].startswith("{% set chat = namespace(")
    assert found.models["it"].template is None and ": left out: the template" not in written
    assert found.models["it"].parent == "Tiny-Q4"


def test_a_model_of_the_config_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, told = made(tmp_path, WHOLE, capsys, "--from", "big", "--name", "mario")
    assert "ADAPTER ./lora.gguf" in told and "num_ctx" in told
    (tmp_path / "mario.yaml").write_text(written, encoding="utf-8")
    own = 'include: [mario.yaml]\nbackends: {a: {engine: vllm, url: "http://h:1"}}\nmodels: {big: {targets: {a: up}}}\n'
    mario = config(tmp_path, own).models["mario"]
    assert mario.targets["a"].model == "up"
    assert mario.template is not None and "chat.prompt" in mario.template


def test_a_template_that_cannot_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'FROM ./m.gguf\nTEMPLATE """{{ .Prompt }}\n{{ if .Tools }}x{{ end }}"""\n'
    written, told = made(tmp_path, text, capsys)
    assert "Modelfile:2: left out: the template: in line 3, .Tools is not known here;" in told
    launch = config(tmp_path, written).backends["llamacpp"].launch
    assert launch is not None and launch.model_dump()["chat_template"] is None


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("FROM ./folder", (), "no GGUF file"),
        ("FROM x\nPARAMETER temperature hot", (), "Modelfile:2: PARAMETER temperature"),
        ("FROM x", ("--from", "mario"), "cannot be made from itself"),
        ("FROM x", ("--name", "a*"), "cannot be the name of a model"),
    ],
)
def test_what_cannot_be_imported(
    text: str, options: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mario" / "Modelfile"
    file.parent.mkdir()
    file.write_text(text, encoding="utf-8")
    assert main(["import", str(file), *options]) == 1
    written, told = capsys.readouterr()
    assert not written and words in told


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.endswith(": No such file or directory\n")
