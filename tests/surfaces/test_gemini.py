"""Google's Gemini API said in OpenAI's, and its answers: each case is one that its clients send, or wait for."""

from __future__ import annotations

import base64
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Operation, Reply, RequestError, Usage
from backends.surfaces import foreword
from backends.surfaces.codecs import CODECS, translated
from backends.surfaces.dialects import GEMINI_API, GEMINI_LIST, surface_at
from backends.surfaces.gemini import content, paths
from backends.surfaces.surface import Broken, ErrorFacts, InvalidRequest
from backends.surfaces.translation import Translation
from tests.conformance import gemini_types
from tests.surfaces import chatting
from tests.surfaces.chatting import ENGINE, NATIVE, chunk, counted, stream

GENERATE, COUNT = Operation.GEMINI_GENERATE, Operation.GEMINI_COUNT_TOKENS
EMBED, BATCH = Operation.GEMINI_EMBED, Operation.GEMINI_BATCH_EMBED
HI = [{"role": "user", "parts": [{"text": "hi"}]}]
ASKED: dict[str, Any] = {"contents": HI}
CALL = {"functionCall": {"name": "get", "args": {"a": 1}}}
RESULT = {"functionResponse": {"name": "get", "response": {"result": 42}}}
PNG = base64.b64encode(b"\xff\xfe\xfb\xef" * 4).decode()
THOUGHTS = {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}}
END = [chunk({}, "stop"), counted(3, 2)]


def translation(
    body: dict[str, Any], operation: Operation = GENERATE, streams: bool = False, events: bool = True
) -> Translation:
    """Return how a request is said, as it arrives at a path for the model `m`."""
    sent = paths.whole(msgspec.json.encode(body), "m", streams, events)
    request = GEMINI_API.read(operation, b"application/json", sent)
    found = translated(request, ENGINE, NATIVE | {Operation.TOKENIZE})
    assert found is not None
    return found


def said(body: dict[str, Any], operation: Operation = GENERATE) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.json.decode(translation(body, operation).said.body)
    return made


def messages(*contents: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = said({"contents": list(contents), **more})["messages"]
    return found


def refused(body: dict[str, Any], operation: Operation = GENERATE) -> str | None:
    """Return the place for which a request is refused."""
    with pytest.raises((RequestError, InvalidRequest)) as caught:
        translation(body, operation)
    error = caught.value
    return error.failure.param if isinstance(error, RequestError) else getattr(error, "param", None)


def answered(body: dict[str, Any], answer: dict[str, Any], operation: Operation = GENERATE) -> dict[str, Any]:
    return chatting.answered(translation(body, operation), answer)


def completion(*given: dict[str, Any], finish: str = "stop", **usage: Any) -> dict[str, Any]:
    choices = [
        {"index": at, "message": {"role": "assistant", **message}, "finish_reason": finish}
        for at, message in enumerate(given)
    ]
    counts = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9} | usage
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "up", "choices": choices} | {
        "usage": counts
    }


def pieces(data: bytes, events: bool = True) -> list[dict[str, Any]]:
    """Return the pieces of a stream, each of which fits Google's types."""
    found: list[dict[str, Any]] = chatting.pieces(data) if events else msgspec.json.decode(data)
    for piece in found:
        gemini_types.fits(piece)
    return found


def streamed(body: dict[str, Any], *events: dict[str, Any], size: int = 1 << 20) -> list[dict[str, Any]]:
    return pieces(chatting.streamed(translation(body, streams=True), stream(events), size))


def parts(found: list[dict[str, Any]], index: int = 0) -> list[dict[str, Any]]:
    """Return the parts of one candidate in all pieces of a stream."""
    candidates = [one for piece in found for one in piece["candidates"] if one["index"] == index]
    return [part for one in candidates for part in one["content"]["parts"] if part != {"text": ""}]


# --- requests


def test_settings_become_parameters() -> None:
    config = {"temperature": 0.5, "topP": 0.9, "topK": 40.0, "maxOutputTokens": 12, "stopSequences": ["x"]}
    config |= {"seed": 7, "presencePenalty": 1, "frequencyPenalty": 2, "candidateCount": 2}
    config |= {"responseLogprobs": True, "logprobs": 3}
    assert said(ASKED | {"generationConfig": config}) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "max_tokens": 12,
        "stop": ["x"],
        "seed": 7,
        "presence_penalty": 1,
        "frequency_penalty": 2,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 3,
    }


