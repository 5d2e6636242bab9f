"""Which engines exist. The only place that knows all of them.

Rules:
- A row is a name and the location of a class; a class is imported when it is first asked for. Servers that differ in
  their paths alone are rows of a table of their own (`backends.engines.presets`).
- Engines of other packages join through the entry-point group `llm_serving_gateway.engines`; a built-in name wins.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata

from backends.base import Engine, EngineOptions, LaunchOptions
from backends.engines.presets import PRESETS, made

ENTRY_POINTS = "llm_serving_gateway.engines"

ENGINES: dict[str, str] = {
    "llama-cpp-python": "backends.engines.llama_cpp_python.engine:LlamaCppPython",
    "llamacpp": "backends.engines.llamacpp.engine:LlamaCpp",
    "lmdeploy": "backends.engines.lmdeploy.engine:LMDeploy",
    "ollama": "backends.engines.ollama.engine:Ollama",
    "openai": "backends.engines.openai:OpenAI",
    "ray-serve": "backends.engines.ray_serve.engine:RayServe",
    "sglang": "backends.engines.sglang.engine:SGLang",
    "tensorrt-llm": "backends.engines.tensorrt_llm:TensorRTLLM",
    "tgi": "backends.engines.tgi.engine:TGI",
    "transformers": "backends.engines.transformers:Transformers",
    "triton": "backends.engines.triton.engine:Triton",
    "vllm": "backends.engines.vllm.engine:VLLM",
}


@functools.cache
def _external() -> dict[str, str]:
    return {point.name: point.value for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def names() -> tuple[str, ...]:
    """Return every engine name a config file may use, sorted."""
    return tuple(sorted({*_external(), *ENGINES, *PRESETS}))


@functools.cache
def engine(name: str) -> type[Engine]:
    """Return the class of the engine with this name. Raise KeyError for an unknown name."""
    if name in PRESETS:
        return made(name)
    module, _, attribute = {**_external(), **ENGINES}[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not (isinstance(found, type) and issubclass(found, Engine)):
        raise TypeError(f"engine {name!r}: {module}:{attribute} is not a backends.base.Engine")
    return found


def create(name: str, options: EngineOptions | None = None, launch: LaunchOptions | None = None) -> Engine:
    """Return an engine for a backend, from its `options` and `launch` sections where it has them.

    Raise OptionsError where a file that the options name cannot be used.
    """
    kind = engine(name)
    implied = launch.engine_options() if launch is not None else None
    chosen = options if implied is None else implied
    if chosen is None:
        return kind()
    made = chosen.engine()
    if made.name != kind.name:
        # A subclass of an engine inherits its type of options, which would make the engine it is derived from.
        raise TypeError(
            f"engine {name!r}: its options make {made.name!r}; give it an options_type of its own"
        )
    return made
