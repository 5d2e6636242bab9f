"""What each engine takes, by its launch options: on CPUs, on one GPU, and on several."""

import json
from pathlib import Path
from typing import Any

import pytest

from backends.base import LaunchOptions
from backends.registry import engine
from backends.sizing.config import Config
from backends.sizing.files import facts
from backends.sizing.folder import folder_facts
from backends.sizing.model import ModelFacts
from backends.sizing.need import GIB, Need, Space, Where, shown
from tests.sizing.published import MODELS

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo.gguf"
CPU = Space(ram=64 * GIB)
ONE = Space((24 * GIB,), 64 * GIB)
FOUR = Space((80 * GIB,) * 4, 512 * GIB)


def published(name: str) -> ModelFacts:
    config = Config.read(json.dumps(MODELS[name].config).encode())
    assert config is not None
    return folder_facts(config)


def need(kind: str, model: ModelFacts, space: Space, **options: Any) -> Need:
    launches = engine(kind).launch_options
    assert launches is not None
    path = str(DEMO) if "llama" in kind else "org/name"
    launch = launches.model_validate_json(json.dumps({"model": path, **options}))
    assert isinstance(launch, LaunchOptions)
    found = launch.need(model, space)
    assert found is not None
    return found


def term(found: Need, name: str) -> int:
    return sum(term.size for term in found.terms if term.name == name)


ALL = ("llamacpp", "llama-cpp-python", "vllm", "sglang", "lmdeploy", "tgi", "transformers")


@pytest.mark.parametrize("kind", ALL)
def test_every_engine_that_is_launched_says_what_it_takes(kind: str) -> None:
    model = facts(DEMO)
    found = need(kind, model, CPU)
    assert found.gpus == found.each_gpu == 0
    assert term(found, "weights") == model.weights
    assert found.ram > model.weights
    assert found.ram_later >= found.ram
    words = found.explained(Where.RAM)
    assert words.startswith(f"{shown(model.weights)} weights (F16")
    assert "KV cache (" in words


