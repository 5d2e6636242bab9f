"""Empty stand-ins for packages that SGLang imports and never uses without a GPU. Call `install` before `import sglang`.

Rules:
- Only the packages in `ABSENT` are stood in for, and only where they are not installed.
- A stand-in gives a mock for every name that is asked of it, and says it has a very new version.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Sequence
from typing import Any
from unittest.mock import MagicMock

ABSENT = frozenset(
    "IPython av blobfile cutlass cv2 decord deep_ep deep_gemm deepseek_recipe flash_attn flash_mla flashinfer "
    "humming kernels llguidance mistral_common modelscope mooncake ninja numba nvidia_cutlass_dsl nvshmem outlines "
    "py_spy pynvml quack sgl_kernel smg_grpc_servicer tilelang timm tml_renderers torch_memory_saver torchaudio "
    "torchcodec torchvision triton".split()
)
VERSION = "99.0"


class Empty(types.ModuleType):
    """A module with every name in it."""

    __version__ = VERSION

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, found)
        return found


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an empty module for each that is absent; torch's own ways of looking for Triton find none."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in ABSENT or name.startswith("triton._"):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Run nothing: there is no code."""


def install() -> None:
    """Stand in for what is absent, from now on."""
    sys.meta_path.append(Finder())
    known = importlib.metadata.version

    def version(distribution_name: str) -> str:
        try:
            return known(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name.replace("-", "_").partition(".")[0] in ABSENT:
                return VERSION
            raise

    importlib.metadata.version = version
    # Transformers looks for the files of these two, not for the modules.
    transformers = importlib.import_module("transformers.utils.import_utils")
    for name in ("is_torchvision_available", "is_torchcodec_available"):
        setattr(transformers, name, lambda: False)
