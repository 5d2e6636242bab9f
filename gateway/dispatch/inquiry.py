"""Asking an engine once more, briefly, for the reason why it began a stream and ended it without a word.

Rules:
- It is asked for a whole answer of one token, on a connection of its own and within a short time. That is no attempt:
  the client gets nothing of the answer, and no retry is spent.
- Only a refusal is learned from it: that the request is wrong, or that the engine has no room. Anything else leaves
  what is known of the failure as it was.
"""

from __future__ import annotations

import dataclasses
from time import time_ns
from typing import Final

from backends.base import Failure, Kind, Phase, Reply, Request, RequestError
from backends.dialect.brief import asked_briefly
from backends.surfaces.codecs import translated
from gateway.errors import ROWS
from gateway.fleet.lease import Target
from gateway.wire.ask import ask

PATIENCE: Final = 10.0
"""Seconds the engine has to answer."""
_NO_ROOM: Final = frozenset((Kind.OVERLOADED, Kind.LOADING))


async def reason(request: Request, target: Target, left: float) -> Failure | None:
    """Return why the engine of `target` refuses the request; None if it does not say. `left` is in seconds."""
    brief = asked_briefly(request)
    engine, upstream = target.backend.engine, target.backend.upstream
    if brief is None or upstream is None or left <= 0:
        return None
    try:
        translation = translated(brief, engine, target.backend.native.of(brief), time_ns)
        call = (
            engine.call(brief, target.model)
            if translation is None
            else translation.call(engine, target.model)
        )
        said = brief if translation is None else translation.said
    except RequestError:
        return None
    answer = await ask(upstream, call, min(PATIENCE, left))
    if isinstance(answer, Failure):
        return None
    status, body = answer
    found: Reply | Failure
    if status != 200:
        found = engine.failure(status, (), body)
    elif body.startswith(b"{"):
        found = engine.reply(said, target.model, (), body)
    else:
        return None
    if not isinstance(found, Failure):
        return None
    if found.unexplained or not (found.kind in _NO_ROOM or ROWS[found.kind].outcome == "client_error"):
        return None
    return dataclasses.replace(found, phase=Phase.FIRST_TOKEN)
