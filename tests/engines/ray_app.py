"""A small application of Ray Serve that speaks OpenAI's API: two replicas, each with the demo model in llama.cpp.

It stands alone and runs in Ray's environment, with xllamacpp beside Ray. Like Ray Serve LLM it knows its models by name
and answers 404 for others. Annotations are evaluated here: FastAPI looks at them in another process.
"""

import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import xllamacpp
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from ray import serve

MODEL = "demo"
PATHS = {"chat/completions", "completions", "embeddings"}
api = FastAPI()


def error(status: int, message: str, code: str) -> JSONResponse:
    """Return an error in Ray Serve LLM's shape."""
    facts = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": facts}, status)


async def pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Return a stream as it comes; closed when its reader has left."""
    try:
        async for piece in answer.content.iter_any():
            yield piece
    finally:
        answer.close()


@serve.deployment(num_replicas=2, max_ongoing_requests=16, ray_actor_options={"num_cpus": 0.1})
@serve.ingress(api)
class OpenAI:
    """The model behind its endpoints."""

    def __init__(self, model: str) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = os.path.abspath(model)
        params.model_alias = {MODEL}
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        params.n_parallel = 4
        params.n_ctx = 4 * 2048
        params.verbosity = 1
        self._server = xllamacpp.Server(params)
        self._session: aiohttp.ClientSession | None = None

    @api.get("/v1/models")
    async def models(self) -> dict[str, Any]:
        """Return the one model."""
        return {
            "object": "list",
            "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "demo"}],
        }

    @api.post("/v1/{path:path}")
    async def ask(self, path: str, request: Request) -> Response:
        """Pass a request on to the llama.cpp in this process."""
        body = await request.json()
        if path not in PATHS:
            return error(404, f"there is no /v1/{path}", "not_found")
        if body.get("model") != MODEL:
            return error(404, f"The model `{body.get('model')}` does not exist.", "model_not_found")
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(None))
        answer = await self._session.post(f"{self._server.listening_address}/v1/{path}", json=body)
        if not answer.headers["content-type"].startswith("text/event-stream"):
            return Response(await answer.read(), answer.status, media_type="application/json")
        return StreamingResponse(pieces(answer), media_type="text/event-stream")


def app(args: dict[str, str]) -> serve.Application:
    """Return the application; `args` names the model file."""
    return OpenAI.bind(args["model"])  # type: ignore[attr-defined]
