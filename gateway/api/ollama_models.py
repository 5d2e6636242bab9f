"""Ollama's operations on the files of models, from `pull` to `delete`, passed to a backend that has them.

Rules:
- For operators only, as all that changes an engine is. Names of models are the engine's own here.
- The engine's words pass: its lines of progress, its errors with their status. All other errors have Ollama's shape.
- Which backend is asked: the only one that can, else the one that the header or the query names.
- Before the answer ends, the backend has been asked again for its models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from backends.base import Call, Kind
from backends.surfaces.dialects import OLLAMA_API
from gateway.api.admin import ERRORS, TAKES, WORDS, Admin, AdminAction
from gateway.errors import GatewayError, Own
from gateway.fleet.backend import Backend
from gateway.wire.codings import coding_of, decoded
from gateway.wire.downstream import AsgiWayBack, Scope
from gateway.wire.transfer import Transfer

HEADER: Final = b"x-gateway-backend"
QUERY: Final = "backend"
PATHS: Final[Mapping[str, str]] = {
    "/api/pull": "POST",
    "/api/push": "POST",
    "/api/create": "POST",
    "/api/copy": "POST",
    "/api/delete": "DELETE",
}
"""The paths with their methods; blobs, whose path has a digest in it, are beside them."""
BLOBS: Final = "/api/blobs/{digest}"
_DIGEST: Final = "sha256:"


class _Refusal(msgspec.Struct):
    error: str


_refusal: Final = msgspec.json.Decoder(_Refusal).decode


class ModelFiles:
    """The endpoints."""

    def __init__(self, admin: Admin) -> None:
        """Let in whom `admin` lets in."""
        self._admin = admin

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to the application."""
        for path, method in PATHS.items():
            app.add_api_route(
                path,
                self._serve,
                methods=[method],
                tags=["admin"],
                responses=ERRORS,
                openapi_extra=TAKES,
                summary=f"{path.rpartition('/')[2].title()} a model of an engine (Ollama's API)",
                operation_id=f"ollama_{path.rpartition('/')[2]}",
                description="For keys of operators. The body is Ollama's; its answer passes.",
            )
        app.add_api_route(BLOBS, self._serve, methods=["GET", "POST"], include_in_schema=False)

    async def _serve(self, request: Request) -> Response:
        return _Passed(self._admin, request.url.path)


class _Passed(AdminAction):
    """One of these operations, as the engine answers it."""

    surface = OLLAMA_API

    def __init__(self, admin: Admin, path: str) -> None:
        super().__init__(admin, "", path)
        self._path = path

    async def called(
        self, scope: Scope, way: AsgiWayBack, headers: Mapping[bytes, bytes]
    ) -> tuple[Backend, Call]:
        backend = self._chosen(scope, headers)
        is_blob = self._path.startswith(BLOBS.partition("{")[0])
        if is_blob and not _is_digest(self._path):
            raise GatewayError(Own.INVALID, "invalid digest format")
        limit = self._core.snapshot.config.server.limits.body
        body = decoded(coding_of(headers), await way.body(limit), limit)
        if scope["method"] == "GET":
            # A question whether there is such a blob, which is asked with HEAD.
            return backend, Call(self._path, method="HEAD")
        kind = b"application/octet-stream" if is_blob else b"application/json"
        return backend, Call(self._path, body, scope["method"], content_type=kind)

    def _chosen(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Backend:
        """Return the backend that is asked. Raise GatewayError where none can, or where it is not clear which."""
        able = {
            name: backend
            for name, backend in self._core.dispatcher.pool.backends.items()
            if any(self._path.startswith(path) for path in backend.engine.model_files)
        }
        if not able:
            raise GatewayError(
                Kind.UNSUPPORTED,
                f"no backend here has {self._path}: the models of its engines are not files of its own",
            )
        query = parse_qs(scope["query_string"].decode("latin-1")).get(QUERY, [""])[0]
        name = headers.get(HEADER, b"").decode("latin-1") or query
        names = ", ".join(sorted(able))
        if not name and len(able) > 1:
            how = "with the header x-gateway-backend or with ?backend="
            message = f"several backends have {self._path}: name one of {names} {how}"
            raise GatewayError(Own.INVALID, message, param="backend")
        if name and name not in able:
            message = f"the backend {name[:64]!r} is none that has {self._path}: {names}"
            raise GatewayError(Own.INVALID, message, param="backend")
        return able[name] if name else next(iter(able.values()))

    def refused(self, backend: Backend, transfer: Transfer, body: bytes) -> GatewayError:
        try:
            said = _refusal(body).error
        except (msgspec.MsgspecError, UnicodeDecodeError):
            said = ""
        return GatewayError(Kind.REJECTED, said[:WORDS] or "the engine refused it", status=transfer.status)

    def line(self, line: bytes) -> bytes:
        return line


def _is_digest(path: str) -> bool:
    digest = path.rpartition("/")[2].removeprefix(_DIGEST)
    return len(digest) == 64 and set(digest) <= set("0123456789abcdef")
