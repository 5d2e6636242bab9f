"""Headers that belong to an API reach the engines that speak it, and no others do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.asking import answered, answering

MESSAGE = {
    "type": "message",
    "model": "private",
    "content": [],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
ASKED = {"model": "public", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}


@pytest.mark.parametrize(
    ("sent", "version", "beta"),
    [
        ({}, "2023-06-01", None),
        ({"anthropic_version": "2099-01-01"}, "2099-01-01", None),
        ({"anthropic_beta": "a,b"}, "2023-06-01", "a,b"),
        ({"anthropic_version": "x", "anthropic_beta": "y"}, "x", "y"),
        ({"anthropic_beta": "y" * 2000}, "2023-06-01", None),
    ],
)
async def test_a_message_has_its_version_and_betas(
    tmp_path: Path, sent: dict[str, str], version: str, beta: str | None
) -> None:
    async with answered(tmp_path, answering("/v1/messages", MESSAGE)) as (engine, served):
        assert (await served.post("/v1/messages", ASKED, x_secret="a", **sent)).status == 200
        (got,) = [exchange.headers for exchange in engine.requests if exchange.method == "POST"]
    assert (got["anthropic-version"], got.get("anthropic-beta")) == (version, beta)
    assert "x-secret" not in got


async def test_no_other_operation_has_them(tmp_path: Path) -> None:
    rule = answering("/v1/responses", {"object": "response", "output": [], "model": "private"})
    async with answered(tmp_path, rule) as (engine, served):
        body = {"model": "public", "input": "a"}
        assert (await served.post("/v1/responses", body, anthropic_beta="a")).status == 200
        (got,) = [exchange.headers for exchange in engine.requests if exchange.method == "POST"]
    assert "anthropic-version" not in got and "anthropic-beta" not in got
