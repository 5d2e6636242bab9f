"""Requests of Ollama's API, said in OpenAI's: a chat, a completion where the prompt is raw, embeddings.

Rules:
- What would change the prompt itself and cannot be done (`template`, `context`) is refused, not left out.
- What asks for nothing is said as the least that can be asked for, so that the model is loaded.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import Operation, Request
from backends.surfaces.ollama import idle, messages, options
from backends.surfaces.places import Members, items, optional, wrong
from backends.surfaces.surface import InvalidRequest
from backends.surfaces.translation import Said, said

_COMMON = frozenset({"model", "stream", "options", "keep_alive", "format", "think"})
_CHAT = _COMMON | {"messages", "tools", "logprobs", "top_logprobs"}
_GENERATE = _COMMON | {"prompt", "suffix", "system", "template", "context", "raw", "images"}
_EMBED = frozenset({"model", "input", "prompt", "dimensions", "keep_alive"})
_DEFAULT = {"truncate": True, "shift": True}
"""Members that ask for what is done anyway."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def chat(request: Request) -> Said:
    """Return a chat. Raise InvalidRequest where something in it is wrong."""
    body = _decode(request.body)
    dropped = _others(body, _CHAT)
    if idle.done_reason(request):
        return _loading(request, body)
    made: Members = {"messages": messages.chat(items(body, "messages", ""))}
    if tools := items(body, "tools", ""):
        made["tools"] = tools
    for name in ("logprobs", "top_logprobs"):
        if body.get(name):
            made[name] = body[name]
    made |= options.thinking(body)
    return said(request, Operation.CHAT, made | _asked_alike(body, dropped), dropped)


def generate(request: Request) -> Said:
    """Return a request to go on with a prompt: as a chat, or as a completion where it is raw or has a suffix."""
    body = _decode(request.body)
    dropped = _others(body, _GENERATE)
    raw = optional(body, "raw", "", bool, "true or false")
    system = optional(body, "system", "", str, "a text")
    suffix = optional(body, "suffix", "", str, "a text")
    if body.get("context"):
        raise wrong(
            "context", "this gateway keeps no conversations as tokens: send earlier turns to /api/chat"
        )
    if body.get("template"):
        raise wrong(
            "template", "the engine's own template is used: send a prompt without one with 'raw': true"
        )
    if raw and system:
        raise wrong("system", "raw mode does not support template, system, or context")
    if idle.done_reason(request):
        return _loading(request, body)
    prompt = optional(body, "prompt", "", str, "a text") or ""
    if raw or suffix:
        if body.get("images"):
            raise wrong("images", "a raw prompt and one with a suffix take no images")
        dropped += [name for name in ("system", "think") if body.get(name)]
        made: Members = {"prompt": prompt} | ({"suffix": suffix} if suffix else {})
        return said(request, Operation.COMPLETIONS, made | _asked_alike(body, dropped), dropped)
    turns: list[Members] = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": messages.content(body, "", prompt)})
    made = {"messages": turns} | options.thinking(body)
    return said(request, Operation.CHAT, made | _asked_alike(body, dropped), dropped)


def embed(request: Request) -> Said:
    """Return a request for embeddings."""
    body = _decode(request.body)
    older = request.operation is Operation.OLLAMA_EMBEDDINGS
    given = body.get("prompt" if older else "input")
    texts = given if isinstance(given, list) and not older else [given]
    if idle.done_reason(request):
        texts = [idle.WORD]
    elif not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("invalid input type", param="prompt" if older else "input")
    made: Members = {"input": texts} | options.staying(body)
    if not older and body.get("dimensions") is not None:
        made["dimensions"] = body["dimensions"]
    return said(request, Operation.EMBEDDINGS, made, _others(body, _EMBED))


def _asked_alike(body: Members, dropped: list[str]) -> Members:
    """Return what chats and prompts share."""
    return options.sampling(body, dropped) | options.form(body) | options.staying(body)


def _loading(request: Request, body: Members) -> Said:
    """Return the least that can be asked of a model."""
    made = {"messages": [{"role": "user", "content": idle.WORD}], "max_tokens": 1} | options.staying(body)
    return said(request, Operation.CHAT, made, [])


def _others(body: Members, read: frozenset[str]) -> list[str]:
    """Return the members that are not read and ask for something."""
    return [
        name
        for name, value in body.items()
        if name not in read and value not in (None, "", [], {}) and value is not _DEFAULT.get(name)
    ]
