"""Triton's OpenAI frontend: OpenAI's API with gaps, in front of the models of one server.

Facts are those of the frontend of server 2.73, run with scripted models, and of the backends behind it (source).

Rules:
- Requests are edited in `asked.py`, answers in `answers.py`; errors are read in `server.py`.
- It never notices that its client has left, and computes the answer to its end. Nothing here can change that.
- Its readiness probe speaks for all models: it fails while any of them loads, has failed to load, or has died. So the
  list of models is asked, as it listens only once the models are there that it starts with.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from backends.base import Action, Call, Failure, Headers, Kind, Operation, Reply, Request, StreamDecoder
from backends.dialect import one_call
from backends.dialect.usage import usage_of
from backends.engines.triton import answers, asked
from backends.engines.triton.server import TritonServer, model_and_settings
from backends.engines.triton.tensors import PRESETS

_CANNOT = re.compile(
    r"requires --tool-call-parser|is not currently supported|is no longer supported|only for the vLLM backend"
    r"|only text message is supported|is currently supported|only single string input is supported"
)
"""Words of a 400 for what this frontend, or the model's backend, does not do."""
_ARGUMENTS = re.compile(r"^(?:Expecting |Extra data|Unterminated string|Invalid \\?escape|Invalid control)")
"""How Python begins what it says about text that is not JSON: of the arguments of a call in a conversation."""


class _Counted(msgspec.Struct):
    usage: Any = None


_counted = msgspec.json.Decoder(_Counted)


class TritonFrontend(TritonServer):
    """Triton's OpenAI frontend."""

    checked: ClassVar[str] = "Triton 2.73 with scripted models (run, recordings)"
    operations: ClassVar[frozenset[Operation]] = frozenset(asked.KNOWN)

    def call(self, request: Request, model: str) -> Call:
        return asked.call(request, model, self._max_tokens)

    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        if request.operation is not Operation.EMBEDDINGS:
            body = self._ended(request, body)
        return super().reply(request, model, headers, body)

    def _ended(self, request: Request, body: bytes) -> bytes:
        """Return an answer with the reason why it ended; any other body as it is."""
        limit, stops = asked.limit(request, self._max_tokens), self._stops(request)
        try:
            usage = usage_of(_counted.decode(body).usage)
            if one_call.wanted(request):
                body = one_call.first_call(body)
            return answers.with_reasons(body, usage, limit, stops, asked.by_schema(request))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return body

    def decoder(self, request: Request, model: str) -> StreamDecoder:
        return answers.LateReason(self, request, asked.limit(request, self._max_tokens), self._stops(request))

    def _stops(self, request: Request) -> list[str]:
        """Return the stop strings that the model's backend leaves in the text."""
        return [] if PRESETS[self._backend].stops else asked.stops(request)

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        failure = super().failure(status, headers, body)
        if failure.kind is Kind.REJECTED and status == 400 and _CANNOT.search(failure.detail):
            return dataclasses.replace(failure, kind=Kind.UNSUPPORTED)
        if failure.kind is Kind.FAILED and _ARGUMENTS.search(failure.detail):
            message = "the arguments of a tool call in 'messages' are not JSON"
            return dataclasses.replace(failure, kind=Kind.REJECTED, message=message, param="messages")
        return failure

    def action(self, action: Action, arguments: Mapping[str, Any]) -> Call:
        """Return the request for an action; see `Engine.action`. `load` and `unload` take `model`."""
        if action is Action.LIST:
            return self.models()
        model, settings = model_and_settings(action, arguments)
        if settings:
            raise ValueError(f"{action} takes 'model' alone: {', '.join(settings)}")
        return Call(f"/v1/models/{quote(model, safe='')}/{action}")
