"""Uploads: what is larger than any other body comes in pieces, and leaves nothing where it breaks off."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from gateway.batches import runner, service
from gateway.fake.engine import FakeEngine
from gateway.store.store import Store
from gateway.wire.limits import Limits
from tests.batches.flow import BOUNDARY, form, keeping, uploaded
from tests.serving import Served


def kept(folder: Path) -> list[str]:
    return [each.name for each in (folder / "data" / "files" / "files").iterdir()]


async def test_an_upload_may_be_larger_than_other_bodies(tmp_path: Path) -> None:
    """Also chunked, where nobody knows before how long it is."""
    data = bytes(range(256)) * (4 << 10)
    async with (
        FakeEngine(models=["up"]) as engine,
        keeping(tmp_path, engine, server='limits: {body: "64KiB"}, batches: {file: "1MiB"}') as served,
    ):
        answer = await uploaded(served, data)
        assert (answer.status, answer.json()["bytes"]) == (200, len(data))
        head = (
            "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
        ).encode()
        body = form(data, purpose="batch")
        pieces = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        assert b" 200 OK" in await served.raw(head + chunks)
        for file in (await served.get("/v1/files")).json()["data"]:
            content = await served.get(f"/v1/files/{file['id']}/content")
            assert content.body == data
        large = await served.post("/v1/batches", b"x" * (65 << 10))
        assert (large.status, large.error["code"]) == (413, "request_too_large")


async def test_an_upload_that_breaks_off_leaves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeEngine(models=["up"]) as engine, keeping(tmp_path, engine) as served:
        body = form(b"x" * 500_000, purpose="batch")
        _, writer = await served.connect()
        kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
        head = f"Host: localhost\r\nContent-Length: {len(body)}\r\n{kind}"
        writer.write(f"POST /v1/files HTTP/1.1\r\n{head}\r\n\r\n".encode() + body[:300_000])
        await writer.drain()
        async with asyncio.timeout(20):
            while not kept(tmp_path):  # noqa: ASYNC110 (a file of another task)
                await asyncio.sleep(0.01)
        writer.close()
        async with asyncio.timeout(20):
            while kept(tmp_path):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (await served.get("/v1/files")).json()["data"] == []
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_an_upload_without_room_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(service, "_write_all", full)
    async with FakeEngine(models=["up"]) as engine, keeping(tmp_path, engine) as served:
        for size in (10, 3 << 20):
            answer = await uploaded(served, b"x" * size)
            assert (answer.status, answer.error["code"]) == (503, "store_unavailable")
            assert "its disk is full" in answer.error["message"]
        assert kept(tmp_path) == []
    assert not [record for record in caplog.records if record.exc_info]


class Late:
    """A store that tells nobody when it has written something."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.stored = asyncio.Event()

    async def write(self, work: Any) -> None:
        await self._store.write(work)
        self.stored.set()
        await asyncio.Event().wait()


async def test_a_request_that_is_cancelled_when_its_file_is_stored_loses_no_content(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"]) as engine, keeping(tmp_path, engine) as served:
        kept_files = served.gateway.kept
        assert kept_files is not None
        store, late = kept_files._store, Late(kept_files._store)
        kept_files._store = late  # type: ignore[assignment]
        new, upload = kept_files.upload()
        await upload.write(b"content")
        keep = asyncio.create_task(kept_files.keep("anyone", new, upload, "batch", "a.jsonl", None))
        await late.stored.wait()
        keep.cancel()
        await asyncio.wait([keep])
        upload.drop()
        kept_files._store = store
        assert keep.cancelled() and kept(tmp_path) == [new]
        assert (await served.get(f"/v1/files/{new}/content")).body == b"content"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"none", "invalid_form"),
        (form(b"x", purpose="batch")[:-10], "invalid_form"),
        (form(b"x", purpose="batch", other="x"), "invalid_value"),
        (form(b"x"), "invalid_value"),
        (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--{BOUNDARY}--'.encode(),
            "invalid_value",
        ),
    ],
)
async def test_what_is_no_upload_is_refused(tmp_path: Path, body: bytes, code: str) -> None:
    async with FakeEngine(models=["up"]) as engine, keeping(tmp_path, engine) as served:
        headers = {"content_type": f"multipart/form-data; boundary={BOUNDARY}"}
        answer = await served.ask("POST", "/v1/files", body, headers)
        assert (answer.status, answer.error["code"]) == (400, code)
        plain = await served.post("/v1/files", {"purpose": "batch"})
        assert plain.status == 415
        assert kept(tmp_path) == []


async def test_files_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SWEEP", 0.0)
    async with FakeEngine(models=["up"]) as engine, keeping(tmp_path, engine) as served:
        answer = await uploaded(
            served, b"x", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
        )
        stays = await uploaded(served, b"y", purpose="user_data")
        assert (answer.status, stays.status) == (200, 200)
        await _later(served, 3601.0)
        assert (await served.get(f"/v1/files/{answer.json()['id']}")).status == 404
        async with asyncio.timeout(20):
            while kept(tmp_path) != [stays.json()["id"]]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert [each["id"] for each in (await served.get("/v1/files")).json()["data"]] == [stays.json()["id"]]


async def _later(served: Served, seconds: float) -> None:
    """Have the gateway believe that so much time has passed."""
    files = served.gateway.kept
    assert files is not None
    clock = files._clock
    files._clock = files.runner._parts.clock = lambda: clock() + seconds


def test_only_uploads_may_be_larger_and_slower() -> None:
    limits = Limits(body=100, upload=1000, body_seconds=60.0)
    for url in (b"/v1/files", b"/v1/files/", b"/files?x=1", b"//v1/files"):
        assert limits.of(url) == (1000, 600.0)
    for url in (b"/v1/chat/completions", b"/v1/files/x", b"/v1/batches", b"/v1/x?/files"):
        assert limits.of(url) == (100, 60.0)
    assert Limits(body=100, upload=0).of(b"/v1/files")[0] == 100
