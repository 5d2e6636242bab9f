"""What a client can get wrong: always OpenAI's error shape, the right status, a helpful message. No engine is asked."""

from pathlib import Path
from typing import Any

import pytest

from gateway.api.endpoints import HOT
from tests.serving import Served, serving

CONFIG = """
backends: {nowhere: {engine: openai, url: "http://127.0.0.1:9"}}
models:
  qwen2.5-7b: {aliases: [gpt-4o-mini], targets: {nowhere: x}}
  llama: {targets: {nowhere: y}}
"""
USER = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "llama", "messages": USER, **changes}


BAD = {
    "truncated": (CHAT, b'{"model": "m", "messages": [', "invalid_json", None),
    "empty": (CHAT, b"", "invalid_json", None),
    "null": (CHAT, b"null", "invalid_value", None),
    "a list": (CHAT, b"[]", "invalid_value", None),
    "a string": (CHAT, b'"x"', "invalid_value", None),
    "two documents": (CHAT, b'{"model": "m"} {"model": "m"}', "invalid_json", None),
    "NaN": (CHAT, b'{"model": "llama", "messages": [1], "temperature": NaN}', "invalid_json", None),
    "NaN in the middle": (CHAT, b'{"model": "llama", "messages": [{"x": NaN}]}', "invalid_json", None),
    "infinite": (CHAT, b'{"model": "llama", "messages": [1], "top_p": Infinity}', "invalid_json", None),
    "1e999": (
        CHAT,
        b'{"model": "llama", "messages": [1], "temperature": 1e999}',
        "invalid_value",
        "temperature",
    ),
    "deep": (
        CHAT,
        # Python 3.11 gives up at 1 000 levels, 3.13 at some thousand.
        b'{"model": "llama", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "invalid_json",
        None,
    ),
    "deep, not closed": (CHAT, b'{"model": "llama", "messages": ' + b"[" * 100_000, "invalid_json", None),
    "UTF-16": (CHAT, '{"model": "llama"}'.encode("utf-16"), "invalid_json", None),
    "not UTF-8": (CHAT, b'{"model": "llama", "messages": ["\xff\xfe"]}', "invalid_json", None),
    "lone surrogate": (CHAT, b'{"model": "llama", "messages": ["\\ud83d"]}', "invalid_json", None),
    "lone surrogate in a name": (CHAT, b'{"model": "\\ud83d", "messages": ["x"]}', "invalid_json", None),
    "no model": (CHAT, {"messages": USER}, "missing_field", "model"),
    "model is a number": (CHAT, body(model=5), "invalid_value", "model"),
    "model is empty": (CHAT, body(model=""), "invalid_value", "model"),
    "no messages": (CHAT, {"model": "llama"}, "missing_field", "messages"),
    "messages is text": (CHAT, body(messages="hi"), "invalid_value", "messages"),
    "stream is text": (CHAT, body(stream="true"), "invalid_value", "stream"),
    "stream is 1": (CHAT, body(stream=1), "invalid_value", "stream"),
    "temperature is text": (CHAT, body(temperature="hot"), "invalid_value", "temperature"),
    "max_tokens is text": (CHAT, body(max_tokens="5"), "invalid_value", "max_tokens"),
    "max_tokens is true": (CHAT, body(max_tokens=True), "invalid_value", "max_tokens"),
    "stream_options alone": (
        CHAT,
        body(stream_options={"include_usage": True}),
        "invalid_value",
        "stream_options",
    ),
    "usage is text": (
        CHAT,
        body(stream=True, stream_options={"include_usage": "yes"}),
        "invalid_value",
        "stream_options.include_usage",
    ),
    "no prompt": ("/v1/completions", {"model": "llama"}, "missing_field", "prompt"),
    "no input": ("/v1/embeddings", {"model": "llama"}, "missing_field", "input"),
    "dimensions is text": (
        "/v1/embeddings",
        {"model": "llama", "input": "x", "dimensions": "3"},
        "invalid_value",
        "dimensions",
    ),
    "n is zero": (CHAT, body(n=0), "invalid_value", "n"),
    "n is a billion": (CHAT, body(n=1_000_000_000), "invalid_value", "n"),
    "best_of is a billion": (
        "/v1/completions",
        {"model": "llama", "prompt": "x", "best_of": 10**9},
        "invalid_value",
        "best_of",
    ),
    "n is a fraction": (CHAT, body(n=1.5), "invalid_value", "n"),
    "max_tokens is a fraction": (CHAT, body(max_tokens=4096.5), "invalid_value", "max_tokens"),
    "max_tokens is below 32 bits": (CHAT, body(max_tokens=-(10**12)), "invalid_value", "max_tokens"),
    "messages are none": (CHAT, body(messages=[]), "missing_field", "messages"),
    "messages are null": (CHAT, body(messages=None), "missing_field", "messages"),
    "model in capitals": (CHAT, body(MODEL="other"), "invalid_value", "MODEL"),
    "model in capitals alone": (CHAT, {"MODEL": "llama", "messages": USER}, "invalid_value", "MODEL"),
    "a limit in other letters": (CHAT, body(Max_Tokens=5), "invalid_value", "Max_Tokens"),
    "a stream with a long s": (CHAT, body() | {"\u017ftream": True}, "invalid_value", "\u017ftream"),
    "a limit with a Kelvin sign": (
        CHAT,
        body() | {"max_to\u212aens": 5},
        "invalid_value",
        "max_to\u212aens",
    ),
    "a limit of answers in capitals": (
        "/v1/responses",
        {"model": "llama", "input": "x", "Input": "y"},
        "invalid_value",
        "Input",
    ),
    "1001 members": (CHAT, body(**{f"k{number}": 1 for number in range(1000)}), "invalid_json", None),
    "max_tokens is beyond 32 bits": (CHAT, body(max_tokens=10**12), "invalid_value", "max_tokens"),
    "max_tokens is beyond 64 bits": (CHAT, body(max_tokens=10**30), "invalid_value", "max_tokens"),
    "top_logprobs is true": (CHAT, body(top_logprobs=True), "invalid_value", "top_logprobs"),
    "no query": ("/v1/rerank", {"model": "llama", "documents": ["a"]}, "missing_field", "query"),
    "no documents": ("/rerank", {"model": "llama", "query": "q"}, "missing_field", "documents"),
    "documents are none": (
        "/v2/rerank",
        {"model": "llama", "query": "q", "documents": []},
        "invalid_value",
        "documents",
    ),
    "top_n is text": (
        "/v1/rerank",
        {"model": "llama", "query": "q", "documents": ["a"], "top_n": "1"},
        "invalid_value",
        "top_n",
    ),
    "one text to compare": ("/v1/score", {"model": "llama", "text_1": "a"}, "missing_field", "text_2"),
    "nothing to tokenize": ("/tokenize", {"model": "llama"}, "missing_field", "prompt"),
    "a prompt and messages": (
        "/v1/tokenize",
        {"model": "llama", "prompt": "", "messages": USER},
        "invalid_value",
        "prompt",
    ),
    "no tokens": ("/detokenize", {"model": "llama"}, "missing_field", "tokens"),
    "tokens of text": ("/v1/detokenize", {"model": "llama", "tokens": ["a"]}, "invalid_value", "tokens[0]"),
    "a negative token": ("/detokenize", {"model": "llama", "tokens": [-1]}, "invalid_value", "tokens[0]"),
    "no suffix": ("/infill", {"model": "llama", "input_prefix": "a"}, "missing_field", "input_suffix"),
    "no input of a response": ("/v1/responses", {"model": "llama"}, "missing_field", "input"),
    "an empty input": ("/v1/responses", {"model": "llama", "input": []}, "invalid_value", "input"),
    "an input that is a number": ("/v1/responses", {"model": "llama", "input": 5}, "invalid_value", "input"),
    "nothing that was said before": (
        "/v1/responses",
        {"model": "llama", "previous_response_id": None},
        "missing_field",
        "input",
    ),
    "a query that is a number": (
        "/v1/rerank",
        {"model": "llama", "query": 1, "documents": ["a"]},
        "invalid_value",
        "query",
    ),
    "documents that are text": (
        "/v1/rerank",
        {"model": "llama", "query": "q", "documents": "a"},
        "invalid_value",
        "documents",
    ),
    "a stream that is text": (
        "/v1/messages",
        {"model": "llama", "messages": USER, "max_tokens": 1, "stream": "yes"},
        "invalid_value",
        "stream",
    ),
    "nothing to say": ("/v1/audio/speech", {"model": "llama"}, "missing_field", "input"),
    "nothing to draw": ("/v1/images/generations", {"model": "llama"}, "missing_field", "prompt"),
    "no model of a response": ("/v1/responses", {"input": "x"}, "missing_field", "model"),
    "an empty model of a score": (
        "/score",
        {"model": "", "text_1": "a", "text_2": "b"},
        "invalid_value",
        "model",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_body(name: str, tmp_path: Path) -> None:
    path, sent, code, param = BAD[name]
    async with serving(tmp_path, CONFIG) as served:
        answer = await served.post(path, sent)
        assert answer.status == 400
        assert (answer.error["code"], answer.error["param"]) == (code, param)
        assert answer.error["type"] == "invalid_request_error"
        assert answer.headers["x-request-id"]
        assert served.metric("gateway_requests_total", outcome="client_error", operation=HOT[path]) == 1


UNKNOWN = {
    "a slip": ("gtp-4o-mini", "did you mean 'gpt-4o-mini'?"),
    "the wrong case": ("Llama", "did you mean 'llama'?"),
    "something else": ("zephyr", "models here: gpt-4o-mini, llama, qwen2.5-7b"),
    "very long": ("x" * 3000, "..."),
    "a path": ("../../etc/passwd", "models here"),
    "a line break": ("a\nb", "\\n"),
}


@pytest.mark.parametrize("name", UNKNOWN)
async def test_unknown_model(name: str, tmp_path: Path) -> None:
    model, hint = UNKNOWN[name]
    async with serving(tmp_path, CONFIG) as served:
        answer = await served.post(CHAT, body(model=model))
        assert (answer.status, answer.error["code"], answer.error["param"]) == (
            404,
            "model_not_found",
            "model",
        )
        assert hint in answer.error["message"]
        assert len(answer.error["message"]) < 500


async def _status(served: Served, method: str, path: str) -> tuple[int, str, str]:
    answer = await served.ask(method, path, None, {})
    return answer.status, answer.error["code"], answer.headers.get("allow", "")


async def test_wrong_places_and_methods(tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIG) as served:
        assert await _status(served, "GET", "/v1/nothing") == (404, "unknown_url", "")
        assert await _status(served, "GET", "/v1/models/none") == (404, "model_not_found", "")
        assert await _status(served, "GET", CHAT) == (405, "method_not_allowed", "POST")
        assert await _status(served, "DELETE", "/v1/models") == (405, "method_not_allowed", "GET, HEAD")
        assert await _status(served, "TRACE", "/v1/embeddings") == (405, "method_not_allowed", "POST")
        assert await _status(served, "GET", "/v1/chat/completions/") == (405, "method_not_allowed", "POST")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 404),
        ("application/json; charset=utf-8", 404),
        ("", 404),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
    ],
)
async def test_content_type(kind: str, status: int, tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIG) as served:
        answer = await served.post(CHAT, body(model="none"), content_type=kind)
        assert answer.status == status
        assert answer.error["message"]


async def test_wrong_parameters_of_the_other_endpoints_have_the_same_shape(tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIG) as served:
        answer = await served.get("/v1/models/%ff")
        assert answer.status == 404
        assert answer.error["code"] == "model_not_found"


async def test_the_reference_describes_every_endpoint(tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIG) as served:
        page = (await served.get("/openapi.json")).json()
        assert {
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/v1/models",
            "/v1/models/{model}",
            "/healthz",
            "/readyz",
            "/metrics",
        } <= set(page["paths"])
        chat = page["paths"][CHAT]["post"]
        shape = chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert "messages" in page["components"]["schemas"][shape]["required"]
        assert chat["responses"]["404"]["content"]["application/json"]["schema"]["$ref"].endswith("ErrorBody")
        assert b"swagger" in (await served.get("/docs")).body
