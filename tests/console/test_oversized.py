"""`gateway check` tells which engines alone need more memory than there is: of machines that a test makes up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.console.oversized import oversized
from tests.config.files import config
from tests.fleet.test_needs import GIB, MODEL, gpu, machine

HERE = "server: {engines: {memory: {ram: 50%, gpu: 90%}}}\n"


def backends(**launches: str) -> str:
    engines = {"vllm": "vllm", "two": "vllm", "auto": "vllm"}
    lines = [
        f"  {name}: {{engine: {engines.get(name, 'llamacpp')}, launch: {text}}}\n"
        for name, text in launches.items()
    ]
    return f"{HERE}backends:\n{''.join(lines)}"


async def test_an_engine_that_is_larger_than_what_all_may_take_is_told_with_the_arithmetic(
    tmp_path: Path,
) -> None:
    text = backends(
        small=f"{{model: {MODEL}, memory: {{ram: 31GiB}}}}",
        large=f"{{model: {MODEL}, memory: {{ram: 33GiB}}}}",
        reckoned=f"{{model: {MODEL}, name: r, context: 2000000, parallel: 30}}",
    )
    # What is free now plays no part: other programs may end.
    told, sum_ = await oversized(config(tmp_path, text), await machine(ram=64 * GIB, free=2 * GIB))
    assert told == (
        "backend 'large' is larger than this machine: it needs 33.0 GiB of RAM, and there are 32.0 GiB for engines "
        "(as `launch.memory` says)"
    )
    assert sum_.startswith("backend 'reckoned' is larger than this machine: it needs ")
    assert "MiB weights (" in sum_ and " + " in sum_ and "GiB KV cache (" in sum_ and "tokens x" in sum_


async def test_of_gpus_it_is_enough_that_one_of_those_that_it_may_have_is_large_enough(
    tmp_path: Path,
) -> None:
    text = backends(
        vllm="{model: org/a, gpus: [0], memory: {gpu: 30GiB}}",
        two="{model: org/b, gpus: [0, 1], memory: {gpu: 30GiB}}",
        auto="{model: org/c, gpus: auto, memory: {gpu: 30GiB}}",
    )
    found = await oversized(config(tmp_path, text), await machine(gpu(0), gpu(1, 48 * GIB)))
    short = (
        "it needs 30.0 GiB of memory of nvidia0, and there are 21.6 GiB for engines (as `launch.memory` says)"
    )
    assert found == [f"backend '{name}' is larger than this machine: {short}" for name in ("vllm", "two")]
    none = await oversized(config(tmp_path, text), await machine(gpu(0)))
    assert [note.split()[1] for note in none] == ["'vllm'", "'two'", "'auto'"]
    assert await oversized(config(tmp_path, text), await machine()) == [], (
        "the file may be for another machine"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere not every machine tells its memory")
def test_check_tells_it_of_this_machine(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(backends(a=f"{{model: {MODEL}, memory: {{ram: 100000GiB}}}}"))
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "check", str(file)], capture_output=True, text=True, check=True
    )
    assert done.stderr.startswith(
        "note: backend 'a' is larger than this machine: it needs 100000.0 GiB of RAM, and "
    )
