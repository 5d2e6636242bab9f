"""How to launch SGLang's server: the options of a backend's `launch` section, and their command line.

Facts are those of SGLang 0.5.23.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from backends.base import Launch
from backends.facts.launching import Count, GpuServerLaunch, LoraName, Plain, Text, arguments, program

COMMAND = ("sglang", "serve")
INSTALL = "install it with `pip install sglang`"


class SGLangLaunch(GpuServerLaunch):
    """How to start SGLang's server."""

    pipeline_parallel: Count | None = Field(
        None, description="Groups of GPUs that each hold a part of the model's layers. Left out, one."
    )
    data_parallel: Count | None = Field(
        None, description="Copies of the model behind one server, each on GPUs of its own. Left out, one."
    )
    max_queue: Count | None = Field(
        None, description="Requests that may wait in SGLang; more are refused with 503. Left out, any number."
    )
    chunked_prefill: bool | None = Field(
        None, description="With `false`, long prompts are computed in one piece. Left out, `true`."
    )
    speculative: dict[Text, Plain] = Field(
        {},
        description="Speculative decoding, as SGLang's `--speculative-...` arguments have it: `{algorithm: EAGLE3, "
        "draft_model_path: org/draft, num_steps: 3, eagle_topk: 1, num_draft_tokens: 4}`.",
    )
    lora: dict[LoraName, Text] = Field(
        {},
        description="LoRA adapters: their names, and their folders or hub names. Clients ask for one as "
        "`model:adapter`.",
    )
    lora_loading: bool = Field(
        False,
        description="Whether adapters may be loaded and unloaded while it runs (`load_lora`, `unload_lora`). Without "
        "adapters in `lora` it needs `--lora-target-modules` in `extra_args` and `max_lora_rank`.",
    )
    max_loras: Count | None = Field(None, description="Adapters that may be used in one step. Left out, 8.")
    max_lora_rank: Count | None = Field(
        None, description="The largest rank of an adapter. Left out, that of those in `lora`."
    )
    sleep_mode: bool = Field(
        False,
        description="Whether it can be put to sleep, which frees its GPU memory, and woken (`sleep`, `wake`).",
    )
    embeddings: bool = Field(False, description="Whether a text model serves embeddings, and nothing else.")

    gpu_share: ClassVar[float] = 0.88

    def served_names(self) -> tuple[str, ...]:
        """Return the model's public name, and `name:adapter` for each adapter."""
        name = self.public_name
        return (name, *(f"{name}:{adapter}" for adapter in self.lora))

    def launch(self, host: str, port: int) -> Launch:
        argv = [*program(self.command or COMMAND, INSTALL)]
        self.check_paths(*self.lora.values())
        argv += ["--model-path", self.located(), "--served-model-name", self.public_name]
        argv += ["--host", host, "--port", str(port), "--log-level-http", "warning"]
        argv += ["--enable-metrics", "--enable-cache-report"]
        argv += arguments(self, FLAGS)
        if self.prefix_caching is False:
            argv.append("--disable-radix-cache")
        if self.chunked_prefill is False:
            argv += ["--chunked-prefill-size", "-1"]
        for name, value in self.speculative.items():
            argv += [f"--speculative-{name.replace('_', '-')}", str(value)]
        return self.process([*argv, *self.extra_args])


FLAGS: Mapping[str, str | tuple[str, str]] = {
    "tensor_parallel": "--tp-size",
    "pipeline_parallel": "--pp-size",
    "data_parallel": "--dp-size",
    "gpu_memory": "--mem-fraction-static",
    "max_model_len": "--context-length",
    "max_num_seqs": "--max-running-requests",
    "max_batched_tokens": "--max-prefill-tokens",
    "max_queue": "--max-queued-requests",
    "dtype": "--dtype",
    "quantization": "--quantization",
    "kv_cache_dtype": "--kv-cache-dtype",
    "reasoning_parser": "--reasoning-parser",
    "tool_parser": "--tool-call-parser",
    "chat_template": "--chat-template",
    "trust_remote_code": "--trust-remote-code",
    "sleep_mode": "--enable-memory-saver",
    "embeddings": "--is-embedding",
    "lora_loading": "--enable-lora",
    "lora": "--lora-paths=",
    "max_loras": "--max-loras-per-batch",
    "max_lora_rank": "--max-lora-rank",
}
