"""Several workers with traces: each sends its own, as one service; a stop sends what is left and waits for nobody."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.telemetry.receiver import Receiver
from tests.test_workers import ROOT

REQUESTS = 30


def instances(receiver: Receiver) -> set[str]:
    """Return the ids of the workers whose spans have arrived."""
    return {span.resource["service.instance.id"] for span in receiver.requests()}


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["take", "hang"])
def test_every_request_of_every_worker_is_traced(tmp_path: Path, behaviour: str) -> None:
    with Receiver("take" if behaviour == "take" else "hang") as receiver:
        file = tmp_path / "gateway.yaml"
        file.write_text(
            f'server: {{listen: "127.0.0.1:0", tracing: {{endpoint: "{receiver.url}", service_name: edge}}}}\n'
            "backends: {a: {engine: openai, url: 'http://127.0.0.1:9', models: [m]}}\n"
        )
        command = [sys.executable, "-m", "gateway", "serve", str(file), "--workers", "2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            try:
                assert process.stdout is not None
                said = process.stdout.readline()
                url = re.findall(r"http://127\.0\.0\.1:\d+", said)[0]
                body = json.dumps({"model": "none", "messages": []}).encode()
                asked = 0
                # The kernel chooses the worker, and the second one may come later than the first.
                while asked < REQUESTS or (behaviour == "take" and len(instances(receiver)) < 2):
                    request = urllib.request.Request(
                        f"{url}/v1/chat/completions", body, {"content-type": "application/json"}
                    )
                    with pytest.raises(urllib.error.HTTPError, match="400"):
                        urllib.request.urlopen(request, timeout=30)
                    asked += 1
                    time.sleep(0.01)
                began = time.monotonic()
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert time.monotonic() - began < 10
        if behaviour == "take":
            assert len(receiver.requests()) == asked
            assert {span.resource["service.name"] for span in receiver.requests()} == {"edge"}
            assert len(instances(receiver)) == 2
        else:
            assert receiver.paths and not receiver.spans
