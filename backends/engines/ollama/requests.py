"""Translate OpenAI's requests to Ollama's own: `/api/chat`, `/api/generate` and `/api/embed`; or edit them for `/v1`.

Facts: ollama/ollama v0.33.0-rc2, `api/types.go` and `server/routes.go`; types of its Python client 0.6.3.

Rules:
- What Ollama cannot do is refused before anything is sent, as UNSUPPORTED, so that another backend may be asked: more
  than one choice, `logit_bias`, a `tool_choice` that forces a call, images by URL, audio, files, `echo`, `best_of`,
  tokens instead of text, several prompts at once.
- Members that Ollama does not know are dropped, and those named that may have been meant to change the answer
  (`backends.dialect.dropped`).
- How much a model thinks is said by `think` (Ollama's), `reasoning_effort`, `reasoning.effort` or
  `chat_template_kwargs.enable_thinking`; the first of these counts.
- Ollama's own members are honoured where a client sends them: `options`, `keep_alive`, `think`, `truncate`, `shift`,
  and `raw` for completions. They win over OpenAI's members, which win over the backend's defaults.
- The prompt of a completion goes to the model unchanged, as in other engines, not through the chat template. With a
  `suffix` the model's template is needed, which says how to ask for the text in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from backends.base import Kind, Operation, Request, RequestError
from backends.dialect import edits, rewrite
from backends.dialect.dropped import dropped
from backends.dialect.errors import UNREADABLE, unreadable
from backends.engines.ollama.messages import NOT_FORCED, Members, Message, native_messages, refusal

OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "seed": "seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repeat_penalty",
    "repeat_penalty": "repeat_penalty",
    "repeat_last_n": "repeat_last_n",
    "max_tokens": "num_predict",
    "max_completion_tokens": "num_predict",
}
"""The names of sampling parameters in requests (OpenAI's, vLLM's, llama.cpp's) and in Ollama's `options`."""

EFFORTS: dict[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "ultra": "max",
    "max": "max",
}
"""Values of `reasoning_effort`, and of `think`. Ollama's own `/v1` translates them in the same way."""

MOST_LOGPROBS = 20
"""The most alternatives of a token that Ollama reports."""

Number = int | float
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Defaults:
    """Settings from the backend's options, for requests that do not have their own; None leaves one to Ollama.

    `keep_alive` is in seconds; -1 means forever.
    """

    context: int | None = None
    keep_alive: float | None = None
    truncate: bool | None = None


class _Schema(msgspec.Struct):
    schema: msgspec.Raw = msgspec.Raw()


class _Format(msgspec.Struct):
    type: str
    json_schema: _Schema | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None


class _Template(msgspec.Struct):
    enable_thinking: bool | None = None


class _Native(msgspec.Struct):
    """Ollama's own members that any of the three requests may have."""

    model: str
    options: dict[str, msgspec.Raw] | None = None
    keep_alive: Number | str | None = None
    truncate: bool | None = None


class _Sampled(_Native):
    """The members that chats and completions have in common."""

    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Number | None = None
    min_p: Number | None = None
    typical_p: Number | None = None
    seed: int | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    repetition_penalty: Number | None = None
    repeat_penalty: Number | None = None
    repeat_last_n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    response_format: _Format | None = None
    reasoning_effort: str | None = None
    reasoning: _Reasoning | None = None
    chat_template_kwargs: _Template | None = None
    think: bool | str | None = None
    shift: bool | None = None
    n: int | None = None
    logit_bias: dict[str, Number] | None = None
    logprobs: bool | int | None = None


class _Tool(msgspec.Struct):
    type: str
    function: msgspec.Raw = msgspec.Raw()


class _Chat(_Sampled):
    messages: list[Message] = msgspec.field(default_factory=list)
    tools: list[_Tool] | None = None
    tool_choice: Any = None
    top_logprobs: int | None = None
    modalities: list[str] | None = None


class _Completion(_Sampled):
    prompt: Any = None
    suffix: str | None = None
    raw: bool | None = None
    echo: bool | None = None
    best_of: int | None = None


class _Embedding(_Native):
    input: Any = None
    dimensions: int | None = None
    encoding_format: str | None = None


_chat = msgspec.json.Decoder(_Chat)
_completion = msgspec.json.Decoder(_Completion)
_embedding = msgspec.json.Decoder(_Embedding)


def native_body(request: Request, model: str, defaults: Defaults) -> tuple[bytes, tuple[str, ...]]:
    """Return the body for Ollama's own API, and the names of the members that have no place in it.

    Raise RequestError for an invalid request, or one that Ollama cannot carry out.
    """
    body: Members
    asked: _Native
    if request.operation is Operation.CHAT:
        asked = chat = _decoded(_chat, request.body)
        body = _chat_body(chat, defaults) | {"stream": request.stream}
    elif request.operation is Operation.COMPLETIONS:
        asked = completion = _decoded(_completion, request.body)
        body = _generate_body(completion, defaults) | {"stream": request.stream}
    else:
        asked = embedding = _decoded(_embedding, request.body)
        body = _embed_body(embedding, defaults)
    left_out = dropped(rewrite.members(request.body), asked.__struct_fields__)
    return msgspec.json.encode({"model": model, **body}), left_out


def edited_body(request: Request) -> bytes:
    """Return a request as Ollama's `/v1` understands it.

    Raise RequestError for what it would silently ignore although the answer depends on it.
    """
    if request.operation in (Operation.MESSAGES, Operation.RESPONSES):
        return _unforced(request.body)
    if request.operation not in (Operation.CHAT, Operation.COMPLETIONS):
        return request.body
    before = rewrite.members(request.body)
    members = before.copy()
    asked: _Sampled
    if request.operation is Operation.CHAT:
        chat = asked = _decoded(_chat, request.body)
        _refuse_chat(chat)
        edits.messages(members)
        if chat.tool_choice == "none":
            # It is not heard: the model would call a tool all the same.
            members.pop("tools", None)
    else:
        asked = _decoded(_completion, request.body)
        _refuse_completion(asked)
        edits.prompts(members, tokens=False)
    limit = members.pop("max_completion_tokens", b"null")
    if limit != b"null":
        members["max_tokens"] = limit
    if not asked.reasoning_effort:
        members.pop("reasoning_effort", None)
        effort = _think(asked)
        if effort is not None:
            members["reasoning_effort"] = msgspec.json.encode(_SPOKEN.get(effort, effort))
    return request.body if members == before else rewrite.joined(members)


def _unforced(body: bytes) -> bytes:
    """Return a message or a response without tools if none is to be called; Ollama does not hear `tool_choice`."""
    if b'"tool_choice"' not in body:
        return body
    members = rewrite.members(body)
    choice = msgspec.json.decode(members.get("tool_choice", b"null"))
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind in (None, "auto"):
        return body
    if kind != "none":
        raise refusal("tool_choice", NOT_FORCED)
    members.pop("tools", None)
    return rewrite.joined(members)


_SPOKEN: dict[bool | str, str] = {False: "none", True: "medium"}
"""The `reasoning_effort` for a `think` that names none. A model that thinks does so at a medium effort by default."""


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a request. Raise RequestError, with the member at fault, where it is invalid."""
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise RequestError(unreadable(error)) from error


def _chat_body(asked: _Chat, defaults: Defaults) -> Members:
    """Return the members for `/api/chat`."""
    _refuse_chat(asked)
    body: Members = {"messages": native_messages(asked.messages)}
    tools = [{"type": tool.type, "function": tool.function} for tool in asked.tools or ()]
    if tools and asked.tool_choice != "none":
        body["tools"] = tools
    return body | _sampled(asked, defaults, _logprobs(bool(asked.logprobs), asked.top_logprobs or 0))


def _generate_body(asked: _Completion, defaults: Defaults) -> Members:
    """Return the members for `/api/generate`."""
    _refuse_completion(asked)
    prompt = asked.prompt[0] if isinstance(asked.prompt, list) else asked.prompt
    body: Members = {"prompt": prompt}
    if asked.suffix:
        body["suffix"] = asked.suffix
    raw = not asked.suffix if asked.raw is None else asked.raw
    if raw:
        # With `think` on, Ollama would remove what looks like reasoning from the text.
        body |= {"raw": True, "think": False}
    # In completions `logprobs` is the number of alternatives, and 0 is a valid number.
    wanted = asked.logprobs is not None and asked.logprobs is not False
    return body | _sampled(asked, defaults, _logprobs(wanted, int(asked.logprobs or 0)))


def _embed_body(asked: _Embedding, defaults: Defaults) -> Members:
    """Return the members for `/api/embed`."""
    _only_texts("input", asked.input, "it embeds texts, not tokens")
    if asked.input in ("", [], [""]):
        raise refusal("input", "the input is empty", Kind.REJECTED)
    if asked.encoding_format not in (None, "float", "base64"):
        raise refusal("encoding_format", "'encoding_format' is neither 'float' nor 'base64'", Kind.REJECTED)
    if asked.dimensions is not None and asked.dimensions < 1:
        raise refusal("dimensions", "'dimensions': expected at least 1", Kind.REJECTED)
    body = {"input": asked.input, **_native(asked, defaults, {})}
    return body if asked.dimensions is None else {**body, "dimensions": asked.dimensions}


def _sampled(asked: _Sampled, defaults: Defaults, logprobs: Members) -> Members:
    """Return the members that chat and generate have in common."""
    options: Members = {
        native: value for name, native in OPTIONS.items() if (value := getattr(asked, name, None)) is not None
    }
    if asked.stop:
        options["stop"] = [asked.stop] if isinstance(asked.stop, str) else asked.stop
    body = _native(asked, defaults, options)
    form = _format(asked.response_format)
    if form is not None:
        body["format"] = form
    think = _think(asked)
    if think is not None:
        body["think"] = think
    shift = body.get("truncate") if asked.shift is None else asked.shift
    if shift is False:
        # Otherwise Ollama drops the beginning of the prompt once the answer has filled the context.
        body["shift"] = False
    return body | logprobs


def _native(asked: _Native, defaults: Defaults, options: Members) -> Members:
    """Return Ollama's own members: the client's, or else the backend's."""
    if defaults.context is not None:
        options = {"num_ctx": defaults.context, **options}
    options |= asked.options or {}
    keep_alive = defaults.keep_alive if asked.keep_alive is None else asked.keep_alive
    truncate = defaults.truncate if asked.truncate is None else asked.truncate
    body = {"options": options or None, "keep_alive": keep_alive, "truncate": truncate}
    return {name: value for name, value in body.items() if value is not None}


def _logprobs(wanted: bool, alternatives: int) -> Members:
    """Return the members that ask for log probabilities."""
    if not wanted:
        return {}
    if not 0 <= alternatives <= MOST_LOGPROBS:
        raise refusal("logprobs", f"it tells at most {MOST_LOGPROBS} alternatives of a token")
    return {"logprobs": True, "top_logprobs": alternatives} if alternatives else {"logprobs": True}


def _format(asked: _Format | None) -> Any:
    """Return the `format` for a `response_format`; None if any text is allowed."""
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        return "json"
    if asked.type != "json_schema":
        raise refusal("response_format", f"it has no response format {asked.type!r}")
    schema = asked.json_schema.schema if asked.json_schema is not None else msgspec.Raw()
    if not bytes(schema).startswith(b"{"):
        raise refusal("response_format", "'response_format' has no 'json_schema.schema'", Kind.REJECTED)
    return schema


def _think(asked: _Sampled) -> bool | str | None:
    """Return the `think` for a request: its own, or what its other members for this mean; None for the model's way."""
    if asked.think is not None:
        return asked.think
    effort = asked.reasoning_effort or (asked.reasoning.effort if asked.reasoning else None)
    if effort:
        if effort not in EFFORTS:
            known = ", ".join(EFFORTS)
            raise refusal("reasoning_effort", f"'reasoning_effort' is none of {known}", Kind.REJECTED)
        return EFFORTS[effort]
    return asked.chat_template_kwargs.enable_thinking if asked.chat_template_kwargs else None


def _only_texts(name: str, value: Any, why: str) -> None:
    """Raise RequestError unless a member is a text or a list of texts. Tokens are refused with the reason `why`."""
    items = value if isinstance(value, list) else [value]
    if all(isinstance(item, str) for item in items):
        return
    if isinstance(value, list) and all(isinstance(item, int | list) for item in items):
        raise refusal(name, why)
    raise refusal(name, f"{name!r} is neither a text nor a list of texts", Kind.REJECTED)


def _refuse_chat(asked: _Chat) -> None:
    _refuse_sampled(asked)
    if asked.tool_choice not in (None, "auto", "none"):
        raise refusal("tool_choice", NOT_FORCED)
    if any(tool.type != "function" for tool in asked.tools or ()):
        raise refusal("tools", "its tools are functions only")
    if not all(bytes(tool.function).startswith(b"{") for tool in asked.tools or ()):
        raise refusal("tools", "a tool has no 'function'", Kind.REJECTED)
    if set(asked.modalities or ()) - {"text"}:
        raise refusal("modalities", "it answers with text only")


def _refuse_completion(asked: _Completion) -> None:
    _refuse_sampled(asked)
    _only_texts("prompt", asked.prompt, "it takes texts, not tokens")
    if isinstance(asked.prompt, list) and len(asked.prompt) != 1:
        raise refusal("prompt", "it takes one prompt for each request")
    if asked.echo:
        raise refusal("echo", "it does not repeat the prompt")
    if (asked.best_of or 1) > 1:
        raise refusal("best_of", "it gives one choice for each request")


def _refuse_sampled(asked: _Sampled) -> None:
    if (asked.n or 1) > 1:
        raise refusal("n", "it gives one choice for each request")
    if asked.logit_bias:
        raise refusal("logit_bias", "it has no bias of single tokens")
