"""A hub on this machine, which speaks the protocols of the Hugging Face hub and of ModelScope as far as files go.

Rules:
- Small files are answered at once; those of Git LFS by a redirect to a store, which knows ranges. Each says its ETag,
  the commit, and what the store will send (`x-linked-etag`, `x-linked-size`).
- What went wrong is said by status and `x-error-code`, as the hub does it.

Source: huggingface_hub 2.4, `file_download.py` and `hf_api.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".gguf", ".safetensors", ".bin")


@dataclass
class Store:
    """What the hub has, what it was asked, and how it misbehaves."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and `Range` of each request."""
    cut_after: int | None = None
    """The store of large files breaks off after so many bytes, once."""
    meanwhile: tuple[int, Callable[[], None]] | None = None
    """What happens, once, when so many bytes of a large file have been sent; the rest is sent then."""
    spoilt: bool = False
    """The store sends other bytes than were promised."""

    def ranges(self) -> list[str]:
        return [asked for _, path, asked in self.asked if path.startswith("/store/") and asked]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One request to the hub."""

    protocol_version = "HTTP/1.1"
    store: Store
    server: ThreadingHTTPServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        place = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(place.path)
        self.store.asked.append((self.command, path, self.headers.get("range", "")))
        for pattern, act in (
            (r"/api/v1/models/(\w+/[\w.-]+)/repo/files", self._scope_list),
            (r"/models/(\w+/[\w.-]+)/resolve/master/(.+)", self._scope_file),
            (r"/api/models/(\w+/[\w.-]+)(?:/revision/\w+)?", self._info),
            (r"/(\w+/[\w.-]+)/resolve/\w+/(.+)", self._file),
            (r"/store/(\w+)", self._large),
        ):
            found = re.fullmatch(pattern, path)
            if found is not None:
                act(*found.groups())
                return
        self._fail(404, "RepoNotFound")

    def _repository(self, name: str) -> dict[str, bytes] | None:
        if name in self.store.gated and "authorization" not in self.headers:
            self._fail(401, "GatedRepo")
            return None
        found = self.store.repositories.get(name)
        if found is None:
            self._fail(404, "RepoNotFound")
        return found

    def _info(self, name: str) -> None:
        files = self._repository(name)
        if files is None:
            return
        siblings = []
        for path, data in files.items():
            told: dict[str, object] = {
                "rfilename": path,
                "size": len(data),
                "blobId": hashlib.sha1(data).hexdigest(),
            }
            if path.endswith(LARGE):
                told["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
            siblings.append(told)
        self._json(
            {"id": name, "modelId": name, "sha": COMMIT, "private": False, "siblings": siblings, "tags": []}
        )

    def _file(self, name: str, path: str) -> None:
        files = self._repository(name)
        if files is None:
            return
        data = files.get(path)
        if data is None:
            self._fail(404, "EntryNotFound")
            return
        etag = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if not path.endswith(LARGE):
            self._data(data, etag)
            return
        linked = {
            "X-Linked-Etag": f'"{sha256(data)}"',
            "X-Linked-Size": str(len(data)),
            "X-Repo-Commit": COMMIT,
        }
        # A host of its own, as the hub's store has: the library follows redirects to the same one.
        store = f"http://localhost:{self.server.server_port}/store/{sha256(data)}"
        self.send_response(302)
        for header, value in {**linked, "Location": store, "Content-Length": "0"}.items():
            self.send_header(header, value)
        self.end_headers()

    def _large(self, digest: str) -> None:
        for files in self.store.repositories.values():
            for data in files.values():
                if sha256(data) == digest:
                    self._data(data if not self.store.spoilt else bytes(len(data)), {"ETag": f'"{digest}"'})
                    return
        self._fail(404, "EntryNotFound")

    def _scope_list(self, name: str) -> None:
        files = self._repository(name)
        if files is not None:
            told = [
                {"Path": path, "Size": len(data), "Sha256": sha256(data), "Type": "blob"}
                for path, data in files.items()
            ]
            self._json(
                {"Code": 200, "Data": {"Files": [*told, {"Path": "assets", "Size": 0, "Type": "tree"}]}}
            )

    def _scope_file(self, name: str, path: str) -> None:
        files = self._repository(name)
        if files is None:
            return
        if path not in files:
            self._fail(404, "EntryNotFound")
            return
        self._data(files[path] if not self.store.spoilt else bytes(len(files[path])), {})

    def _data(self, data: bytes, headers: dict[str, str]) -> None:
        told = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        begin = int(told[1]) if told else 0
        end = min(len(data), int(told[2]) + 1 if told and told[2] else len(data))
        if begin and begin >= len(data):
            self._fail(416, "OutOfRange")
            return
        self.send_response(206 if told else 200)
        ranged = {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"} if told else {}
        for header, value in {
            **headers,
            **ranged,
            "Content-Length": str(end - begin),
            "Accept-Ranges": "bytes",
        }.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = data[begin:end]
        if self.store.cut_after is not None and len(sent) > self.store.cut_after:
            sent, self.store.cut_after = sent[: self.store.cut_after], None
            self.close_connection = True
        if self.store.meanwhile is not None and len(sent) > self.store.meanwhile[0]:
            (first, act), self.store.meanwhile = self.store.meanwhile, None
            self.wfile.write(sent[:first])
            act()
            sent = sent[first:]
        self.wfile.write(sent)

    def _json(self, told: object) -> None:
        self._data(json.dumps(told).encode(), {"Content-Type": "application/json"})

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def hub(store: Store) -> Iterator[str]:
    """Serve a store as a hub; yield its URL."""
    handler = type("Bound", (Handler,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
