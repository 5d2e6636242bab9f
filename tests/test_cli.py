"""The `gateway` command as its users meet it: exit statuses, words on the terminal, and what happens on signals.

Rules:
- Every command is tried as a real process. What differs only in its arguments is given to the same function in this
  process (`here`), in a hundredth of the time. Exit 0 is done, 1 a wrong config or machine, 2 a wrong command line.
- Whatever ends the gateway, and however, no process of it is left.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.__main__ import main
from gateway.wire import relay
from tests.clients.process import (
    CLEAN_STOP,
    DEMO,
    GATEWAY,
    MODEL,
    PATIENCE,
    ROOT,
    Running,
    family,
    wait_until,
)
from tests.clients.process import running as running_gateway

NOWHERE = """
server: {listen: "127.0.0.1:0"}
backends:
  a: {engine: openai, url: "http://127.0.0.1:9", models: [m]}
"""
"""A gateway that starts at once and whose engine nobody started."""
LONG = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Count to one hundred."}],
    "stream": True,
    "ignore_eos": True,
}


Run = Callable[..., subprocess.CompletedProcess[str]]


def gateway(
    *arguments: str | Path, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [GATEWAY, *arguments],
        cwd=ROOT,
        env=os.environ | (environ or {}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`gateway` above, but in this process: what the installed command calls, with what it prints."""

    def run(
        *arguments: str | Path, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        for name, value in (environ or {}).items():
            monkeypatch.setenv(name, value)
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 1
        told = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, told.out, told.err)

    return run


def refused(done: subprocess.CompletedProcess[str], status: int = 1) -> list[str]:
    """Return the lines on stderr of a command that fails."""
    assert done.returncode == status
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path at which a test may write its config."""
    return tmp_path / "gateway.yaml"


def test_check_says_ok(file: Path) -> None:
    file.write_text(DEMO)
    done = gateway("check", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{file}: ok (1 backend, 1 model, 0 keys)\n"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_check_accepts_what_the_repository_brings(path: Path, here: Run) -> None:
    done = here("check", path, environ={"VLLM_KEY": "x"})
    assert done.returncode == 0, done.stderr


def test_check_and_serve_say_what_is_easily_missed(file: Path, here: Run) -> None:
    words = "backend 'a': context: 4096 tokens are more than the 2048 that the model was trained for"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file.write_text(
            f'server: {{listen: "127.0.0.1:{taken.getsockname()[1]}"}}\n'
            f"backends: {{a: {{engine: llamacpp, launch: {{model: {MODEL}, context: 4096}}}}}}\n"
        )
        done = here("check", file)
        assert (done.returncode, done.stderr) == (0, f"note: {words}\n")
        said, cannot = refused(gateway("serve", file))
    assert any(line.endswith(f"warning {words}") for line in (said, cannot))
    assert any("cannot listen" in line for line in (said, cannot))


def test_check_shows_every_problem_with_its_place(file: Path) -> None:
    file.write_text(
        """\
server: {listen: "127.0.0.1:0", drian: 30s}
backends:
  a: {engine: opnai, url: "http://127.0.0.1:9"}
models:
  m: {targets: {b: x}}
