"""Several workers with a port of metrics: any of them answers there, for all."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.test_workers import ROOT, eventually


@pytest.mark.slow
def test_any_worker_tells_the_numbers_of_all(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = tmp_path / "gateway.yaml"
    file.write_text(
        f'server: {{listen: "127.0.0.1:0", metrics: {{listen: "127.0.0.1:{port}"}}}}\n'
        f"backends:\n  local: {{engine: llamacpp, launch: {{model: {ROOT}/models/demo.gguf, threads: 1}}}}\n"
    )

    def metric(name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            found = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", answer.read().decode(), re.MULTILINE)
        return sum(map(float, found))

    command = [sys.executable, "-m", "gateway", "serve", str(file), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            url = re.findall(r"http://\S+", process.stdout.readline())[0]
            while "stop: Ctrl-C" not in (said := process.stdout.readline()):
                assert process.poll() is None
            assert f"metrics  http://127.0.0.1:{port}/metrics" in said
            body = json.dumps(
                {"model": "demo", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
            )
            call = urllib.request.Request(
                f"{url}/v1/chat/completions", body.encode(), {"content-type": "application/json"}
            )
            for count in range(1, 7):
                with urllib.request.urlopen(call, timeout=30):
                    pass
                eventually(lambda: metric("gateway_requests_total") == count)  # noqa: B023 (called at once)
                assert {metric("gateway_requests_total") for _ in range(3)} == {count}
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
