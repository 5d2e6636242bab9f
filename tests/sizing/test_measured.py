"""The prediction for llama.cpp against the real engine with the demo model, by the memory of its process.

Rules:
- What is predicted is never less than what is taken, and not more than a quarter above it.
"""

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backends.engines.llamacpp.launch import LlamaCppLaunch
from backends.sizing.files import facts
from backends.sizing.need import Space, Where
from gateway.fleet.spawning import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the memory of a process"),
]
MODEL = Path(__file__).resolve().parents[2] / "models" / "demo.gguf"
KEY = "secret"


class Running:
    """An engine that runs, started as the gateway would start it."""

    def __init__(self, launch: LlamaCppLaunch) -> None:
        self.port = free_port()
        started = launch.launch("127.0.0.1", self.port)
        env = {**os.environ, **started.env, "LLAMA_API_KEY": KEY}
        self.process = subprocess.Popen(
            started.argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def ask(self, path: str, body: object = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = None if body is None else json.dumps(body)
            headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
            connection.request("GET" if body is None else "POST", path, data, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def wait(self) -> None:
        for _ in range(300):
            try:
                if self.ask("/health") == 200:
                    return
            except OSError:
                assert self.process.poll() is None
            time.sleep(0.1)
        raise AssertionError("the engine never became ready")

    def chat(self, words: str) -> None:
        message = {"role": "user", "content": words}
        body = {"messages": [message], "max_tokens": 60, "ignore_eos": True}
        assert self.ask("/v1/chat/completions", body) == 200

    def rss(self) -> int:
        told = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB$", told, re.MULTILINE)
        assert found
        return int(found[1]) * 1024


@pytest.fixture(params=[{"parallel": 1}, {"parallel": 8}, {"parallel": 4, "context": 512}], ids=str)
def launch(request: pytest.FixtureRequest) -> LlamaCppLaunch:
    # Several threads wait for each other by spinning, which takes minutes where the processors are busy.
    return LlamaCppLaunch(model=MODEL, prompt_cache=False, threads=1, **request.param)


@pytest.fixture
def running(launch: LlamaCppLaunch) -> Iterator[Running]:
    found = Running(launch)
    try:
        found.wait()
        yield found
    finally:
        found.process.kill()
        found.process.wait()


def test_what_is_predicted_is_what_is_taken(launch: LlamaCppLaunch, running: Running) -> None:
    need = launch.need(facts(MODEL), Space())
    assert need is not None
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(running.chat, [f"Hello {number}, what is a gateway?" for number in range(8)]))
    taken = running.rss()
    # Without a cache of prompts, more of them take nothing more.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(running.chat, [f"Now {number}, what else is there?" for number in range(8)]))
    assert running.rss() - taken < 2**20
    told = f"{taken / 2**20:.1f} MiB are taken, predicted were {need.ram / 2**20:.1f}: {need.explained(Where.RAM)}"
    assert taken <= need.ram <= taken * 1.25, told
