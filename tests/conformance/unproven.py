"""What is asked otherwise of an engine's recordings, and what none of them shows, which docs/engines.md lists.

Rules:
- No hand-written recording defines what an engine takes. A check without a real reply stands here until there is one; a
  recording of that name makes the entry a mistake.
- `make test-engines` makes these checks only where it is to record them (`RECORD=1`).
- What a check asks for may be what the recording asked for: `ASKED` are the members that differ, null for one left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOT_RECORDED = "not recorded yet"
NEVER_FULL = "it lets any number of requests wait"
NO_SOUND = "no model that hears was at hand"
NO_CALL = "nothing makes the demo model write a tool call"
ALIGNED = "recorded with a stop string that is one token only"

_SCRIPTED = "go #SCRIPT"


def _none(why: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, why)


def _each(names: Sequence[str], members: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return dict.fromkeys(names, members)


def _user(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


_STOPS = ("stop_of_tokens", "stop_of_tokens_stream")
_CUTS = ("cut_in_call", "cut_in_call_stream")
_RESPONSES = ("responses", "responses_stream")
_MESSAGES = ("messages", "messages_stream")
_TOOLS = ("messages_tools", "messages_tools_stream")
_THOUGHTS = ("messages_thinking", "messages_thinking_stream")
_CALLED = ("ollama_chat_tools", "ollama_chat_tools_stream")
_HEARD = ("transcriptions", "transcriptions_stream")

_CALL = _user(_SCRIPTED + '{"calls": [["get_port", {"engine": "ollama"}]]}#') | {
    "max_tokens": 14,
    "tool_choice": None,
}
_PING = {
    "name": "ping",
    "input_schema": {"type": "object", "properties": {}, "additionalProperties": False},
    "strict": True,
}
_QUEUED = _user(_SCRIPTED + '{"say": "x", "slow": 0.05}#') | {"max_tokens": 300, "temperature": None}
_LONGER = {"max_output_tokens": 200}

ASKED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "lmdeploy": {
        **_each(_MESSAGES, {"max_tokens": 200, "temperature": None}),
        **_each(_RESPONSES, _LONGER),
        **_each(_STOPS, _user(_SCRIPTED + '{"say": "one two ### three"}#') | {"stop": ["###"]}),
        **_each(_CUTS, _CALL),
        **_each(_THOUGHTS, _user('@{"think": "A route is a rule.", "say": "A route picks a backend."}@')),
    },
    "ollama": {
        **_each(_MESSAGES, _user("What is a fallback?") | {"max_tokens": 12}),
        **_each(_RESPONSES, {"input": "What is a fallback?", "max_output_tokens": 12}),
        "stop_of_tokens": _user("What is a fallback?") | {"max_tokens": None, "stop": ["model"]},
    },
    "sglang": {
        **_each(_RESPONSES, _LONGER),
        "overloaded_stream": _QUEUED,
        **_each(_CUTS, _CALL),
    },
    "tgi": {"stop_of_tokens": {"stop": [" fro"]}, **_each(_CUTS, {"max_tokens": 26})},
    "triton-openai": _each(_CUTS, {"max_tokens": 5}),
    "vllm": {
        **_each(_TOOLS, _user("What is this gateway?") | {"max_tokens": 100, "tools": [_PING]}),
        "overloaded_stream": _user("x") | {"max_tokens": 300, "temperature": None, "ignore_eos": True},
    },
}

UNPROVEN: Mapping[str, Mapping[str, str]] = {
    "llama-cpp-python": _none(NEVER_FULL, "overloaded_stream"),
    "llamacpp": {
        **_none(NO_CALL, *_CALLED),
        **_none(NO_SOUND, *_HEARD),
        **_none(NEVER_FULL, "overloaded_stream"),
    },
    "lmdeploy": _none(NEVER_FULL, "overloaded_stream"),
    "ollama": {
        **_none(NO_CALL, *_CALLED),
        **_none(NOT_RECORDED, "overloaded_stream", "stop_of_tokens_stream", *_THOUGHTS),
        **_none(NO_SOUND, *_HEARD),
    },
    "openai": _none(NO_CALL, *_CALLED),
    "ray-serve": {
        **_none(NOT_RECORDED, "overloaded_stream"),
        **_none(NO_CALL, *_CUTS),
        **_none(NO_SOUND, *_HEARD),
    },
    "sglang": _none(NO_SOUND, *_HEARD),
    "tensorrt-llm": {
        **_none(NOT_RECORDED, *_MESSAGES, *_TOOLS, *_THOUGHTS, *_RESPONSES, *_STOPS, *_CUTS),
        **_none(NEVER_FULL, "overloaded_stream"),
    },
    "tgi": _none(ALIGNED, "stop_of_tokens_stream"),
    "transformers": _none(NEVER_FULL, "overloaded_stream"),
    "triton-openai": _none(ALIGNED, *_STOPS),
    "vllm": _none(NO_SOUND, *_HEARD, "translations"),
}
