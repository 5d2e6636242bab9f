"""Other gateways before the same upstream, where `make bench-peers` installed them. Their versions are in peers.txt.

Rules:
- Each has a virtual environment of its own, .bench/NAME, because their dependencies conflict.
- Each gets the smallest config that does the job, with its default retries, one worker and little logging. Nothing is
  made slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from bench import probe, upstream
from bench.subjects import KEY, ROOT, Subject

ENVIRONMENTS = ROOT / ".bench"
PINS = Path(__file__).with_name("peers.txt")


class Peer(Subject):
    """A program from a Python package."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.bin = ENVIRONMENTS / name / "bin"
        self.version = _pinned(name)
        if not (self.bin / "python").exists():
            self.absent = "not installed: make bench-peers"


class VllmRouter(Peer):
    """vLLM's router, in Rust."""

    def __init__(self) -> None:
        super().__init__("vllm-router")

    def command(self, folder: Path, upstream_port: int) -> Sequence[str]:
        return [
            str(self.bin / "vllm-router"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--worker-urls", f"http://127.0.0.1:{upstream_port}", "--policy", "round_robin"),
            *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(probe.free_port())),
            *("--log-level", "error"),
        ]


class SglangRouter(Peer):
    """SGLang's router, in Rust."""

    def __init__(self) -> None:
        super().__init__("sglang-router")

    def command(self, folder: Path, upstream_port: int) -> Sequence[str]:
        return [
            *(str(self.bin / "python"), "-m", "sglang_router.launch_router"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--worker-urls", f"http://127.0.0.1:{upstream_port}", "--policy", "round_robin"),
            *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(probe.free_port())),
            *("--log-level", "error"),
        ]


class LiteLLM(Peer):
    """LiteLLM's proxy, in Python."""

    def __init__(self) -> None:
        super().__init__("litellm")
        self.model = "bench"

    def command(self, folder: Path, upstream_port: int) -> Sequence[str]:
        file = folder / "litellm.yaml"
        params = {
            "model": f"openai/{upstream.MODEL}",
            "api_base": f"http://127.0.0.1:{upstream_port}/v1",
            "api_key": "none",
        }
        config = {
            "model_list": [{"model_name": self.model, "litellm_params": params}],
            "general_settings": {"master_key": KEY},
            "litellm_settings": {"telemetry": False},
        }
        file.write_text(yaml.safe_dump(config))
        return [
            *(str(self.bin / "litellm"), "--config", str(file), "--num_workers", "1"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
        ]

    def environment(self) -> dict[str, str]:
        # Otherwise it fetches its price list from the network.
        return {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "PATH": f"{self.bin}:/usr/bin:/bin",
        }


def _pinned(name: str) -> str:
    for line in PINS.read_text().splitlines():
        package, _, version = line.partition("==")
        if package.partition("[")[0] == name:
            return version
    raise LookupError(f"{PINS} does not name {name}")
