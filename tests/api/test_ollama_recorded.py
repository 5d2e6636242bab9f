"""What a real Ollama answers its clients, recorded, beside what the gateway answers to the same: status, shape, words.

Rules:
- Every recording is asked twice: of an Ollama behind the gateway, which answers as it was recorded, and of an engine
  that speaks OpenAI's API and says the same.
- What an answer lacks, and where a status or the words of an error are others, stands in a table, with the reason. A
  row that no longer differs is a mistake.
- Numbers are numbers: a count that happens to be whole is no other shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.fake.engine import FakeEngine
from gateway.fake.script import Match, Reply, Rule
from tests.api.asking import answering
from tests.conformance.replay import Recording, recordings
from tests.serving import Answer, serving
from tests.surfaces.chatting import chunk, counted

RECORDED: Final = {
    each.name: each for each in recordings(Path(__file__).resolve().parents[1] / "recordings" / "ollama-api")
}
MODELS: Final = ("demo", "embed", "tools:v1")
LINES: Final = "application/x-ndjson"
FILES: Final = ("pull", "push", "create", "copy", "delete", "blobs")
ENGINES: Final = ("ollama", "openai")


@dataclass(frozen=True)
class Differs:
    """What is meant to differ, and why."""

    why: str
    status: int | None = None
    """None: the recorded one."""
    words: bool = False
    """Whether the error has other words."""
    lacks: frozenset[str] = frozenset()
    """Paths of members that are not there."""
    has: frozenset[str] = frozenset()
    """Paths of members that are there besides."""


MISTAKE: Final = "a client's mistake is 400: client libraries repeat what has a 5xx status"
READING: Final = "the words are those of this gateway's reader, which names the place"
INNER: Final = "the message alone, without the JSON of the inner error around it"
NAMED: Final = "the words of /api/chat everywhere, and which models there are"
NO_CONTEXT: Final = Differs("the gateway keeps no conversations as tokens", lacks=frozenset({"context"}))
PAGES: Final = "an error is JSON here, which clients can read; the status is the same"
NO_FILES: Final = "the gateway holds no files of models: what is in them is empty, and not told"
FAMILIES: Final = "details.families[]"
LOADED: Final = Differs(NO_FILES, lacks=frozenset({f"models[].{FAMILIES}", "models[].context_length"}))
SHOWN: Final = Differs(
    NO_FILES,
    lacks=frozenset({FAMILIES, "tensors", "model_info"}),
    has=frozenset({"model_info", "model_info.general.architecture", "model_info.general.basename"}),
)
MEANT: Final[Mapping[str, Differs]] = {
    "chat_bad_format": Differs(MISTAKE, status=400),
    "chat_bad_json": Differs(READING, words=True),
    "chat_bad_option": Differs(MISTAKE, status=400),
    "chat_bad_type": Differs(READING, words=True),
    "chat_get": Differs(PAGES, words=True),
    "chat_images_no_capability": Differs(INNER, words=True),
    "chat_missing_model": Differs(NAMED, words=True),
    "chat_too_long_error": Differs(INNER, words=True),
    "embed_chat_model": Differs(
        "an operation that no engine here has is 400, as everywhere in this API", status=400
    ),
    "embed_missing": Differs(NAMED, words=True),
    "generate": NO_CONTEXT,
    "generate_context": Differs("earlier turns go to /api/chat", status=400, words=True),
    "generate_format_json": NO_CONTEXT,
    "generate_images": Differs(INNER, words=True),
    "generate_missing": Differs(NAMED, words=True),
    "generate_stream": NO_CONTEXT,
    "generate_system": NO_CONTEXT,
    "generate_template": Differs("the engine's own template is used", status=400, words=True),
    "method_wrong": Differs(PAGES, words=True),
    "options_preflight": Differs("pages are let in by `server.cors` alone", status=405, words=True),
    "origin_foreign": Differs("the error says how to let the page in", words=True),
    "ps": LOADED,
    "ps_empty": LOADED,
    "ps_forever": LOADED,
    "show": SHOWN,
    "show_name": SHOWN,
    "tags": Differs(
        NO_FILES,
        lacks=frozenset(
            f"models[].{name}" for name in (FAMILIES, "details.context_length", "details.embedding_length")
        ),
    ),
    "show_missing": Differs(NAMED, words=True),
    "unknown_path": Differs(PAGES, words=True),
}


def kind_of(recording: Recording) -> str:
    """Return the recorded answer's content type."""
    named = [
        line.partition(b":")[2].strip()
        for line in recording.headers
        if line.lower().startswith(b"content-type")
    ]
    return named[0].decode() if named else ""