def test_both_names_of_a_member_mean_the_same() -> None:
    """Google's own examples write them with underscores, and an object where a list of one is meant."""
    body = {
        "contents": {"parts": {"text": "hi"}},
        "system_instruction": {"parts": {"text": "be"}},
        "generation_config": {"max_output_tokens": 5, "thinking_config": {"thinking_budget": 0}},
        "tools": {"function_declarations": {"name": "get", "parameters_json_schema": {"x_y": 1}}},
        "tool_config": {"function_calling_config": {"mode": "any"}},
    }
    made = said(body)
    assert [one["content"] for one in made["messages"]] == ["be", "hi"]
    assert made["max_tokens"] == 5 and made["chat_template_kwargs"] == {"enable_thinking": False}
    assert made["tools"][0]["function"]["parameters"] == {"x_y": 1} and made["tool_choice"] == "required"


def test_turns_become_messages_and_the_answers_to_calls_stand_before_what_is_said() -> None:
    both = [CALL, {"functionCall": {"id": "known", "name": "put"}}]
    other = {"functionResponse": {"id": "known", "name": "put", "response": {"error": "no"}}}
    turns: list[dict[str, Any]] = [*HI, {"role": "model", "parts": [{"text": "a"}, {"text": "b"}, *both]}]
    made = messages(*turns, {"role": "user", "parts": [{"text": "and?"}, other, RESULT]}, *HI)
    assert [one["role"] for one in made] == ["user", "assistant", "tool", "tool", "user"]
    assert made[1]["content"] == "ab"
    assert [call["id"] for call in made[1]["tool_calls"]] == ["call_1", "known"]
    assert [call["function"]["arguments"] for call in made[1]["tool_calls"]] == ['{"a":1}', "{}"]
    assert [(one["tool_call_id"], one["content"]) for one in made[2:4]] == [
        ("known", '{"error":"no"}'),
        ("call_1", '{"result":42}'),
    ]
    assert made[4]["content"] == "and?\nhi"


def test_thoughts_go_back_whatever_their_signature_is_but_not_the_gateways_own_words() -> None:
    own = {"text": "loading", "thought": True, "thoughtSignature": content.MARK}
    thought = {"text": "hm", "thought": True, "thoughtSignature": "b3BhcXVl"}
    made = messages(*HI, {"role": "model", "parts": [own, thought, CALL | {"thoughtSignature": "x"}]})
    assert made[1]["reasoning_content"] == "hm" and len(made[1]["tool_calls"]) == 1
    assert len(messages(*HI, {"role": "model", "parts": [own]})) == 1


def test_data_is_a_picture_sound_or_text() -> None:
    """Google's SDK writes base64 with the signs of URLs."""
    of_urls = PNG.translate(str.maketrans("+/", "-_")).rstrip("=")
    data = [("image/png", of_urls), ("audio/mpeg", "AAAA"), ("text/markdown", "YQ")]
    given = [{"inlineData": {"mimeType": kind, "data": coded}} for kind, coded in data]
    (made,) = messages({"parts": [{"text": "see"}, *given]})
    assert made["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
        {"type": "text", "text": "a"},
    ]


def test_pictures_in_the_answer_to_a_call_follow_it() -> None:
    picture = {"inlineData": {"mimeType": "image/png", "data": PNG}}
    result = {"functionResponse": {"name": "get", "response": {"ok": True}, "parts": [picture]}}
    made = messages(*HI, {"role": "model", "parts": [CALL]}, {"role": "user", "parts": [result]})
    assert [one["role"] for one in made] == ["user", "assistant", "tool", "user"]
    assert made[3]["content"][0]["type"] == "image_url"


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"contents": []}, "contents"),
        ({"contents": [{"role": "system", "parts": [{"text": "a"}]}]}, "contents.0.role"),
        ({"contents": [{"parts": [{"fileData": {"fileUri": "gs://a"}}]}]}, "contents.0.parts.0.fileData"),
        (
            {"contents": [{"parts": [{"inline_data": {"mime_type": "application/pdf", "data": "AA"}}]}]},
            "contents.0.parts.0.inlineData.mimeType",
        ),
        ({"contents": [{"role": "user", "parts": [CALL]}]}, "contents.0.parts.0.functionCall"),
        ({"contents": [{"role": "model", "parts": [RESULT]}]}, "contents.0.parts.0"),
        (ASKED | {"cachedContent": "cachedContents/a"}, "cachedContent"),
        (ASKED | {"generationConfig": {"temperature": "hot"}}, "generationConfig.temperature"),
        (ASKED | {"generationConfig": {"candidateCount": 0}}, "generationConfig.candidateCount"),
        (
            ASKED | {"generationConfig": {"responseModalities": ["IMAGE"]}},
            "generationConfig.responseModalities",
        ),
        (
            ASKED | {"generationConfig": {"responseMimeType": "text/x.enum"}},
            "generationConfig.responseMimeType",
        ),
        (ASKED | {"generationConfig": {"responseSchema": {}}}, "generationConfig.responseMimeType"),
        (
            ASKED | {"generationConfig": {"thinkingConfig": {"thinkingLevel": "WILD"}}},
            "generationConfig.thinkingConfig.thinkingLevel",
        ),
        (ASKED | {"tools": [{"functionDeclarations": [{}]}]}, "tools.0.functionDeclarations.0.name"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_place(body: dict[str, Any], place: str) -> None:
    assert refused(body) == place


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"functionDeclarations": [{"name": name, "description": "d", **more}]}


