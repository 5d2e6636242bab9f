"""Draws the dashboards with the data of a gateway under load and faults: `python -m tests.monitoring.pictures FOLDER`.

Rules:
- It takes the same stage and the same Prometheus as the test of the dashboards, for longer, so that there is
  something to see: engines that fail and come back, a busy and a quiet time.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from docker.grafana.pictures import asking, draw
from tests.monitoring.server import prometheus
from tests.monitoring.stage import stage


async def main(folder: Path, seconds: float) -> None:
    """Run the stage for so long, then draw."""
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        (room / "gateway").mkdir()
        (room / "prometheus").mkdir()
        async with (
            stage(room / "gateway") as at,
            prometheus(room / "prometheus", at.served.port, {}) as running,
        ):
            begin = time.time()
            while time.time() - begin < seconds:
                done = (time.time() - begin) / seconds
                await at.round()
                if at.rounds == 10:
                    at.kill_engine()
                await asyncio.sleep(1.5 if 0.4 < done < 0.6 else 0.3)
            ask = asking(f"http://127.0.0.1:{running.port}")
            for path in await asyncio.to_thread(draw, ask, folder, begin, time.time()):
                print(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long the load lasts (120)")
    options = parser.parse_args()
    asyncio.run(main(options.folder, options.seconds))
