"""The gateway behind nginx, with the settings that docs/operations.md gives: streams flow, clients have addresses."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
from pathlib import Path

import pytest

from gateway.fake.engine import FakeEngine
from tests.faults.clients import chat, client, config, http, until
from tests.serving import serving

NGINX = shutil.which("nginx") or os.environ.get("NGINX")
DOCS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NGINX is None, reason="nginx is not installed")]


def settings(folder: Path, port: int, gateway: int) -> Path:
    """Write a config with the block of the docs."""
    [block] = re.findall(r"```nginx\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert "127.0.0.1:8080" in block
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary}\n"
        f"server {{ listen 127.0.0.1:{port};\n{block.replace('127.0.0.1:8080', f'127.0.0.1:{gateway}')}}}\n}}\n"
    )
    return file


async def test_streams_flow_and_clients_have_addresses(tmp_path: Path) -> None:
    assert NGINX is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "access.jsonl"
    server = f'auth: none, trusted_proxies: [127.0.0.0/8], log: {{access: "{log}"}}'
    slow = {"tokens": 1000, "gap": "20ms"}
    async with (
        FakeEngine(models=["up"], defaults=slow) as engine,
        serving(tmp_path, config(engine.url, server=server)) as served,
    ):
        file = settings(tmp_path, port, served.port)
        nginx = await asyncio.create_subprocess_exec(NGINX, "-e", f"{tmp_path}/error.log", "-c", str(file))
        try:
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)
            writer.close()
            async with client(port) as made:
                await made.send(http(chat(stream=True), "X-Forwarded-For: 9.9.9.9, 203.0.113.9"))
                # The stream lasts 20 s: what comes now was passed on at once.
                await made.until(b"word3")
                assert b"word500" not in made.received
            await until(lambda: engine.journal.totals.running == 0, "who leaves nginx stops the engine")
            await until(lambda: log.exists() and bool(log.read_text()), "it is logged")
            assert json.loads(log.read_text())["client"] == "203.0.113.9"
        finally:
            nginx.terminate()
            await nginx.wait()