def test_schemas_of_googles_become_json_schemas() -> None:
    properties = {
        "a": {"type": "STRING", "format": "enum", "enum": ["x"], "nullable": True},
        "b": {"type": "ARRAY", "items": {"type": "INTEGER", "format": "int32"}, "minItems": "1"},
        "max_items": {"any_of": [{"type": "NUMBER"}, {"type": "BOOLEAN"}], "nullable": True},
    }
    given = {"type": "OBJECT", "properties": properties, "required": ["a"], "propertyOrdering": ["a"]}
    wanted = {
        "type": "object",
        "properties": {
            "a": {"type": ["string", "null"], "enum": ["x", None]},
            "b": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
            "max_items": {"anyOf": [{"type": "number"}, {"type": "boolean"}, {"type": "null"}]},
        },
        "required": ["a"],
    }
    made = said(ASKED | {"tools": [function("get", parameters=given)]})
    assert made["tools"][0]["function"] == {"name": "get", "description": "d", "parameters": wanted}
    config = {"responseMimeType": "application/json", "responseSchema": given}
    form = said(ASKED | {"generationConfig": config})["response_format"]
    assert form["json_schema"]["schema"] == wanted
    own = {"responseMimeType": "application/json", "responseJsonSchema": {"type": "object", "x_y": 1}}
    assert said(ASKED | {"generationConfig": own})["response_format"]["json_schema"]["schema"]["x_y"] == 1
    assert said(ASKED | {"generationConfig": {"responseMimeType": "application/json"}})[
        "response_format"
    ] == {"type": "json_object"}


def choice(mode: str, *allowed: str) -> dict[str, Any]:
    config = {"mode": mode} | ({"allowedFunctionNames": list(allowed)} if allowed else {})
    return {"tools": [function("a"), function("b")], "toolConfig": {"functionCallingConfig": config}}


def test_how_far_functions_must_be_called() -> None:
    named = {"type": "function", "function": {"name": "b"}}
    for mode, allowed, wanted, offered in (
        ("AUTO", (), None, 2),
        ("VALIDATED", ("a",), None, 2),
        ("NONE", (), "none", 2),
        ("ANY", (), "required", 2),
        ("ANY", ("b",), named, 1),
        ("ANY", ("a", "b"), "required", 2),
    ):
        made = said(ASKED | choice(mode, *allowed))
        assert made.get("tool_choice") == wanted and len(made["tools"]) == offered, mode
    assert refused(ASKED | choice("ANY", "c")) == "toolConfig.functionCallingConfig.allowedFunctionNames.0"


def test_tools_that_only_google_runs_are_left_out_by_name_and_refused_where_one_is_forced() -> None:
    hosted = [{"googleSearch": {}}, {"code_execution": {}}, {"urlContext": {}, **function("get")}]
    safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    found = translation(ASKED | {"tools": hosted, "safetySettings": safety, "labels": {"a": "b"}})
    assert found.dropped == ("googleSearch", "codeExecution", "urlContext", "safetySettings")
    assert len(msgspec.json.decode(found.said.body)["tools"]) == 1
    forced = {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}, "tools": hosted[:2]}
    assert refused(ASKED | forced) == "toolConfig.functionCallingConfig"


