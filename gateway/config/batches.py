"""The section `server.batches`: how batches are worked on, and how much of them and of files one key may have."""

from __future__ import annotations

from backends.facts.units import Size
from gateway.config.section import Section, setting


class Batches(Section):
    """How batches are worked on, and how much of them and of files one key may have. They need `data`."""

    concurrency: int = setting(
        32,
        "How many lines of batches each process sends at once, of all batches together. They wait in the class "
        "`background`, so that all other requests go first.",
        ge=1,
        le=10_000,
    )
    file: Size = setting(
        "200MiB", "The largest file that may be uploaded. A larger one is answered with 413."
    )
    lines: int = setting(50_000, "How many requests one batch may have.", ge=1, le=1_000_000)
    storage: Size = setting(
        "10GiB", "How many bytes the files of one key may have before it may upload no more."
    )
    files: int = setting(
        10_000, "How many files one key may have before it may upload no more.", ge=1, le=10_000_000
    )
    open: int = setting(
        100, "How many batches of one key may be open: all that have not ended.", ge=1, le=100_000
    )
