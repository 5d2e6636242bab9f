"""A GPU as every vendor's reader tells it.

Rules:
- A value that the GPU or its driver does not tell is None, never a zero.
- Units are bytes, watts, degrees Celsius and shares from 0 to 1.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class GpuUser(NamedTuple):
    """A process that uses a GPU."""

    pid: int
    memory: int | None
    """Bytes of the GPU's memory."""


class Gpu(NamedTuple):
    """One GPU at one moment."""

    id: str
    """The vendor and the driver's own number, such as `nvidia0`."""
    name: str
    """What the driver calls it, such as `NVIDIA H200`."""
    utilization: float | None = None
    """The share of the last moments in which it computed."""
    memory_used: int | None = None
    memory_total: int | None = None
    power: float | None = None
    power_limit: float | None = None
    temperature: float | None = None
    users: tuple[GpuUser, ...] = ()
    """The processes that use it, as far as the driver tells."""
    divided: bool = False
    """Whether it is divided into parts that programs use instead of it (NVIDIA's MIG)."""


class GpuSource(Protocol):
    """Reads the GPUs of one vendor."""

    def read(self) -> tuple[Gpu, ...]:
        """Return the GPUs there are now, none where there is no driver.

        It may take long or even hang, so it is called in a thread of its own; by one thread at a time.
        """
