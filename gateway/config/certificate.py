"""The section `server.tls`, and the certificate with its key that it names: read, checked, and ready to be shown.

Rules:
- The two files are read like the config itself, so a change of them is a change of the config: it is noticed, taken as
  a whole or not at all, and reaches every process.
- What is wrong with them is told at the setting that names the file. No message holds anything of a key.
- TLS 1.2 is the oldest version that is spoken, with the ciphers that Python chooses.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pydantic import PrivateAttr

from backends.facts.launching import place
from gateway.config.disk import Files
from gateway.config.problems import Problem
from gateway.config.section import Section, setting
from gateway.config.substitution import reason
from gateway.config.texts import Line
from gateway.config.yaml_source import Source

PEM_BYTES: Final = 1 << 20
"""The largest file that is read."""
PROTOCOLS: Final = ["http/1.1"]
"""What is spoken over TLS, as ALPN names it."""
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----[\sA-Za-z0-9+/=]+-----END CERTIFICATE-----")
_KEY: Final = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")
_LOCKED: Final = (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED")


@dataclass(frozen=True, slots=True)
class Identity:
    """What the gateway shows to TLS clients. Two of them are equal if they were made of the same files."""

    digest: str
    """A hash of certificate and key."""
    context: ssl.SSLContext = field(compare=False, repr=False)


class Tls(Section):
    """The certificate that is shown to clients, and its key."""

    cert: Line = setting(
        ...,
        "A PEM file that begins with the gateway's own certificate; those that lead to its authority follow it "
        "(`fullchain.pem` of certbot, `tls.crt` of Kubernetes).",
    )
    key: Line = setting(
        ..., "A PEM file with the key of that certificate, not encrypted (`privkey.pem`, `tls.key`)."
    )
    _identity: Identity | None = PrivateAttr(None)

    @property
    def identity(self) -> Identity:
        """What the files hold, once the config has been read without a mistake."""
        assert self._identity is not None
        return self._identity


def load(tls: Tls, source: Source, files: Files) -> Iterator[Problem]:
    """Read the two files, and keep what they hold in `tls`. Yield what is wrong with them."""
    contents: dict[str, bytes] = {}
    for name, path in (("cert", tls.cert), ("key", tls.key)):
        found = _read(path, files)
        flaw = found if isinstance(found, str) else _flaw(name, found)
        if flaw:
            yield source.problem(("server", "tls", name), f"{place(repr(path)[1:-1])} {flaw}")
        elif isinstance(found, bytes):
            contents[name] = found
    if len(contents) < 2:
        return
    made = _context(contents["cert"], contents["key"])
    if isinstance(made, tuple):
        yield source.problem(("server", "tls", made[0]), made[1])
        return
    parts = (hashlib.sha256(contents[name]).digest() for name in ("cert", "key"))
    tls._identity = Identity(hashlib.sha256(b"".join(parts)).hexdigest(), made)


def _read(path: str, files: Files) -> bytes | str:
    """Return what a file holds, or why it cannot be used."""
    try:
        if not files.is_regular(path):
            return "is not a regular file"
        data = files.content(path, PEM_BYTES)
    except (OSError, ValueError) as error:
        return f"cannot be read: {reason(error)}"
    return data if len(data) <= PEM_BYTES else f"is larger than {PEM_BYTES >> 20} MiB"


def _flaw(name: str, data: bytes) -> str:
    """Say what is wrong with one of the files by itself; empty if nothing is."""
    has_certificate, has_key = _BEGIN in data, _KEY.search(data) is not None
    swapped = " (are 'cert' and 'key' swapped?)" if (has_key if name == "cert" else has_certificate) else ""
    if name == "cert":
        if not has_certificate:
            return f"holds no certificate: one in PEM form begins '-----BEGIN CERTIFICATE-----'{swapped}"
        return _broken(data)
    if any(mark in data for mark in _LOCKED):
        return "holds an encrypted key, and nobody is there to type its password: `openssl pkey -in FILE -out PLAIN`"
    if not has_key:
        return f"holds no private key: one in PEM form begins '-----BEGIN PRIVATE KEY-----'{swapped}"
    return ""


def _broken(data: bytes) -> str:
    whole = _CERTIFICATE.findall(data)
    if len(whole) != data.count(_BEGIN):
        return "holds a certificate that is cut off or damaged"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=b"\n".join(whole).decode())
    except (ssl.SSLError, ValueError):
        return "holds a certificate that OpenSSL cannot read"
    return ""


def _context(cert: bytes, key: bytes) -> ssl.SSLContext | tuple[str, str]:
    """Return what serves TLS with a certificate, or the setting that is wrong and what is wrong with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(PROTOCOLS)
    try:
        with _file(cert) as cert_path, _file(key) as key_path:
            context.load_cert_chain(cert_path, key_path, lambda: b"")
    except ssl.SSLError as error:
        words = (error.reason or "").lower().replace("_", " ")
        if "mismatch" in words:
            message = (
                "this key does not belong to the certificate in 'cert': both come from the same request, and a file "
                "with several certificates begins with the gateway's own"
            )
            return "key", message
        if words.startswith(("ee key", "ca md", "ca key")):
            return "cert", f"OpenSSL does not serve with this certificate: {words}"
        return "key", "OpenSSL cannot read this key"
    except (OSError, ValueError):
        return "key", "OpenSSL cannot read this key"
    return context


@contextlib.contextmanager
def _file(data: bytes) -> Iterator[str]:
    """Offer bytes as a file, as OpenSSL wants them. Where the system can, it is in memory and nowhere else."""
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("tls"), "wb", buffering=0) as stream:
            stream.write(data)
            yield f"/proc/self/fd/{stream.fileno()}"
        return
    with tempfile.NamedTemporaryFile() as named:
        named.write(data)
        named.flush()
        yield named.name
