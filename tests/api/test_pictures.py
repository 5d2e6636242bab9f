"""Pictures that are made of others: forms with one or several, and moderations, which no engine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.asking import EVENTS, FORM, answered, answering, event, form
from tests.serving import serving

PNG = b"\x89PNG\r\n\x1a\nx"
EDITS, VARIATIONS = "/v1/images/edits", "/v1/images/variations"
SAYS = {"created": 1, "data": [{"b64_json": "aGk="}]}


@pytest.mark.parametrize(
    ("path", "operation", "parts"),
    [
        (EDITS, "image_edits", [("image", PNG), ("mask", PNG), ("prompt", "a cat")]),
        (EDITS, "image_edits", [("image[]", PNG), ("image[]", PNG + b"2"), ("prompt", "a cat")]),
        (VARIATIONS, "image_variations", [("image", PNG), ("n", "2")]),
    ],
)
async def test_a_form_with_pictures_passes(
    path: str, operation: str, parts: list[tuple[str, str | bytes]], tmp_path: Path
) -> None:
    async with answered(tmp_path, answering(path, SAYS)) as (engine, served):
        answer = await served.post(path, form(("model", "public"), *parts), content_type=FORM)
        assert (answer.status, answer.json()) == (200, SAYS)
        (asked,) = [each for each in engine.requests if each.method == "POST"]
        assert (asked.path, asked.body) == (path, form(("model", "private"), *parts))
        assert asked.headers["content-type"] == FORM
        assert served.metric("gateway_requests_total", operation=operation, outcome="ok") == 1


async def test_a_stream_of_pictures_is_complete_with_its_last_event(tmp_path: Path) -> None:
    begin = event("image_edit.partial_image", b64_json="AA")
    end = event("image_edit.completed", b64_json="AAAA")
    sent = form(("model", "public"), ("image", PNG), ("prompt", "x"), ("stream", "true"))
    async with answered(tmp_path, answering(EDITS, begin + end, EVENTS)) as (_, served):
        answer = await served.post(EDITS, sent, content_type=FORM)
        assert (answer.body.decode(), answer.whole) == (begin + end, True)
    async with answered(tmp_path, answering(EDITS, begin, EVENTS)) as (_, served):
        answer = await served.post(EDITS, sent, content_type=FORM)
        assert b"error" in answer.body and not answer.whole


@pytest.mark.parametrize("path", [EDITS, VARIATIONS])
@pytest.mark.parametrize("parts", [(), (("image", b""),), (("file", PNG),)])
async def test_a_form_without_a_picture(
    path: str, parts: tuple[tuple[str, bytes], ...], tmp_path: Path
) -> None:
    async with answered(tmp_path, answering(path, SAYS)) as (engine, served):
        answer = await served.post(path, form(("model", "public"), *parts), content_type=FORM)
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "missing_field", "image")
        assert not [each for each in engine.requests if each.method == "POST"]


async def test_moderations_are_refused_with_the_reason(tmp_path: Path) -> None:
    text = 'backends: {a: {engine: openai, url: "http://127.0.0.1:9"}}\nkeys: {u: {value: "${env.U}"}}'
    async with serving(tmp_path, text, {"U": "sk-the-users-own-key"}) as served:
        for path in ("/v1/moderations", "/moderations"):
            answer = await served.post(path, {"input": "x"}, x_api_key="sk-the-users-own-key")
            assert (answer.status, answer.error["code"]) == (400, "not_supported")
            assert "moderation" in answer.error["message"]
        assert (await served.post("/v1/moderations", {"input": "x"})).status == 401
