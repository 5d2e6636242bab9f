"""A chat stream as a stream of OpenAI's Responses API.

Rules:
- Every event has its number. One item is open at a time; its end repeats all of it, and the last event all items:
  clients take their answer from there.
- Nothing empty opens an item.
- The input of a custom tool is told in one piece when it is complete: it comes as JSON, of which it is a part. A search
  for tools, whose arguments are an object, is told with its item alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from backends.base import Request, Usage
from backends.surfaces import chat, foreword
from backends.surfaces.calls import Calls, Step
from backends.surfaces.responses import answered, included, tools
from backends.surfaces.translation import Writer

Members = dict[str, Any]

_TEXT, _REFUSAL, _THINKING, _CALL = "output_text", "refusal", "reasoning_text", "call"
_MEMBERS = {_TEXT: "text", _REFUSAL: "refusal", _THINKING: "text"}
"""The member of a part, and of the event that ends it, that holds what was said."""


class ResponseWriter(Writer):
    """Writes one streamed response."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self._frame = answered.Frame(request)
        self.identity = self._frame.id
        self._started = False
        self._open = ""
        """The kind of part, or a call, that is open; empty if none is."""
        self._item = ""
        """The id of the open item."""
        self._said: list[bytes] = []
        """What was said in the open part, inside of JSON."""
        self._logprobs: list[Members] = []
        """The log probabilities of that, where the client wants them."""
        self._before, self._after = b"", b""
        """How an event begins that continues the open part: up to its number, and from there to the text."""
        self._output: list[Members] = []
        """The items that are over."""
        self._calls = Calls()
        self._reason: str | None = None

    def event(self, payload: bytes) -> bytes:
        said = chat.decode(payload)
        self.continues = False
        out = [] if self._started else [self._start()]
        choice = said.first
        if choice is not None:
            delta = choice.delta or chat.Said()
            texts = [
                (_THINKING, delta.thought),
                (_TEXT, chat.text_of(delta.content)),
                (_REFUSAL, chat.text_of(delta.refusal)),
            ]
            spoken = [(kind, text) for kind, text in texts if text]
            logprobs = included.logprobs_of(choice.probabilities) if self._frame.included.logprobs else []
            out += [self._say(kind, text, logprobs) for kind, text in spoken]
            calls = delta.tool_calls or ()
            out += [self._tell(self._calls.take(call)) for call in calls]
            self._reason = choice.finish_reason or self._reason
            is_text = len(spoken) == 1 and not calls and not logprobs
            self.continues = is_text and choice.finish_reason is None
        return b"".join(out)

    def text(self, text: bytes) -> bytes:
        self._said.append(text)
        number = self.events
        self.events = number + 1
        return b'%b%d%b%b"}\n\n' % (self._before, number, self._after, text)

    def end_foreword(self) -> bytes:
        self.foreword = False
        return self._close()

    def end(self, usage: Usage) -> bytes:
        out = [] if self._started else [self._start()]
        out.append(self._tell(self._calls.steps(over=True)))
        out.append(self._close())
        response = self._frame.ended(self._output, self._reason, usage)
        out.append(self._event(f"response.{response['status']}", {"response": response}))
        return b"".join(out)

    def _start(self) -> bytes:
        self._started = True
        response = self._frame.response("in_progress", [])
        kinds = ("response.created", "response.in_progress")
        return b"".join([self._event(kind, {"response": response}) for kind in kinds])

    def _say(self, kind: str, text: str, logprobs: list[Members]) -> bytes:
        """Return the events for more text, thoughts or refusal; log probabilities are those of text."""
        before = b""
        if self._open != kind:
            # What waits for the end of a call is of no use behind this: the model has gone on.
            before = self._tell(self._calls.steps(over=True)) + self._close() + self._begin(kind)
        said = msgspec.json.encode(text)[1:-1]
        if not logprobs or kind != _TEXT:
            return before + self.text(said)
        self._said.append(said)
        self._logprobs += logprobs
        delta = {**self._place(), "logprobs": logprobs, "delta": text}
        return before + self._event("response.output_text.delta", delta)

    def _begin(self, kind: str) -> bytes:
        self._open = kind
        self._said, self._logprobs = [], []
        thinks = kind == _THINKING
        self._item = answered.fresh(foreword.ITEM if self.foreword else "rs" if thinks else "msg")
        item = answered.thinking(self._item, "") if thinks else answered.message(self._item, [])
        item |= {"status": "in_progress", "content": []}
        added = self._event("response.output_item.added", {"output_index": len(self._output), "item": item})
        part = self._part(b"")
        name = f"response.{kind}.delta"
        more = ',"logprobs":[]' if kind == _TEXT else ""
        self._before = f'event: {name}\ndata: {{"type":"{name}","sequence_number":'.encode()
        self._after = f',{self._where()}{more},"delta":"'.encode()
        return added + self._event("response.content_part.added", {**self._place(), "part": part})

    def _place(self) -> Members:
        return {"item_id": self._item, "output_index": len(self._output), "content_index": 0}

    def _where(self) -> str:
        """Return the place of the open part as members of a JSON object."""
        return msgspec.json.encode(self._place()).decode()[1:-1]

    def _part(self, said: bytes) -> Members:
        """Return the open part with this text, inside of JSON."""
        text = msgspec.Raw(b'"' + said + b'"')
        if self._open == _TEXT:
            return answered.text_part(text, self._logprobs)
        return {"type": self._open, _MEMBERS[self._open]: text}

    def _close(self) -> bytes:
        """Return the events that end the open part and its item."""
        kind = self._open
        if not kind or kind == _CALL:
            return b""
        part = self._part(b"".join(self._said))
        done: Members = {**self._place(), _MEMBERS[kind]: part[_MEMBERS[kind]]}
        if kind == _TEXT:
            done["logprobs"] = self._logprobs
        if kind == _THINKING:
            thought = msgspec.json.decode(part["text"], type=str)
            item = answered.thinking(self._item, thought) | self._frame.kept(thought)
        else:
            item = answered.message(self._item, [part])
        out = [
            self._event(f"response.{kind}.done", done),
            self._event("response.content_part.done", {**self._place(), "part": part}),
        ]
        return b"".join([*out, self._over(item)])

    def _over(self, item: Members) -> bytes:
        """Return the event that ends an item."""
        self._open = ""
        place = len(self._output)
        self._output.append(item)
        return self._event("response.output_item.done", {"output_index": place, "item": item})

    def _tell(self, steps: Iterable[Step]) -> bytes:
        """Return the events for what may be told of calls."""
        out: list[bytes] = []
        for step in steps:
            call = step.call
            kind = self._frame.kind(call.name)
            if step.begins:
                out.append(self._close())
                call.id = call.id or answered.fresh("call")
                item = self._frame.begun(call.id, call.name)
                self._open, self._item = _CALL, item["id"]
                place = len(self._output)
                out.append(self._event("response.output_item.added", {"output_index": place, "item": item}))
            if step.more and kind == tools.FUNCTION:
                out.append(self._of_call("function_call_arguments.delta", {"delta": step.more}))
            if step.ends:
                item = self._frame.call(call.id, call.name, call.arguments) | {"id": self._item}
                if kind == tools.CUSTOM:
                    out.append(self._of_call("custom_tool_call_input.delta", {"delta": item["input"]}))
                    out.append(self._of_call("custom_tool_call_input.done", {"input": item["input"]}))
                elif kind == tools.FUNCTION:
                    said = {"arguments": item["arguments"], "name": item["name"]}
                    out.append(self._of_call("function_call_arguments.done", said))
                out.append(self._over(item))
        return b"".join(out)

    def _of_call(self, kind: str, members: Members) -> bytes:
        place = {"item_id": self._item, "output_index": len(self._output)}
        return self._event(f"response.{kind}", {**place, **members})

    def _event(self, kind: str, members: Members) -> bytes:
        number = self.events
        self.events = number + 1
        payload = msgspec.json.encode({"type": kind, "sequence_number": number, **members})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), payload)
