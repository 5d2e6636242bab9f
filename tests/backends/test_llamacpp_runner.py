"""The llama.cpp runner as a real process with the demo model, started the way the gateway starts it.

Rules:
- Tests poll for readiness, as the gateway does; none waits for a fixed time.
- Tests that only send requests share one server.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from backends.base import Health
from backends.engines.llamacpp.engine import LlamaCpp
from backends.engines.llamacpp.launch import RUNNER, LlamaCppLaunch
from gateway.fleet.launcher import Process, ProcessState
from gateway.fleet.spawning import free_port

pytestmark = pytest.mark.slow

MODEL = Path(__file__).parents[2] / "models" / "demo.gguf"
ENGINE = LlamaCpp()


def options(**given: object) -> LlamaCppLaunch:
    return LlamaCppLaunch.model_validate_json(json.dumps({"model": str(MODEL), **given}), strict=True)


def ask(port: int, path: str, body: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def health(port: int) -> Health:
    try:
        return ENGINE.health_of(*ask(port, ENGINE.health().path))
    except OSError:
        return Health.LOADING


class Server:
    """A runner that is ready."""

    def __init__(self, **given: object) -> None:
        self.port = free_port()
        launch = options(**given).launch("127.0.0.1", self.port)
        self.process = subprocess.Popen(
            launch.argv, env={**os.environ, **launch.env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        while health(self.port) is not Health.READY:
            assert self.process.poll() is None, self.end()

    def post(self, path: str, body: object) -> Any:
        status, answer = ask(self.port, path, body)
        assert status == 200, answer
        return json.loads(answer)

    def end(self) -> bytes:
        """Stop it and return what it printed."""
        self.process.terminate()
        return self.process.communicate()[0]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server(embeddings=True, context=512, parallel=2, name="demo/both")
    yield running
    # Neither its start nor any request of these tests made it print anything.
    printed = [line for line in running.end().decode().splitlines() if ENGINE.log_level(line) > logging.DEBUG]
    assert printed == []


def test_chat_and_embeddings_come_from_one_process(server: Server) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0}
    answer = server.post("/v1/chat/completions", chat)
    assert answer["model"] == "demo/both" and answer["usage"]["completion_tokens"] >= 1
    one, other = (
        server.post("/v1/embeddings", {"model": "demo/both", "input": text})["data"][0]["embedding"]
        for text in ("a gateway", "an engine")
    )
    assert len(one) == len(other) and one != other
    # An embedding in between does not change the answers of chats.
    again = server.post("/v1/chat/completions", chat)
    assert again["choices"] == answer["choices"]


def test_slots_and_context_are_what_was_asked_for(server: Server) -> None:
    slots = json.loads(ask(server.port, "/slots")[1])
    assert [slot["n_ctx"] for slot in slots] == [512, 512]
    (card,) = ENGINE.models_of(ask(server.port, "/v1/models")[1])
    assert (card.id, card.context) == ("demo/both", 512)


def test_the_door_is_narrow(server: Server) -> None:
    status, body = ask(server.port, "/")
    assert status == 404 and b"<html" not in body
    status, body = ask(server.port, "/metrics")
    assert status == 200 and b"llamacpp:requests_processing" in body
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/health", headers={"origin": "https://elsewhere.example"})
    allowed = connection.getresponse().getheader("access-control-allow-origin")
    connection.close()
    assert not allowed


def test_a_template_and_extra_args_reach_llama_cpp() -> None:
    server = Server(
        chat_template="{% for message in messages %}<{{ message.content }}>{% endfor %}",
        extra_args=["--sampling.temp=0.25", "--n-predict", "3", "--cache-type-k", "q8_0", "--swa-full"],
        parallel=1,
    )
    try:
        prompt = server.post("/apply-template", {"messages": [{"role": "user", "content": "hi"}]})["prompt"]
        assert prompt == "<hi>"
        settings = json.loads(ask(server.port, "/props")[1])["default_generation_settings"]
        assert settings["params"]["temperature"] == 0.25
        said = server.post("/v1/completions", {"prompt": "The", "ignore_eos": True})
        assert said["usage"]["completion_tokens"] == 3
    finally:
        server.end()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--n-bacth", "3"], "extra_args: llama.cpp has no parameter 'n_bacth', did you mean 'n_batch'?"),
        (["--sampling.heat=1"], "extra_args: llama.cpp has no parameter 'sampling.heat'"),
        (["--n-batch=many"], "extra_args: 'n_batch' cannot be 'many': "),
        (["--n-batch", str(2**40)], "extra_args: 'n_batch' cannot be '1099511627776': "),
        (["--warmup=maybe"], "extra_args: 'warmup' cannot be 'maybe': expected true or false"),
        (["--cache-type-k=q3"], "extra_args: 'cache_type_k' cannot be 'q3': expected one of GGML_TYPE_F32, "),
        (["--sampling=1"], "extra_args: 'sampling' cannot be '1': it cannot be set from text"),
        (["--port", "80"], "extra_args: 'port' is set by the gateway"),
        (["--model.path=x"], "extra_args: 'model.path' is set by the gateway"),
        (["n-batch=3"], "extra_args: expected --name, got 'n-batch=3'"),
    ],
)
def test_wrong_extra_args(words: list[str], reason: str) -> None:
    launch = options(extra_args=words).launch("127.0.0.1", 1)
    done = subprocess.run(
        launch.argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    told = ENGINE.crash_reason(done.stdout.splitlines())
    assert done.returncode == 2 and told is not None and told.startswith(reason)
    assert len(done.stdout.splitlines()) == 1


def test_wrong_arguments() -> None:
    done = subprocess.run(
        [sys.executable, str(RUNNER), "--nonsense"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("llamacpp_runner: ")


def test_a_taken_port(server: Server) -> None:
    launch = options().launch("127.0.0.1", server.port)
    done = subprocess.run(
        launch.argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 1
    assert ENGINE.crash_reason(done.stdout.splitlines()) == "its port was taken by another program"


class Launched(Process):
    """llama.cpp under the gateway's launcher."""

    def __init__(self, **given: object) -> None:
        self.failed = asyncio.Event()
        self.running = asyncio.Event()
        super().__init__(
            "local",
            options(**given).launch,
            self._on_change,
            ENGINE.crash_reason,
            Random(1),
            ENGINE.log_level,
        )

    def _on_change(self, state: ProcessState) -> None:
        (self.failed if state is ProcessState.FAILED else self.running).set()