def values(kind: str, body: bytes) -> list[Any]:
    """Return what an answer says: each of its lines, or the one value it is."""
    if not body:
        return []
    lines = body.strip().split(b"\n") if kind.startswith(LINES) else [body]
    return [json.loads(line) for line in lines]


def shape(value: Any, place: str = "") -> set[tuple[str, str]]:
    """Return the paths of a value's members, each with its type; the items of a list are at one path."""
    if isinstance(value, dict):
        inside = [shape(each, f"{place}.{name}".lstrip(".")) for name, each in value.items()]
        return {(place, "object")}.union(*inside)
    if isinstance(value, list):
        return {(place, "list")}.union(*(shape(each, place + "[]") for each in value))
    known = (
        "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    )
    return {(place, known)}


def shapes(found: list[Any]) -> set[frozenset[tuple[str, str]]]:
    """Return the shapes of an answer's lines, each once."""
    return {frozenset(shape(value)) for value in found}


# --- what stands behind the gateway


def chats(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line of `/api/generate` as `/api/chat` has it, which is asked instead."""
    rest = {name: value for name, value in line.items() if name not in ("response", "context")}
    return rest | {"message": {"role": "assistant", "content": line.get("response", "")}}


def behind_ollama(recording: Recording) -> bytes:
    """Return the body with which an Ollama answers what it is asked for this recording."""
    kind, path = kind_of(recording), recording.path
    if path == "/api/embeddings" and b'"embedding"' in recording.answer:
        vector = json.loads(recording.answer)["embedding"]
        return json.dumps({"embeddings": [vector], "prompt_eval_count": 1}).encode()
    if recording.name in ("embed_empty", "embed_none"):
        return RECORDED["embed_one"].answer
    raw = b'"raw": true' in recording.body
    if path == "/api/generate" and b'"response"' in recording.answer and not raw:
        return b"\n".join(json.dumps(chats(line)).encode() for line in values(kind, recording.answer))
    return recording.answer


def ollama(recording: Recording) -> list[Rule]:
    """Return the rules of an Ollama that answers as it was recorded."""
    reply = Reply(
        status=int(recording.status.split()[1]),
        body=behind_ollama(recording),
        headers={"content-type": kind_of(recording) or "text/plain"},
    )
    asked = ("chat", "generate", "embed", *(f"{name}*" for name in FILES))
    known = {"/api/version": "version", "/api/tags": "tags", "/api/ps": "ps"}
    return [
        *(Rule(match=Match(path=f"/api/{path}"), reply=reply) for path in asked),
        *(answering(path, RECORDED[name].answer) for path, name in known.items()),
    ]


def openai(recording: Recording) -> list[Rule]:
    """Return the rules of an engine that says in OpenAI's API what the recorded Ollama says."""
    status = int(recording.status.split()[1])
    if not recording.path.startswith(("/api/chat", "/api/generate", "/api/embed")):
        return []
    said = values(kind_of(recording), recording.answer) if status != 405 else []
    if status != 200:
        told = said[0]["error"] if said else ""
        if told.startswith("{"):
            told = json.loads(told)["error"]["message"]
        error = {"message": told, "type": "invalid_request_error", "param": None, "code": None}
        return [answering("/v1/*", {"error": error}, status=status)]
    if "done" not in said[0]:
        vectors = said[0].get("embeddings") or [said[0].get("embedding") or [0.5]]
        data = [{"object": "embedding", "index": at, "embedding": each} for at, each in enumerate(vectors)]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return [answering("/v1/*", {"object": "list", "model": "x", "data": data, "usage": usage})]
    if len(said) > 1:
        events = [chunk(delta(line), line.get("done_reason")) for line in said]
        last = said[-1]
        events.append(counted(last["prompt_eval_count"], last["eval_count"]))
        return [Rule(match=Match(path="/v1/*"), sse={"events": [*events, "[DONE]"]})]
    (line,) = said
    message = {"role": "assistant", **delta(line)}
    raw = {"text": line["response"]} if "response" in line else {}
    logprobs = {"content": line["logprobs"]} if "logprobs" in line else None
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": "length" if line["done_reason"] == "length" else "stop",
        "logprobs": logprobs,
    } | raw
    usage = {
        "prompt_tokens": line.get("prompt_eval_count", 1),
        "completion_tokens": line.get("eval_count", 1),
    }
    usage["total_tokens"] = sum(usage.values())
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "x", "choices": [choice]}
    return [answering("/v1/*", answer | {"usage": usage})]


