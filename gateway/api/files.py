"""The endpoints for files, as OpenAI's SDKs use them: upload, list, show, read and delete.

Rules:
- An upload goes from the socket to the disk in pieces. Nothing of it is read before it is known whose it is.
- Without a store there are no files, and every endpoint says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import IO, TYPE_CHECKING, Any, Final, Literal

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.requests import ClientDisconnect

from backends.framing.form import Begin, Reader
from backends.framing.multipart import FormError, boundary_of
from gateway.api import batch_schemas as schemas
from gateway.api.endpoint import Core, headers_of
from gateway.batches.asking import expiry
from gateway.errors import GatewayError, Own
from gateway.store.failure import no_store

if TYPE_CHECKING:
    from gateway.batches.records import FileRecord
    from gateway.batches.service import Service, Upload

_LONGEST_VALUE: Final = 1024
"""Most bytes of a form's value that is no file."""
_PIECE: Final = 256 << 10
"""Bytes of a file that are read at once."""
_VALUES: Final = frozenset(("purpose", "expires_after[anchor]", "expires_after[seconds]"))
_FORM: Final = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {
            "type": "string",
            "enum": ["batch", "user_data", "assistants", "vision", "fine-tune", "evals"],
        },
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
    },
}


class Keeping:
    """Who may use the store's files and batches: the check that all their endpoints begin with."""

    def __init__(self, core: Core, service: Service | None) -> None:
        """There is no service where the gateway has no store."""
        self._core = core
        self._service = service

    def of(self, request: Request) -> tuple[Service, str]:
        """Return the service, and for whom a request asks it. Raises GatewayError."""
        snapshot = self._core.snapshot
        headers = headers_of(request.scope)
        snapshot.origins.check(headers)
        caller = snapshot.keys.identify(headers)
        if self._service is None:
            raise no_store("files and batches")
        return self._service, caller.name


def add_files(app: FastAPI, keeping: Keeping) -> None:
    """Add the endpoints to the application."""
    form = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}}

    @app.post("/v1/files", tags=["files"], response_model=schemas.FileObject, openapi_extra=form)
    async def upload(request: Request) -> Response:
        """Upload a file, as a form with `purpose` and `file`."""
        service, owner = keeping.of(request)
        try:
            boundary = boundary_of(request.headers.get("content-type", "").encode("latin-1"))
        except FormError as error:
            raise GatewayError(Own.MEDIA_TYPE, str(error)) from None
        new, taking = await asyncio.to_thread(service.upload)
        try:
            values, filename = await _taken(request, Reader(boundary), taking)
            purpose, after = _said(values)
            record = await service.keep(owner, new, taking, purpose, filename, after)
        except BaseException as error:
            taking.drop()
            if isinstance(error, FormError):
                raise GatewayError(Own.INVALID, str(error), code="invalid_form") from None
            raise
        return shown(record.shown())

    @app.get("/v1/files", tags=["files"], response_model=schemas.FileList)
    async def list_files(
        request: Request,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 10_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> Response:
        """List this key's files."""
        service, owner = keeping.of(request)
        within(limit, 10_000)
        found, more = await service.files(owner, purpose, after, limit, order == "desc")
        return listed([record.shown() for record in found], more)

    @app.get("/v1/files/{file_id}", tags=["files"], response_model=schemas.FileObject)
    async def show_file(file_id: str, request: Request) -> Response:
        """Show a file."""
        service, owner = keeping.of(request)
        return shown((await service.file(owner, file_id)).shown())

    @app.get("/v1/files/{file_id}/content", tags=["files"], response_class=Response)
    async def read_file(file_id: str, request: Request) -> Response:
        """Return the content of a file."""
        service, owner = keeping.of(request)
        record = await service.file(owner, file_id)
        file = await _opened(service, record)
        headers = {"content-length": str(record.bytes), "x-content-type-options": "nosniff"}
        return StreamingResponse(_pieces(file), headers=headers, media_type="application/octet-stream")

    @app.delete("/v1/files/{file_id}", tags=["files"], response_model=schemas.FileDeleted)
    async def delete_file(file_id: str, request: Request) -> Response:
        """Delete a file that no batch reads."""
        service, owner = keeping.of(request)
        await service.delete(owner, file_id)
        return shown({"id": file_id, "object": "file", "deleted": True})


async def _taken(request: Request, reader: Reader, upload: Upload) -> tuple[dict[str, bytes], str]:
    """Have a form's file be written as it comes. Return its other values, and the file's name."""
    values: dict[str, bytes] = {}
    filename: str | None = None
    name = ""
    try:
        async for piece in request.stream():
            for event in reader.feed(piece):
                if isinstance(event, Begin):
                    name = event.name
                    if name in values or (name == "file" and filename is not None):
                        raise FormError(f"the form has {name!r} twice")
                    if name == "file":
                        filename = (event.filename or b"").decode("utf-8", "replace")
                    else:
                        values[name] = b""
                elif name == "file":
                    await upload.write(event.data)
                else:
                    values[name] += event.data
                    if len(values[name]) > _LONGEST_VALUE:
                        raise FormError(f"{name[:64]!r} is too long")
    except ClientDisconnect:
        raise left() from None
    reader.close()
    if filename is None:
        raise GatewayError(Own.INVALID, "the form has no 'file'", param="file")
    return values, filename


def _said(values: dict[str, bytes]) -> tuple[str, int | None]:
    """Return the purpose that a form says, and after how many seconds the file expires. Raises GatewayError."""
    said = {name: value.decode("utf-8", "replace") for name, value in values.items()}
    unknown = next((name for name in said if name not in _VALUES), None)
    if unknown is not None:
        raise GatewayError(Own.INVALID, f"a file has no {unknown[:64]!r}", param=unknown[:64])
    if "purpose" not in said:
        raise GatewayError(Own.INVALID, "the form has no 'purpose'", param="purpose")
    anchor, seconds = (said.get(f"expires_after[{part}]") for part in ("anchor", "seconds"))
    if anchor is None and seconds is None:
        return said["purpose"], None
    number = int(seconds) if seconds is not None and seconds.isdecimal() and len(seconds) < 10 else 0
    return said["purpose"], expiry(anchor or "", number, "expires_after")


async def _opened(service: Service, record: FileRecord) -> IO[bytes]:
    """Return a file's content, open. Raises GatewayError, also where the file has been deleted meanwhile."""
    try:
        return await asyncio.to_thread(service.path(record).open, "rb", 0)
    except FileNotFoundError:
        await service.file(record.owner, record.id)
        raise GatewayError(Own.INTERNAL, "the content of this file is lost", code="file_lost") from None


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    """Yield a file's content piece by piece."""
    try:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece
    finally:
        file.close()


def left() -> GatewayError:
    """Return the error that ends a request whose client has left: nobody gets it."""
    return GatewayError(Own.SLOW_CLIENT, "the client left before the end of its request")


def within(limit: int, most: int) -> None:
    """Check the length of a list that a client wants. Raises GatewayError."""
    if not 1 <= limit <= most:
        raise GatewayError(Own.INVALID, f"'limit' must be 1 to {most}", param="limit")


def shown(what: dict[str, Any]) -> Response:
    """Return an object as an answer."""
    return Response(msgspec.json.encode(what), media_type="application/json")


def listed(data: list[dict[str, Any]], more: bool) -> Response:
    """Return objects as a page of a list."""
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return shown({"object": "list", "data": data, **ends, "has_more": more})
