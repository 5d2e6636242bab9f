"""What an old SDK of Anthropic's gets of the gateway, as one line of JSON: a program with packages of its own."""

from __future__ import annotations

import json
import sys
from typing import Any

import anthropic

TOOLS: Any = [{"name": "get", "description": "Gets.", "input_schema": {"type": "object", "properties": {}}}]


def user(content: str) -> Any:
    return {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": content}]}


def told(message: Any) -> dict[str, Any]:
    """Return what is compared; thoughts are a kind of block that this SDK does not know yet."""
    content = []
    for block in message.model_dump()["content"]:
        said = block.get("text") or block.get("thinking") or [block.get("name"), block.get("input")]
        content.append([block["type"], said])
    usage = [message.usage.input_tokens, message.usage.output_tokens]
    return {"content": content, "reason": message.stop_reason, "usage": usage}


def main() -> None:
    found: dict[str, Any] = {"version": anthropic.__version__}
    with anthropic.Anthropic(max_retries=0) as client:
        found["whole"] = told(client.messages.create(**user("hi")))
        with client.messages.stream(**user("hi")) as stream:
            found["pieces"] = "".join(stream.text_stream)
            found["streamed"] = told(stream.get_final_message())
        found["call"] = told(client.messages.create(**user("call it"), tools=TOOLS))
        with client.messages.stream(**user("call it"), tools=TOOLS) as stream:
            found["streamed_call"] = told(stream.get_final_message())
        counted: Any = client.beta.messages.count_tokens(model="m", messages=user("hi")["messages"])
        found["counted"] = counted.input_tokens > 0
        try:
            client.messages.create(**user("hi") | {"model": "n"})
        except anthropic.APIStatusError as error:
            body: Any = error.body
            known = error.response.headers.get("request-id")
            found["error"] = [type(error).__name__, error.status_code, body["error"]["type"], bool(known)]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
