"""AMD's GPUs: files as the kernel's driver writes them.

No such GPU is here. The files are those of a machine with two cards, an integrated GPU, and a display of another
vendor: their names and units are those of the kernel's documentation (gpu/amdgpu/thermal, gpu/amdgpu/driver-misc), the
`properties` of a node those that drivers/gpu/drm/amd/amdkfd/kfd_topology.c prints, shortened.
"""

from pathlib import Path

from gateway.machine.amd import Amd
from gateway.machine.gpu import Gpu, GpuUser

PROPERTIES = """cpu_cores_count 0
simd_count 1216
gfx_target_version 90402
vendor_id 4098
device_id 29857
location_id 8960
domain 0
drm_render_minor {render}
hive_id 0
unique_id 7809984429061111111
"""
CPU_PROPERTIES = PROPERTIES.replace("cpu_cores_count 0", "cpu_cores_count 64").format(render=0)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")


def card(sys: Path, number: int, render: int, files: dict[str, str]) -> None:
    device = sys / f"class/drm/card{number}/device"
    write(device, {"vendor": "0x1002", **files})
    (device / f"drm/renderD{render}").mkdir(parents=True)
    (device / f"drm/card{number}").mkdir()


BIG = {
    "device": "0x74a1",
    "product_name": "AMD Instinct MI300X",
    "gpu_busy_percent": "97",
    "mem_info_vram_total": "206141652992",
    "mem_info_vram_used": "180000000000",
    "hwmon/hwmon5/power1_input": "652000000",
    "hwmon/hwmon5/power1_cap": "750000000",
    "hwmon/hwmon5/temp2_input": "58000",
}
IDLE = {
    "device": "0x744c",
    "product_name": "",
    "gpu_busy_percent": "0",
    "mem_info_vram_total": "25753026560",
    "mem_info_vram_used": "27652096",
    "hwmon/hwmon6/power1_average": "19000000",
    "hwmon/hwmon6/temp1_input": "41500",
    "hwmon/hwmon6/temp2_input": "47000",
}


def machine(sys: Path) -> None:
    card(sys, 1, 128, BIG)
    card(sys, 10, 129, IDLE)
    card(sys, 2, 130, {"device": "0x1900"})
    write(sys / "class/drm/card0/device", {"vendor": "0x8086", "gpu_busy_percent": "50"})
    write(sys / "class/drm/card0-HDMI-A-1", {"status": "connected"})
    write(sys / "class/drm", {"version": "drm 1.1.0 20060810"})
    nodes = sys / "class/kfd/kfd/topology/nodes"
    write(nodes, {"0/gpu_id": "0", "0/properties": CPU_PROPERTIES})
    write(nodes, {"1/gpu_id": "51023", "1/properties": PROPERTIES.format(render=128)})
    write(nodes, {"2/gpu_id": "17126", "2/properties": PROPERTIES.format(render=129)})
    processes = sys / "class/kfd/kfd/proc"
    write(processes, {"1969631/vram_51023": "50692304896", "1969631/vram_17126": "0"})
    write(processes, {"42/vram_51023": "1024", "42/vram_17126": "2048", "42/pasid": "32772"})


def test_cards_tell_what_they_have(tmp_path: Path) -> None:
    machine(tmp_path)
    users = GpuUser(1969631, 50_692_304_896), GpuUser(42, 1024)
    assert Amd(tmp_path).read() == (
        Gpu("amd0", "AMD Instinct MI300X", 0.97, 180_000_000_000, 206_141_652_992, 652.0, 750.0, 58.0, users),
        Gpu("amd1", "AMD GPU 0x1900"),
        Gpu("amd2", "AMD GPU 0x744c", 0.0, 27652096, 25753026560, 19.0, None, 41.5, (GpuUser(42, 2048),)),
    )


def test_a_value_that_cannot_be_read_is_absent(tmp_path: Path) -> None:
    machine(tmp_path)
    busy = tmp_path / "class/drm/card1/device/gpu_busy_percent"
    busy.unlink()
    busy.mkdir()  # reading fails, as it does with EPERM or EBUSY while the GPU sleeps or is reset
    gpu = Amd(tmp_path).read()[0]
    assert (gpu.utilization, gpu.temperature) == (None, 58.0)


def test_no_driver_is_no_gpu(tmp_path: Path) -> None:
    assert Amd(tmp_path).read() == ()
    write(tmp_path / "class/drm/card0/device", {"vendor": "0x10de"})
    assert Amd(tmp_path).read() == ()
