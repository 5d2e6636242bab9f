"""Batches over sockets, on a fake engine: from the upload to the files, and every way that they end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from openai.types import Batch

from gateway.auth import Caller
from gateway.batches import shelf
from gateway.batches.inputs import check
from gateway.batches.records import BatchRecord, FileRecord
from gateway.fake.engine import FakeEngine
from tests.batches.flow import CHAT, batch, begun, chat, content, ended, jsonl, keeping, line, uploaded
from tests.faults.clients import config
from tests.serving import serving

KEYS = """
keys:
  a: {value: "${env.A}"}
  b: {value: "${env.B}"}
"""
ENVIRON = {"A": "sk-a", "B": "sk-b"}
A, B = "Bearer sk-a", "Bearer sk-b"


async def test_a_batch_is_answered_line_by_line(tmp_path: Path) -> None:
    rows = [line(f"n{number}") for number in range(300)]
    rows[7] = line("bad", {"model": "m", "messages": "no list"})
    async with (
        FakeEngine(models=["up"], defaults={"text": "echo"}) as engine,
        keeping(tmp_path, engine) as served,
    ):
        made = await begun(served, rows, metadata={"project": "x"})
        assert made["status"] == "validating"
        assert made["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
        assert made["expires_at"] == made["created_at"] + 86_400
        found = await ended(served, made["id"])
        assert (found["status"], found["model"], found["metadata"]) == ("completed", "m", {"project": "x"})
        assert found["request_counts"] == {"total": 300, "completed": 299, "failed": 1}
        assert (
            found["created_at"] <= found["in_progress_at"] <= found["finalizing_at"] <= found["completed_at"]
        )
        good = await content(served, found["output_file_id"])
        assert set(good) == {row["custom_id"] for row in rows} - {"bad"}
        for name, row in good.items():
            assert row["response"]["status_code"] == 200
            assert row["response"]["body"]["choices"][0]["message"]["content"] == name
            assert row["response"]["request_id"]
            assert row["error"] is None
        bad = await content(served, found["error_file_id"])
        assert bad["bad"]["response"]["status_code"] == 400
        assert bad["bad"]["response"]["body"]["error"]["type"] == "invalid_request_error"
        told = [row["response"]["body"]["usage"] for row in good.values()]
        spent, given = (sum(one[name] for one in told) for name in ("prompt_tokens", "completion_tokens"))
        assert found["usage"] == {
            "input_tokens": spent,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": given,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": spent + given,
        }
        Batch.model_validate(found, strict=True)
        assert spent >= 299 and given >= 299 and "usage" not in made
        output = (await served.get(f"/v1/files/{found['output_file_id']}")).json()
        assert (output["purpose"], output["filename"]) == ("batch_output", f"{made['id']}_output.jsonl")
        assert served.metric("gateway_batch_requests_total", outcome="completed") == 299
        assert served.metric("gateway_requests_total", outcome="ok") == 299


@pytest.mark.parametrize(
    ("url", "body", "kind"),
    [
        ("/v1/completions", {"model": "m", "prompt": "x"}, "text_completion"),
        ("/v1/embeddings", {"model": "m", "input": ["x", "y"]}, "list"),
        ("/v1/responses", {"model": "m", "input": "x"}, "response"),
    ],
)
async def test_every_endpoint(tmp_path: Path, url: str, body: dict[str, Any], kind: str) -> None:
    async with FakeEngine(models=["up"]) as engine, keeping(tmp_path, engine) as served:
        made = await begun(served, [line("a", body, url)], url=url)
        found = await ended(served, made["id"])
        assert (found["status"], found["endpoint"]) == ("completed", url)
        assert (await content(served, found["output_file_id"]))["a"]["response"]["body"]["object"] == kind


async def test_an_input_with_mistakes_is_not_begun(tmp_path: Path) -> None:
    rows: list[Any] = [
        line("a"),
        b"{",
        b"",
        line("b", url="/v1/embeddings"),
        line("a"),
        line("c", chat() | {"model": "other"}),
        {"custom_id": "d", "method": "POST", "url": CHAT},
        line("e", url="/v1/none"),
    ]
    async with FakeEngine(models=["up"]) as engine, keeping(tmp_path, engine) as served:
        found = await ended(served, (await begun(served, rows))["id"])
        assert found["status"] == "failed"
        assert found["failed_at"] >= found["created_at"]
        assert (found["output_file_id"], found["error_file_id"]) == (None, None)
        told = [(each["line"], each["code"], each["param"]) for each in found["errors"]["data"]]
        assert told == [
            (2, "invalid_json_line", None),
            (4, "mismatched_endpoint", "url"),
            (5, "duplicate_custom_id", "custom_id"),
            (6, "mismatched_model", "body.model"),
            (7, "missing_required_parameter", "body"),
            (8, "invalid_url", "url"),
        ]
        assert not engine.journal.totals.started - sum(
            each.path == "/v1/models" or each.method == "GET" for each in engine.journal.exchanges
        )
        empty = await ended(served, (await begun(served, [b"", b"  "]))["id"])
        assert [each["code"] for each in empty["errors"]["data"]] == ["empty_file"]


async def test_a_mark_and_line_ends_of_windows_are_no_mistakes(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + jsonl([line("a"), line("b")]).replace(b"\n", b"\r\n")
    async with FakeEngine(models=["up"]) as engine, keeping(tmp_path, engine) as served:
        found = await ended(served, (await begun(served, [data]))["id"])
        assert found["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
        assert set(await content(served, found["output_file_id"])) == {"a", "b"}


def test_a_mistake_in_the_first_line_is_none_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(jsonl([b"{", line("a"), line("b", chat() | {"model": "other"})]))
    found = check(tmp_path / "in", CHAT, 9, 10_000)
    assert [(each.line, each.code) for each in found.mistakes] == [
        (1, "invalid_json_line"),
        (3, "mismatched_model"),
    ]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_line_is_as_long_with_a_mark_before_it_as_without(tmp_path: Path, mark: bytes) -> None:
    one = jsonl([line("a")])
    (tmp_path / "in").write_bytes(mark + one)
    assert check(tmp_path / "in", CHAT, 9, len(one)).requests == 1
    assert not check(tmp_path / "in", CHAT, 9, len(one)).mistakes
    assert [each.code for each in check(tmp_path / "in", CHAT, 9, len(one) - 1).mistakes] == ["line_too_long"]


async def test_what_one_key_may_have_is_limited(tmp_path: Path) -> None:
    limits = "batches: {file: 4KiB, lines: 20, storage: 5KiB, open: 2, concurrency: 1}"
    slow = {"first_token": 30.0}
    async with (
        FakeEngine(models=["up"], defaults=slow) as engine,
        keeping(tmp_path, engine, ENVIRON, server=limits, extra=KEYS) as served,
    ):
        large = await uploaded(served, b"x" * 4097, A)
        assert (large.status, large.error["code"]) == (413, "file_too_large")
        huge = await uploaded(served, b"x" * (12 << 20), A)
        assert (huge.status, huge.error["code"]) == (413, "request_too_large")
        assert (await uploaded(served, b"x" * 4000, A)).status == 200
        full = await uploaded(served, b"x" * 2000, A)
        assert (full.status, full.error["code"]) == (413, "storage_full")
        assert (await uploaded(served, b"x" * 2000, B)).status == 200, "another key's are its own"
        many = await ended(served, (await begun(served, [{"a": 1}] * 21, B))["id"], B)
        assert [each["code"] for each in many["errors"]["data"]] == ["too_many_requests"]
        made = [await begun(served, [line("a")], B) for _ in range(2)]
        body = {"input_file_id": made[0]["input_file_id"], "endpoint": CHAT, "completion_window": "24h"}
        third = await served.post("/v1/batches", body, authorization=B)
        assert (third.status, third.error["code"]) == (400, "too_many_batches")
        for each in made:
            await served.post(f"/v1/batches/{each['id']}/cancel", {}, authorization=B)
            await ended(served, each["id"], B)
        assert not (await asyncio.to_thread(list, (tmp_path / "data" / "files" / "batches").iterdir()))


async def test_a_key_has_only_so_many_files_however_small(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        keeping(tmp_path, engine, ENVIRON, server="batches: {files: 2}", extra=KEYS) as served,
    ):
        first, _ = [(await uploaded(served, b"", A)).json()["id"] for _ in range(2)]
        third = await uploaded(served, b"", A)
        assert (third.status, third.error["code"]) == (400, "too_many_files")
        assert (await uploaded(served, b"", B)).status == 200, "another key's are its own"
        kept = await asyncio.to_thread(list, (tmp_path / "data" / "files" / "files").iterdir())
        assert len(kept) == 3, "what was refused is gone"
        assert (await served.ask("DELETE", f"/v1/files/{first}", None, {"authorization": A})).status == 200
        assert (await uploaded(served, b"", A)).status == 200


async def test_a_batch_is_cancelled_with_what_it_has(tmp_path: Path) -> None:
    rules = [{"match": {"contains": "slow"}, "first_token": 60.0}]
    async with (
        FakeEngine(models=["up"], rules=rules) as engine,
        keeping(tmp_path, engine, server="batches: {concurrency: 4}") as served,
    ):
        rows = [line(f"quick{number}") for number in range(20)] + [
            line(f"slow{number}") for number in range(20)
        ]
        made = await begun(served, rows)
        await engine.until(lambda: engine.journal.totals.running == 4)
        async with asyncio.timeout(20):
            while (await batch(served, made["id"]))["request_counts"]["completed"] < 20:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        answer = await served.post(f"/v1/batches/{made['id']}/cancel", None)
        assert (answer.status, answer.json()["status"]) == (200, "cancelling")
        assert answer.json()["cancelling_at"]
        found = await ended(served, made["id"])
        assert (found["status"], found["request_counts"]["completed"]) == ("cancelled", 20)
        assert found["cancelled_at"] >= found["cancelling_at"]
        assert len(await content(served, found["output_file_id"])) == 20
        assert found["error_file_id"] is None
        await engine.until(lambda: engine.journal.totals.running == 0)
        again = await served.post(f"/v1/batches/{made['id']}/cancel", None)
        assert (again.status, again.json()["status"]) == (200, "cancelled")


async def test_a_batch_expires_with_what_it_has(tmp_path: Path) -> None:
    rules = [{"match": {"contains": "slow"}, "first_token": 60.0}]
    ahead = [0.0]
    async with FakeEngine(models=["up"], rules=rules) as engine, keeping(tmp_path, engine) as served:
        assert served.gateway.kept is not None
        served.gateway.kept.runner._parts.clock = lambda: time.time() + ahead[0]
        made = await begun(served, [line("quick"), line("slow1"), line("slow2")])
        await engine.until(lambda: engine.journal.totals.finished >= 1 and engine.journal.totals.running == 2)
        ahead[0] = 86_401.0
        found = await ended(served, made["id"])
        assert found["status"] == "expired"
        assert found["expired_at"] >= found["expires_at"]
        assert found["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
        assert set(await content(served, found["output_file_id"])) == {"quick"}
        late = await content(served, found["error_file_id"])
        assert {name: row["error"]["code"] for name, row in late.items()} == {
            "slow1": "batch_expired",
            "slow2": "batch_expired",
        }
        assert served.metric("gateway_batch_requests_total", outcome="expired") == 2


async def test_what_belongs_to_another_key_does_not_exist(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        keeping(tmp_path, engine, ENVIRON, extra=KEYS) as served,
    ):
        made = await begun(served, [line("a")], A)
        await ended(served, made["id"], A)
        file, own = made["input_file_id"], made["id"]
        for method, path in (
            ("GET", f"/v1/files/{file}"),
            ("GET", f"/v1/files/{file}/content"),
            ("DELETE", f"/v1/files/{file}"),
            ("GET", f"/v1/batches/{own}"),
            ("POST", f"/v1/batches/{own}/cancel"),
            ("GET", f"/v1/files?after={file}"),
            ("GET", f"/v1/batches?after={own}"),
        ):
            answer = await served.ask(method, path, None, {"authorization": B})
            assert answer.status == 404, path
            assert answer.error["code"] in ("file_not_found", "batch_not_found"), path
        body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        assert (await served.post("/v1/batches", body, authorization=B)).error["code"] == "file_not_found"
        for path in ("/v1/files", "/v1/batches"):
            assert (await served.get(path, authorization=B)).json()["data"] == []
            assert len((await served.get(path, authorization=A)).json()["data"]) >= 1


async def test_a_file_that_a_batch_reads_is_not_deleted(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults={"first_token": 60.0}) as engine,
        keeping(tmp_path, engine) as served,
    ):
        made = await begun(served, [line("a")])
        path = f"/v1/files/{made['input_file_id']}"
        refused = await served.ask("DELETE", path, None, {})
        assert (refused.status, refused.error["code"]) == (409, "file_in_use")
        assert made["id"] in refused.error["message"]
        await served.post(f"/v1/batches/{made['id']}/cancel", None)
        await ended(served, made["id"])
        deleted = await served.ask("DELETE", path, None, {})
        assert deleted.json() == {"id": made["input_file_id"], "object": "file", "deleted": True}
        assert (await served.get(path)).status == 404
        assert not (tmp_path / "data" / "files" / "files" / made["input_file_id"]).exists()


async def test_what_is_deleted_meanwhile_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is deleted between two looks at it: no error of the gateway, and no batch without an input."""
    async with FakeEngine(models=["up"]) as engine, keeping(tmp_path, engine) as served:
        service = served.gateway.kept
        assert service is not None
        name = (await uploaded(served, jsonl([line("a")]))).json()["id"]
        known = [await service.file("anyone", name)]
        look = service.file

        async def file(owner: str, asked: str) -> FileRecord:
            return known.pop() if known else await look(owner, asked)

        monkeypatch.setattr(service, "file", file)
        await served.ask("DELETE", f"/v1/files/{name}", None, {})
        for method, path, body in (
            ("GET", f"/v1/files/{name}/content", None),
            ("POST", "/v1/batches", {"input_file_id": name, "endpoint": CHAT, "completion_window": "24h"}),
        ):
            known.append(FileRecord(name, "anyone", "batch", "in.jsonl", 9, 1, None))
            answer = await served.ask(method, path, body, {})
            assert (answer.status, answer.error["code"]) == (404, "file_not_found"), path
        assert (await served.get("/v1/batches")).json()["data"] == []


