"""A server of the Model Context Protocol with one tool: `mcp_server.py NAME TEXT`; lines of JSON come and go.

Rules:
- It needs nothing but Python: clients start it with whatever they have.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def result(asked: dict[str, Any], name: str, text: str) -> dict[str, Any]:
    """Return the result of a request."""
    if asked["method"] == "initialize":
        version = asked["params"]["protocolVersion"]
        about = {"name": "tests", "version": "1"}
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}
    if asked["method"] == "tools/list":
        taken = {"type": "object", "properties": {}}
        return {"tools": [{"name": name, "description": "Tells the word.", "inputSchema": taken}]}
    if asked["method"] == "tools/call":
        return {"content": [{"type": "text", "text": text}]}
    return {}


def main(name: str, text: str) -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" in asked:
            answer = {"jsonrpc": "2.0", "id": asked["id"], "result": result(asked, name, text)}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
