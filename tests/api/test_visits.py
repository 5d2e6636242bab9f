"""Scrapes and probes in the log: what succeeds is said at debug only, what fails once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gateway.fake.engine import FakeEngine
from tests.faults.clients import CHAT, chat, config
from tests.serving import serving


async def test_scrapes_and_probes_that_succeed_are_said_at_debug_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "gateway")

    def said(least: int) -> list[str]:
        found = [record for record in caplog.records if record.name == "gateway.visits"]
        return [record.getMessage() for record in found if record.levelno >= least]

    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(engine.url)) as served:
        for path in ("/healthz", "/readyz", "/metrics", "/v1/models"):
            assert (await served.get(path)).status == 200
        assert said(logging.DEBUG) == [
            f"GET {path}: 200" for path in ("/healthz", "/readyz", "/metrics", "/v1/models")
        ]
        assert (await served.post(CHAT, chat())).status == 200
        assert (await served.get("/nowhere")).status == 404
        assert said(logging.INFO) == []
        served.gateway.core.draining = True
        for _ in range(3):
            assert (await served.get("/readyz")).status == 503
        served.gateway.core.draining = False
        for _ in range(3):
            assert (await served.get("/readyz")).status == 200
        assert said(logging.INFO) == ["/readyz is answered with 503", "/readyz is answered with 200 again"]

        async def broken() -> list[str]:
            raise RuntimeError

        served.gateway.core.pages[False]._make = broken
        for _ in range(2):
            assert (await served.get("/metrics")).status == 500
        assert said(logging.WARNING) == ["/metrics is answered with 500"]
