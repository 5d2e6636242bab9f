"""What `${env.NAME}`, `${env.NAME:-fallback}`, `${file:/path}` and `$${` become, and when they are mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.substitution import FILE_BYTES
from tests.config.files import config, lines

ENVIRON = {
    "A": "one",
    "EMPTY": "",
    "N": "8",
    "F": "0.5",
    "YES": "true",
    "DASHES": "a:-b",
    "NESTED": "${env.A}",
}


def label(folder: Path, text: str) -> str:
    """Return what a label with this value becomes."""
    text = f"backends: {{a: {{engine: openai, url: 'http://h:1', labels: {{x: {text}}}}}}}"
    return config(folder, text, ENVIRON).backends["a"].labels["x"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${env.A}", "one"),
        ("<${env.A}|${env.A}>", "<one|one>"),
        ("${env.EMPTY}", ""),
        ("${env.A:-two}", "one"),
        ("${env.EMPTY:-two}", "two"),
        ("${env.NONE:-two}", "two"),
        ("${env.NONE:-}", ""),
        ("${env.NONE:-a:-b}", "a:-b"),
        ("${env.NONE:-a b\n  c}", "a b c"),
        ("${env.DASHES:-x}", "a:-b"),
        ("$${env.A}", "${env.A}"),
        ("$$${env.A}", "$${env.A}"),
        ("$${", "${"),
        ("$", "$"),
        ("$env.A $$ {x}", "$env.A $$ {x}"),
        ("${env.NESTED}", "${env.A}"),
        ("${env.NONE:-$}", "$"),
    ],
)
def test_text(text: str, value: str, tmp_path: Path) -> None:
    assert label(tmp_path, f'"{text}"') == value


def test_text_without_quotes(tmp_path: Path) -> None:
    text = "server:\n  listen: ${env.A}.example:${env.N}\n  auth: none\n"
    found = config(tmp_path, f"{text}backends: {{a: {{engine: openai, url: 'http://h:1'}}}}", ENVIRON)
    assert str(found.server.listen) == "one.example:8"


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"one", "one"),
        (b"one\n", "one"),
        (b"one\r\n", "one"),
        (b"one\n\n", "one\n"),
        (b"", ""),
        (b" a b ", " a b "),
    ],
)
def test_file(content: bytes, value: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(content)
    assert label(tmp_path, f'"${{file:{secret}}}"') == value


def test_a_link_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("one")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    assert label(tmp_path, f'"${{file:{tmp_path}/link}}"') == "one"


def test_unusable_files(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (FILE_BYTES + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    names = ["large", "binary", ".", "none", "large/x", "\\0"]
    values = "".join(f'\n      {index}: "${{file:{tmp_path}/{name}}}"' for index, name in enumerate(names))
    found = lines(tmp_path, f"backends:\n  a:\n    engine: openai\n    url: http://h:1\n    labels:{values}")
    assert [line.partition(": ")[2].replace(str(tmp_path), "…") for line in found] == [
        "cannot read …/large: larger than 64 KiB",
        "cannot read …/binary: not UTF-8 text",
        "cannot read …/.: not a regular file",
        "cannot read …/none: No such file or directory",
        "cannot read …/large/x: Not a directory",
        "cannot read …/\\x00: not a usable path",
    ]


def test_a_variable_that_is_no_text(tmp_path: Path) -> None:
    text = "backends: {a: {engine: openai, url: 'http://h:1', labels: {x: '${env.A}'}}}"
    assert lines(tmp_path, text, {"A": "\udcff"}) == ["1:63: environment variable A is not UTF-8 text"]


def test_numbers_and_booleans_without_quotes(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        "\n".join(
            (
                "backends:",
                "  a:",
                "    engine: toy",
                "    labels:",
                "      one: ${env.N}",
                "    launch:",
                "      model: ${env.A}.gguf",
                "      parallel: ${env.N}",
                "      threads: ${env.NONE:-3}",
                "      embeddings: ${env.YES}",
                "      scale: ${env.F}",
            )
        ),
        ENVIRON,
    )
    backend = found.backends["a"]
    assert backend.labels["one"] == "8", "text stays text where text is wanted"
    assert backend.launch is not None
    chosen = backend.launch.model_dump(include={"parallel", "threads", "embeddings", "scale"})
    assert chosen == {"parallel": 8, "threads": 3, "embeddings": True, "scale": 0.5}


def test_quotes_make_text(tmp_path: Path) -> None:
    text = "defaults: {retry: {attempts: '${env.N}'}}\nbackends: {a: {engine: openai, url: 'http://h:1'}}"
    assert lines(tmp_path, text, ENVIRON) == ["1:30: expected a whole number, got '${env.N}'"]


def test_a_number_from_outside_obeys_its_bounds(tmp_path: Path) -> None:
    text = "defaults:\n  retry:\n    attempts: ${env.N}\nbackends: {a: {engine: openai, url: 'http://h:1'}}"
    assert lines(tmp_path, text, ENVIRON) == ["3:15: expected a number of at most 5, got '${env.N}'"]


def test_a_missing_variable_hides_no_other_problem(tmp_path: Path) -> None:
    text = "backends: {a: {engine: toy, url: '${env.NONE}'}, b: {engine: toy}}\nmodels: {m: {targets: {a: x, c: y}}}"
    assert [line.partition(" ")[2] for line in lines(tmp_path, text)] == [
        "environment variable NONE is not set",
        "give 'url' (the engine runs already) or 'launch' (the gateway starts it)",
        "unknown backend 'c' (there are: a, b)",
    ]


@pytest.mark.parametrize("form", ["os.environ/OPENAI_KEY", "$OPENAI_KEY"])
@pytest.mark.parametrize("where", ["api_key", "url", "labels: {x", "headers: {x-key"])
def test_the_form_of_another_program_is_told(where: str, form: str, tmp_path: Path) -> None:
    """As a value it would be sent to the engine, which answers 401."""
    end = "}" if "{" in where else ""
    url = "" if where == "url" else "url: 'http://h:1', "
    text = f"backends: {{a: {{engine: openai, {url}{where}: {form}{end}}}}}"
    [line] = lines(tmp_path, text, ENVIRON)
    assert line.endswith("nothing is filled in here: write ${env.OPENAI_KEY} for the environment variable")


@pytest.mark.parametrize("text", ["$5 a month", "$", "$lower", "US$", "$A/b"])
def test_a_dollar_alone_is_text(text: str, tmp_path: Path) -> None:
    found = lines(
        tmp_path, f"backends: {{a: {{engine: openai, url: 'http://h:1', labels: {{x: '{text}'}}}}}}", ENVIRON
    )
    assert found == []


def test_a_relative_path_is_told_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [line] = lines(
        tmp_path, "backends: {a: {engine: openai, url: 'http://h:1', api_key: '${file:none}'}}", ENVIRON
    )
    assert line.endswith(f"cannot read none (in {tmp_path}): No such file or directory")
