"""ModelScope, or a mirror of it (`MODELSCOPE_ENDPOINT`): a small client of its HTTP API.

Rules:
- It asks for the list of files and for ranges of them; the token, if any, is in `MODELSCOPE_API_TOKEN`.

Source: `modelscope` 1.30, `hub/api.py` and `hub/file_download.py`: `/api/v1/models/ORG/NAME/repo/files` and
`/models/ORG/NAME/resolve/REVISION/PATH`.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from backends.sizing.hubs import HubError
from gateway.hub.remote import RemoteFile

ENDPOINT = "https://modelscope.cn"
REVISION = "master"
PATIENCE = 20.0
"""Seconds until the hub must answer, and go on answering."""
PIECE = 1 << 20
LIST = 64 << 20
"""The most bytes of a list of files."""


def endpoint() -> str:
    """Return where ModelScope is."""
    return (os.environ.get("MODELSCOPE_ENDPOINT") or ENDPOINT).rstrip("/")


class ModelScope:
    """One repository of ModelScope."""

    def __init__(self, repository: str) -> None:
        self._name = repository

    def files(self) -> tuple[RemoteFile, ...]:
        query = urllib.parse.urlencode({"Revision": REVISION, "Recursive": "true"})
        data = b"".join(self._ask(f"/api/v1/models/{self._name}/repo/files?{query}", {}, LIST))
        try:
            told: Any = json.loads(data)
            return tuple(
                RemoteFile(str(file["Path"]), int(file["Size"]), str(file.get("Sha256") or "") or None)
                for file in told["Data"]["Files"]
                if file.get("Type") != "tree"
            )
        except (ValueError, KeyError, TypeError) as error:
            raise HubError(f"ModelScope's list of {self._name} cannot be read") from error

    def read(self, path: str, begin: int, size: int) -> bytes:
        return b"".join(self.stream(path, begin, size))

    def stream(self, path: str, begin: int, size: int) -> Iterator[bytes]:
        """Yield the bytes of a file from `begin` on. Raise HubError."""
        place = f"/models/{self._name}/resolve/{REVISION}/{urllib.parse.quote(path)}"
        yield from self._ask(place, {"Range": f"bytes={begin}-{begin + size - 1}"}, size, begin)

    def _ask(self, place: str, headers: dict[str, str], most: int, begin: int = 0) -> Iterator[bytes]:
        token = os.environ.get("MODELSCOPE_API_TOKEN")
        headers = {**headers, **({"Authorization": f"Bearer {token}"} if token else {})}
        try:
            request = urllib.request.Request(endpoint() + place, headers=headers)
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                # One that does not know ranges sends the file from its beginning.
                skip = begin if answer.status == 200 else 0
                while most > 0 and (piece := answer.read(PIECE)):
                    kept = piece[skip:][:most]
                    skip = max(0, skip - len(piece))
                    most -= len(kept)
                    yield kept
        except urllib.error.HTTPError as error:
            if error.code == 416:
                return
            raise HubError(self._said(error.code)) from error
        except (OSError, ValueError) as error:
            raise HubError(
                f"ModelScope at {endpoint()} cannot be reached for {self._name}", final=False
            ) from error

    def _said(self, status: int) -> str:
        if status == 404:
            return f"ModelScope has no {self._name}, or no such file"
        if status in (401, 403):
            return f"ModelScope wants a token for {self._name}: set MODELSCOPE_API_TOKEN"
        return f"ModelScope answers with status {status} for {self._name}"
