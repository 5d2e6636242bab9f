"""An engine that only tells once it runs what it serves: Ollama, launched by the gateway and asked over real sockets.

No Ollama is here. A small program stands in for `ollama serve`: it reads the same environment variables and answers the
paths the gateway asks for, the models being the files in its folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.serving import serving

PROGRAM = """
import http.server, json, os, sys

assert sys.argv[1:] == ["serve"], sys.argv
host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        models = sorted(os.listdir(os.environ["OLLAMA_MODELS"]))
        told = {
            "/api/version": {"version": "0.33.0"},
            "/api/tags": {"models": [{"name": name} for name in models]},
            "/api/ps": {"models": []},
        }
        self.answer(json.dumps(told[self.path]) + "\\n", "application/json")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/api/chat" and asked["options"] == {"num_ctx": 64}, asked
        line = {"model": asked["model"], "created_at": "2026-08-21T10:00:00Z"}
        words = [{**line, "message": {"content": word}, "done": False} for word in ("Hello", " there")]
        end = {**line, "message": {"content": ""}, "done": True, "done_reason": "stop", "eval_count": 2}
        self.answer("".join(json.dumps(one) + "\\n" for one in [*words, end]), "application/x-ndjson")

    def answer(self, text, kind):
        data = text.encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *said):
        pass


http.server.ThreadingHTTPServer((host, int(port)), Answers).serve_forever()
"""

CONFIG = """
backends:
  laptop:
    engine: ollama
    options: {{context: 64}}
    launch: {{command: ["{python}", "{program}"], models_folder: "{models}"}}
"""


async def test_its_models_are_those_it_tells_of(tmp_path: Path) -> None:
    program, models = tmp_path / "ollama.py", tmp_path / "models"
    program.write_text(PROGRAM)
    models.mkdir()
    for name in ("qwen3:0.6b", "llama3:latest"):
        (models / name).touch()
    text = CONFIG.format(python=sys.executable, program=program, models=models)
    async with serving(tmp_path, text) as served:
        listed = (await served.get("/v1/models")).json()["data"]
        assert {card["id"] for card in listed} == {"qwen3:0.6b", "llama3:latest", "llama3"}
        asked = {"model": "llama3", "messages": [{"role": "user", "content": "Hi"}]}
        answer = await served.post("/v1/chat/completions", {**asked, "stream": True})
        assert (answer.status, answer.events[-1], answer.whole) == (200, "[DONE]", True)
        said = [
            choice["delta"].get("content", "") for event in answer.events[:-1] for choice in event["choices"]
        ]
        assert "".join(said) == "Hello there"
        refused = await served.post("/v1/chat/completions", {**asked, "n": 2})
        assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "not_supported", "n")
