"""curl, as people type it: streams come as they are made, and what is typed wrong is answered with what to type."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.clients.process import PATIENCE, Running, wait_until

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
