"""curl, as people type it: streams come as they are made, and what is typed wrong is answered with what to type."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.clients.process import PATIENCE, Running, wait_until
from tests.clients.programs.checks import HELLO, NO_MODEL, WEATHER, WRONG_KEY
from tests.clients.scripted import CITY, KEY, SCRIPTED

pytestmark = pytest.mark.slow

JSON = ("-H", "Content-Type: application/json")
CHAT = "/v1/chat/completions"
LIMIT = 10 << 20
"""Bytes of a body the gateway takes where the config does not say otherwise."""


class Answer(NamedTuple):
    """What curl received."""

    status: int
    body: str
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        assert set(self.json) == {"error"}
        return dict(self.json["error"])


def curl(*arguments: str, stdin: bytes = b"") -> Answer:
    """Run curl; the answer's head and body as it shows them with `-i`."""
    done = subprocess.run(
        ["curl", "-sS", "-i", "--max-time", str(PATIENCE), *arguments],
        input=stdin,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode()
    while text.startswith("HTTP/1.1 100"):
        text = text.partition("\r\n\r\n")[2]
    head, _, body = text.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Answer(int(first.split()[1]), body, {name.lower(): value.strip() for name, _, value in pairs})


def body(**options: Any) -> str:
    asked = {"model": "demo", "messages": [{"role": "user", "content": "What is this gateway?"}]}
    return json.dumps(asked | options)


def test_chat(gateway: Running) -> None:
    answer = curl(gateway.url + CHAT, *JSON, "-d", body(temperature=0))
    assert answer.status == 200
    assert "one OpenAI-compatible URL" in answer.json["choices"][0]["message"]["content"]
    assert answer.headers["x-gateway-backend"] == "local"


def test_stream(gateway: Running) -> None:
    answer = curl("-N", gateway.url + CHAT, *JSON, "-d", body(stream=True, temperature=0))
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.body.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert "one OpenAI-compatible URL" in said


def test_a_stream_comes_as_it_is_made_and_ctrl_c_ends_it(gateway: Running) -> None:
    before = gateway.metric("gateway_requests_total", outcome="client_gone")
    asked = body(stream=True, max_tokens=1900, n=4, ignore_eos=True)
    command = ["curl", "-sSN", gateway.url + CHAT, *JSON, "-d", asked]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"data: {")
        assert gateway.metric("gateway_requests_in_flight") == 1, "the first event must not wait for the last"
        process.terminate()
    name = "gateway_requests_in_flight"
    wait_until(lambda: gateway.metric(name) == 0, "the gateway has let go")
    assert gateway.metric("gateway_requests_total", outcome="client_gone") == before + 1


def test_without_a_content_type_curl_is_told_which(gateway: Running) -> None:
    answer = curl(gateway.url + CHAT, "-d", body())
    assert answer.status == 415
    assert "Content-Type: application/json" in answer.error["message"]


def test_json_option(gateway: Running) -> None:
    answer = curl(gateway.url + CHAT, "--json", body(max_tokens=3))
    assert answer.status == 200


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("/v1/chat/completion", "--json", "{}"), 404, "/docs"),
        (("/v1/chats", "--json", "{}"), 404, "/docs"),
        ((CHAT,), 405, "GET"),
        ((CHAT, "-X", "DELETE"), 405, "DELETE"),
        (("/v1/models", "--json", "{}"), 405, "POST"),
        ((CHAT, "--json", '{"model": demo}'), 400, "not valid JSON"),
        ((CHAT, "--json", ""), 400, "JSON"),
        ((CHAT, "--json", '{"messages": []}'), 400, "'model' is missing"),
        ((CHAT, "--json", '{"model": "demo"}'), 400, "'messages'"),
        ((CHAT, "--json", body(model="Demo")), 404, "did you mean 'demo'?"),
    ],
    ids=str,
)
def test_what_is_typed_wrong(gateway: Running, arguments: tuple[str, ...], status: int, words: str) -> None:
    path, *rest = arguments
    answer = curl(gateway.url + path, *rest)
    assert answer.status == status
    assert words in answer.error["message"]
    assert answer.headers["x-request-id"]
    if status == 405:
        assert answer.headers["allow"] == ("GET, HEAD" if path == "/v1/models" else "POST")


