"""Triton Inference Server, attached to by URL: its generate protocol, and the options of both ways to speak to it.

Facts are those of tritonserver 2.51 (run, with a Python backend), and of server 2.73, the vLLM backend and the
TensorRT-LLM backend (source). The OpenAI frontend is in `frontend.py`.

Rules:
- A model has tensors, not an API. Presets for the known backends, and options, say what each tensor means.
- Every request uses `generate_stream`: Triton does not notice that a client of `generate` has left.
- What a model with these tensors cannot do is refused before it is sent, or the client is told that it was left out.
- A stream has no `[DONE]`. It is complete when every choice has its finish reason or, for models that report none, when
  the transfer ends properly.
- Readiness is read from the list of models, because the server's own readiness probe fails while any model loads.
- jinja2, which renders chat templates, is an optional dependency: without it there are completions and no chat.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import quote

import msgspec
from pydantic import Field, model_validator

from backends.base import (
    Action,
    Call,
    EngineOptions,
    Failure,
    Headers,
    Health,
    Kind,
    ModelCard,
    Operation,
    OptionsError,
    Request,
    RequestError,
    StreamDecoder,
    Usage,
)
from backends.dialect import edits, known, rewrite
from backends.dialect.chunks import Chunks, Stamp, stamp
from backends.dialect.dropped import dropped
from backends.dialect.errors import UNREADABLE, readable, unreadable
from backends.engines.triton.frontend import TritonFrontend
from backends.engines.triton.server import TritonServer, model_and_settings, refused
from backends.engines.triton.stream import TensorStream, Wanted
from backends.engines.triton.tensors import HEARD, PLAIN, PRESETS, Asked, Constant, Role, asked
from backends.facts import cards

try:
    from backends.engines.triton.prompting import Prompter
except ImportError:
    Prompter = None  # type: ignore[assignment, misc]

NO_JINJA = "the Python package jinja2 is not installed: pip install 'llm-serving-gateway[triton]'"


class TritonOptions(EngineOptions):
    """How to speak to Triton."""

    api: Literal["generate", "openai"] = Field(
        "generate",
        description="Triton's own generate protocol, or its OpenAI frontend (`openai_frontend/main.py`). Where the "
        "server's own port is open, `generate` is the better way in: the frontend computes every answer to its end "
        "although the client has left.",
    )
    backend: Literal["vllm", "tensorrtllm", "llmapi", "custom"] = Field(
        "vllm",
        description="What runs the models, which determines the names of their tensors: the vLLM backend; the "
        "TensorRT-LLM backend's `ensemble` or `tensorrt_llm_bls`; its LLM API model; or models of your "
        "own, with OpenAI's names for their settings. With `api: openai` it says which load is reported. "
        "All that follows but `max_tokens` is for `api: generate`.",
    )
    tokenizer: Path | None = Field(
        None,
        description="A folder with the model's `tokenizer_config.json`, its chat template in there or in "
        "`chat_template.jinja`, and its `tokenizer.json`. Without it there is no chat, only completions. Needs "
        "`pip install 'llm-serving-gateway[triton]'`.",
    )
    max_tokens: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="The most tokens of an answer, for clients that set no limit. Triton's own default is 16.",
    )
    tensors: dict[Role, str] = Field(
        {},
        description="Names of tensors that differ from the backend's usual ones, by meaning: `prompt`, `output`, "
        "`parameters` (all settings as one JSON string), `stream`, `max_tokens`, `temperature`, `top_p`, "
        "`top_k`, `min_p`, `seed`, `stop`, `presence_penalty`, `frequency_penalty`, `repetition_penalty`, "
        "`min_tokens`, `ignore_eos`, `logit_bias`, `n`, `schema`, and the outputs `finish_reason`, "
        "`input_tokens`, `output_tokens`. Empty: the model has none.",
    )
    inputs: dict[str, Constant] = Field(
        {}, description="Further inputs of every request, such as `beam_width: 1`."
    )
    whole_text: bool | None = Field(
        None,
        description="Whether each response of a stream repeats all of the text so far. Left out, the backend's usual "
        "way.",
    )

    @model_validator(mode="after")
    def _text_goes_both_ways(self) -> TritonOptions:
        for role in ("prompt", "output"):
            if self.tensors.get(role) == "":
                raise ValueError(f"no model is without '{role}'")
        return self

    @model_validator(mode="after")
    def _the_frontend_takes_no_others(self) -> TritonOptions:
        for name in ("tokenizer", "tensors", "inputs", "whole_text"):
            if self.api == "openai" and getattr(self, name) not in (None, {}):
                raise ValueError(f"'{name}' cannot be set with 'api: openai'")
        return self

    def engine(self) -> TritonServer:
        if self.api == "openai":
            return TritonFrontend(self.backend, self.max_tokens)
        return Triton(self)


# Messages that mean more than the status they come with. Triton 2.51 to 2.73, the vLLM backend included.
_BAD_INPUT = re.compile(r"^failed to parse the request JSON|Unable to parse ")
_BROKEN = re.compile(
    r"missing required input|unexpected inference (?:in|out)put|Traceback \(most recent|Failed to process the request"
    r"|EngineCore|EngineDead|CUDA|out of memory|unhealthy|only supported in decoupled mode|LLM engine"
)


class Triton(TritonServer):
    """Triton's generate protocol."""

    options_type: ClassVar[type[EngineOptions] | None] = TritonOptions
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT, Operation.COMPLETIONS})

    def __init__(
        self, options: TritonOptions | None = None, new_stamp: Callable[[Operation], Stamp] = stamp
    ) -> None:
        """`new_stamp` makes the id and time of an answer. Raise OptionsError where `tokenizer` cannot be used."""
        options = options or TritonOptions()
        super().__init__(options.backend, options.max_tokens)
        self._stamp = new_stamp
        self.tensors = PRESETS[options.backend].changed(options.tensors, options.inputs, options.whole_text)
        self._known = HEARD - {role for role in PLAIN if self.tensors.name(role) is None}
        """The members of a request that the models hear."""
        self._prompter = None
        if options.tokenizer is not None:
            if Prompter is None:
                raise OptionsError(NO_JINJA)
            self._prompter = Prompter(options.tokenizer)

    def call(self, request: Request, model: str) -> Call:
        wanted, told = self._read(request)
        for param in wanted.beyond(self.tensors):
            raise refused(Kind.UNSUPPORTED, f"models behind this engine do not offer '{param}'", param)
        if wanted.limit is not None and wanted.limit < 1:
            raise edits.rejected("max_tokens", "the engine makes at least one token")
        settings = wanted.settings(self._max_tokens)
        body = self.tensors.body(self._prompt(wanted, request.operation), settings)
        return Call(f"/v2/models/{quote(model, safe='')}/generate_stream", body, dropped=told, native=True)

    def decoder(self, request: Request, model: str) -> StreamDecoder:
        wanted, _ = self._read(request)
        limit = wanted.limit or self._max_tokens
        return TensorStream(
            Wanted(self.tensors, wanted.stops, limit, request.include_usage),
            Chunks(request, self._stamp(request.operation)),
            self.failure,
            counting=lambda answers: self._counted(self._prompt(wanted, request.operation), answers),
        )

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        failure = super().failure(status, headers, body)
        said = failure.detail
        if failure.kind not in (Kind.FAILED, Kind.REJECTED, Kind.OVERLOADED):
            return failure
        if status == 500 and _BAD_INPUT.search(said):
            return dataclasses.replace(failure, kind=Kind.REJECTED, message=readable(said))
        if status in (400, 503) and _BROKEN.search(said):
            return dataclasses.replace(
                failure, kind=Kind.FAILED, message="the engine reported an internal error"
            )
        return failure

    def health(self) -> Call:
        return self.models()

    def health_of(self, status: int, body: bytes) -> Health:
        if status != 200:
            # A server that denies access to its list of models (403) is up nevertheless.
            return Health.READY if status < 500 else Health.DOWN
        try:
            states = {entry.text("state") for entry in cards.entries(body)}
        except ValueError:
            return Health.DOWN
        return Health.LOADING if "LOADING" in states and "READY" not in states else Health.READY

    def models(self) -> Call:
        return Call("/v2/repository/index", b"{}")

    def models_of(self, body: bytes) -> tuple[ModelCard, ...]:
        return tuple(
            entry.card(entry.text("name"))
            for entry in cards.entries(body)
            if entry.text("state") == "READY" or entry.odd
        )

    def action(self, action: Action, arguments: Mapping[str, Any]) -> Call:
        """Return the request for an action; see `Engine.action`.

        `load` takes `model`, and `config`, an object that replaces the model's own; `unload` takes `model` and
        `unload_dependents`. Both need `--model-control-mode=explicit`.
        """
        if action is Action.LIST:
            return self.models()
        model, settings = model_and_settings(action, arguments)
        return Call(
            f"/v2/repository/models/{quote(model, safe='')}/{action}",
            msgspec.json.encode({"parameters": settings} if settings else {}),
        )

    def _read(self, request: Request) -> tuple[Asked, tuple[str, ...]]:
        """Return what a request asks for, and the names of members that are left out because no tensor takes them.

        Raise RequestError where a member has the wrong type, or is one that nothing of the kind would hear.
        """
        members = edits.without_nulls(rewrite.members(request.body))
        if request.operation is Operation.CHAT:
            edits.messages(members)
        told = (*known.only(members, HEARD), *dropped(members, self._known))
        try:
            return asked(rewrite.joined(members)), told
        except UNREADABLE as error:
            raise RequestError(unreadable(error)) from error

    def _counted(self, prompt: str, answers: list[str]) -> Usage | None:
        """Count tokens with the model's own tokenizer, if there is one, for models that report no counts."""
        if self._prompter is None or (read := self._prompter.count(prompt, special=True)) is None:
            return None
        return Usage(read, sum(self._prompter.count(answer) or 0 for answer in answers))

    def _prompt(self, wanted: Asked, operation: Operation) -> str:
        """Return the text to complete. Raise RequestError where the model cannot be given one."""
        if operation is Operation.COMPLETIONS:
            prompts = wanted.prompt if isinstance(wanted.prompt, list) else [wanted.prompt]
            if len(prompts) == 1 and isinstance(prompts[0], str):
                return prompts[0]
            raise refused(Kind.UNSUPPORTED, "this engine takes one prompt, as text", "prompt")
        if self._prompter is None:
            raise refused(Kind.UNSUPPORTED, "this backend has no chat template: set its option 'tokenizer'")
        if any(isinstance(message.get("content"), list) for message in wanted.messages):
            raise edits.unsupported("messages", "the engine takes only text")
        try:
            return self._prompter.render(wanted.messages, wanted.chat_template_kwargs or {})
        except ValueError as error:
            raise refused(Kind.REJECTED, readable(str(error)), "messages") from error
