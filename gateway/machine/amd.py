"""AMD's GPUs, by the files of the kernel's driver `amdgpu` below /sys.

Rules:
- A file that is missing, empty, or refuses to be read (the GPU sleeps or is being reset) makes its one value None.
- A process uses a GPU if it holds some of that one's memory: the driver lists each process at every GPU.

Facts: the kernel's documentation "GPU Power/Thermal Controls and Monitoring" (gpu_busy_percent; hwmon: power1_average
or power1_input, and power1_cap, in microwatts; temp1_input is the edge, temp2_input the hottest spot, in thousandths of
a degree) and "Misc AMDGPU driver information" (mem_info_vram_*, bytes; product_name). What is said of processes is in
its source only, drivers/gpu/drm/amd/amdkfd: kfd_topology.c (nodes/*/gpu_id, and drm_render_minor in their properties)
and kfd_process.c (proc/PID/vram_GPUID, bytes).
"""

from __future__ import annotations

import re
from pathlib import Path

from gateway.machine.gpu import Gpu, GpuUser

AMD = "0x1002"
"""The vendor's number on the PCI bus."""
_CARD = re.compile(r"card(\d+)")
_MICRO, _MILLI = 1e6, 1e3


class Amd:
    """The GPUs of the driver `amdgpu`."""

    def __init__(self, sys: Path = Path("/sys")) -> None:
        """Read below `sys`."""
        self._drm = sys / "class/drm"
        self._kfd = sys / "class/kfd/kfd"

    def read(self) -> tuple[Gpu, ...]:
        """Return the GPUs there are now."""
        try:
            names = [name.name for name in self._drm.iterdir()]
        except OSError:
            return ()
        cards = sorted(int(found[1]) for name in names if (found := _CARD.fullmatch(name)))
        devices = [self._drm / f"card{number}/device" for number in cards]
        devices = [device for device in devices if _text(device / "vendor") == AMD]
        users = self._users() if devices else {}
        return tuple(_gpu(index, device, users) for index, device in enumerate(devices))

    def _users(self) -> dict[int, tuple[GpuUser, ...]]:
        """Return who uses each GPU, by the number of its render device."""
        renders: dict[str, int] = {}
        for node in _below(self._kfd / "topology/nodes"):
            number, properties = _text(node / "gpu_id"), _text(node / "properties") or ""
            found = re.search(r"^drm_render_minor (\d+)$", properties, re.MULTILINE)
            if number is not None and number != "0" and found is not None:
                renders[f"vram_{number}"] = int(found[1])
        users: dict[int, list[GpuUser]] = {}
        for process in _below(self._kfd / "proc"):
            for name, render in renders.items():
                held = _number(process / name)
                if held and process.name.isdigit():
                    users.setdefault(render, []).append(GpuUser(int(process.name), int(held)))
        return {render: tuple(found) for render, found in users.items()}


def _gpu(index: int, device: Path, users: dict[int, tuple[GpuUser, ...]]) -> Gpu:
    busy = _number(device / "gpu_busy_percent")
    sensors = _below(device / "hwmon")
    power = _first(sensors, "power1_average", "power1_input")
    limit = _first(sensors, "power1_cap")
    temperature = _first(sensors, "temp1_input", "temp2_input")
    renders = [name.name.removeprefix("renderD") for name in _below(device / "drm")]
    return Gpu(
        f"amd{index}",
        _text(device / "product_name") or f"AMD GPU {_text(device / 'device') or ''}".rstrip(),
        utilization=None if busy is None else busy / 100,
        memory_used=_number(device / "mem_info_vram_used"),
        memory_total=_number(device / "mem_info_vram_total"),
        power=None if power is None else power / _MICRO,
        power_limit=None if limit is None else limit / _MICRO,
        temperature=None if temperature is None else temperature / _MILLI,
        users=next(
            (users[int(render)] for render in renders if render.isdigit() and int(render) in users), ()
        ),
    )


def _first(folders: list[Path], *names: str) -> int | None:
    """Return the number in the first of these files that has one."""
    numbers = (_number(folder / name) for name in names for folder in folders)
    return next((number for number in numbers if number is not None), None)


def _below(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text is not None and text.isdecimal() else None


def _text(file: Path) -> str | None:
    """Return what a file says; None where it says nothing."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
