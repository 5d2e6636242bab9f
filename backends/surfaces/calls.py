"""Tool calls of a chat stream, put together and told one after the other, whatever order their pieces come in.

Rules:
- One call is told at a time, in the order in which the model began them. A call that comes while the arguments of
  another one are still incomplete waits for it, as does one whose name is not known yet.
- An id and a name that engines repeat in every piece begin nothing anew; another id with a name, at the same index, is
  another call. A piece without an index belongs to the first.
- A name is whole where it comes: engines say it once or repeat it (llama-cpp-python 0.3, Triton's OpenAI frontend), and
  none that is known here splits it. Another name for the same call is an error: either would be a guess.
- A call that has an id or arguments and never gets a name is an error: an answer that lacks a call must not look
  complete.
- A piece that comes when its call was told completely says nothing new and is left out; one behind arguments that were
  cut short is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from backends.dialect import partial
from backends.surfaces import chat


class Call:
    """A call whose pieces arrive."""

    __slots__ = ("_key", "arguments", "begun", "id", "name", "told")

    def __init__(self, key: tuple[int, int]) -> None:
        """`key` is its index in the engine's stream, and its number among the calls there."""
        self._key = key
        self.id = ""
        """The engine's id for it; empty if it gave none."""
        self.name = ""
        self.arguments = ""
        """All that has come of their JSON."""
        self.begun = False
        """Whether the client knows of it."""
        self.told = 0
        """How many characters of the arguments the client has."""

    @property
    def index(self) -> int:
        """Return its index in the engine's stream."""
        return self._key[0]

    def another(self) -> Call:
        """Return a new call at the same index."""
        return Call((self._key[0], self._key[1] + 1))


class Step(NamedTuple):
    """What may be told of a call now: that it begins, more of its arguments (if any), and that it is complete."""

    call: Call
    begins: bool
    more: str
    ends: bool


class Calls:
    """The calls of one stream."""

    __slots__ = ("_over", "_waiting", "any")

    def __init__(self) -> None:
        self._waiting: list[Call] = []
        """Those that are not complete, in their order; the first one may have begun."""
        self._over: dict[int, Call] = {}
        """The last call that was told completely, by its index."""
        self.any = False
        """Whether one was told."""

    def take(self, piece: chat.Call) -> Iterator[Step]:
        """Take a piece of a call; yield what may be told now."""
        index = piece.index or 0
        name = (piece.function.name if piece.function is not None else None) or ""
        call = next((known for known in reversed(self._waiting) if known.index == index), None)
        if call is None:
            before = self._over.get(index)
            if before is not None and _is_late(piece, name, before):
                return iter(())
            call = Call((index, 0)) if before is None else before.another()
            self._waiting.append(call)
        elif name and piece.id and call.id and piece.id != call.id:
            call = call.another()
            self._waiting.append(call)
        elif name and call.name and name != call.name:
            raise ValueError("a call has two names")
        call.id = call.id or piece.id or ""
        call.name = call.name or name
        call.arguments += chat.arguments_of(piece)
        return self.steps()

    def steps(self, over: bool = False) -> Iterator[Step]:
        """Yield what may be told now; `over` says that no more of these calls will come.

        Raise ValueError if that leaves a call of which it is not known what it calls.
        """
        while self._waiting:
            call = self._waiting[0]
            if not call.name:
                if not over:
                    return
                if call.id or call.arguments:
                    raise ValueError("a call has no name")
                self._waiting.pop(0)
                continue
            begins, call.begun = not call.begun, True
            more = call.arguments[call.told :]
            call.told = len(call.arguments)
            ends = over or (len(self._waiting) > 1 and _is_whole(call))
            self.any = True
            if ends:
                self._over[call.index] = self._waiting.pop(0)
            if begins or more or ends:
                yield Step(call, begins, more, ends)
            if not ends:
                return


def _is_late(piece: chat.Call, name: str, call: Call) -> bool:
    """Tell whether a piece belongs to a call that was told completely, and begins no other one at the same index.

    Raise ValueError if the client lacks what it says.
    """
    if name and (name != call.name or (piece.id or "") != call.id or not call.id):
        return False
    if chat.arguments_of(piece) and not _is_whole(call):
        raise ValueError("arguments came behind the end of their call")
    return True


def _is_whole(call: Call) -> bool:
    """Tell whether a call behind which another one has begun is complete."""
    return not call.arguments or partial.is_whole(call.arguments)
