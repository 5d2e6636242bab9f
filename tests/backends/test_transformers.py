"""The Transformers engine: what it is sent, what is refused, and how it is launched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from backends import registry
from backends.base import Action, Health, Kind, LaunchError, Operation, Reply, Request, RequestError
from backends.dialect.stream import EventStream
from backends.engines.transformers import Transformers, TransformersLaunch, TransformersOptions

ENGINE = Transformers()
MESSAGES = [{"role": "user", "content": "Hi"}]


def request(operation: Operation = Operation.CHAT, *, stream: bool = False, **body: Any) -> Request:
    given = {"messages": MESSAGES} if operation is Operation.CHAT else {}
    return Request(operation, json.dumps({"model": "public", **given, **body}).encode(), "public", stream)


def sent(engine: Transformers = ENGINE, **body: Any) -> Any:
    return json.loads(engine.call(request(**body), "org/model").body)


def refused(**body: Any) -> tuple[Kind, str | None]:
    with pytest.raises(RequestError) as caught:
        ENGINE.call(request(**body), "org/model")
    return caught.value.failure.kind, caught.value.failure.param


def test_only_fields_it_knows_are_sent_and_always_as_a_stream() -> None:
    assert sent(temperature=0, user="someone", metadata={}, unknown=1, stream_options=None) == {
        "model": "org/model",
        "messages": MESSAGES,
        "temperature": 0,
        "stream": True,
    }


def test_other_sampling_goes_into_the_generation_config() -> None:
    config = json.loads(sent(top_k=5, repeat_penalty=1.1, max_tokens=9)["generation_config"])
    assert config == {"top_k": 5, "repetition_penalty": 1.1}


def test_a_generation_config_does_not_shorten_the_answer() -> None:
    assert json.loads(sent(top_k=5)["generation_config"]) == {"max_new_tokens": 1024, "top_k": 5}


def test_a_client_s_own_generation_config_wins() -> None:
    config = json.loads(sent(top_k=5, generation_config='{"top_k": 7}', max_tokens=1)["generation_config"])
    assert config == {"top_k": 7}
    assert refused(top_k=5, generation_config="no JSON") == (Kind.REJECTED, "generation_config")


def test_the_role_developer_is_system() -> None:
    """Templates that do not know it leave such messages out, or write a role that the model has never seen."""
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text"}]},
    ]
    assert sent(messages=messages)["messages"] == [{**messages[0], "role": "system"}, messages[1]]


def test_a_streamed_transcription_is_asked_for_as_a_whole() -> None:
    """Its own stream is bare text."""
    form = (
        b'--edge\r\ncontent-disposition: form-data; name="model"\r\n\r\nears\r\n'
        b'--edge\r\ncontent-disposition: form-data; name="stream"\r\n\r\ntrue\r\n--edge--'
    )
    kind = b"multipart/form-data; boundary=edge"
    asked = Request(Operation.TRANSCRIPTIONS, form, "ears", True, content_type=kind)
    call = ENGINE.call(asked, "whisper")
    assert call.whole and call.content_type == kind
    assert call.body == form.replace(b"ears", b"whisper").replace(b"true", b"false")
    reply = ENGINE.reply(asked, "whisper", ((b"content-type", b"application/json"),), b'{"text":"One two."}')
    assert isinstance(reply, Reply) and reply.body.count(b"data: ") == 2
    assert not ENGINE.call(structs.replace(asked, stream=False), "whisper").whole


@pytest.mark.parametrize(
    ("body", "kind", "param"),
    [
        ({"n": 2}, Kind.UNSUPPORTED, "n"),
        ({"logprobs": True}, Kind.UNSUPPORTED, "logprobs"),
        ({"response_format": {"type": "json_object"}}, Kind.UNSUPPORTED, "response_format"),
        ({"max_tokens": 0}, Kind.REJECTED, "max_tokens"),
        ({"messages": [{"role": "user", "content": 7}]}, Kind.REJECTED, "messages[0].content"),
    ],
)
def test_what_it_would_not_do_is_refused(body: dict[str, Any], kind: Kind, param: str | None) -> None:
    assert refused(**body) == (kind, param)


def test_what_says_nothing_is_not_refused() -> None:
    assert "n" not in sent(n=1, logprobs=False, response_format={"type": "text"})


def test_a_pinned_server_is_told_no_name() -> None:
    pinned = Transformers(TransformersOptions(pinned=True))
    assert "model" not in sent(pinned)
    response = request(Operation.RESPONSES, input="Hi")
    assert json.loads(pinned.call(response, "org/model").body) == {"input": "Hi"}
    assert json.loads(ENGINE.call(response, "org/model").body) == {"input": "Hi", "model": "org/model"}


def test_launched_it_is_pinned() -> None:
    options = TransformersLaunch(model="org/model", name="small")
    launched = registry.create("transformers", launch=options)
    assert isinstance(launched, Transformers) and launched.pinned
    assert options.served_names() == ("small",)


def told(stop: Any, *pieces: str) -> list[str]:
    """Return the texts of the events of a stream with these pieces."""
    decoder = ENGINE.decoder(request(stream=True, stop=stop), "org/model")
    events = [{"index": 0, "delta": {"content": piece}} for piece in pieces]
    events.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    out = b"".join(
        decoder.feed(b"data: %s\n\n" % json.dumps({"model": "org/model@main", "choices": [event]}).encode())
        for event in events
    )
    out += decoder.close()
    assert decoder.finished and decoder.failure is None
    chunks = [json.loads(event.removeprefix("data: ")) for event in out.decode().split("\n\n")[:-2]]
    assert {chunk["model"] for chunk in chunks} == {"public"}
    return [text for chunk in chunks if (text := chunk["choices"][0]["delta"].get("content"))]


def test_the_stop_string_is_cut_off() -> None:
    assert told(["END"], "one", " two", " E", "ND") == ["one", " two", " "]
    assert told("two", "one two") == ["one "]


def test_what_only_began_like_a_stop_string_is_told() -> None:
    assert told(["END"], "one", " E") == ["one", " ", "E"]


def test_without_a_stop_string_events_pass() -> None:
    assert told(None, "one", " two") == ["one", " two"]


def test_another_model_than_its_own() -> None:
    said = b"""{"detail":"Server is pinned to 'a'; requested 'b'."}"""
    assert ENGINE.failure(400, (), said).kind is Kind.MISSING
    assert ENGINE.failure(422, (), b'{"detail":"Unexpected fields"}').kind is Kind.REJECTED


def test_health() -> None:
    assert ENGINE.health().path == "/health"
    assert ENGINE.health_of(200, b'{"status":"ok"}') is Health.READY
    assert ENGINE.health_of(503, b'{"status":"unhealthy","reason":"cb_worker_dead"}') is Health.DOWN


def test_actions() -> None:
    assert ENGINE.action(Action.LOAD, {"model": "org/model"}).body == b'{"model":"org/model"}'
    assert ENGINE.action(Action.UNLOAD, {}).path == "/reset"
    assert ENGINE.action(Action.LIST, {}).path == "/v1/models"
    with pytest.raises(ValueError, match="needs the argument 'model'"):
        ENGINE.action(Action.LOAD, {})


def test_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "transformers"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    options = TransformersLaunch(
        model="org/model",
        device="cpu",
        compile=True,
        chat_template_kwargs={"enable_thinking": False},
        seed=0,
        extra_args=("--enable-cors",),
    )
    assert " ".join(options.launch("127.0.0.1", 4321).argv) == (
        f"{program} serve org/model --host 127.0.0.1 --port 4321 --device cpu --compile "
        '--chat-template-kwargs {"enable_thinking":false} --default-seed 0 --enable-cors'
    )


def test_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match=r"pip install 'transformers\[serving\]' torch"):
        TransformersLaunch(model="org/model").launch("127.0.0.1", 4321)


def test_why_it_died() -> None:
    log = ["Traceback (most recent call last):", "ValueError: Unsupported dtype: 'float1'. Must be 'auto' or"]
    assert ENGINE.crash_reason(log) == "there is no dtype float1"


def test_no_event_takes_the_short_way_past_stop_strings() -> None:
    """The relay offers each whole event to `more` first; where stop strings are searched it must be decoded."""
    choice = b'{"index":0,"delta":{"content":"one"}}'
    event = b'data: {"object":"chat.completion.chunk","model":"org/model","choices":[' + choice + b"]}\n\n"
    searched = ENGINE.decoder(request(stream=True, stop="END"), "org/model")
    passed = ENGINE.decoder(request(stream=True), "org/model")
    assert isinstance(searched, EventStream) and isinstance(passed, EventStream)
    for stream in (searched, passed):
        stream.feed(event)
    assert searched.more(event, 0, len(event)) is None
    assert passed.more(event, 0, len(event)) is not None
