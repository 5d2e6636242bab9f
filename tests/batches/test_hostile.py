"""Files and batches of people who mean no good: every answer is OpenAI's error or a success, and nobody sees another's.

Rules:
- What a client names (ids, file names, purposes, cursors) is text and never a path or a statement.
- A key's files and batches do not exist for another key, whatever is asked of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.batches.flow import BOUNDARY, begun, ended, form, jsonl, keeping, line, uploaded
from tests.serving import Answer, Served

KEYS = """
keys:
  a: {value: "${env.A}"}
  b: {value: "${env.B}"}
"""
ENVIRON = {"A": "sk-the-first-key", "B": "sk-the-other-key"}
MINE, THEIRS = "Bearer sk-the-first-key", "Bearer sk-the-other-key"
KIND = f"multipart/form-data; boundary={BOUNDARY}"
GOOD = form(jsonl([line("x")]), purpose="batch")
IDS = ("../x", "..%2f..%2fetc%2fpasswd", "%00", "a" * 5000, "';--", ".", "%2e%2e", "%F0%9F%A6%8A")
QUERIES = (
    *("limit=0", "limit=-1", "limit=" + "9" * 25, "limit=x", "limit=1e3", "limit=", "limit=1&limit=2"),
    *("after=x", "after=%00", "after=" + "z" * 3000, "order=x", "purpose=%00", "order=DESC", "after[]=x"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 10**30, 10**400, 1e308, "", "x", "\0", [], [[]], {}, {"a": {}}, [None], [1]),
    *(
        {"anchor": "created_at", "seconds": 10**30},
        {"anchor": "created_at", "seconds": 3600.5},
        {"anchor": 1},
    ),
    *({"k": "v" * 10_000}, {f"k{number}": "v" for number in range(100)}, {"\0": "\0"}),
)
RAW = (
    *(b"", b"null", b"[]", b"1", b"{", b"\xff\xfe", b"[" * 200_000, b'{"metadata":' + b"[" * 200_000),
    *(b'{"input_file_id":1e999}', b"[" + b"1," * 400_000 + b"1]", b"\xef\xbb\xbf{}"),
)


@asynccontextmanager
async def served_for_two(folder: Path) -> AsyncIterator[Served]:
    async with (
        FakeEngine(models=["up"]) as engine,
        keeping(folder, engine, ENVIRON, extra=KEYS) as served,
    ):
        yield served


def sound(answer: Answer, what: object) -> None:
    """Hold an answer to what it may be: a success, or an error that says what is wrong with the request."""
    told = f"{str(what)[:200]}: {answer.status} {answer.body[:200]!r}"
    assert answer.status < 500, told
    if answer.status >= 400:
        assert answer.error["code"] != "internal_error", told


def uploads() -> list[tuple[bytes, str]]:
    """Return forms that are broken, or odd, each with its content type."""
    head = f"--{BOUNDARY}\r\n".encode()
    odd = [
        *(GOOD[:-20], GOOD[:50], b"", b"--", GOOD.replace(b"\r\n", b"\n"), GOOD + GOOD, b"\0" * 10_000_000),
        head + b"X: " + b"y" * 200_000 + b"\r\n\r\nv\r\n--" + BOUNDARY.encode() + b"--\r\n",
        GOOD.replace(b'name="file"', b'name="file"; name="purpose"'),
        GOOD.replace(b"form-data", b"attachment"),
        form(b"{}", **{f"n{number}": "v" for number in range(3000)}),
        form(b"{}", purpose="user_data", other="x" * 100_000),
        *(form(b"{}", purpose=purpose) for purpose in ("", "x", "batch\0", "a" * 5000, "batch_output")),
        *(form(b"{}", filename=name, purpose="user_data") for name in ("\0", 'q"x', "a" * 3000, "\r\nX: y")),
    ]
    for seconds in ("x", "-1", "1e9", "9" * 400, "\u0663\u0666\u0660\u0660", " 3600 ", "3600.5"):
        after = {"expires_after[anchor]": "created_at", "expires_after[seconds]": seconds}
        odd.append(form(b"{}", purpose="user_data", **after))
    kinds = ("multipart/form-data", "multipart/form-data; boundary=" + "x" * 300, "application/json", "")
    return [*((body, KIND) for body in odd), *((GOOD, kind) for kind in kinds)]


async def test_broken_uploads_are_said(tmp_path: Path) -> None:
    async with served_for_two(tmp_path) as served:
        for body, kind in uploads():
            answer = await served.ask(
                "POST", "/v1/files", body, {"content_type": kind, "authorization": MINE}
            )
            sound(answer, (kind, body[:150]))


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "..\\x", "/etc/passwd", "a%00b", "\u00e9\U0001f98a", "CON"]
)
async def test_a_file_name_is_no_path(name: str, tmp_path: Path) -> None:
    async with served_for_two(tmp_path) as served:
        answer = await uploaded(served, b"{}", MINE, purpose="user_data", filename=name)
        assert (answer.status, answer.json()["filename"]) == (200, name)
        content = await served.get(f"/v1/files/{answer.json()['id']}/content", authorization=MINE)
        assert content.body == b"{}"
        kept = [each for _, _, files in os.walk(tmp_path) for each in files]
        assert not [each for each in kept if "passwd" in each or "CON" in each], kept


async def test_odd_ids_and_cursors_find_nothing(tmp_path: Path) -> None:
    async with served_for_two(tmp_path) as served:
        for kind, suffix in (("files", "/content"), ("batches", "/cancel")):
            for method in ("GET", "POST", "DELETE", "PUT"):
                for odd in IDS:
                    for end in ("", suffix):
                        body = b"" if method in ("POST", "PUT") else None
                        where = f"/v1/{kind}/{odd}{end}"
                        sound(await served.ask(method, where, body, {"authorization": MINE}), where)
            for query in QUERIES:
                sound(await served.get(f"/v1/{kind}?{query}", authorization=MINE), query)


async def test_odd_requests_for_batches_are_said(tmp_path: Path) -> None:
    async with served_for_two(tmp_path) as served:
        file = (await uploaded(served, jsonl([line("x")]), MINE)).json()["id"]
        asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        for name in (*asked, "metadata", "output_expires_after"):
            for value in VALUES:
                answer = await served.post("/v1/batches", asked | {name: value}, authorization=MINE)
                sound(answer, (name, value))
        for raw in RAW:
            sound(await served.post("/v1/batches", raw, authorization=MINE), raw[:100])


async def test_another_keys_things_do_not_exist(tmp_path: Path) -> None:
    async with served_for_two(tmp_path) as served:
        file = (await uploaded(served, jsonl([line("x")]), MINE)).json()["id"]
        made = await begun(served, [line("x")], MINE)
        await ended(served, made["id"], MINE)
        for method, where in (
            *(
                ("GET", f"/v1/files/{file}"),
                ("GET", f"/v1/files/{file}/content"),
                ("DELETE", f"/v1/files/{file}"),
            ),
            *(("GET", f"/v1/batches/{made['id']}"), ("POST", f"/v1/batches/{made['id']}/cancel")),
        ):
            answer = await served.ask(
                method, where, b"" if method == "POST" else None, {"authorization": THEIRS}
            )
            assert answer.status == 404 and answer.error["code"].endswith("_not_found"), where
        wanted = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        assert (await served.post("/v1/batches", wanted, authorization=THEIRS)).status == 404
        for listed in ("/v1/files", "/v1/batches"):
            assert (await served.get(listed, authorization=THEIRS)).json()["data"] == []
            after = await served.get(f"{listed}?after={file}", authorization=THEIRS)
            assert after.status in (200, 400, 404) and json.loads(after.body).get("data", []) == []


@pytest.mark.parametrize(
    "hostile",
    [
        b"[" * 100_000,
        b"\xff\xff",
        b"\0" * 1000,
        json.dumps(line("a\0\n")).encode(),
        json.dumps(line("a", {"model": "m\0"})).encode(),
        json.dumps(line("a", {"model": "m", "messages": [], "n": 10**30})).encode(),
        b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","seed":1e999}}',
        b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":'
        + b"[" * 3000
        + b"]" * 3000
        + b"}",
    ],
)
async def test_a_hostile_line_ends_its_batch_or_itself(hostile: bytes, tmp_path: Path) -> None:
    async with served_for_two(tmp_path) as served:
        found = await ended(served, (await begun(served, [hostile], MINE))["id"], MINE)
        assert found["status"] in ("failed", "completed")
        if found["status"] == "failed":
            assert found["errors"]["data"][0]["line"] == 1
        else:
            assert found["request_counts"]["total"] == 1
