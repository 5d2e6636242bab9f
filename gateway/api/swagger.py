"""Swagger UI at `/docs`. It loads nothing from other hosts, so it works offline and runs no foreign scripts.

Rules:
- Swagger UI's files come from the package `fastapi-swagger`, which is pinned by hash; none of its Python code is used.
- URLs in the page are relative, so a reverse proxy may serve the gateway below a path prefix.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

from gateway.errors import GatewayError, Own

PACKAGE = "fastapi_swagger.resources"
SCRIPT, STYLE, ICON = "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"
TYPES = {SCRIPT: "text/javascript", STYLE: "text/css", ICON: "image/png"}
DAY = "public, max-age=86400"


def add_docs(app: FastAPI) -> None:
    """Add the page and its files to an application that was created without FastAPI's own page."""
    folder = Path(str(importlib.resources.files(PACKAGE)))

    @app.get("/docs", include_in_schema=False)
    async def page() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url=f"docs/{SCRIPT}",
            swagger_css_url=f"docs/{STYLE}",
            swagger_favicon_url=f"docs/{ICON}",
        )

    @app.get("/docs/{name}", include_in_schema=False)
    async def file(name: str) -> FileResponse:
        if name not in TYPES:
            raise GatewayError(Own.UNKNOWN_URL, f"there is nothing at '/docs/{name[:64]}'")
        return FileResponse(folder / name, media_type=TYPES[name], headers={"cache-control": DAY})
