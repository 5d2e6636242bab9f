"""The small page at `/`, for people who open the gateway's URL; for programs, what Ollama says there.

Rules:
- Who takes HTML is a browser. Ollama's clients take anything, and look for its words before they ask for more.
- It names no model and no backend, so it needs no key. URLs in it are relative, and it loads nothing.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title></head>
<body>
<h1>{title} {version}</h1>
<p>{description} Clients use <code>/v1</code> below this address as their base URL.</p>
<ul>
<li><a href="docs">The reference of the API</a></li>
<li><a href="v1/models">The models</a> (with a key, where the gateway has keys)</li>
<li><a href="readyz">Whether a backend can take requests</a></li>
<li><a href="metrics">Metrics for Prometheus</a></li>
</ul>
</body>
</html>
"""
_VARY = {"vary": "Accept"}


def add_home(app: FastAPI) -> None:
    """Add the page to an application."""
    text = _PAGE.format(title=app.title, version=app.version, description=app.description)

    @app.get("/", include_in_schema=False)
    async def home(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(text, headers=_VARY)
        return PlainTextResponse("Ollama is running", headers=_VARY)
