"""NVML's binding for GPUs that are made up: it stands in for `pynvml` where this folder comes first on the path.

Rules:
- It has the functions that the gateway uses (`gateway.machine.nvidia.Nvml`), and tells memory and its users alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

from bench.stand_in.gpus import COUNT, FOLDER, TOTAL, held, used

NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_GPU_IS_LOST = 15
NVML_TEMPERATURE_GPU = 0


class NVMLError(Exception):
    """What the binding raises."""

    value = NVML_ERROR_NOT_SUPPORTED


def _folder() -> Path:
    return Path(os.environ[FOLDER])


def nvmlInit() -> None:  # noqa: N802
    pass


def nvmlShutdown() -> None:  # noqa: N802
    pass


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return COUNT


def nvmlDeviceGetHandleByIndex(index: int) -> int:  # noqa: N802
    return index


def nvmlDeviceGetName(handle: int) -> str:  # noqa: N802
    return "a made-up GPU"


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:  # noqa: N802
    return SimpleNamespace(total=TOTAL, used=used(_folder())[handle])


def nvmlDeviceGetComputeRunningProcesses_v3(handle: int) -> list[SimpleNamespace]:  # noqa: N802
    return [
        SimpleNamespace(pid=each.pid, usedGpuMemory=each.memory)
        for each in held(_folder())
        if handle in each.gpus
    ]


def _untold(*arguments: object) -> NoReturn:
    raise NVMLError("not supported")


nvmlDeviceGetGraphicsRunningProcesses_v3 = _untold  # noqa: N816
nvmlDeviceGetUtilizationRates = nvmlDeviceGetPowerUsage = nvmlDeviceGetEnforcedPowerLimit = _untold  # noqa: N816
nvmlDeviceGetTemperature = nvmlDeviceGetMigMode = _untold  # noqa: N816
