"""What the tensors of text models behind Triton mean, as a table for each known backend, and requests as tensors.

Facts, from the source as of server 2.73: the vLLM backend, whose sampling parameters are one string of JSON, with any
of vLLM's; the TensorRT-LLM backend's ensemble and BLS models; its LLM API model, whose streamed responses repeat all
of the text.

Rules:
- A role is OpenAI's name for something; a tensor is the model's name for it. An operator's names win over a table's.
- A key of the body that is not an input tensor reaches the model as a request parameter (run, 2.51). So a superfluous
  key does no harm, and custom models may read their settings either way.
- OpenAI's clients that set no limit expect a complete answer; the vLLM backend's own default is 16 tokens.
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
    "min_tokens",
    "ignore_eos",
    "logit_bias",
    "n",
    "schema",
    "finish_reason",
    "input_tokens",
    "output_tokens",
]
"""`parameters` is an input for all sampling parameters as one string of JSON; `schema` is the parameter for a JSON
schema that the answer must follow; the last three are outputs."""

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
    """The names of a model's tensors by role, and inputs that are the same in every request."""

    names: Mapping[str, str | None]
    inputs: Mapping[str, Constant] = field(default_factory=dict)
    stops: bool = True
    """Whether the backend cuts its text before a stop string."""
    grows: bool = False
    """Whether each response has all of the text so far, not only what is new."""

    def name(self, role: Role) -> str | None:
        """Return the name of the tensor with this role; None if the model has none."""
        return self.names.get(role)

    def changed(
        self, names: Mapping[Role, str], inputs: Mapping[str, Constant], grows: bool | None
    ) -> Tensors:
        """Return a copy with an operator's inputs and names, where an empty name removes a tensor."""
        return Tensors(
            {**self.names, **{str(role): name or None for role, name in names.items()}},
            {**self.inputs, **inputs},
            self.stops and "stop" not in names,
            self.grows if grows is None else grows,
        )

    def body(self, prompt: str, sampling: Mapping[Role, Any]) -> bytes:
        """Return the body that asks for a stream of text after `prompt`."""
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
            **{
                name: name
                for name in (*_SCALARS, "stop", "min_p", "min_tokens", "ignore_eos", "logit_bias", "n")
            },
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
"""The tensors of each backend, by its name in the options."""


class Asked(msgspec.Struct):
    """The members of a chat or completion request that become tensors, or cannot."""

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
    min_tokens: int | None = None
    ignore_eos: bool | None = None
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
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def schema(self) -> dict[str, Any] | None:
        """The schema for vLLM's guided decoding; None if any text is allowed."""
        wish = self.response_format or {}
        if wish.get("type") == "json_object":
            return {"json_object": True}
        if wish.get("type") == "json_schema":
            inner = wish.get("json_schema")
            return {"json": inner.get("schema") if isinstance(inner, dict) else None}
        return None

    def settings(self, max_tokens: int) -> dict[Role, Any]:
        """Return the settings by role. `max_tokens` is the limit for a client that sets none."""
        found: dict[Role, Any] = {"max_tokens": max_tokens if self.limit is None else self.limit}
        found |= {role: value for role in PLAIN if (value := getattr(self, role)) is not None}
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
        """Yield the members that a model with these tensors would ignore although the client relies on them."""
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


PLAIN: tuple[Role, ...] = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
)
"""Settings that are sent as they come."""
HEARD = frozenset((*Asked.__struct_fields__, "model", "stream", "stream_options"))
"""The members of a request that are read, of which those in `PLAIN` need a tensor of the model."""
_asked = msgspec.json.Decoder(Asked)


def asked(body: bytes) -> Asked:
    """Decode the body of a request. Raise ValueError if a member has the wrong type."""
    return _asked.decode(body)