def test_llamacpp_has_a_cache_for_each_slot() -> None:
    model = facts(DEMO)
    # 4 layers, 2 heads of 64, keys and values, 2 bytes: 2 KiB a token.
    assert term(need("llamacpp", model, CPU), "KV cache") == 4 * 2048 * 2048
    assert term(need("llamacpp", model, CPU, parallel=1, context=1000), "KV cache") == 1024 * 2048
    eight = need("llamacpp", model, CPU, extra_args=["--cache-type-k", "q8_0", "--cache_type_v=q8_0"])
    assert term(eight, "KV cache") == 4 * 2048 * 2048 * 34 // 64
    keys = need("llamacpp", model, CPU, extra_args=["-ctk", "q8_0"])
    assert term(keys, "KV cache") == 4 * 2048 * (512 * 34 // 32 + 512 * 2)


def test_llamacpp_keeps_prompts_later() -> None:
    model = facts(DEMO)
    usual, bounded, none = (
        need("llamacpp", model, CPU, **more)
        for more in ({}, {"prompt_cache": "1GiB"}, {"prompt_cache": False})
    )
    assert usual.ram == bounded.ram == none.ram
    assert usual.ram_later - usual.ram == 8 * GIB
    assert bounded.ram_later - bounded.ram == GIB
    assert none.ram_later == none.ram


def test_llamacpp_puts_layers_on_gpus() -> None:
    model = facts(DEMO)
    program = {"runtime": "llama-server"}
    whole = need("llamacpp", model, ONE, **program)
    assert (whole.gpus, whole.takes) == (1, None)
    assert term(whole, "weights") == model.weights
    assert whole.each_gpu > model.weights + 16 * 2**20
    some = need("llamacpp", model, ONE, gpu_layers=2, **program)
    assert whole.least_gpu > some.least_gpu
    assert some.ram > whole.ram
    switched_off: tuple[dict[str, Any], ...] = ({"gpu_layers": 0}, {"gpus": []})
    for without in switched_off:
        assert need("llamacpp", model, ONE, **program, **without) == need("llamacpp", model, CPU)
    assert need("llamacpp", model, Space((GIB,) * 2), **program).gpus == 2


def test_llama_cpp_python_computes_on_cpus_unless_told() -> None:
    model = facts(DEMO)
    assert need("llama-cpp-python", model, ONE).gpus == 0
    assert need("llama-cpp-python", model, ONE, gpu_layers=-1).gpus == 1
    cached = need("llama-cpp-python", model, CPU, cache=True)
    assert cached.ram_later - cached.ram == 2 * GIB


def test_vllm_takes_its_share_and_needs_less() -> None:
    model = published("Llama-3-8B")
    found = need("vllm", model, ONE, max_model_len=8192)
    assert found.takes == found.each_gpu == int(24 * GIB * 0.92)
    assert term(found, "weights") == pytest.approx(16.06e9, rel=0.01)
    assert term(found, "KV cache") == 8192 * 131_072
    assert 17 * GIB < found.least_gpu < 22 * GIB
    assert need("vllm", model, ONE, gpu_memory="50%").each_gpu > 12 * GIB
    assert need("sglang", model, ONE).takes == int(24 * GIB * 0.88)
    assert need("tgi", model, ONE).takes == 24 * GIB
    left = need("lmdeploy", model, ONE)
    assert left.takes is not None and 22 * GIB < left.takes < 24 * GIB


def test_gpus_share_a_model() -> None:
    model = published("Llama-2-70B")
    one, four = need("vllm", model, FOUR), need("vllm", model, FOUR, tensor_parallel=4)
    assert (one.gpus, four.gpus) == (1, 4)
    assert one.least_gpu > 80 * GIB > four.least_gpu > 32 * GIB
    assert term(one, "KV cache") == term(four, "KV cache")
    copies = need("vllm", model, FOUR, tensor_parallel=2, data_parallel=2)
    assert copies.gpus == 4
    assert term(copies, "weights") == 2 * term(four, "weights")
    assert term(copies, "KV cache") == 2 * term(four, "KV cache")
    deep = need("vllm", published("DeepSeek-V2"), FOUR, tensor_parallel=4)
    assert term(deep, "KV cache") == 4 * 69_120 * 163_840
    assert "x 4 GPUs that repeat it" in deep.explained(Where.GPU)
    assert need("tgi", model, FOUR).gpus == 4


@pytest.mark.parametrize(
    ("kind", "options", "gigabytes"),
    [
        ("vllm", {}, 13.48),
        ("vllm", {"quantization": "fp8"}, 7.0),
        ("vllm", {"quantization": "bitsandbytes"}, 3.89),
        ("vllm", {"dtype": "float32"}, 26.95),
        ("transformers", {"quantization": "bnb-8bit"}, 7.0),
        ("transformers", {"quantization": "bnb-4bit"}, 3.89),
    ],
)
def test_options_change_the_type_of_the_weights(kind: str, options: dict[str, Any], gigabytes: float) -> None:
    found = need(kind, published("Llama-2-7B"), ONE, **options)
    assert term(found, "weights") / 1e9 == pytest.approx(gigabytes, rel=0.01)


def test_the_kv_cache_has_a_type_and_a_size_of_its_own() -> None:
    model = published("Llama-2-7B")
    assert term(need("vllm", model, ONE, kv_cache_dtype="fp8"), "KV cache") == 4096 * 524_288 // 2
    assert term(need("vllm", model, CPU), "KV cache") == 4 * GIB
    assert term(need("vllm", model, CPU, env={"VLLM_CPU_KVCACHE_SPACE": "1"}), "KV cache") == GIB
    assert need("vllm", model, ONE, gpus=[]).gpus == 0
    assert need("transformers", model, ONE, device="cpu").gpus == 0
