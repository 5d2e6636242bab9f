"""The fake engine as a program: options, a script file, signals, exit statuses."""

import argparse
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from gateway.fake import command
from gateway.fake.script import Script

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [
    sys.executable,
    "-c",
    "import sys; from gateway.fake.command import main; sys.exit(main(sys.argv[1:]))",
]


def test_a_process_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    file = tmp_path / "script.yaml"
    file.write_text("models: [from-file]\ndefaults: {tokens: 9, text: lorem}\n")
    options = [
        "--port",
        "0",
        "--script",
        str(file),
        "--model",
        "a",
        "--model",
        "b",
        "--tokens",
        "2",
        "--gap",
        "1ms",
    ]
    with subprocess.Popen([*PROGRAM, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = re.fullmatch(r"fake engine on (http://127\.0\.0\.1:\d+)\n", process.stdout.readline())
            assert found
            with urllib.request.urlopen(found[1] + "/v1/models", timeout=10) as answer:
                assert [model["id"] for model in json.load(answer)["data"]] == ["a", "b"]
            with urllib.request.urlopen(found[1] + "/v1/chat/completions", data=b"{}", timeout=10) as answer:
                assert json.load(answer)["choices"][0]["message"]["content"] == "lorem ipsum"
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_every_option_reaches_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Script, str, int]] = []

    async def serve(script: Script, host: str, port: int) -> None:
        seen.append((script, host, port))

    monkeypatch.setattr(command, "_serve", serve)
    line = (
        "--host ::1 --port 9 --first-token 200ms --prefill 1ms --gap 20ms --rate 5 --jitter 0.5 --tokens 7 "
        "--text echo --slots 2 --queue 3 --loading 1s --keep-alive 5s --seed 4 --model m"
    )
    assert command.main(line.split()) == 0
    ((script, host, port),) = seen
    assert (host, port) == ("::1", 9)
    said = script.defaults
    assert (said.first_token, said.prefill, said.gap, said.rate) == (0.2, 0.001, 0.02, 5)
    assert (said.jitter, said.tokens, said.text) == (0.5, 7, "echo")
    assert (script.slots, script.queue, script.loading, script.keep_alive) == (2, 3, 1, 5)
    assert (script.seed, script.models) == (4, ("m",))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--gap 20", "expected a duration such as 30s: write 20s"),
        ("--slots 0", "expected a number of at least 1"),
        ("--script /nowhere.yaml", "/nowhere.yaml:1:1: cannot read the file"),
    ],
)
def test_what_cannot_be_used(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(line.split()) == 1
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert command.main(["--port", str(port)]) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_the_options_fit_under_another_command() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser.add_subparsers().add_parser("fake-engine"))
    assert parser.parse_args(["fake-engine", "--gap", "1s"]).gap == "1s"