"""
    )
    lines = refused(gateway("check", file))
    places = [re.match(rf"{re.escape(str(file))}:(\d+:\d+): (.+)", line) for line in lines]
    assert all(places), lines
    found = {match[1]: match[2] for match in places if match}
    assert "did you mean 'drain'?" in found["1:33"]
    assert "did you mean 'openai'?" in found["3:15"]
    assert "unknown backend 'b'" in found["5:17"]


def test_check_of_a_file_that_is_not_there(file: Path) -> None:
    [line] = refused(gateway("check", file))
    assert line == f"{file}:1:1: cannot read the file: No such file or directory"
    [line] = refused(gateway("check", "none.yaml"))
    assert line == f"none.yaml:1:1: cannot read the file (in {ROOT}): No such file or directory"


@pytest.mark.parametrize(
    ("listen", "environ", "words"),
    [
        ("127.0.0.1:${env.NO_SUCH_PORT}", {}, "NO_SUCH_PORT"),
        ("0.0.0.0:0", {}, "keys"),
        ("[::]:0", {}, "keys"),
        ("127.0.0.1:${env.SUCH_PORT}", {"SUCH_PORT": "many"}, "port"),
    ],
)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_listen_address_that_cannot_be(
    file: Path, here: Run, command: str, listen: str, environ: dict[str, str], words: str
) -> None:
    file.write_text(NOWHERE.replace("127.0.0.1:0", listen))
    [line] = refused(here(command, file, environ=environ))
    assert line.startswith(f"{file}:2:") and words in line


def test_schema_is_the_one_in_the_repository() -> None:
    done = gateway("schema")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["type"] == "object"
    assert done.stdout == (ROOT / "configs" / "schema.json").read_text(encoding="utf-8"), "run `make schema`"


def test_version() -> None:
    build = "pure Python" if (relay.__file__ or "").endswith(".py") else "compiled"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for words in (["version"], ["--version"]):
        done = gateway(*words)
        told = (done.returncode, done.stdout, done.stderr)
        assert told == (0, f"gateway {project['version']} ({build})\n", "")


def test_nobody_is_told_of_the_command_of_workers(here: Run) -> None:
    told = [here("--help").stdout, here("work").stderr, here().stderr]
    assert all(told) and "serve" in told[0] and "serve" in told[2]
    assert not any("worker" in text for text in told)


def test_the_help_of_a_command_says_what_it_does(here: Run) -> None:
    for words in (
        ["serve"],
        ["check"],
        ["key", "new"],
        ["backends"],
        ["models"],
        ["fake-engine"],
        ["version"],
    ):
        said = here(*words, "--help").stdout.split("\n\n")[1]
        assert re.fullmatch(r"[A-Z].*\.", said.replace("\n", " ")), said


@pytest.mark.parametrize("arguments", [(), ("key",), ("serve",), ("check",), ("surf",), ("serve", "--fast")])
def test_a_wrong_command_line(arguments: tuple[str, ...], here: Run) -> None:
    lines = refused(here(*arguments), status=2)
    assert lines[0].startswith("usage: gateway")


def test_a_command_that_there_is_not_is_told_with_the_one_that_was_meant(here: Run) -> None:
    said = here("srve", "x.yaml").stderr
    assert said.endswith("there is no command 'srve' (did you mean 'serve'?); 'gateway --help' lists them\n")
    assert "there is no command 'surf'; 'gateway --help'" in here("surf").stderr
    assert here().stderr == here("--help").stdout


def test_a_wrong_command_line_of_a_process() -> None:
    lines = refused(gateway("surf"), status=2)
    assert lines[0].startswith("usage: gateway")


def new_key(name: str) -> tuple[str, str]:
    """Return the key and the line for the config that `gateway key new` prints."""
    done = gateway("key", "new", name)
    assert (done.returncode, done.stderr) == (0, "")
    key, line = re.findall(r"^  (\S.*)$", done.stdout, re.MULTILINE)
    return key, line


@pytest.mark.slow
def test_a_new_key_lets_its_holder_in_and_nobody_else(tmp_path: Path) -> None:
    key, line = new_key("team")
    other, _ = new_key("team")
    assert line.startswith("team: ")
    assert key not in line and key != other
    with running_gateway(tmp_path, f"{NOWHERE}keys:\n  {line}\n") as started:
        assert started.get("/v1/models", key=key).status == 200
        for wrong in (None, other, key[:-1], key + "x", line.split('"')[1]):
            assert started.get("/v1/models", key=wrong).status == 401
        assert started.get("/healthz").status == 200
        assert key not in started.log.text


@pytest.mark.slow
def test_a_port_that_is_taken(tmp_path: Path, file: Path) -> None:
    with running_gateway(tmp_path, NOWHERE) as started:
        file.write_text(NOWHERE.replace("127.0.0.1:0", started.address))
        [line] = refused(gateway("serve", file))
        assert f"cannot listen on {started.address}" in line and "in use" in line
        assert started.get("/healthz").status == 200


@pytest.mark.slow
def test_whoever_reads_the_first_line_can_connect_and_can_stop(tmp_path: Path) -> None:
    with running_gateway(tmp_path, NOWHERE) as started:
        assert started.get("/healthz").status == 200
    with running_gateway(tmp_path, NOWHERE) as started:
        assert started.url.startswith("http://127.0.0.1:")


@pytest.mark.slow
def test_a_model_file_that_comes_later(tmp_path: Path) -> None:
    model = tmp_path / "late.gguf"
    with running_gateway(tmp_path, DEMO.replace(MODEL, str(model))) as started:
        line = started.log.wait_for("cannot start").string
        assert "'local'" in line and str(model) in line and " error " in line
        assert started.get("/healthz").status == 200
        ready = started.get("/readyz")
        assert (ready.status, ready.error["code"]) == (503, "no_healthy_backend")
        refused = started.get("/v1/chat/completions", {"model": "demo", "messages": [{"role": "user"}]})
        assert (refused.status, refused.error["code"]) == (503, "no_healthy_backend")
        shutil.copy(ROOT / MODEL, tmp_path / "half")
        (tmp_path / "half").rename(model)
        started.log.wait_for("'local' is ready")
        assert started.get("/readyz").status == 200
        assert [line for line in started.log.lines if "cannot start" in line] == [line], "once is enough"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "words"),
    [(b"<html>not found</html>", "not in GGUF format"), (b"GGUF" + bytes(4000), "cannot load")],
    ids=["another format", "damaged"],
)
def test_a_broken_model_file(tmp_path: Path, content: bytes, words: str) -> None:
    model = tmp_path / "broken.gguf"
    model.write_bytes(content)
    with running_gateway(tmp_path, DEMO.replace(MODEL, str(model))) as started:
        line = started.log.wait_for(words).string
        assert "backend 'local'" in line and str(model) in line and "next start in" in line
        assert started.get("/readyz").status == 503


@pytest.mark.slow
def test_an_engine_that_is_killed_is_started_again(tmp_path: Path) -> None:
    with running_gateway(tmp_path) as started:
        started.wait_ready()
        assert chat(started) == 200
        _, pid = started.engine()
        os.kill(pid, signal.SIGKILL)
        assert "SIGKILL" in started.log.wait_for("'local' stopped").string
        assert started.engine(2)[1] != pid
        assert chat(started) == 200, "a request waits for an engine that is starting"
        assert started.metric("gateway_backend_restarts_total", backend="local") == 1


@pytest.mark.slow
def test_a_launched_engine_answers_nobody_but_its_gateway(tmp_path: Path) -> None:
    with running_gateway(tmp_path) as started:
        started.wait_ready()
        url, pid = started.engine()
        for path in ("/v1/chat/completions", "/metrics", "/slots"):
            connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)
            body = b'{"messages": [{"role": "user", "content": "Hello"}]}' if path.startswith("/v1") else None
            connection.request("POST" if body else "GET", path, body, {"content-type": "application/json"})
            assert connection.getresponse().status == 401, path
            connection.close()
        assert chat(started) == 200
        key = started.engine_key()
        assert len(key) >= 43
        assert key not in Path(f"/proc/{pid}/cmdline").read_text()
        assert key not in started.log.text + started.get("/gateway/backends").body.decode()


def chat(started: Running) -> int:
    """Return the status of one small request."""
    asked = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
    return started.get("/v1/chat/completions", asked).status


class Stream(contextlib.AbstractContextManager["Stream"]):
    """A running stream, whose first event has come."""

    def __init__(self, started: Running, **options: Any) -> None:
        self._connection = http.client.HTTPConnection(started.address, timeout=PATIENCE)
        headers = {"content-type": "application/json"}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(LONG | options), headers)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200
        assert self._answer.readline().startswith(b"data: {")

    def __exit__(self, *error: object) -> None:
        self._answer.close()
        self._connection.close()

    def rest(self) -> list[str]:
        """Return the events until the end. Raises http.client.IncompleteRead where the stream was broken off."""
        return [event for event in self._answer.read().decode().split("\n\n") if event.strip()]


def listens(started: Running) -> bool:
    connection = http.client.HTTPConnection(started.address, timeout=PATIENCE)
    try:
        connection.connect()
    except ConnectionError:
        return False
    finally:
        connection.close()
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_a_running_stream_end_whole(tmp_path: Path, number: signal.Signals) -> None:
    tokens = 800
    with running_gateway(tmp_path) as started:
        started.wait_ready()
        below = family(started.pid)
        with Stream(started, max_tokens=tokens) as stream:
            started.signal(number)
            *events, last = stream.rest()
        assert last == "data: [DONE]"
        assert json.loads(events[-1].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert len(events) > tokens / 2
        assert started.wait() == 0
        assert not any(process.alive for process in below)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_the_first_signal_nobody_is_let_in_and_the_second_ends_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    with running_gateway(tmp_path) as started:
        started.wait_ready()
        below = family(started.pid)
        with Stream(started, max_tokens=1900, n=4) as stream:
            started.signal(number)
            wait_until(lambda: not listens(started), "the gateway has closed its door")
            assert started.alive, "the stream still runs"
            started.signal(number)
            with pytest.raises(http.client.IncompleteRead) as broken:
                stream.rest()
        assert b"[DONE]" not in broken.value.partial
        assert b'"code":"draining"' in broken.value.partial, "the client is told why"
        assert started.wait(CLEAN_STOP) == 0
        assert not any(process.alive for process in below)
        assert "Traceback" not in started.log.text


@pytest.mark.slow
@pytest.mark.parametrize("when", ["starting", "ready"])
def test_a_gateway_that_is_killed_leaves_no_engine(tmp_path: Path, when: str) -> None:
    with running_gateway(tmp_path) as started:
        started.engine()
        if when == "ready":
            started.wait_ready()
        below = family(started.pid)
        assert len(below) >= 2, "the engine and the one who watches it"
        started.signal(signal.SIGKILL)
        assert started.wait() == -signal.SIGKILL
        wait_until(lambda: not any(process.alive for process in below), "the engine is gone")


@pytest.mark.slow
def test_ctrl_c_while_the_engine_starts(tmp_path: Path) -> None:
    with running_gateway(tmp_path) as started:
        started.engine()
        started.stop()
        assert "Traceback" not in started.log.text


def test_check_says_in_which_order_several_files_are_read(file: Path) -> None:
    (file.parent / "conf.d").mkdir()
    for name in ("b.yaml", "a.yaml"):
        (file.parent / "conf.d" / name).write_text("defaults: {retry_budget: 20%}")
    file.write_text(f"include: [conf.d]\n{DEMO}")
    done = gateway("check", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [
        "read in this order:",
        *(f"  {path}" for path in (file, file.parent / "conf.d/a.yaml", file.parent / "conf.d/b.yaml")),
    ]


def test_diff_says_in_words_what_differs_and_exits_as_diff_does(file: Path) -> None:
    new = file.with_name("new.yaml")
    file.write_text(DEMO)
    new.write_text(DEMO + "keys: {team: {hash: 'sha256:" + "0" * 64 + "'}}\n")
    done = gateway("diff", file, new)
    assert (done.returncode, done.stdout, done.stderr) == (1, "key 'team' is added\n", "")
    done = gateway("diff", new, file)
    assert (done.returncode, done.stdout, done.stderr) == (1, "key 'team' is removed\n", "")
    done = gateway("diff", file, file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    new.write_text("backends: {a: {engine: vlm}}")
    done = gateway("diff", file, new)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{new}:1:24: unknown engine 'vlm'" in done.stderr
