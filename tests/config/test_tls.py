"""The certificate of `server.tls`: what is wrong with its files is told at its place; what they hold is the config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from gateway.config.diff import changes
from gateway.config.disk import Disk, Taken
from gateway.config.file import load, read
from gateway.config.problems import ConfigError
from tests.certificates import Pair, pair
from tests.config.files import written

BACKENDS = "\nbackends: {a: {engine: openai, url: 'http://h:1'}}\n"


def text(made: Pair) -> str:
    return f"server:\n  tls:\n    cert: {made.cert}\n    key: {made.key}{BACKENDS}"


def encrypted(made: Pair) -> None:
    key = serialization.load_pem_private_key(made.key.read_bytes(), None)
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


def swapped(made: Pair) -> None:
    cert, key = made.cert.read_bytes(), made.key.read_bytes()
    made.cert.write_bytes(key)
    made.key.write_bytes(cert)


def wrong_order(made: Pair) -> None:
    """Put the authority's certificate before the gateway's own."""
    made.cert.write_bytes(made.authority.cert_pem.bytes() + made.cert.read_bytes())


def no_certificate(made: Pair) -> None:
    made.cert.unlink()


def nothing_there(made: Pair) -> None:
    made.cert.unlink()
    made.key.unlink()


def a_folder(made: Pair) -> None:
    made.key.unlink()
    made.key.mkdir()


SWAPPED = " (are 'cert' and 'key' swapped?)"
NO_CERTIFICATE = "3:11: <cert> holds no certificate: one in PEM form begins '-----BEGIN CERTIFICATE-----'"
NO_KEY = "4:10: <key> holds no private key: one in PEM form begins '-----BEGIN PRIVATE KEY-----'"
OTHER = (
    "4:10: this key does not belong to the certificate in 'cert': both come from the same request, and a file "
    "with several certificates begins with the gateway's own"
)
WRONG: dict[str, tuple[Callable[[Pair], object], tuple[str, ...]]] = {
    "no certificate": (
        no_certificate,
        ("3:11: <cert> cannot be read: No such file or directory",),
    ),
    "nothing there": (
        nothing_there,
        (
            "3:11: <cert> cannot be read: No such file or directory",
            "4:10: <key> cannot be read: No such file or directory",
        ),
    ),
    "a folder": (
        a_folder,
        ("4:10: <key> is not a regular file",),
    ),
    "a certificate cut off": (
        lambda made: made.cert.write_bytes(made.cert.read_bytes()[:400]),
        ("3:11: <cert> holds a certificate that is cut off or damaged",),
    ),
    "a certificate that is none": (
        lambda made: made.cert.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("3:11: <cert> holds a certificate that OpenSSL cannot read",),
    ),
    "no PEM": (
        lambda made: made.cert.write_bytes(b"\x30\x82"),
        (NO_CERTIFICATE,),
    ),
    "an empty key": (
        lambda made: made.key.write_bytes(b""),
        (NO_KEY,),
    ),
    "a key cut off": (
        lambda made: made.key.write_bytes(made.key.read_bytes()[:80]),
        ("4:10: OpenSSL cannot read this key",),
    ),
    "an encrypted key": (
        encrypted,
        (
            (
                "4:10: <key> holds an encrypted key, and nobody is there to type its password: "
                "`openssl pkey -in FILE -out PLAIN`"
            ),
        ),
    ),
    "swapped": (
        swapped,
        (
            NO_CERTIFICATE + SWAPPED,
            NO_KEY + SWAPPED,
        ),
    ),
    "another key": (
        lambda made: made.key.write_bytes(made.renew()[1]),
        (OTHER,),
    ),
    "the wrong order": (
        wrong_order,
        (OTHER,),
    ),
    "a huge file": (
        lambda made: made.cert.write_bytes(bytes(2 << 20)),
        ("3:11: <cert> is larger than 1 MiB",),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_at_its_place(name: str, tmp_path: Path) -> None:
    spoil, expected = WRONG[name]
    made = pair(tmp_path)
    spoil(made)
    file = written(tmp_path, text(made))
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    told = [str(problem).removeprefix(f"{file}:") for problem in caught.value.problems]
    assert told == [
        line.replace("<cert>", str(made.cert)).replace("<key>", str(made.key)) for line in expected
    ]


def test_both_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'key' is missing"):
        load(written(tmp_path, "server: {tls: {cert: a}}" + BACKENDS), {})


def test_a_renewal_is_another_config_and_a_worker_gets_the_same(tmp_path: Path) -> None:
    made = pair(tmp_path)
    file = written(tmp_path, text(made))
    disk = Disk()
    first = read(file, {}, disk).config
    assert read(file, {}, Taken(disk.taken())).config == first == load(file, {})
    assert "PRIVATE" not in repr(first) + first.model_dump_json()
    assert disk.look() == disk.seen
    cert, key = made.renew()
    made.cert.write_bytes(cert)
    made.key.write_bytes(key)
    assert disk.look() != disk.seen
    second = load(file, {})
    assert second != first
    assert changes(first, second) == ["server.tls.files: their content"]


def test_a_chain_and_a_key_of_another_kind(tmp_path: Path) -> None:
    made = pair(tmp_path)
    below = made.authority.create_child_ca(key_type=trustme.KeyType.RSA)
    issued = below.issue_cert("localhost", key_type=trustme.KeyType.RSA)
    made.cert.write_bytes(
        b"Bag Attributes: \xff\n" + b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    )
    made.key.write_bytes(issued.private_key_pem.bytes())
    assert load(written(tmp_path, text(made)), {}).server.tls is not None