def test_how_hard_to_think() -> None:
    def thinking(**config: Any) -> Translation:
        return translation(ASKED | {"generationConfig": {"thinkingConfig": config}})

    level = msgspec.json.decode(thinking(thinkingLevel="HIGH").said.body)
    assert level["reasoning_effort"] == "high" and level["chat_template_kwargs"] == {"enable_thinking": True}
    assert thinking(thinkingBudget=100).dropped == ("thinkingBudget",)
    assert thinking(thinkingBudget=-1).dropped == ()
    assert b"enable_thinking" not in thinking(includeThoughts=True).said.body


# --- answers


def test_a_whole_answer() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"a": 1}'}}
    message = {"content": "a", "reasoning_content": "hm", "tool_calls": [call]}
    details = {
        "completion_tokens_details": {"reasoning_tokens": 3},
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    made = answered(ASKED | THOUGHTS, completion(message, finish="tool_calls", **details))
    gemini_types.fits_whole(made)
    assert made == {
        "candidates": [
            {
                "content": {
                    "role": "model",
                    "parts": [
                        {"text": "hm", "thought": True},
                        {"text": "a"},
                        {"functionCall": {"id": "c1", "name": "get", "args": {"a": 1}}},
                    ],
                },
                "finishReason": "STOP",
                "index": 0,
            }
        ],
        "usageMetadata": {
            "promptTokenCount": 5,
            "candidatesTokenCount": 1,
            "totalTokenCount": 9,
            "cachedContentTokenCount": 2,
            "thoughtsTokenCount": 3,
        },
        "modelVersion": "m",
        "responseId": "c",
    }
    hidden = answered(ASKED, completion(message))["candidates"][0]["content"]["parts"]
    assert not [part for part in hidden if part.get("thought")]


@pytest.mark.parametrize(
    ("finish", "reason"), [("stop", "STOP"), ("length", "MAX_TOKENS"), ("content_filter", "SAFETY")]
)
def test_why_an_answer_ended(finish: str, reason: str) -> None:
    made = answered(ASKED, completion({"content": "a"}, finish=finish))
    assert made["candidates"][0]["finishReason"] == reason
    last = streamed(ASKED, chunk({"content": "a"}), chunk({}, finish), counted(3, 2))[-1]
    assert last["candidates"][0]["finishReason"] == reason
    assert last["usageMetadata"] == {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5}


def test_an_answer_that_says_nothing_has_one_empty_text() -> None:
    made = answered(ASKED, completion({"content": None}))
    assert made["candidates"][0]["content"]["parts"] == [{"text": ""}]


def test_several_candidates() -> None:
    body = ASKED | {"generationConfig": {"candidateCount": 2}}
    made = answered(body, completion({"content": "a"}, {"content": "b"}))
    assert [(one["index"], one["content"]["parts"][0]["text"]) for one in made["candidates"]] == [
        (0, "a"),
        (1, "b"),
    ]
    texts = [(0, "a"), (1, "b"), (1, "c"), (1, "d"), (0, "e"), (0, "f")]
    events = [chunk({"content": text}) for _, text in texts]
    for event, (index, _) in zip(events, texts, strict=True):
        event["choices"][0]["index"] = index
    ends = [chunk({}, "stop"), chunk({}, "length")]
    ends[1]["choices"][0]["index"] = 1
    found = streamed(body, *events, *ends, counted(1, 6))
    assert "".join(part["text"] for part in parts(found, 0)) == "aef"
    assert "".join(part["text"] for part in parts(found, 1)) == "bcd"
    assert [one["finishReason"] for one in found[-1]["candidates"]] == ["STOP", "MAX_TOKENS"]


def test_log_probabilities() -> None:
    tokens = [{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -1}]}]
    body = ASKED | {"generationConfig": {"responseLogprobs": True, "logprobs": 1}}
    answer = completion({"content": "a"})
    answer["choices"][0]["logprobs"] = {"content": tokens}
    made = answered(body, answer)
    gemini_types.fits_whole(made)
    (candidate,) = made["candidates"]
    assert math.isclose(candidate["avgLogprobs"], -0.5)
    assert candidate["logprobsResult"] == {
        "chosenCandidates": [{"token": "a", "logProbability": -0.5}],
        "topCandidates": [{"candidates": [{"token": "b", "logProbability": -1.0}]}],
    }
    events = [chunk({"content": text}, logprobs={"content": tokens}) for text in "ab"]
    found = streamed(body, *events, *END)
    assert [len(piece["candidates"][0].get("logprobsResult", ())) for piece in found] == [2, 2, 0]


