"""The check of OpenAI's Realtime API: a WebSocket whose messages are a recorded conversation, in both directions.

Rules:
- A recording of a WebSocket is one of the handshake. Below its `101` each line is a message, JSON behind `<` for the
  engine's and behind `>` for the client's, in their order.
- The client sends what is recorded and expects what is recorded; the replay does the same on its side. So what a
  message says is held twice, and that none is lost, doubled or overtaken.
- Of each engine's own events the types are held to its source: OpenAI's to those of its SDK, vLLM's, which are others,
  to a table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from backends.base import Operation
from tests.conformance import sdk
from tests.conformance.replay import Replay, messages
from tests.conformance.shapes import MODEL
from tests.conformance.stage import Stage, check

PATH: Final = "/v1/realtime"
VLLM: Final[Mapping[str, frozenset[str]]] = {
    "session.created": frozenset({"type", "id", "created"}),
    "transcription.delta": frozenset({"type", "delta"}),
    "transcription.done": frozenset({"type", "text", "usage"}),
    "error": frozenset({"type", "error", "code"}),
}
"""The server's events and their members in vLLM (`vllm/entrypoints/openai/realtime/protocol.py`)."""
LAST: Final = frozenset(
    {"transcription.done", "conversation.item.input_audio_transcription.completed", "response.done"}
)
"""The events that end what was said."""


@check(PATH, None)
async def realtime(stage: Stage) -> None:
    url = f"ws://127.0.0.1:{stage.served.port}{PATH}?model={MODEL}"
    if Operation.REALTIME not in stage.engine.operations:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url, proxy=None):
                pass
        answer = refused.value.response
        assert answer.status_code == 400
        assert json.loads(answer.body or b"")["error"]["code"] == "not_supported"
        return
    assert isinstance(stage.watch, Replay)
    (recorded,) = [one for one in stage.watch.recorded if one.name == "realtime"]
    last: dict[str, Any] = {}
    async with connect(url, proxy=None) as socket:
        for is_clients, message in messages(recorded):
            if is_clients:
                await socket.send(json.dumps(message))
                continue
            last = json.loads(await socket.recv())
            assert last == message
            _fits(stage.engine.name, last)
    assert last["type"] in LAST
    await stage.watch.let_go()


def _fits(engine: str, event: dict[str, Any]) -> None:
    if engine == "vllm":
        assert set(event) == VLLM[event["type"]], event
    else:
        sdk.fits_realtime_event(event)
