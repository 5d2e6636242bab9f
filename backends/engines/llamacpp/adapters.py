"""LoRA adapters of llama.cpp's server: it has them from its start on, and each request chooses among them by number.

Facts are those of llama.cpp b11549, run:
- `GET /lora-adapters` lists them. A request's `lora` names numbers with strengths; what it does not name has strength
  0, a number that there is not is ignored, and an empty list means what the server was started with.
- Chats, completions, infill and the Responses API hear `lora`. The Messages API and embeddings do not.
- Requests with other adapters are not computed in one step: they take turns.
- A slot forgets its prompt when the adapters change, but the prompts that it keeps for all slots (`--cache-ram`, 8 GiB
  unless it says otherwise) are found by their tokens alone: what was computed with one adapter is used with another,
  and the answer is of neither. `cache_prompt: false` in a request avoids that, and so does `--cache-ram 0`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

import msgspec

from backends.base import Operation, Reading, Signal, Status
from backends.facts.signals import reading

PATH = "/lora-adapters"
OPERATIONS = frozenset((Operation.CHAT, Operation.COMPLETIONS, Operation.INFILL, Operation.RESPONSES))
"""The operations whose requests choose adapters."""


class _Adapter(msgspec.Struct):
    path: str
    scale: float = 0.0
    id: int = -1


_adapters = msgspec.json.Decoder(list[_Adapter])


def signal(answer: bytes | None) -> Reading:
    """Return the adapters in use, by their file names; one at strength 0 is loaded but not in use."""
    try:
        adapters = _adapters.decode(answer or b"")
    except (ValueError, RecursionError):
        words = f"no answer at {PATH}" if answer is None else f"cannot read its {PATH}"
        return Reading(Status.MISSING, source=words)
    names = tuple(PurePath(adapter.path).stem for adapter in adapters if adapter.scale)
    return reading(Signal.LORAS, len(names), PATH, names)


def number(body: bytes, path: str) -> int:
    """Return the number of the adapter that `path` means.

    That is a path as the server was started with, its end (`sql.gguf`), or that without `.gguf`. Raise LookupError,
    with words for the operator, where there is none or several, and ValueError where `body` is no list of adapters.
    """
    adapters = _adapters.decode(body)
    exact = [each.id for each in adapters if each.path == path]
    wanted = PurePath(path).parts
    ending = [each.id for each in adapters if _ends(PurePath(each.path), wanted)]
    found = exact or ending
    if len(found) == 1:
        return found[0]
    there = ", ".join(each.path for each in adapters) or "none"
    raise LookupError(
        f"{len(found)} of its adapters are called {path!r}: name the whole path"
        if found
        else f"it was started without the adapter {path!r}; it has: {there}"
    )


def _ends(path: PurePath, wanted: tuple[str, ...]) -> bool:
    """Tell whether a path ends with these parts, with or without the suffix of the last one."""
    return (
        wanted in (path.parts[-len(wanted) :], path.with_suffix("").parts[-len(wanted) :])
        if wanted
        else False
    )


def chosen(found: int | None, keeps_prompts: bool) -> Mapping[str, bytes]:
    """Return the members of a request that choose the adapter with this number, at full strength; None for none.

    `keeps_prompts`: the server may keep prompts for all slots.
    """
    lora = {"id": found or 0, "scale": 0.0 if found is None else 1.0}
    members = {"lora": msgspec.json.encode([lora])}
    return members | {"cache_prompt": b"false"} if keeps_prompts else members
