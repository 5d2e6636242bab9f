"""A real Triton Inference Server on this machine, serving the demo model: the `tritonserver` of nvidia-pytriton.

Rules:
- It runs from a virtual environment of its own, `.engines/triton`, made of `REQUIREMENTS`. Of pytriton only the server
  is used.
- Two models, `demo` loaded and `spare` not, so that loading and unloading can be tried.
- Everything is on loopback; the folder Triton reads is put together anew each time, and gone with the server.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".engines" / "triton"
REQUIREMENTS = ("nvidia-pytriton==0.7.0", "numpy", "tokenizers")
"""What pip installs into the environment in `HOME`. Linux on x86-64 or arm64, glibc 2.35 or newer; 400 MB."""
SOURCES = Path(__file__).with_name("triton_repository")
MODELS = ("demo", "spare")
PATIENCE = 60.0
"""Seconds until the server must be ready, and until it must have ended."""


@dataclass(frozen=True)
class Server:
    """Where it answers, and where it publishes its metrics."""

    url: str
    metrics_url: str


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """Yield a running server's URL."""
    with running() as server:
        yield server.url


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """Yield a running server with `demo` loaded.

    Raises:
        FileNotFoundError: The environment in `HOME` is not there.
        TimeoutError: The server was not ready in time; the message holds the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="triton-") as folder:
        repository = _repository(Path(folder) / "models")
        http, grpc, metrics = _free_ports(3)
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    str(_package() / "pytriton/tritonserver/bin/tritonserver"),
                    f"--backend-directory={_backends(Path(folder) / 'backends')}",
                    f"--model-repository={repository}",
                    "--model-control-mode=explicit",
                    f"--load-model={MODELS[0]}",
                    "--exit-on-error=false",
                    "--exit-timeout-secs=5",
                    "--http-address=127.0.0.1",
                    "--grpc-address=127.0.0.1",
                    "--metrics-address=127.0.0.1",
                    f"--http-port={http}",
                    f"--grpc-port={grpc}",
                    f"--metrics-port={metrics}",
                ],
                env=_environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            _await_ready(f"http://127.0.0.1:{http}/v2/models/{MODELS[0]}/ready", process, log)
            yield Server(f"http://127.0.0.1:{http}", f"http://127.0.0.1:{metrics}")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)


def _package() -> Path:
    """Return the environment's folder of packages."""
    found = sorted(HOME.glob("lib/python3*/site-packages"))
    if not found:
        raise FileNotFoundError(f"there is no environment {HOME}: make one of {', '.join(REQUIREMENTS)}")
    return found[0]


def _environment() -> dict[str, str]:
    """Triton's Python backend needs this Python's shared library, its own libraries and our packages."""
    package = _package()
    libraries = [str(sysconfig.get_config_var("LIBDIR")), str(package / "nvidia_pytriton.libs")]
    return {
        "PATH": os.environ["PATH"],
        "LD_LIBRARY_PATH": ":".join(libraries),
        "DEMO_PACKAGES": str(package),
        "DEMO_MODEL": str(ROOT / "models" / "demo"),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _backends(folder: Path) -> Path:
    """Return the Python backend with the stub of this Python beside it, where Triton looks for it."""
    triton = _package() / "pytriton/tritonserver"
    files = [*(triton / "backends/python").iterdir()]
    files.append(
        triton / "python_backend_stubs" / sysconfig.get_python_version() / "triton_python_backend_stub"
    )
    (folder / "python").mkdir(parents=True)
    for file in files:
        (folder / "python" / file.name).symlink_to(file)
    return folder


def _repository(folder: Path) -> Path:
    """Return the model repository as Triton wants it: a folder for each model, in it one for each version."""
    for model in MODELS:
        version = folder / model / "1"
        version.mkdir(parents=True)
        shutil.copy(SOURCES / "config.pbtxt", version.parent)
        shutil.copy(SOURCES / "model.py", version)
        shutil.copy(SOURCES / "llama.py", version)
    return folder


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _await_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        if b"load failed for model" in log.read_bytes():
            break
        time.sleep(0.1)
    raise TimeoutError("Triton is not ready:\n" + log.read_text(errors="replace")[-3000:])
