"""A stand-in for NVIDIA's library, built once for all tests."""

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a `libnvidia-ml.so.1`, for LD_LIBRARY_PATH."""
    compiler = shutil.which("cc")
    assert compiler is not None, "a C compiler, which compiling the hot modules needs too"
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True, timeout=60
    )
    return folder
