"""Apple's GPUs: the output of `ioreg -r -d 1 -w 0 -c IOAccelerator`.

No such machine is here. The form is that of outputs of Apple silicon that people have published: one entry for each
accelerator, one property a line, the statistics in one line. Much of an entry is left out.
"""

from gateway.machine.apple import Apple, parsed
from gateway.machine.gpu import Gpu

STATISTICS = (
    '"In use system memory (driver)"=0,"Alloc system memory"=52967440384,"Tiler Utilization %"=10,"recoveryCount"=0,'
    '"lastRecoveryTime"=0,"Renderer Utilization %"=15,"TiledSceneBytes"=655360,"Device Utilization %"=16,'
    '"SplitSceneCount"=0,"In use system memory"=2363801600'
)
M3 = f"""+-o AGXAcceleratorG15X  <class AGXAcceleratorG15X, id 0x1000005d1, registered, matched, active, busy 0 (37 ms)>
    {{
      "IOClass" = "AGXAcceleratorG15X"
      "IOReportLegend" = ({{"IOReportChannels"=((1,2,"Alloc system memory"),(3,4,"In use system memory"))}})
      "PerformanceStatistics" = {{{STATISTICS}}}
      "gpu-core-count" = 40
      "model" = "Apple M3 Max"
    }}

"""
BARE = """+-o IntelAccelerator  <class IntelAccelerator, id 0x10000044e, registered, matched, active>
    {
      "model" = <"Intel Iris Plus Graphics">
      "PerformanceStatistics" = {"recoveryCount"=0}
    }

"""
NO_STATISTICS = """+-o AppleM2ScalerCSCDriver  <class AppleM2ScalerCSCDriver, id 0x1000003a2>
    {
      "IOClass" = "AppleM2ScalerCSCDriver"
    }

"""


def test_use_and_memory_are_told_and_nothing_else() -> None:
    assert Apple(lambda: NO_STATISTICS + M3).read() == (
        Gpu("apple0", "Apple M3 Max", utilization=0.16, memory_used=2_363_801_600),
    )


def test_what_is_not_told_is_absent() -> None:
    assert parsed(M3 + BARE)[1] == Gpu("apple1", "Intel Iris Plus Graphics")
    assert (
        parsed(M3.replace('"Device Utilization %"=16', '"Device Utilization %"=101'))[0].utilization is None
    )


def test_no_output_is_no_gpu() -> None:
    assert parsed("") == ()
    assert parsed("ioreg: error: can't obtain properties\n") == ()
