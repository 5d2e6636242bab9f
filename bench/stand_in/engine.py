"""A program that plays `llama-server` on made-up GPUs: `engine.py FOLDER -m PATH --port N ...`.

Rules:
- It takes the memory that its model's file name tells in GiB (`g16.gguf`: 16) before it loads, which takes the longer
  the larger it is, and on the GPUs that `CUDA_VISIBLE_DEVICES` names. Without such it fails.
"""

from __future__ import annotations

import http.server
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.stand_in.gpus import GIB, take

TOKEN = 0.005
"""Seconds that a token takes."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as llama.cpp's server does, as far as the gateway asks."""

    protocol_version = "HTTP/1.1"
    model = ""

    def do_GET(self) -> None:
        """Say that all is well, and which model there is."""
        self._answer({"status": "ok", "data": [{"id": self.model}]})

    def do_POST(self) -> None:
        """Answer a chat."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        time.sleep(TOKEN * int(asked.get("max_tokens") or asked.get("max_completion_tokens") or 1))
        if not asked.get("stream"):
            self._answer(self._chat("message", "chat.completion"))
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in (json.dumps(self._chat("delta", "chat.completion.chunk")), "[DONE]"):
            data = f"data: {event}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def _chat(self, part: str, kind: str) -> dict[str, Any]:
        choice = {"index": 0, part: {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        return {"id": "x", "object": kind, "created": 1, "model": self.model, "choices": [choice]}

    def _answer(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def main(folder: str, *arguments: str) -> None:
    """Serve until killed."""
    Handler.model = Path(arguments[arguments.index("-m") + 1]).stem
    gib = int(Handler.model[1:])
    take(Path(folder), [int(each) for each in os.environ["CUDA_VISIBLE_DEVICES"].split(",")], gib * GIB)
    time.sleep(0.2 + gib / 20)
    port = int(arguments[arguments.index("--port") + 1])
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
