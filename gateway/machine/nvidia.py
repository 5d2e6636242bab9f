"""NVIDIA's GPUs, by NVML: the library that `nvidia-smi` is made of.

Rules:
- No driver or no GPU is no error. It is looked for again now and then, since a driver may be loaded after the gateway.
- A value that a GPU does not tell is None (`NVML_ERROR_NOT_SUPPORTED`: use where MIG is on, power of some consumer
  cards, memory where it is the system's own), as is one that an old driver has no function for, or needs more rights.
- A GPU that has fallen off the bus is left out and said once; the others are told as before.

Facts: NVML's API reference, sections "Device Queries" and "NvmlReturn"; `nvidia-ml-py` is its official binding.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from gateway.machine.gpu import Gpu, GpuUser

log = logging.getLogger("gateway.machine")

RETRY = 300.0
"""Seconds until a driver that was not there is looked for again."""
_MILLI = 1000.0
_MIG_ON = 1
"""`NVML_DEVICE_MIG_ENABLE`, the first of the two numbers being that of now."""


class Nvml(Protocol):
    """The part of the binding that is used; its functions raise `NVMLError`, whose `value` is NVML's return code."""

    NVMLError: type[Exception]
    NVML_ERROR_GPU_IS_LOST: int
    NVML_TEMPERATURE_GPU: int

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802
    def nvmlDeviceGetName(self, handle: Any) -> str: ...  # noqa: N802
    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int: ...  # noqa: N802
    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Any) -> list[Any]: ...  # noqa: N802
    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle: Any) -> list[Any]: ...  # noqa: N802
    def nvmlDeviceGetMigMode(self, handle: Any) -> Any: ...  # noqa: N802


def _binding() -> Nvml:
    """Return the binding, which is a large module, when GPUs are first looked for."""
    import pynvml

    found: Nvml = pynvml
    return found


class _Lost(Exception):
    """The GPU answers no more."""


class Nvidia:
    """The GPUs that NVML knows."""

    def __init__(
        self, binding: Callable[[], Nvml] = _binding, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Load nothing yet. `clock` tells when to look again for a driver that was not there."""
        self._binding = binding
        self._clock = clock
        self._open = False
        self._again = float("-inf")
        self._lost: set[int] = set()

    def read(self) -> tuple[Gpu, ...]:
        """Return the GPUs there are now."""
        nvml = self._nvml
        if not self._opened():
            return ()
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError:
            self._close()
            return ()
        gpus: list[Gpu] = []
        lost: set[int] = set()
        for index in range(count):
            try:
                gpus.append(self._gpu(index))
            except (nvml.NVMLError, _Lost) as error:
                lost.add(index)
                if index not in self._lost:
                    log.warning("GPU nvidia%d does not answer: %s", index, error)
        self._lost = lost
        if len(lost) == count:
            # The driver itself may have been unloaded and loaded again, which only a new start finds out.
            self._close()
        return tuple(gpus)

    @functools.cached_property
    def _nvml(self) -> Nvml:
        return self._binding()

    def _opened(self) -> bool:
        if not self._open and self._clock() >= self._again:
            try:
                self._nvml.nvmlInit()
                self._open = True
            except self._nvml.NVMLError as error:
                log.debug("no NVIDIA GPU: %s", error)
                self._again = self._clock() + RETRY
        return self._open

    def _close(self) -> None:
        self._open = False
        self._again = self._clock() + RETRY
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _gpu(self, index: int) -> Gpu:
        """Return one GPU. Raises NVMLError or _Lost where there is nothing to tell of it."""
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = self._told(nvml.nvmlDeviceGetName, handle)
        rates = self._told(nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = self._told(nvml.nvmlDeviceGetMemoryInfo, handle)
        power = self._told(nvml.nvmlDeviceGetPowerUsage, handle)
        limit = self._told(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        mig = self._told(nvml.nvmlDeviceGetMigMode, handle)
        return Gpu(
            f"nvidia{index}",
            name or "NVIDIA GPU",
            utilization=None if rates is None else rates.gpu / 100,
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            power=None if power is None else power / _MILLI,
            power_limit=None if limit is None else limit / _MILLI,
            temperature=self._told(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            users=self._users(handle),
            divided=mig is not None and mig[0] == _MIG_ON,
        )

    def _users(self, handle: Any) -> tuple[GpuUser, ...]:
        nvml = self._nvml
        found: dict[int, int | None] = {}
        # Engines that compute through a graphics interface, such as Vulkan, are in the second list.
        # The functions without a number raise something else than NVMLError where a driver has no such function.
        for ask in (
            nvml.nvmlDeviceGetComputeRunningProcesses_v3,
            nvml.nvmlDeviceGetGraphicsRunningProcesses_v3,
        ):
            for process in self._told(ask, handle) or ():
                found[process.pid] = max(
                    filter(None, (found.get(process.pid), process.usedGpuMemory)), default=None
                )
        return tuple(GpuUser(pid, memory) for pid, memory in found.items())

    def _told(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """Return what NVML tells; None where it does not. Raises _Lost."""
        try:
            return ask(*arguments)
        except self._nvml.NVMLError as error:
            if getattr(error, "value", None) == self._nvml.NVML_ERROR_GPU_IS_LOST:
                raise _Lost(str(error)) from None
            return None