def delta(line: dict[str, Any]) -> dict[str, Any]:
    """Return what a line says, in OpenAI's words."""
    said = line.get("message") or {"content": line.get("response", "")}
    made = {"content": said["content"]}
    if "thinking" in said:
        made["reasoning_content"] = said["thinking"]
    calls = [
        {
            "id": call["id"],
            "index": number,
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": json.dumps(call["function"]["arguments"]),
            },
        }
        for number, call in enumerate(said.get("tool_calls", ()))
    ]
    return made | ({"tool_calls": calls} if calls else {})


async def asked(folder: Path, recording: Recording, engine: str) -> Answer:
    """Return what the gateway answers to what was recorded, in front of this engine."""
    rules = ollama(recording) if engine == "ollama" else openai(recording)
    async with FakeEngine(rules=rules) as fake:
        models = "".join(f'  "{name}": {{targets: {{e: "{name}"}}}}\n' for name in MODELS)
        text = f'backends: {{e: {{engine: {engine}, url: "{fake.url}"}}}}\nmodels:\n{models}'
        async with serving(folder, text) as served:
            headers = {name.decode().replace("-", "_"): value.decode() for name, value in recording.wanted}
            body = recording.body if recording.method in ("POST", "DELETE") else None
            return await served.ask(recording.method, recording.path, body, headers)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", sorted(RECORDED))
async def test_it_answers_like_a_real_ollama(name: str, engine: str, tmp_path: Path) -> None:
    recording = RECORDED[name]
    if engine == "openai" and recording.path.startswith(tuple(f"/api/{each}" for each in FILES)):
        answer = await asked(tmp_path, recording, engine)
        assert answer.status == 400
        assert recording.method == "HEAD" or "no backend here has" in answer.json()["error"]
        return
    answer = await asked(tmp_path, recording, engine)
    meant = MEANT.get(name, Differs(""))
    recorded = int(recording.status.split()[1])
    assert answer.status == (meant.status or recorded), answer.body[:300]
    assert meant.status != recorded, "this row says nothing"
    if answer.status >= 400:
        refused(recording, answer, meant)
        return
    kind = answer.headers.get("content-type", "")
    if recording.answer and recording.method != "HEAD":
        assert kind.partition(";")[0] == kind_of(recording).partition(";")[0]
    if kind.startswith("text/"):
        assert answer.body == recording.answer.rstrip(b"\n")
        return
    said = shapes(values(kind, answer.body))
    real = shapes(values(kind_of(recording), recording.answer))
    wanted = {frozenset(each for each in one if not within(each[0], meant.lacks)) for one in real}
    assert meant.lacks <= {place for one in real for place, _ in one}, (
        "it does not have what this row leaves out"
    )
    mine = {frozenset(each for each in one if each[0] not in meant.has) for one in said}
    assert mine == wanted, sorted(map(sorted, mine ^ wanted))


def within(place: str, lacks: frozenset[str]) -> bool:
    return any(place == one or place.startswith((one + ".", one + "[")) for one in lacks)


def refused(recording: Recording, answer: Answer, meant: Differs) -> None:
    """Hold an error to the recorded one: in its shape, and in its words unless others are meant."""
    if recording.method == "HEAD":
        assert not answer.body
        return
    assert answer.headers["content-type"] == "application/json"
    said = answer.json()
    assert set(said) == {"error"} and isinstance(said["error"], str) and said["error"], said
    real = {"error": recording.answer.decode()}
    if kind_of(recording).startswith("application/json"):
        real = json.loads(recording.answer)
    assert (said == real) is not meant.words, (said, real)


@pytest.mark.parametrize("name", ["chat", "chat_stream", "generate", "generate_raw", "generate_stream"])
async def test_an_ollamas_own_durations_pass(name: str, tmp_path: Path) -> None:
    recording = RECORDED[name]
    answer = await asked(tmp_path, recording, "ollama")
    mine = values(answer.headers["content-type"], answer.body)[-1]
    real = values(kind_of(recording), recording.answer)[-1]
    for member in (
        "load_duration",
        "prompt_eval_duration",
        "eval_duration",
        "prompt_eval_count",
        "eval_count",
    ):
        assert mine[member] == real[member] > 0, member
    assert mine["total_duration"] != real["total_duration"], "what the client waited is measured here"
