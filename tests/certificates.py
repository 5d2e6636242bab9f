"""Certificates for tests, made on the spot: an authority, the gateway's files, and clients that trust it.

Rules:
- Valid for `localhost` and the loopback addresses only.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme

NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Pair:
    """The two files of a certificate, and a client's side."""

    folder: Path
    authority: trustme.CA
    names: tuple[str, ...] = NAMES

    @property
    def cert(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"

    @property
    def yaml(self) -> str:
        """The setting that names them, as in a flow map."""
        return f'tls: {{cert: "{self.cert}", key: "{self.key}"}}'

    @property
    def ca(self) -> Path:
        """The file of the authority, for clients."""
        file = self.folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(file))
        return file

    def trusting(self) -> ssl.SSLContext:
        """Return what clients connect with that trust the authority and nobody else."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    def renew(self) -> tuple[bytes, bytes]:
        """Return a new certificate and its key, of the same authority."""
        made = self.authority.issue_cert(*self.names)
        return b"".join(blob.bytes() for blob in made.cert_chain_pems), made.private_key_pem.bytes()


def pair(folder: Path, *names: str) -> Pair:
    """Make an authority and the gateway's certificate, for other names than `NAMES` if some are given."""
    made = Pair(folder, trustme.CA(), names or NAMES)
    cert, key = made.renew()
    made.cert.write_bytes(cert)
    made.key.write_bytes(key)
    return made
