"""Which tensor of a text model behind Triton means what, as a table for each known backend; and what a client asks for,
as tensors.

Facts: the vLLM backend (its SamplingParams come as one string of JSON), the TensorRT-LLM backend's ensemble and BLS
models, and its LLM API model, whose streamed responses hold all of the text; read in their source, as of server 2.73.

Rules:
- A role is what OpenAI calls it; a tensor is what the model calls it. An operator's own names win over a table's.
- A key of the body that is no input tensor of the model reaches it as a request parameter (run, 2.51). So a name too
  many does no harm, and a model of one's own may read its settings either way.
- Without a limit OpenAI's clients get an answer as long as it takes; vLLM's own default here would be 16 tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

Role = Literal[
    "prompt",
    "output",
    "parameters",
    "stream",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "n",
    "schema",
    "finish_reason",
    "input_tokens",
    "output_tokens",
]
"""`parameters` is the input that takes all sampling parameters as one string of JSON, `schema` the parameter that takes
a JSON schema the answer must follow; the last three are outputs."""

Constant = str | int | float | bool

_SCALARS = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
_TEXT = {"prompt": "text_input", "output": "text_output"}
_COUNTS = {"input_tokens": "num_input_tokens", "output_tokens": "num_output_tokens"}
_ASK_COUNTS = {"return_num_input_tokens": True, "return_num_output_tokens": True}


@dataclass(frozen=True, slots=True)
class Tensors:
    """The tensors of a model by their role, and inputs that are the same in every request."""

    names: Mapping[str, str | None]
    inputs: Mapping[str, Constant] = field(default_factory=dict)
    stops: bool = True
    """The backend itself cuts its text before a stop string."""
    grows: bool = False
    """Each response holds all of the text so far, not what is new."""

    def name(self, role: Role) -> str | None:
        """The model's name for it, None where it has none."""
        return self.names.get(role)

    def changed(
        self, names: Mapping[Role, str], inputs: Mapping[str, Constant], grows: bool | None
    ) -> Tensors:
        """With an operator's own names, empty for a tensor that is not there, and inputs."""
        return Tensors(
            {**self.names, **{str(role): name or None for role, name in names.items()}},
            {**self.inputs, **inputs},
            self.stops and "stop" not in names,
            self.grows if grows is None else grows,
        )

    def body(self, prompt: str, sampling: Mapping[Role, Any]) -> bytes:
        """The body that asks for a stream of text after `prompt`."""
        settings = {name: value for role, value in sampling.items() if (name := self.name(role))}
        body: dict[str, Any] = {str(self.name("prompt")): prompt, **self.inputs}
        if (stream := self.name("stream")) is not None:
            body[stream] = True
        if (bundle := self.name("parameters")) is not None:
            settings = {bundle: msgspec.json.encode(settings).decode()}
        return msgspec.json.encode({**body, **settings})


PRESETS: Mapping[str, Tensors] = {
    "vllm": Tensors(
        {
            **_TEXT,
            **_COUNTS,
            **{name: name for name in (*_SCALARS, "stop", "min_p", "logit_bias", "n")},
            "parameters": "sampling_parameters",
            "stream": "stream",
            "finish_reason": "finish_reason",
            "schema": "guided_decoding",
        },
        {"exclude_input_in_output": True, "return_finish_reason": True, **_ASK_COUNTS},
    ),
    "tensorrtllm": Tensors(
        {**_TEXT, **_COUNTS, **{name: name for name in _SCALARS}, "stop": "stop_words", "stream": "stream"},
        {"exclude_input_in_output": True, **_ASK_COUNTS},
        stops=False,
    ),
    "llmapi": Tensors(
        {
            **_TEXT,
            **{name: f"sampling_param_{name}" for name in (*_SCALARS, "stop")},
            "stream": "streaming",
            "finish_reason": "finish_reason",
        },
        {"sampling_param_exclude_input_from_output": True, "return_finish_reason": True},
        stops=False,
        grows=True,
    ),
    "custom": Tensors({**_TEXT, **{name: name for name in (*_SCALARS, "min_p")}}, stops=False),
}
"""By the backend's name in the options."""


class Asked(msgspec.Struct):
    """A chat or completion request, as far as it becomes tensors."""

    messages: list[dict[str, Any]] = []
    prompt: Any = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    best_of: int | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: Any = None
    echo: Any = None
    suffix: Any = None
    tools: Any = None
    tool_choice: Any = None
    response_format: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens of an answer."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def schema(self) -> dict[str, Any] | None:
        """What the answer must follow, as vLLM's guided decoding takes it; None where it may be any text."""
        wish = self.response_format or {}
        if wish.get("type") == "json_object":
            return {"json_object": True}
        if wish.get("type") == "json_schema":
            inner = wish.get("json_schema")
            return {"json": inner.get("schema") if isinstance(inner, dict) else None}
        return None

    def settings(self, max_tokens: int) -> dict[Role, Any]:
        """What shapes the answer, by role. `max_tokens` is the limit for a client that sets none."""
        found: dict[Role, Any] = {"max_tokens": max_tokens if self.limit is None else self.limit}
        found |= {role: value for role in _PLAIN if (value := getattr(self, role)) is not None}
        if self.stops:
            found["stop"] = self.stops
        if self.n not in (None, 1):
            found["n"] = self.n
        if self.logit_bias:
            found["logit_bias"] = self.logit_bias
        if self.schema is not None:
            found["schema"] = msgspec.json.encode(self.schema).decode()
        return found

    def beyond(self, tensors: Tensors) -> Iterator[str]:
        """What a model with these tensors would not do, though the client counts on it."""
        if self.tools and self.tool_choice != "none":
            yield "tools"
        if self.logprobs not in (None, False):
            yield "logprobs"
        if self.echo or self.suffix:
            yield "echo" if self.echo else "suffix"
        if self.best_of not in (None, 1):
            yield "best_of"
        if self.n not in (None, 1) and tensors.name("n") is None:
            yield "n"
        if self.logit_bias and tensors.name("logit_bias") is None:
            yield "logit_bias"
        if self.schema is not None and tensors.name("schema") is None:
            yield "response_format"


_PLAIN: tuple[Role, ...] = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
_asked = msgspec.json.Decoder(Asked)


def asked(body: bytes) -> Asked:
    """A request's body. Raises ValueError where a member has the wrong type."""
    return _asked.decode(body)
