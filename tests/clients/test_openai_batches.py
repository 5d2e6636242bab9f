"""Files and batches by OpenAI's SDK: its own types take what the gateway answers, in every state."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch, FileDeleted, FileObject
from pydantic import TypeAdapter

from gateway.fake.engine import FakeEngine
from tests.batches.flow import CHAT, TERMINAL, chat, jsonl, keeping, line
from tests.serving import Served


@contextlib.asynccontextmanager
async def sdk(folder: Path, **how: Any) -> AsyncIterator[tuple[openai.AsyncOpenAI, Served, FakeEngine]]:
    async with (
        FakeEngine(models=["up"], **how) as engine,
        keeping(folder, engine) as served,
        openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client, served, engine


async def strictly(served: Served, kind: Any, path: str) -> None:
    """Check what is at a path against a type of the SDK, more strictly than the SDK does."""
    TypeAdapter(kind).validate_python((await served.get(path)).json(), strict=True)


async def until_ended(client: openai.AsyncOpenAI, served: Served, id: str) -> Batch:
    async with asyncio.timeout(40):
        while (found := await client.batches.retrieve(id)).status not in TERMINAL:
            await strictly(served, Batch, f"/v1/batches/{id}")
            await asyncio.sleep(0.02)
    await strictly(served, Batch, f"/v1/batches/{id}")
    return found


async def test_the_whole_flow(tmp_path: Path) -> None:
    async with sdk(tmp_path) as (client, served, _):
        rows = [line(f"n{number}") for number in range(40)] + [line("bad", {"model": "m", "messages": 7})]
        file = await client.files.create(
            file=("requests.jsonl", io.BytesIO(jsonl(rows))),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        await strictly(served, FileObject, f"/v1/files/{file.id}")
        assert (file.filename, file.bytes, file.purpose) == ("requests.jsonl", len(jsonl(rows)), "batch")
        assert file.expires_at == file.created_at + 3600
        assert (await client.files.content(file.id)).content == jsonl(rows)
        made = await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"night": "run"},
            output_expires_after={"anchor": "created_at", "seconds": 7200},
        )
        found = await until_ended(client, served, made.id)
        assert (found.status, found.metadata) == ("completed", {"night": "run"})
        assert found.request_counts is not None
        assert found.request_counts.model_dump() == {"total": 41, "completed": 40, "failed": 1}
        assert found.output_file_id and found.error_file_id
        output = await client.files.content(found.output_file_id)
        assert {json.loads(each)["custom_id"] for each in output.iter_lines()} == {f"n{n}" for n in range(40)}
        kept = await client.files.retrieve(found.output_file_id)
        assert (kept.purpose, (kept.expires_at or 0) - kept.created_at) == ("batch_output", 7200)
        await strictly(served, FileObject, f"/v1/files/{found.output_file_id}")
        deleted = await client.files.delete(file.id)
        assert TypeAdapter(FileDeleted).validate_python(deleted.model_dump(), strict=True).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(file.id)
        with pytest.raises(openai.NotFoundError):
            await client.batches.retrieve("batch_none")


async def test_lists_have_pages(tmp_path: Path) -> None:
    async with sdk(tmp_path) as (client, _, _):
        files = [
            await client.files.create(file=(f"{number}.jsonl", jsonl([line("a")])), purpose="batch")
            for number in range(5)
        ]
        await client.files.create(file=("other", b"x"), purpose="user_data")
        listed = [each.id async for each in client.files.list(limit=2, purpose="batch")]
        assert listed == [each.id for each in reversed(files)]
        rising = [each.id async for each in client.files.list(limit=2, order="asc", purpose="batch")]
        assert rising == listed[::-1]
        assert len([each async for each in client.files.list()]) == 6
        made = [
            await client.batches.create(
                input_file_id=each.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            for each in files
        ]
        assert [each.id async for each in client.batches.list(limit=2)] == [
            each.id for each in reversed(made)
        ]
        with pytest.raises(openai.BadRequestError, match="'limit' must be 1 to 100"):
            await client.batches.list(limit=101)


async def test_mistakes_and_cancelling_fit_the_types_too(tmp_path: Path) -> None:
    async with sdk(tmp_path, defaults={"first_token": 60.0}) as (client, served, engine):
        file = await client.files.create(file=("a", jsonl([line("a"), line("a"), b"{"])), purpose="batch")
        wanted: Any = {"endpoint": CHAT, "completion_window": "24h"}
        failed = await until_ended(
            client, served, (await client.batches.create(input_file_id=file.id, **wanted)).id
        )
        assert failed.status == "failed"
        assert failed.errors is not None and failed.errors.data is not None
        assert [(each.line, each.code) for each in failed.errors.data] == [
            (2, "duplicate_custom_id"),
            (3, "invalid_json_line"),
        ]
        file = await client.files.create(file=("a", jsonl([line("a", chat())])), purpose="batch")
        made = await client.batches.create(input_file_id=file.id, **wanted)
        await engine.until(lambda: engine.journal.totals.running == 1)
        assert (await client.batches.cancel(made.id)).status == "cancelling"
        assert (await until_ended(client, served, made.id)).status == "cancelled"
        with pytest.raises(openai.ConflictError):
            await client.batches.cancel(failed.id)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/images/edits"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
        ({"endpoint": 7}, "endpoint"),
    ],
)
async def test_what_a_batch_may_not_ask_for_is_told_with_its_place(
    tmp_path: Path, change: dict[str, Any], param: str
) -> None:
    async with sdk(tmp_path) as (client, _, _):
        file = await client.files.create(file=("a", jsonl([line("a")])), purpose="batch")
        body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"} | change
        with pytest.raises(openai.BadRequestError) as refused:
            await client.batches.create(**body)
        assert refused.value.param == param


async def test_a_file_needs_a_purpose_that_there_is(tmp_path: Path) -> None:
    async with sdk(tmp_path) as (client, _, _):
        wrong: Any = "none"
        with pytest.raises(openai.BadRequestError, match="'purpose' must be one of"):
            await client.files.create(file=("a", b"x"), purpose=wrong)
        after: Any = {"anchor": "created_at", "seconds": 5}
        with pytest.raises(openai.BadRequestError, match="3600 to"):
            await client.files.create(file=("a", b"x"), purpose="batch", expires_after=after)
        file = await client.files.create(file=("a", b"x"), purpose="user_data")
        assert file.expires_at is None
        with pytest.raises(openai.BadRequestError, match="not uploaded with the purpose"):
            await client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        assert [each.id async for each in client.files.list()] == [file.id]
