"""Several workers with TLS: all show the same certificate, and a renewal reaches each of them."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.certificates import Pair, pair
from tests.test_workers import ROOT, eventually


def shown(made: Pair, port: int) -> str:
    with (
        socket.create_connection(("127.0.0.1", port), 20) as plain,
        made.trusting().wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        found = secure.getpeercert(True)
        assert found is not None
        secure.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert secure.recv(100).startswith(b"HTTP/1.1 200")
        return ssl.DER_cert_to_PEM_cert(found)


@pytest.mark.slow
def test_a_renewal_reaches_every_worker(tmp_path: Path) -> None:
    made = pair(tmp_path)
    file = tmp_path / "gateway.yaml"
    file.write_text(
        f'server: {{listen: "127.0.0.1:0", {made.yaml}}}\n'
        "backends: {a: {engine: openai, url: 'http://127.0.0.1:9', models: [m]}}\n"
    )
    command = [sys.executable, "-m", "gateway", "serve", str(file), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            port = int(re.findall(r"https://127\.0\.0\.1:(\d+) with 2 workers", said)[0])
            assert len({shown(made, port) for _ in range(20)}) == 1
            cert, key = made.renew()
            made.cert.write_bytes(cert)
            made.key.write_bytes(key)
            eventually(lambda: {shown(made, port) for _ in range(20)} == {cert.decode()})
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
