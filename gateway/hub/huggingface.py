"""The Hugging Face hub, or a mirror of it (`HF_ENDPOINT`), through `huggingface_hub`.

Rules:
- Every failure is a HubError with what to do about it. The library's own words are long and have addresses in them.
- Importing the library takes a quarter of a second: only the commands that ask a hub import this module.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
from huggingface_hub import HfApi, constants, get_session, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status

from backends.sizing.hubs import HubError
from gateway.hub.remote import RemoteFile

PATIENCE = 20.0
"""Seconds until the hub must answer."""
ERRORS = (
    HfHubHTTPError,
    httpx2.HTTPError,
    OfflineModeIsEnabled,
    LocalEntryNotFoundError,
    OSError,
    ValueError,
)


class HuggingFace:
    """One repository of the hub."""

    def __init__(self, repository: str) -> None:
        self._name = repository

    def files(self) -> tuple[RemoteFile, ...]:
        try:
            info = HfApi().model_info(self._name, files_metadata=True, timeout=PATIENCE)
        except ERRORS as error:
            raise said(error, self._name) from error
        return tuple(
            RemoteFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs is not None else None)
            for file in info.siblings or ()
        )

    def read(self, path: str, begin: int, size: int) -> bytes:
        return b"".join(self.stream(path, begin, size))

    def stream(self, path: str, begin: int, size: int) -> Iterator[bytes]:
        headers = {**build_hf_headers(), "Range": f"bytes={begin}-{begin + size - 1}"}
        address = hf_hub_url(self._name, path)
        try:
            with get_session().stream(
                "GET", address, headers=headers, follow_redirects=True, timeout=PATIENCE
            ) as answer:
                if answer.status_code == 416:
                    return
                hf_raise_for_status(answer)
                # One that does not know ranges sends the file from its beginning.
                skip = begin if answer.status_code == 200 else 0
                for piece in answer.iter_bytes():
                    kept = piece[skip:][:size]
                    skip = max(0, skip - len(piece))
                    size -= len(kept)
                    if kept:
                        yield kept
                    if size <= 0:
                        return
        except ERRORS as error:
            raise said(error, self._name) from error


def said(error: Exception, repository: str) -> HubError:
    """Return what went wrong in one line."""
    if isinstance(error, HubError):
        return error
    if isinstance(error, GatedRepoError):
        return HubError(
            f"{repository} is gated: accept its terms at the hub, and set HF_TOKEN or run `hf auth login`"
        )
    if isinstance(error, RepositoryNotFoundError):
        return HubError(f"the hub has no {repository}; a private one needs HF_TOKEN")
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return HubError(f"{repository} has no such file")
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", None)
        if status == 401:
            return HubError(f"the hub wants a token for {repository}: set HF_TOKEN or run `hf auth login`")
        return HubError(f"the hub answers with status {status} for {repository}")
    if isinstance(error, httpx2.HTTPError | OfflineModeIsEnabled | LocalEntryNotFoundError):
        return HubError(f"the hub at {constants.ENDPOINT} cannot be reached for {repository}", final=False)
    return HubError(f"{repository}: {' '.join(str(error).split()) or type(error).__name__}")
