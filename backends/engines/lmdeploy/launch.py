"""How to launch LMDeploy's `api_server`: the options of a backend's `launch` section, and their command line.

Facts are those of LMDeploy 0.18. LoRA adapters are given at the start and work only with the `pytorch` backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from backends.base import Launch
from backends.facts.launching import Count, GpuServerLaunch, LoraName, Plain, Text, arguments, program
from backends.facts.units import Share

COMMAND = ("lmdeploy", "serve", "api_server")
INSTALL = "install it with `pip install lmdeploy`"


class LMDeployLaunch(GpuServerLaunch):
    """How to start LMDeploy's server."""

    backend: Literal["turbomind", "pytorch"] | None = Field(
        None,
        description="LMDeploy's engine. Left out, `turbomind` where it knows the model, and `pytorch` for LoRA.",
    )
    data_parallel: Count | None = Field(
        None, description="Copies of the model behind one server, with `turbomind` only. Left out, one."
    )
    gpu_memory: Share | None = Field(
        None,
        description="How much of the GPU memory that the model leaves free the KV cache takes. Left out, `80%`.",
    )
    chat_template: Text | None = Field(
        None,
        description="The chat template, if it is not the model's own: the path of an LMDeploy template (JSON), or the "
        "name of a built-in one.",
    )
    quantization: Literal["hf", "awq", "gptq", "compressed-tensors", "fp8", "mxfp4"] | None = Field(
        None, description="How the weights are quantized. Left out, as the model says."
    )
    kv_cache_dtype: Literal["none", "int4", "int8", "fp8", "fp8_e5m2", "turbo_quant"] | None = Field(
        None, description="The type of the KV cache. Left out, that of the model."
    )
    speculative: dict[Text, Plain] = Field(
        {},
        description="Speculative decoding, as LMDeploy's `--speculative-...` arguments have it: `{algorithm: eagle3, "
        "draft_model: org/draft, num_draft_tokens: 3}`.",
    )
    lora: dict[LoraName, Text] = Field(
        {}, description="LoRA adapters: the model name under which clients ask for one, and its folder."
    )
    extra_args: tuple[str, ...] = Field(
        (),
        description="More arguments for the program, passed unchanged. With `--max-concurrent-requests` LMDeploy holds "
        "back health probes too, so that a full one looks as if it were down: limit the model's `concurrency` instead.",
    )

    gpu_share: ClassVar[float] = 0.8
    gpu_share_of_free: ClassVar[bool] = True

    @model_validator(mode="after")
    def _fits_its_backend(self) -> LMDeployLaunch:
        if self.lora and self.backend == "turbomind":
            raise ValueError("'lora' needs 'backend: pytorch'")
        if (self.data_parallel or 1) > 1 and (self.lora or self.backend == "pytorch"):
            raise ValueError("'data_parallel' needs 'backend: turbomind'")
        return self

    def served_names(self) -> tuple[str, ...]:
        """Return the model's public name and those of its adapters."""
        return (self.public_name, *self.lora)

    def launch(self, host: str, port: int) -> Launch:
        argv = [*program(self.command or COMMAND, INSTALL)]
        self.check_paths(*self.lora.values())
        argv += [self.located(), "--model-name", self.public_name]
        argv += ["--server-name", host, "--server-port", str(port)]
        backend = self.backend or ("pytorch" if self.lora else None)
        argv += ["--backend", backend] if backend is not None else []
        argv += arguments(self, FLAGS)
        for name, value in self.speculative.items():
            argv += [f"--speculative-{name.replace('_', '-')}", str(value)]
        return self.process([*argv, *self.extra_args])


FLAGS: Mapping[str, str | tuple[str, str]] = {
    "tensor_parallel": "--tp",
    "data_parallel": "--dp",
    "gpu_memory": "--cache-max-entry-count",
    "max_model_len": "--session-len",
    "max_num_seqs": "--max-batch-size",
    "max_batched_tokens": "--max-prefill-token-num",
    "dtype": "--dtype",
    "quantization": "--model-format",
    "kv_cache_dtype": "--quant-policy",
    "prefix_caching": "--enable-prefix-caching",
    "reasoning_parser": "--reasoning-parser",
    "tool_parser": "--tool-call-parser",
    "chat_template": "--chat-template",
    "trust_remote_code": "--trust-remote-code",
    "lora": "--adapters=",
}