def pieces_of_a_call(*arguments: str) -> list[dict[str, Any]]:
    first = {"index": 0, "id": "c1", "function": {"name": "get", "arguments": ""}}
    later = [{"index": 0, "function": {"arguments": more}} for more in arguments]
    return [chunk({"tool_calls": [one]}) for one in (first, *later)]


def test_a_streamed_call_is_told_when_it_is_complete() -> None:
    events = [chunk({"content": "so"}), *pieces_of_a_call('{"a"', ":1}"), chunk({"content": "on"})]
    found = parts(streamed(ASKED, *events, chunk({}, "tool_calls"), counted(3, 2)))
    call = {"functionCall": {"id": "c1", "name": "get", "args": {"a": 1}}}
    assert found == [{"text": "so"}, call, {"text": "on"}]


def test_thoughts_of_a_stream_are_told_to_those_who_ask() -> None:
    events = [chunk({"reasoning_content": text}) for text in "abc"] + [chunk({"content": "d"}), *END]
    told = [{"text": text, "thought": True} for text in "abc"]
    assert parts(streamed(ASKED | THOUGHTS, *events)) == [*told, {"text": "d"}]
    assert parts(streamed(ASKED, *events)) == [{"text": "d"}]


@pytest.mark.parametrize("events", [True, False])
@given(
    texts=st.lists(st.text(min_size=1), max_size=6),
    thoughts=st.lists(st.text(min_size=1), max_size=3),
    size=st.integers(1, 90),
)
def test_the_split_of_the_bytes_changes_nothing(
    events: bool, texts: list[str], thoughts: list[str], size: int
) -> None:
    made = [chunk({"reasoning_content": text}) for text in thoughts]
    made += [chunk({"content": text}) for text in texts]
    data = stream([*made, *pieces_of_a_call('{"a":1}'), chunk({}, "tool_calls"), counted(3, 2)])
    one, other = (
        chatting.streamed(translation(ASKED | THOUGHTS, streams=True, events=events), data, at)
        for at in (1 << 20, size)
    )
    assert one == other
    found = parts(pieces(other, events))
    assert "".join(part["text"] for part in found if part.get("thought")) == "".join(thoughts)
    assert "".join(part.get("text", "") for part in found if not part.get("thought")) == "".join(texts)
    assert found[-1]["functionCall"]["args"] == {"a": 1}


def test_words_on_a_start_are_marked_and_shown_to_everybody() -> None:
    request = translation(ASKED, streams=True).said
    client = msgspec.structs.replace(
        request, operation=GENERATE, body=paths.whole(b'{"contents":[]}', "m", True, True)
    )
    writer = CODECS[GENERATE].writer(client)
    writer.foreword = True
    out = writer.event(foreword.payload("loading", "m", 1)) + writer.end_foreword()
    for event in (chunk({"reasoning_content": "hm"}), chunk({"content": "a"}), chunk({}, "stop")):
        out += writer.event(msgspec.json.encode(event))
    found = pieces(out + writer.end(Usage(1, 1)))
    assert parts(found) == [
        {"text": "loading", "thought": True, "thoughtSignature": content.MARK},
        {"text": "a"},
    ]
    assert len({piece["responseId"] for piece in found}) == 1


# --- counts and embeddings


def test_counts_are_of_all_that_the_model_would_read() -> None:
    whole = ASKED | {"systemInstruction": {"parts": [{"text": "be"}]}, "tools": [function("get")]}
    made = said({"generateContentRequest": {"model": "models/x", **whole}}, COUNT)
    assert [one["content"] for one in made["messages"]] == ["be", "hi"] and len(made["tools"]) == 1
    found = translation(ASKED, COUNT).reply(Reply(b'{"tokens": [1, 2, 3]}', None))
    assert isinstance(found, Reply) and found.body == b'{"totalTokens":3}'


