"""How TGI's server is started: its launch options, their flags, and the reasons for a crash in its log.

Facts are those of TGI 3.3.7's `text-generation-launcher`.

Rules:
- The server knows no model name and answers to any, so the public name exists only in the gateway.
- Adapters and prefix caching are set by environment variables; everything else has a flag.
- The router takes a port for its metrics at the start, which it gives up at once: it answers `/metrics` on its own
  port. Port 0 stands for any that is free; 9000, its default, may be taken.
- At INFO the router writes what models say while tools are in use, token by token, and what each request asked for.
  Both are lowered, so that they do not come out in the gateway's log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from backends.base import Launch
from backends.facts import logs
from backends.facts.launching import Count, LoraName, ServerLaunch, Text, arguments, program
from backends.facts.units import Share, Size
from backends.sizing.files import too_long
from backends.sizing.model import ModelFacts
from backends.sizing.need import Need, Space
from backends.sizing.serving import BATCH, ServingPlan, serving

COMMAND = ("text-generation-launcher",)
INSTALL = "install Text Generation Inference, or run its container image and give its url"


class TGILaunch(ServerLaunch):
    """How to start TGI's server."""

    tensor_parallel: Count | None = Field(
        None, description="GPUs that share the model. Left out, all that are visible."
    )
    gpu_memory: Share | None = Field(None, description="How much of each GPU's memory it may take.")
    max_model_len: Count | None = Field(
        None,
        description="Tokens one request may use, prompt and answer together. Left out, what fits.",
    )
    max_input_len: Count | None = Field(
        None,
        description="Tokens of the longest prompt. Left out, one less than `max_model_len`. An answer of more than "
        "1024 tokens goes on only while prompt and answer together fit it, so a small value cuts long answers.",
    )
    max_num_seqs: Count | None = Field(
        None, description="Requests that are computed at the same time. Left out, what fits."
    )
    max_batched_tokens: Count | None = Field(
        None, description="Tokens of prompts that are computed in one step. Left out, what fits."
    )
    max_queue: Count | None = Field(
        None,
        description="Requests it accepts, running and waiting together; more are refused. Left out, 128.",
    )
    payload_limit: Size | None = Field(
        None, description="The largest request it reads. Left out, 2 MB; a larger one is answered with 413."
    )
    dtype: Text | None = Field(
        None, description="The type of the weights: `float16` or `bfloat16`. Left out, as the model says."
    )
    quantization: Text | None = Field(
        None, description="How the weights are quantized, such as `awq`, `gptq`, `fp8` or `eetq`."
    )
    kv_cache_dtype: Text | None = Field(None, description="The type of the KV cache, such as `fp8_e4m3fn`.")
    prefix_caching: bool | None = Field(
        None,
        description="Whether prompts with the same beginning share their KV cache. Left out, where the model can.",
    )
    speculate: Count | None = Field(
        None, description="Tokens to guess ahead, by n-grams or by the model's own Medusa heads."
    )
    lora: dict[LoraName, Text] = Field(
        {}, description="LoRA adapters: the model name under which clients ask for one, and its folder."
    )
    trust_remote_code: bool = Field(
        False, description="Whether Python code that comes with the model may run in the engine."
    )

    def served_names(self) -> tuple[str, ...]:
        """Return the model's public name and those of its adapters."""
        return (self.public_name, *self.lora)

    def need(self, facts: ModelFacts, space: Space) -> Need | None:
        seen = self.space(space)
        gpus = self.tensor_parallel or max(1, len(seen.gpus))
        plan = ServingPlan(
            tokens=self.max_model_len,
            batch=self.max_batched_tokens or BATCH,
            kv_type=self.kv_cache_dtype,
            dtype=self.dtype,
            quantization=self.quantization,
            split=gpus,
            heads_split=gpus,
            share=1.0 if self.gpu_memory is None else self.gpu_memory,
        )
        return serving(facts, plan, seen)

    def slots(self) -> int | None:
        return self.max_num_seqs

    def longest(self) -> int | None:
        return self.max_model_len

    def notes(self) -> tuple[str, ...]:
        return too_long("max_model_len", self.max_model_len, Path(self.model))

    def launch(self, host: str, port: int) -> Launch:
        argv = [*program(self.command or COMMAND, INSTALL), "--hostname", host, "--port", str(port)]
        # The sockets of the shards must differ between two servers on one machine.
        argv += ["--shard-uds-path", f"/tmp/text-generation-{port}"]  # noqa: S108
        argv += ["--prometheus-port", "0", "--model-id", self.located()]
        adapters = ",".join(f"{name}={path}" for name, path in self.lora.items())
        env = {
            **({"LORA_ADAPTERS": adapters} if adapters else {}),
            **({} if self.prefix_caching is None else {"PREFIX_CACHING": str(int(self.prefix_caching))}),
        }
        return self.process([*argv, *arguments(self, FLAGS), *self.extra_args], env, key_env="API_KEY")


FLAGS: Mapping[str, str | tuple[str, str]] = {
    "tensor_parallel": "--num-shard",
    "gpu_memory": "--cuda-memory-fraction",
    "max_model_len": "--max-total-tokens",
    "max_input_len": "--max-input-tokens",
    "max_num_seqs": "--max-batch-size",
    "max_batched_tokens": "--max-batch-prefill-tokens",
    "max_queue": "--max-concurrent-requests",
    "payload_limit": "--payload-limit",
    "dtype": "--dtype",
    "quantization": "--quantize",
    "kv_cache_dtype": "--kv-cache-dtype",
    "speculate": "--speculate",
    "trust_remote_code": "--trust-remote-code",
}


SAYING = re.compile(r"text_generation_router::chat\b|GenerateParameters")
"""What stands in the router's lines about what is asked and said."""

CRASHES: logs.Crashes = (
    (re.compile(r"(Not enough memory to handle \d+ prefill tokens)"), "{0}: lower 'max_batched_tokens'"),
    (re.compile(r"(`?max_input_tokens`? must be < `?max_total_tokens`?)"), "{0}"),
    (
        re.compile(r"sharded is true but only found (\d+) CUDA devices"),
        "it finds {0} GPUs, too few for 'tensor_parallel'",
    ),
)
