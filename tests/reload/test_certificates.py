"""A certificate is renewed while the gateway runs: taken as a pair, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.fake.engine import FakeEngine
from tests.certificates import Pair, pair
from tests.faults.clients import chat, http
from tests.reload.watched import Watched, text, watched
from tests.serving import Answer


async def shown(made: Pair, gateway: Watched) -> bytes:
    """Return the certificate that a new connection is shown."""
    _, writer = await connect(made, gateway)
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.close()
    return found


async def connect(made: Pair, gateway: Watched) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        "127.0.0.1", gateway.served.port, ssl=made.trusting(), server_hostname="localhost"
    )


@contextlib.asynccontextmanager
async def renewing(tmp_path: Path) -> AsyncIterator[tuple[Pair, Watched]]:
    """Serve with a certificate that lies as Kubernetes and certbot have it: behind links."""
    made = pair(tmp_path)
    first = tmp_path / "1"
    first.mkdir()
    for file in (made.cert, made.key):
        file.rename(first / file.name)
        file.symlink_to(f"current/{file.name}")
    (tmp_path / "current").symlink_to("1")
    server = f'server: {{listen: "127.0.0.1:0", auth: none, {made.yaml}}}\n'
    async with FakeEngine(models=["m"]) as engine, watched(tmp_path, text(engine, server=server)) as gateway:
        yield made, gateway


async def test_a_link_to_a_new_pair_is_followed_and_open_connections_go_on(tmp_path: Path) -> None:
    async with renewing(tmp_path) as (made, gateway):
        before = await shown(made, gateway)
        reader, writer = await connect(made, gateway)
        second = tmp_path / "2"
        second.mkdir()
        cert, key = made.renew()
        (second / made.cert.name).write_bytes(cert)
        (second / made.key.name).write_bytes(key)
        (tmp_path / "new").symlink_to("2")
        await gateway.after(lambda: (tmp_path / "new").rename(tmp_path / "current"), "applied")
        after = await shown(made, gateway)
        assert after == ssl.PEM_cert_to_DER_cert(cert.decode()) != before
        assert gateway.gateway.in_force.last is not None
        assert gateway.gateway.in_force.last.changes == ("server.tls.files: their content",)
        writer.write(http(chat(), "Connection: close"))
        assert Answer.read(await reader.read()).status == 200
        writer.close()


async def test_half_a_renewal_is_not_taken_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with renewing(tmp_path) as (made, gateway):
        before = await shown(made, gateway)
        cert, key = made.renew()
        for content in (cert[:300], cert):
            await gateway.after(lambda content=content: made.cert.write_bytes(content), "refused")  # type: ignore[misc]
            assert await shown(made, gateway) == before
        await gateway.after(lambda: os.utime(made.cert), "refused")
        said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert len(said) == 2
        assert "cut off or damaged" in said[0]
        assert "this key does not belong to the certificate" in said[1]
        await gateway.after(lambda: made.key.write_bytes(key), "applied")
        assert await shown(made, gateway) == ssl.PEM_cert_to_DER_cert(cert.decode())


async def test_tls_comes_and_goes_with_the_config(tmp_path: Path) -> None:
    made = pair(tmp_path)
    async with FakeEngine(models=["m"]) as engine, watched(tmp_path, text(engine)) as gateway:
        assert (await gateway.served.get("/healthz")).status == 200
        await gateway.write(
            text(engine, server=f'server: {{listen: "127.0.0.1:0", auth: none, {made.yaml}}}\n')
        )
        assert await shown(made, gateway)
        assert (await gateway.served.get("/healthz")).error["code"] == "plain_http"
        await gateway.write(text(engine))
        assert (await gateway.served.get("/healthz")).status == 200