def test_embeddings() -> None:
    wish = {"content": {"parts": [{"text": "a"}, {"text": "b"}]}, "outputDimensionality": 2, "taskType": "X"}
    assert said(wish, EMBED) == {"model": "m", "input": ["a\nb"], "dimensions": 2}
    assert translation(wish, EMBED).dropped == ("taskType",)
    data = [{"index": 1, "embedding": [0.5, 1]}, {"index": 0, "embedding": [0.25, 2]}]
    answer = {"object": "list", "data": data, "model": "up", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    both = {"requests": [wish, wish | {"model": "models/x"}]}
    assert answered(both, answer, BATCH) == {"embeddings": [{"values": [0.25, 2]}, {"values": [0.5, 1]}]}
    assert answered(wish, answer | {"data": data[1:]}, EMBED) == {"embedding": {"values": [0.25, 2]}}
    assert (
        refused({"requests": [wish, {"content": wish["content"]}]}, BATCH) == "requests.outputDimensionality"
    )


# --- paths and errors


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1beta/models/m:generateContent", (GENERATE, "m", False)),
        ("/v1/models/m:streamGenerateContent", (GENERATE, "m", True)),
        ("/v1beta/models/org%2Fm:1b:countTokens", (COUNT, "org/m:1b", False)),
        ("/v1beta/models/org/m:embedContent", (EMBED, "org/m", False)),
        ("/v1beta/models/m:batchEmbedContents", (BATCH, "m", False)),
        ("/v1beta/models/m:predict", None),
        ("/v1beta/models/m", None),
        ("/v1/chat/completions", None),
    ],
)
def test_what_a_path_means(path: str, meant: tuple[Any, ...] | None) -> None:
    assert paths.meant(path) == meant


@pytest.mark.parametrize("name", ["", "..", "../m", "a/../b", "./m", "a//b", "/m"])
def test_a_name_with_steps_of_a_path_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        paths.check_name(name)


def test_the_body_says_nothing_against_the_path() -> None:
    body = paths.whole(
        b'{"model": "models/other", "stream": true, "alt": "sse", "contents": []}', "m", False, False
    )
    assert msgspec.json.decode(body) == {"model": "m", "stream": False, "alt": "json", "contents": []}
    assert paths.whole(b"[1]", "m", False, False) == b"[1]"


FACTS = ErrorFacts("there is no model 'x'", "invalid_request_error", "model", "model_not_found", 404)


def test_errors_have_googles_shape() -> None:
    made = msgspec.json.decode(GEMINI_API.error(FACTS, b"r1"))
    gemini_types.read(made, gemini_types.Refused)
    assert made["error"]["code"] == 404 and made["error"]["status"] == "NOT_FOUND"
    reasons = [one.get("reason") for one in made["error"]["details"]]
    assert reasons == ["MODEL_NOT_FOUND", None, None]
    assert made["error"]["details"][1]["fieldViolations"][0]["field"] == "model"
    assert surface_at("/v1beta/models/m:generateContent") is GEMINI_API
    assert surface_at("/v1/models/m:generateContent") is GEMINI_API
    assert surface_at("/v1/models/m") is not GEMINI_API


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (400, "INVALID_ARGUMENT"),
        (413, "INVALID_ARGUMENT"),
        (401, "UNAUTHENTICATED"),
        (403, "PERMISSION_DENIED"),
        *((429, "RESOURCE_EXHAUSTED"), (500, "INTERNAL"), (502, "UNAVAILABLE"), (503, "UNAVAILABLE")),
        *((504, "DEADLINE_EXCEEDED"), (599, "INTERNAL")),
    ],
)
def test_googles_word_for_a_status(status: int, word: str) -> None:
    error = msgspec.json.decode(GEMINI_API.error(FACTS._replace(status=status)))["error"]
    assert (error["code"], error["status"]) == (status, word)


@pytest.mark.parametrize("said_before", [0, 2])
def test_a_list_that_breaks_off_is_json_whose_last_item_is_the_error(said_before: int) -> None:
    found = translation(ASKED, streams=True, events=False)
    decoder = found.decoder(ENGINE.decoder(found.said, "up"))
    data = decoder.feed(stream([chunk({"content": "a"})] * said_before, done=False))
    assert not decoder.close() and decoder.failure is not None
    broken = Broken(None, b"r1", decoder)
    made = msgspec.json.decode(data + GEMINI_LIST.error_event(FACTS, broken))
    assert len(made) == said_before + 1
    gemini_types.read(made[-1], gemini_types.Refused)
    assert not GEMINI_LIST.ends(broken)
    event = GEMINI_API.error_event(FACTS, broken)
    assert event.startswith(b'data: {"error":{"code":404,') and event.endswith(b"}\n\n")
