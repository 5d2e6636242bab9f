"""What the contents of Google's requests are in OpenAI's chat.

Rules:
- The answer to a call belongs to the call of its id, or to the first call of its name that has none yet: Google's
  clients may leave ids out.
- Answers to calls stand directly behind the calls, before what the user says in the same turn.
- What was thought goes back as thoughts, whatever its signature is: that is opaque, and this gateway makes none but the
  mark of its own words on an engine's start, which are no part of the conversation.
- A file that only Google's service keeps is the client's mistake here, with its place.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import msgspec

from backends.surfaces import foreword
from backends.surfaces.chat import answered_before, content_of, written
from backends.surfaces.gemini.fields import fields, inner, several
from backends.surfaces.places import Members, optional, text, wrong
from backends.surfaces.unanswered import Unanswered

MARK: Final = base64.b64encode(foreword.SIGNATURE.encode()).decode()
"""The `thoughtSignature` of the gateway's own words before the model's."""
_ABOUT: Final = frozenset({"executableCode", "codeExecutionResult", "toolCall", "toolResponse"})
"""Parts of earlier turns that only Google's own service wrote and can read; they are left out."""
_SOUNDS: Final = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mp3": "mp3",
    "audio/mpeg": "mp3",
}
_TEXTS: Final = ("application/json", "application/xml", "application/javascript")
_STANDARD: Final = str.maketrans("-_", "+/")


def messages(body: Members) -> list[Members]:
    """Return the messages of a chat for the contents of a request, its system instruction first."""
    made: list[Members] = []
    open_calls = Unanswered()
    for place, turn in several(body, "contents", ""):
        role = optional(turn, "role", place, str, "a text") or "user"
        if role == "model":
            _model(turn, place, made, open_calls)
        elif role in ("user", "function", "tool"):
            _user(turn, place, made, open_calls)
        else:
            raise wrong(f"{place}.role", "expected user or model")
    told = system(body)
    if not made and not told:
        raise wrong("contents", "nothing is said in them")
    return [{"role": "system", "content": told}, *made] if told else made


def system(body: Members) -> str:
    """Return the text of the system instruction; empty where there is none."""
    given = body.get("systemInstruction")
    if isinstance(given, str):
        return given
    found = inner(body, "systemInstruction", "")
    return "" if found is None else plain(found, "systemInstruction")


def plain(content: Members, place: str) -> str:
    """Return the text of a content that may only be text."""
    said = []
    for at, part in several(content, "parts", place):
        if part.get("text") is None:
            raise wrong(at, "expected a text")
        said.append(text(part, "text", at))
    return "\n".join([one for one in said if one])


def _user(turn: Members, place: str, made: list[Members], calls: Unanswered) -> None:
    """Add what a user says, and before it the answers to calls in the same turn."""
    said: list[Members] = []
    pictures: list[Members] = []
    for at, part in several(turn, "parts", place):
        if (answer := inner(part, "functionResponse", at)) is not None:
            made.append(_result(answer, f"{at}.functionResponse", calls, pictures))
        else:
            said += _part(part, at)
    parts = pictures + said
    if not parts:
        return
    if made and made[-1]["role"] == "user":
        before = made.pop()["content"]
        parts = ([{"type": "text", "text": before}] if isinstance(before, str) else before) + parts
    made.append({"role": "user", "content": content_of(parts)})


def _result(answer: Members, place: str, calls: Unanswered, pictures: list[Members]) -> Members:
    """Return the message with the answer to a call; add the pictures in it, which only a user's message can hold."""
    name = text(answer, "name", place)
    known = calls.answered(optional(answer, "id", place, str, "a text"), name)
    told = optional(answer, "response", place, dict, "an object")
    for at, part in several(answer, "parts", place):
        pictures += _part(part, at)
    return {"role": "tool", "tool_call_id": known, "content": msgspec.json.encode(told or {}).decode()}


def _model(turn: Members, place: str, made: list[Members], calls: Unanswered) -> None:
    """Add an earlier answer: its thoughts, its text and its calls."""
    said: list[str] = []
    thinks: list[str] = []
    called: list[Members] = []
    for at, part in several(turn, "parts", place):
        if (call := inner(part, "functionCall", at)) is not None:
            called.append(_call(call, f"{at}.functionCall", calls))
        elif part.get("text") is None:
            if not _ABOUT.isdisjoint(part) or not _known(part):
                continue
            raise wrong(at, "an earlier answer may hold text, thoughts and calls of functions")
        elif part.get("thought") is not True:
            said.append(text(part, "text", at))
        elif part.get("thoughtSignature") != MARK:
            thinks.append(text(part, "text", at))
    made += answered_before("".join(said), "".join(thinks), called)


def _known(part: Members) -> bool:
    """Tell whether a part without text holds something that the model would have to read."""
    return any(part.get(name) is not None for name in ("inlineData", "fileData", "functionResponse"))


def _call(call: Members, place: str, calls: Unanswered) -> Members:
    name = text(call, "name", place)
    known = calls.add(optional(call, "id", place, str, "a text"), name)
    arguments = written(optional(call, "args", place, dict, "an object"))
    return {"id": known, "type": "function", "function": {"name": name, "arguments": arguments}}


def _part(part: Members, place: str) -> list[Members]:
    """Return the part of a user's message for one of Google's; none where it says nothing."""
    if part.get("text") is not None:
        said = text(part, "text", place)
        return [{"type": "text", "text": said}] if said else []
    if (data := inner(part, "inlineData", place)) is not None:
        return [_data(data, f"{place}.inlineData")]
    if part.get("fileData") is not None:
        message = "this gateway keeps no files for contents: send the data itself, as inlineData"
        raise wrong(f"{place}.fileData", message)
    if part.get("functionCall") is not None:
        raise wrong(f"{place}.functionCall", "only a turn of the role model has calls of functions")
    if not _ABOUT.isdisjoint(part) or part.get("thought") is True or not part:
        return []
    raise wrong(place, "expected text, inlineData or functionResponse")


def _data(data: Members, place: str) -> Members:
    """Return the part for data in the request itself: a picture, sound or text."""
    kind = text(data, "mimeType", place).partition(";")[0].strip().lower()
    coded = text(data, "data", place).translate(_STANDARD)
    coded += "=" * (-len(coded) % 4)
    if kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{coded}"}}
    if kind in _SOUNDS:
        return {"type": "input_audio", "input_audio": {"data": coded, "format": _SOUNDS[kind]}}
    if kind.startswith("text/") or kind in _TEXTS:
        try:
            said = base64.b64decode(coded, validate=True).decode(errors="replace")
        except (binascii.Error, ValueError):
            raise wrong(f"{place}.data", "expected base64") from None
        return {"type": "text", "text": said}
    raise wrong(f"{place}.mimeType", f"data of the type {kind!r} cannot be sent to this model's engines")


def content_in(holder: Members, name: str, place: str) -> str:
    """Return the text of a content to embed, which may be given as text alone."""
    given: Any = holder.get(name)
    at = f"{place}.{name}" if place else name
    if isinstance(given, str):
        return given
    if not isinstance(given, dict):
        raise wrong(at, "expected a content with parts")
    return plain(fields(given), at)