def test_a_large_body_waits_for_permission(gateway: Running, tmp_path: Path) -> None:
    """curl sends `Expect: 100-continue` with bodies of more than a megabyte."""
    file = tmp_path / "large.json"
    file.write_text(
        body(messages=[{"role": "user", "content": "x"}], padding="y" * (LIMIT // 2), max_tokens=1)
    )
    answer = curl(gateway.url + CHAT, *JSON, "-H", "Expect: 100-continue", "-d", f"@{file}")
    assert answer.status == 200
    file.write_text(body(padding="y" * LIMIT))
    answer = curl(gateway.url + CHAT, *JSON, "-H", "Expect: 100-continue", "-d", f"@{file}")
    assert answer.status == 413
    assert answer.error["code"] == "request_too_large"


def test_a_body_in_chunks(gateway: Running) -> None:
    chunked = ("-H", "Transfer-Encoding: chunked", "-X", "POST", "-T", "-")
    answer = curl(gateway.url + CHAT, *JSON, *chunked, stdin=body(max_tokens=3).encode())
    assert answer.status == 200


def test_two_requests_on_one_connection(gateway: Running) -> None:
    done = subprocess.run(
        ["curl", "-sS", "-w", "%{num_connects} ", f"{gateway.url}/healthz", f"{gateway.url}/v1/models"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith('{"status":"ok"}1 {') and done.stdout.endswith("}0 ")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/v1/models"])
def test_pages(gateway: Running, path: str) -> None:
    answer = curl(gateway.url + path)
    assert answer.status == 200
    assert answer.body


PATHS = {
    "chat": CHAT,
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "ollama": "/api/chat",
}
ABOUT = {"name": "get_weather", "description": "Tell the weather of a city."}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def asked(dialect: str, text: str = HELLO, model: str = "scripted-chat", **options: Any) -> str:
    """Return the body of a request with a tool; Ollama's API streams unless it is told not to."""
    tool: dict[str, Any] = {"type": "function", "function": ABOUT | {"parameters": SCHEMA}}
    said: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
    if dialect == "responses":
        said, tool = {"input": text}, {"type": "function", **ABOUT, "parameters": SCHEMA}
    elif dialect == "messages":
        said, tool = said | {"max_tokens": 99}, ABOUT | {"input_schema": SCHEMA}
    return json.dumps({"model": model, **said, "tools": [tool], "stream": False} | options)


def ask(scripted: Running, dialect: str, body: str, key: str = KEY) -> Answer:
    header = "x-api-key:" if dialect == "messages" else "Authorization: Bearer"
    return curl("-N", scripted.url + PATHS[dialect], "-H", f"{header} {key}", "--json", body)


def texts(dialect: str, whole: Any) -> str:
    """Return the text of a whole answer."""
    match dialect:
        case "chat":
            return str(whole["choices"][0]["message"]["content"])
        case "responses":
            return "".join(part["text"] for item in whole["output"] for part in item["content"])
        case "messages":
            return "".join(block["text"] for block in whole["content"])
        case _:
            return str(whole["message"]["content"])


def calls(dialect: str, whole: Any) -> list[Any]:
    """Return the names and arguments of a whole answer's calls."""
    match dialect:
        case "chat":
            functions = [call["function"] for call in whole["choices"][0]["message"]["tool_calls"]]
            return [[one["name"], json.loads(one["arguments"])] for one in functions]
        case "responses":
            items = [item for item in whole["output"] if item["type"] == "function_call"]
            return [[item["name"], json.loads(item["arguments"])] for item in items]
        case "messages":
            return [[one["name"], one["input"]] for one in whole["content"] if one["type"] == "tool_use"]
        case _:
            functions = [call["function"] for call in whole["message"]["tool_calls"]]
            return [[one["name"], one["arguments"]] for one in functions]


def pieces(dialect: str, event: Any) -> str:
    """Return the text in one part of a stream."""
    match dialect:
        case "chat":
            return "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        case "responses":
            return str(event["delta"]) if event["type"] == "response.output_text.delta" else ""
        case "messages":
            return str(event["delta"].get("text", "")) if event["type"] == "content_block_delta" else ""
        case _:
            return str(event["message"]["content"])


@pytest.mark.parametrize("dialect", PATHS)
def test_every_dialect_answers(scripted: Running, dialect: str) -> None:
    whole = ask(scripted, dialect, asked(dialect))
    assert whole.status == 200 and texts(dialect, whole.json) == SCRIPTED
    called = ask(scripted, dialect, asked(dialect, WEATHER))
    assert called.status == 200 and calls(dialect, called.json) == [["get_weather", CITY]]


@pytest.mark.parametrize("dialect", PATHS)
def test_every_dialect_streams(scripted: Running, dialect: str) -> None:
    answer = ask(scripted, dialect, asked(dialect, stream=True))
    begin = "" if dialect == "ollama" else "data: "
    lines = [line.removeprefix(begin) for line in answer.body.splitlines() if line.startswith(begin)]
    events = [json.loads(line) for line in lines if line.startswith("{")]
    found = [piece for event in events if (piece := pieces(dialect, event))]
    assert "".join(found) == SCRIPTED and len(found) == 8


@pytest.mark.parametrize("dialect", PATHS)
def test_every_dialect_has_its_own_errors(scripted: Running, dialect: str) -> None:
    key = ask(scripted, dialect, asked(dialect), WRONG_KEY)
    model = ask(scripted, dialect, asked(dialect, model=NO_MODEL))
    assert (key.status, model.status) == (401, 404)
    types = []
    for answer, words in ((key, "the API key is not valid"), (model, NO_MODEL)):
        error = answer.json["error"]
        assert words in (error if dialect == "ollama" else error["message"])
        types.append(None if dialect == "ollama" else error["type"])
    expected = {"ollama": [None, None], "messages": ["authentication_error", "not_found_error"]}
    assert types == expected.get(dialect, ["invalid_request_error"] * 2)
