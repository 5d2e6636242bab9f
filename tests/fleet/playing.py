"""Engines to launch in tests: a program of a few lines that plays `llama-server`, starts as slowly and fails as told.

Rules:
- What it does while it runs is said by files in its folder, which a test makes and removes.
"""

from __future__ import annotations

import sys
from pathlib import Path

MODEL = Path(__file__).parents[2] / "models" / "demo.gguf"
SERVER = """#!{python}
import http.server, json, os, pathlib, signal, sys, time
here = pathlib.Path({folder!r})
with open(here / "starts", "a") as file:
    file.write("x")
if gpus := os.environ.get("CUDA_VISIBLE_DEVICES"):
    (here / "gpus.new").write_text(f"{{os.getpid()}} {{gpus}}")
    (here / "gpus.new").rename(here / "gpus")
taken = bytearray({mib} << 20)
for page in range(0, len(taken), 4096):
    taken[page] = 1
while (here / "hold").exists():
    time.sleep(0.01)
if (here / "broken").exists():
    sys.exit("error: " + (here / "broken").read_text())
def end(*_):
    while (here / "deaf").exists():
        time.sleep(0.01)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.note()
        while (here / "mute").exists():
            time.sleep(0.01)
        self.answer({{"data": [{{"id": {name!r}}}], "status": "ok"}})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with open(here / "bodies", "a") as file:
            file.write(json.dumps(asked) + "\\n")
        if self.path.endswith("/embeddings"):
            vectors = [{{"object": "embedding", "index": 0, "embedding": [1.0]}}]
            used = {{"prompt_tokens": 1, "total_tokens": 1}}
            return self.answer({{"object": "list", "data": vectors, "model": {name!r}, "usage": used}})
        said = asked["messages"][-1]["content"]
        self.note(said)
        if said == "die":
            os._exit(1)
        while said == "slow" and not (here / "go").exists():
            time.sleep(0.01)
        if asked.get("stream") and said != "whole":
            return self.stream(str(os.getpid()))
        message = {{"role": "assistant", "content": str(os.getpid())}}
        choice = {{"index": 0, "message": message, "finish_reason": "stop"}}
        self.answer({{"id": "x", "object": "chat.completion", "created": 1, "model": {name!r}, "choices": [choice]}})
    def stream(self, said):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        head = {{"id": "chatcmpl-x", "object": "chat.completion.chunk", "created": 1, "model": {name!r}}}
        deltas = [{{"role": "assistant", "content": None}}, {{"reasoning_content": "hm"}}, {{"content": said}}]
        choices = [[{{"index": 0, "delta": delta, "finish_reason": None}}] for delta in deltas]
        choices += [[{{"index": 0, "delta": {{}}, "finish_reason": "stop"}}]]
        events = [head | {{"choices": choice}} for choice in choices]
        events += [head | {{"choices": [], "usage": {{"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}}}]
        for event in [*map(json.dumps, events), "[DONE]"]:
            self.wfile.write(f"data: {{event}}\\n\\n".encode())
    def note(self, *more):
        with open(here / "asked", "a") as file:
            file.write(" ".join([self.path, *more]) + "\\n")
    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class Toy:
    """One engine: its folder, and what a config says of it."""

    def __init__(self, folder: Path, name: str, mib: int = 0) -> None:
        """Have an engine that serves the model `name` and takes so much memory while it runs."""
        self.name = name
        self.folder = folder / name
        self.folder.mkdir(exist_ok=True)
        self.program = self.folder / "llama-server"
        text = SERVER.format(python=sys.executable, folder=str(self.folder), name=name, mib=mib)
        self.program.write_text(text)
        self.program.chmod(0o700)

    def section(self, more: str = "start: on_demand") -> str:
        """Return its line in the config's `backends`; `more` is added to the section `launch`."""
        launch = f"{{model: {MODEL}, name: {self.name}, runtime: {self.program}, threads: 1, {more}}}"
        return f"  {self.name}: {{engine: llamacpp, launch: {launch}}}\n"

    @property
    def starts(self) -> int:
        """How often it was started."""
        file = self.folder / "starts"
        return len(file.read_text()) if file.exists() else 0

    @property
    def asked(self) -> list[str]:
        """The chats that it was asked for."""
        file = self.folder / "asked"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith("/v1/chat")]

    @property
    def bodies(self) -> list[str]:
        """What it was asked for, each time."""
        file = self.folder / "bodies"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def gpus(self) -> tuple[int, tuple[int, ...]] | None:
        """The process of its last start, and the GPUs it was given; None before the first start with GPUs."""
        file = self.folder / "gpus"
        if not file.exists():
            return None
        pid, _, numbers = file.read_text().partition(" ")
        return int(pid), tuple(map(int, numbers.split(",")))

    def set(self, what: str, text: str = "") -> None:
        """Have it `hold` its start, be `broken`, let what is slow `go`, be `deaf` to SIGTERM, or `mute`."""
        (self.folder / what).write_text(text)

    def clear(self, what: str) -> None:
        """Have it do so no more."""
        (self.folder / what).unlink()
