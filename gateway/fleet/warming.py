"""The first prompts of an engine that has just started, before it takes requests.

Rules:
- They are asked as a client's chat or completion would be, one after the other, for one token each.
- One that fails is logged and costs nothing else: the engine takes requests all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from backends.base import Failure, Operation, Request, RequestError
from gateway.fleet.backend import Backend
from gateway.wire.ask import ask

log = logging.getLogger("gateway.fleet")

PATIENCE = 300.0
"""Seconds that one prompt may take: the first one of an engine may compile code."""


async def warm_up(backend: Backend, prompts: Sequence[str]) -> None:
    """Send an engine that answers its first prompts, and wait for their answers."""
    upstream, model = backend.upstream, next((card.id for card in backend.models or ()), None)
    if upstream is None or model is None:
        log.warning("backend '%s': nobody knows its model yet, so it is not warmed up", backend.name)
        return
    operation = Operation.CHAT if Operation.CHAT in backend.native.operations else Operation.COMPLETIONS
    for prompt in prompts:
        asked = (
            {"messages": [{"role": "user", "content": prompt}]}
            if operation is Operation.CHAT
            else {"prompt": prompt}
        )
        body = msgspec.json.encode({"model": model, **asked, "max_tokens": 1})
        try:
            call = backend.engine.call(Request(operation, body, model), model)
        except RequestError as error:
            log.warning("backend '%s' cannot be warmed up: %s", backend.name, error.failure.message)
            return
        answer = await ask(upstream, call, PATIENCE)
        if isinstance(answer, Failure):
            log.warning("backend '%s': a prompt to warm it up failed: %s", backend.name, answer.message)
            return
        if answer[0] != 200:
            log.warning("backend '%s': a prompt to warm it up was answered with %d", backend.name, answer[0])
