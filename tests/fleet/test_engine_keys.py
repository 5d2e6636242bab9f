"""The key of a launched engine: made for each start, or the operator's own, and sent with every request.

Rules:
- The engine is a program of a few lines that plays `llama-server`: it answers 401 to whoever does not know its key.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.serving import serving

MODEL = Path(__file__).parents[2] / "models" / "demo.gguf"
SERVER = """#!{python}
import http.server, json, os, sys
KEY = os.environ["LLAMA_API_KEY"]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers["authorization"] == "Bearer " + KEY
        body = json.dumps({{"data": [{{"id": "demo"}}], "status": "ok"}}).encode()
        self.send_response(200 if known else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
open({told!r}, "w").write(KEY)
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.mark.parametrize("own", ["", "sk-of-the-operator"])
async def test_a_launched_engine_is_asked_with_its_key(tmp_path: Path, own: str) -> None:
    program, told = tmp_path / "llama-server", tmp_path / "told"
    program.write_text(SERVER.format(python=sys.executable, told=str(told)))
    program.chmod(0o700)
    more = ', api_key: "${env.OWN}"' if own else ""
    launch = f"{{model: {MODEL}, runtime: {program}}}"
    config = f"backends: {{a: {{engine: llamacpp, launch: {launch}{more}}}}}"
    async with serving(tmp_path, config, {"OWN": own}) as served:
        [view] = (await served.get("/gateway/backends")).json()
        key = told.read_text()
        assert view["state"] == "ready", view
        assert [model["id"] for model in view["models"]] == ["demo"]
        assert key == own or (not own and len(key) >= 43)
        assert key not in str(view)