async def test_a_key_that_is_gone_fails_its_lines(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        keeping(tmp_path, engine, ENVIRON, extra=KEYS) as served,
    ):
        keys = served.gateway.core.snapshot.keys
        keys._callers = {digest: caller for digest, caller in keys._callers.items() if caller.name != "a"}
        keys._callers |= {b"x" * 32: Caller("later")}
        file = await uploaded(served, jsonl([line("a")]), B)
        store = served.gateway.core.store
        assert store is not None
        record = BatchRecord("batch_0", "a", CHAT, file.json()["id"], "validating", 1, 1 << 40)
        await store.write(lambda connection: shelf.add_batch(connection, record, 9))
        async with asyncio.timeout(20):
            while True:
                found = await store.read(lambda connection: shelf.find_batch(connection, "a", "batch_0"))
                assert found is not None
                if found.status == "completed":
                    break
                await asyncio.sleep(0.05)
        assert (found.completed, found.failed) == (0, 1)
        text = (tmp_path / "data" / "files" / "files" / "file-0-error").read_text()
        assert "invalid_api_key" in text and "'a'" in text


async def test_a_batch_waits_for_its_engine(tmp_path: Path) -> None:
    """The engine is away when the batch begins, then refuses, then works: no line fails."""
    async with FakeEngine(models=["up"]) as engine:
        await engine.down()
        models = "{targets: {e0: up}, timeouts: {queue: 1s}}"
        async with keeping(tmp_path, engine, models=models) as served:
            made = await begun(served, [line(f"n{number}") for number in range(20)])
            async with asyncio.timeout(20):
                while served.metric("gateway_batch_retries_total", reason="waited") < 5:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            busy = [{"match": {"times": 6}, "reply": {"status": 503}}]
            engine.set(models=["up"], rules=busy)
            await engine.up()
            found = await ended(served, made["id"])
            assert found["request_counts"] == {"total": 20, "completed": 20, "failed": 0}


async def test_without_a_store_there_are_no_files_and_no_batches(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(engine.url)) as served:
        for method, path in (("GET", "/v1/files"), ("POST", "/v1/batches"), ("DELETE", "/v1/files/x")):
            answer = await served.ask(method, path, None, {})
            assert (answer.status, answer.error["code"]) == (400, "store_not_configured"), path
            assert "`server.data`" in answer.error["message"]
        assert (await uploaded(served, b"x")).error["code"] == "store_not_configured"
