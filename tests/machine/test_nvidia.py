"""NVIDIA's GPUs: what is made of NVML's answers and of its refusals.

There is no such GPU where these tests run. A stand-in has the binding's functions; another one, in C, the library's
(`nvml.c`), so that the real binding is used too.
"""

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.machine.gpu import Gpu, GpuUser
from gateway.machine.nvidia import RETRY, Nvidia, Nvml

FUNCTIONS = [name for name in vars(Nvml) if name.startswith("nvml")]


class Refused(Exception):
    """NVML's error, as the binding raises it."""

    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


class Binding:
    """The binding, for some GPUs. What is in `refused` raises: a function's name, or that and the number of a GPU."""

    NVMLError = Refused
    NVML_ERROR_GPU_IS_LOST = 15
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.refused: dict[str | tuple[str, int], int] = {}
        self.asked: list[str] = []
        self.compute: list[Any] = []
        self.graphics: list[Any] = []
        self.mig = [0, 0]

    def __getattr__(self, name: str) -> Any:
        if name not in FUNCTIONS:
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            self.asked.append(name)
            code = self.refused.get(name) or (arguments and self.refused.get((name, arguments[0])))
            if code:
                raise Refused(code)
            answers: dict[str, Any] = {
                "nvmlDeviceGetCount": self.count,
                "nvmlDeviceGetHandleByIndex": arguments and arguments[0],
                "nvmlDeviceGetName": "NVIDIA L4",
                "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=50, memory=9),
                "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24, free=14, used=10),
                "nvmlDeviceGetPowerUsage": 33_500,
                "nvmlDeviceGetEnforcedPowerLimit": 72_000,
                "nvmlDeviceGetTemperature": 45,
                "nvmlDeviceGetMigMode": self.mig,
                "nvmlDeviceGetComputeRunningProcesses_v3": self.compute,
                "nvmlDeviceGetGraphicsRunningProcesses_v3": self.graphics,
            }
            return answers.get(name)

        return call


def nvidia(binding: Any, now: list[float] | None = None) -> Nvidia:
    times = [0.0] if now is None else now
    return Nvidia(lambda: binding, lambda: times[0])


def test_a_gpu_tells_all_of_itself() -> None:
    binding = Binding()
    binding.compute = [
        SimpleNamespace(pid=7, usedGpuMemory=6),
        SimpleNamespace(pid=8, usedGpuMemory=None),
    ]
    binding.graphics = [
        SimpleNamespace(pid=7, usedGpuMemory=2),
        SimpleNamespace(pid=9, usedGpuMemory=1),
    ]
    users = GpuUser(7, 6), GpuUser(8, None), GpuUser(9, 1)
    assert nvidia(binding).read() == (Gpu("nvidia0", "NVIDIA L4", 0.5, 10, 24, 33.5, 72.0, 45, users),)


def test_a_value_that_is_not_told_is_absent_and_the_others_are_there() -> None:
    binding = Binding()
    binding.refused = {"nvmlDeviceGetUtilizationRates": 3, "nvmlDeviceGetPowerUsage": 3}
    binding.refused["nvmlDeviceGetComputeRunningProcesses_v3"] = 4  # no permission
    [gpu] = nvidia(binding).read()
    assert (gpu.utilization, gpu.power, gpu.users) == (None, None, ())
    assert (gpu.memory_used, gpu.power_limit) == (10, 72.0)


@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetMemoryInfo"])
def test_a_gpu_that_is_lost_is_left_out_and_said_once(
    function: str, caplog: pytest.LogCaptureFixture
) -> None:
    binding = Binding(3)
    binding.refused = {(function, 1): 15}
    reader = nvidia(binding)
    for _ in range(3):
        assert [gpu.id for gpu in reader.read()] == ["nvidia0", "nvidia2"]
    assert [record.getMessage() for record in caplog.records] == ["GPU nvidia1 does not answer: error 15"]
    binding.refused.clear()
    assert len(reader.read()) == 3
    assert "nvmlShutdown" not in binding.asked


def test_no_driver_is_no_error_and_is_looked_for_again_only_later(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    binding, now = Binding(), [0.0]
    binding.refused = {"nvmlInit": 12}
    reader = nvidia(binding, now)
    for _ in range(5):
        assert reader.read() == ()
    assert binding.asked == ["nvmlInit"]
    binding.refused.clear()
    now[0] = RETRY - 1
    assert reader.read() == ()
    now[0] = RETRY
    assert len(reader.read()) == 1
    assert not caplog.records


def test_a_driver_that_was_unloaded_is_opened_anew() -> None:
    binding, now = Binding(2), [0.0]
    reader = nvidia(binding, now)
    assert len(reader.read()) == 2
    binding.refused = {"nvmlDeviceGetHandleByIndex": 1}
    assert reader.read() == ()
    binding.refused.clear()
    now[0] = RETRY
    assert len(reader.read()) == 2
    assert binding.asked.count("nvmlInit") == 2


def test_the_real_binding_has_what_is_used_of_it_and_finds_no_library_here() -> None:
    import pynvml

    for name in (*FUNCTIONS, *Nvml.__annotations__):
        assert hasattr(pynvml, name), name
    assert pynvml.NVML_ERROR_GPU_IS_LOST == Binding.NVML_ERROR_GPU_IS_LOST
    with pytest.raises(pynvml.NVMLError):
        pynvml.nvmlInit()
    assert Nvidia().read() == ()


def test_the_real_binding_reads_a_library(tmp_path: Path, nvml: Path) -> None:
    (tmp_path / "pid").write_text("4711")
    program = "from gateway.machine.nvidia import Nvidia; print(*Nvidia().read(), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"LD_LIBRARY_PATH": str(nvml), "NVML_PID": str(tmp_path / "pid")},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    full = Gpu(
        "nvidia0",
        "NVIDIA H200",
        0.43,
        50_000_000_000,
        150_754_820_096,
        312.5,
        700.0,
        61,
        (GpuUser(4711, 40_000_000_000),),
    )
    assert done.stdout.splitlines() == [
        str(full),
        str(full._replace(id="nvidia1", utilization=None, power=None, users=())),
    ]
    assert "GPU nvidia2 does not answer: GPU is lost" in done.stderr


def test_a_gpu_says_whether_it_is_divided() -> None:
    """The first number is the mode of now, the second that from the next reset on; most GPUs have no such mode."""
    binding = Binding()
    for mode, divided in (([0, 1], False), ([1, 1], True)):
        binding.mig = mode
        assert [gpu.divided for gpu in nvidia(binding).read()] == [divided]
    binding.refused["nvmlDeviceGetMigMode"] = 3
    assert [gpu.divided for gpu in nvidia(binding).read()] == [False]
