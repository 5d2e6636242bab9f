"""The endpoints for operators: the state of the backends, and actions on their models such as pull or load.

Rules:
- If keys are configured, only a key with `admin: true` is let in; if none is, anybody who addresses this machine by an
  IP address or as `localhost`. A request that a browser sends on behalf of another site is always refused.
- An engine's answer is forwarded as it arrives, its errors in OpenAI's format. An answer that breaks off is never ended
  as if it were complete.
- Before the answer to an action ends, the backend has been asked again for its models.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, ClassVar

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from backends.base import Action, Call, Kind
from backends.framing.ndjson import Framer
from backends.surfaces.openai import UNBUFFERED, OpenAI
from backends.surfaces.surface import Broken, ErrorFacts, Surface
from gateway.api.direct import Direct
from gateway.api.endpoint import Core, headers_of
from gateway.api.endpoints import SECURITY
from gateway.api.schemas import ErrorBody
from gateway.auth import ANYONE, Caller
from gateway.errors import GatewayError, Own
from gateway.fleet.backend import Backend
from gateway.fleet.view import BackendView
from gateway.request import Exchange
from gateway.wire.codings import coding_of, decoded
from gateway.wire.downstream import AsgiWayBack, Scope
from gateway.wire.origins import is_own
from gateway.wire.transfer import Transfer

log = logging.getLogger("gateway.api")

BODY = 1 << 20
"""Most bytes of an action's arguments. The largest argument in use is a whole Modelfile of Ollama."""
ANSWER = 16 << 20
"""Most bytes of an engine's answer that is not a stream."""
WORDS = 500
"""Most characters of an engine's own error message that are shown to the operator."""

LINES = b"application/x-ndjson"
PASSED = {b"application/json", b"text/plain"}
"""Content types that are kept. Any other is replaced by `text/plain`, so that no browser renders an engine's answer."""

