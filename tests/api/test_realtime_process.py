"""Realtime through the gateway as a process of its own, under its own event loop: passed, and closed when it stops."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.api.test_realtime import CONFIG, ENVIRON, KEY, engine
from tests.clients.process import Running

pytestmark = pytest.mark.slow
SERVER = 'server: {listen: "127.0.0.1:0", drain: 300ms}\n'


async def test_sessions_pass_and_are_closed_when_the_gateway_stops(tmp_path: Path) -> None:
    async with engine(max_size=None, compression=None) as made:
        text = SERVER + CONFIG.format(url=made.url, idle="60s")
        gateway = await asyncio.to_thread(Running, _written(tmp_path, text), ENVIRON)
        try:
            where = await asyncio.to_thread(lambda: gateway.url)
            await asyncio.to_thread(gateway.wait_ready)
            url = where.replace("http", "ws") + "/v1/realtime?model=heard"
            async with connect(url, additional_headers=KEY, proxy=None, max_size=None) as socket:
                for message in ("hello", b"\x00" * (5 << 20), "again"):
                    await socket.send(message)
                    assert await asyncio.wait_for(socket.recv(), 20) == message
                gateway.signal(signal.SIGTERM)
                with pytest.raises(ConnectionClosed) as closed:
                    await asyncio.wait_for(socket.recv(), 20)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (
                1001,
                "the gateway is shutting down",
            )
            assert await asyncio.to_thread(gateway.wait) == 0
        finally:
            await asyncio.to_thread(gateway.close)


def _written(folder: Path, text: str) -> Path:
    file = folder / "gateway.yaml"
    file.write_text(text)
    return file