async def test_the_launcher_starts_and_stops_it(caplog: pytest.LogCaptureFixture) -> None:
    process = Launched()
    task = asyncio.create_task(process.run())
    while process.port is None or await asyncio.to_thread(health, process.port) is not Health.READY:
        assert not process.failed.is_set(), process.last_error
        await asyncio.sleep(0)
    pid = process.pid
    await process.stop()
    await task
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert process.last_error is None
    # It was started and ended, and reported no problem in between.
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []


async def _reason(process: Launched) -> str | None:
    task = asyncio.create_task(process.run())
    await process.failed.wait()
    await process.stop()
    await task
    return process.last_error


async def test_a_missing_model_is_one_clear_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "none.gguf"
    await _reason(Launched(model=str(path)))
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith(
        f"backend 'local' cannot start: there is no model file {path}: put a GGUF file there or correct the path"
    )


async def test_a_cut_off_model_is_one_clear_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(MODEL.read_bytes()[:2_000_000])
    await _reason(Launched(model=str(path)))
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith(f"backend 'local' stopped: cannot load {path}: ")
    assert "corrupted or incomplete; download it again (exit status 1)" in line


async def test_a_broken_header_is_one_clear_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(range(1, 200)) * 50)
    await _reason(Launched(model=str(path)))
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith(f"backend 'local' stopped: cannot load {path}: ")


async def test_a_broken_template_and_adapter(tmp_path: Path) -> None:
    assert await _reason(Launched(chat_template="{% nonsense")) == (
        "the chat template is not valid: Unknown statement: nonsense (exit status 1)"
    )
    reason = await _reason(Launched(lora=[str(MODEL)]))
    assert reason is not None and reason.startswith("cannot apply a LoRA adapter: ")