_ERROR = {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}}}}
# A `model` instead of the reference would give the same OpenAPI page, but FastAPI builds a validator for each model.
ERRORS: dict[int | str, dict[str, Any]] = dict.fromkeys((400, 401, 403, 404, 413, 415, 502, 503, 504), _ERROR)
"""What the reference page says of the errors of these endpoints."""
KEY: dict[str, Any] = {"security": SECURITY}
"""What it says of the key that they ask for."""
TAKES = {**KEY, "requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}
_object = msgspec.json.Decoder(dict[str, Any])


class Admin:
    """The parts of the gateway that the endpoints use, and their access check."""

    def __init__(
        self,
        core: Core,
        backends: Callable[[], Awaitable[list[BackendView]]],
        changed: Callable[[str], Awaitable[None]],
    ) -> None:
        """Use the parts of the gateway.

        `backends` returns the state of all backends. `changed` is called with the name of a backend whose models may
        have changed, and asks it again for them.
        """
        self.core = core
        self.backends = backends
        self.changed = changed

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to the application."""

        @app.get("/gateway/backends", tags=["admin"], responses=ERRORS, openapi_extra=KEY)
        async def list_backends(request: Request) -> list[BackendView]:
            """List every backend with its state, its load, its signals and its last error."""
            self.let_in(request.scope)
            return await self.backends()

        @app.post("/gateway/backends/{name}/{action}", tags=["admin"], responses=ERRORS, openapi_extra=TAKES)
        async def act(name: str, action: str) -> Response:
            """Perform an action on the models of a backend, such as pull or load one.

            The body holds the arguments. Progress is answered as lines of JSON.
            """
            return AdminAction(self, name, action)

    def let_in(self, scope: Scope) -> Caller:
        """Return the operator who sent a request. Raises GatewayError if the sender is not an operator."""
        headers = headers_of(scope)
        _refuse_other_sites(headers)
        caller = self.core.snapshot.keys.operator(headers)
        if caller is ANYONE and not is_own(headers.get(b"host", b""), b""):
            # DNS rebinding: another site's name that resolves to this machine has passed every check before this one.
            message = "without a key, name the gateway by its address or as 'localhost'"
            raise GatewayError(Own.FORBIDDEN, message, code="cross_site")
        return caller

    def backend(self, name: str) -> Backend:
        """Return the backend of this name. Raises GatewayError if there is none."""
        found = self.core.dispatcher.pool.backends.get(name)
        if found is None:
            raise GatewayError(
                Own.UNKNOWN_URL, f"there is no backend {name[:64]!r}", code="backend_not_found"
            )
        return found


class _Lines(OpenAI):
    """The dialect of answers in lines of JSON (NDJSON), where an error is one more line."""

    def error_event(self, facts: ErrorFacts, broken: Broken) -> bytes:
        return self.error(facts) + b"\n"


LINES_SURFACE = _Lines()
"""The surface of answers that are lines of JSON."""


class AdminAction(Direct):
    """The answer to one action: reads the request's body, calls the engine, and forwards what the engine answers."""

    surface: ClassVar[Surface] = LINES_SURFACE
    """The dialect of the answer."""

    def __init__(self, admin: Admin, name: str, action: str) -> None:
        super().__init__(admin.core, self.surface)
        self._admin = admin
        self._name = name
        self._action = action

    async def serve(self, scope: Scope, way: AsgiWayBack, exchange: Exchange) -> None:
        caller = self._admin.let_in(scope)
        backend, call = await self.called(scope, way, exchange.headers)
        log.info(
            "backend '%s': %s, asked for by '%s' (%s)", backend.name, self._action, caller.name, exchange.name
        )
        await self._carry_out(backend, call, exchange)

    async def called(
        self, scope: Scope, way: AsgiWayBack, headers: Mapping[bytes, bytes]
    ) -> tuple[Backend, Call]:
        """Return the backend that is asked, and what for. Raises GatewayError."""
        backend = self._admin.backend(self._name)
        return backend, _call(backend, self._action, arguments_in(headers, await way.body(BODY)))

    def refused(self, backend: Backend, transfer: Transfer, body: bytes) -> GatewayError:
        """Return the error for an engine's refusal."""
        return _refused(backend, transfer, body)

    def line(self, line: bytes) -> bytes:
        """Return what the operator gets for a line of an engine's answer."""
        return _public(line)

    async def _carry_out(self, backend: Backend, call: Call, exchange: Exchange) -> None:
        if backend.upstream is None:
            raise not_running(backend)
        while call.then is not None:
            await self._prepare(backend, call)
            call = call.then
        transfer = Transfer(backend.upstream, call)
        exchange.way.source = transfer
        try:
            await transfer.open()
            kind = _content_type(transfer)
            if not 200 <= transfer.status < 300:
                body = b"" if call.method == "HEAD" else await transfer.whole(ANSWER)
                raise self.refused(backend, transfer, body)
            if call.method == "HEAD":
                exchange.reply(200, [(b"content-type", b"text/plain"), NO_SNIFFING], b"")
                return
            if kind != LINES:
                body = await transfer.whole(ANSWER)
                await self._admin.changed(backend.name)
                shown = (b"content-type", kind if kind in PASSED else b"text/plain")
                exchange.reply(200, [shown, NO_SNIFFING], body)
                return
            exchange.start([(b"content-type", LINES), NO_SNIFFING, *UNBUFFERED])
            try:
                async for line in _lines(transfer):
                    exchange.way.write(self.line(line) + b"\n")
            finally:
                # Even if the download broke off or the client left, the engine's models may have changed.
                backend.woken.set()
            await self._admin.changed(backend.name)
            exchange.way.finish()
        finally:
            transfer.close()

    async def _prepare(self, backend: Backend, call: Call) -> None:
        """Carry out a request that comes before another one. Raises GatewayError if the engine refuses it."""
        assert backend.upstream is not None
        transfer = Transfer(backend.upstream, call)
        try:
            await transfer.open()
            body = await transfer.whole(ANSWER)
            if not 200 <= transfer.status < 300:
                raise _refused(backend, transfer, body)
        finally:
            transfer.close()


NO_SNIFFING = (b"x-content-type-options", b"nosniff")
"""Has browsers believe the content type."""


def not_running(backend: Backend) -> GatewayError:
    """Return the error for a backend whose engine was to be asked, and does not run."""
    return GatewayError(Own.NO_BACKEND, f"the backend {backend.name!r} does not run: {backend.reason}")


async def _lines(transfer: Transfer) -> AsyncIterator[bytes]:
    framer = Framer()
    async for piece in transfer.pieces():
        for line in framer.feed(piece):
            yield line
        if framer.too_long:
            raise GatewayError(Kind.GARBLED, "the engine sent a line that is too long")
    for line in framer.close():
        yield line


def _public(line: bytes) -> bytes:
    """Return a line unchanged, or an engine's error in OpenAI's format."""
    if b'"error"' not in line:
        return line
    try:
        said = _object.decode(line).get("error")
    except (msgspec.MsgspecError, RecursionError):
        return line
    return GatewayError(Kind.FAILED, said[:WORDS]).body() if isinstance(said, str) else line


def arguments_in(headers: Mapping[bytes, bytes], body: bytes) -> dict[str, Any]:
    """Return the arguments in a request's body, none if it is empty. Raises GatewayError if they cannot be read."""
    if len(body) > BODY:
        raise GatewayError(Own.TOO_LARGE, f"the arguments are larger than {BODY} bytes")
    body = decoded(coding_of(headers), body, BODY)
    if not body.strip():
        return {}
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise GatewayError(
            Own.MEDIA_TYPE, "the body must be JSON: send the header 'Content-Type: application/json'"
        )
    try:
        return _object.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise GatewayError(Own.INVALID, "the body must be a JSON object of arguments") from None


def _call(backend: Backend, action: str, arguments: dict[str, Any]) -> Call:
    """Return the engine's request for an action. Raises GatewayError if there is none or the arguments are wrong."""
    engine = backend.engine
    if action not in engine.actions:
        named = f"the engine {engine.name} of backend {backend.name!r}"
        message = (
            f"{named} has no action {action[:64]!r}: it has {', '.join(sorted(engine.actions))}"
            if engine.actions
            else f"{named} has no actions"
        )
        raise GatewayError(Kind.UNSUPPORTED, message)
    try:
        return engine.action(Action(action), arguments)
    except ValueError as error:
        raise GatewayError(Own.INVALID, str(error)) from None


def _refused(backend: Backend, transfer: Transfer, body: bytes) -> GatewayError:
    """Return the error for an engine's refusal. It quotes the engine's message, which operators may see."""
    failure = backend.engine.failure(transfer.status, transfer.headers, body)
    error = GatewayError.of(failure, f"backend {backend.name!r}")
    words = failure.message
    if failure.detail and failure.detail not in words:
        words = f"{words}: {failure.detail}"
    status = 404 if failure.kind is Kind.MISSING else error.status
    return GatewayError(failure.kind, words[:WORDS], param=error.param, code=error.code, status=status)


def _content_type(transfer: Transfer) -> bytes:
    value = next((value for name, value in transfer.headers if name == b"content-type"), b"")
    return value.partition(b";")[0].strip().lower()


def _refuse_other_sites(headers: dict[bytes, bytes]) -> None:
    """Raise GatewayError for a request that a browser sends on behalf of another site."""
    origin = headers.get(b"origin")
    foreign = headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site")
    if foreign or (
        origin is not None and origin.partition(b"://")[2].lower() != headers.get(b"host", b"").lower()
    ):
        raise GatewayError(Own.FORBIDDEN, "not for requests from other sites", code="cross_site")
