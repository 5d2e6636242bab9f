"""Which LoRA adapters an answer is made with, where an engine has several and each request chooses among them.

Rules:
- What a client chooses itself stays: nothing is put where it has said it.
- An operation that cannot choose is said as a chat where that is possible. Where it is not, and its answer would be the
  base model's, a request for an adapter is refused: another backend may be able to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from backends.base import Operation, Request
from backends.dialect import edits
from backends.dialect.members import Members

_COMPUTED: Final = frozenset((Operation.EMBEDDINGS, Operation.RERANK, Operation.SCORE))
"""The operations whose answers are numbers that an adapter would change."""


class Selection:
    """The choice that the requests for one model make at one backend."""

    __slots__ = ("_operations", "adapter", "members")

    def __init__(
        self, operations: frozenset[Operation], members: Mapping[str, bytes], adapter: str = ""
    ) -> None:
        """Take the operations that can choose, and the `members` that do; `adapter` is empty where none is chosen."""
        self._operations: Final = operations
        self.members: Mapping[str, bytes] = members
        """By name, in JSON. They may change: an engine that has started anew may have other numbers for adapters."""
        self.adapter: Final = adapter

    def asks_for_chat(self, operation: Operation, said_as: Operation) -> bool:
        """Tell whether an operation is to be said as another one, because only that one can choose."""
        return operation not in self._operations and said_as in self._operations

    def apply(self, members: Members, operation: Operation) -> None:
        """Put the choice into the members of a request. Raise RequestError where an adapter cannot be had so."""
        if operation not in self._operations:
            if self.adapter and operation in _COMPUTED:
                what = (
                    f"the engine applies LoRA adapters, such as {self.adapter!r}, to text that it writes only"
                )
                raise edits.unsupported("model", what)
            return
        for name, value in self.members.items():
            if members.get(name) in (None, b"null"):
                members.put(name, value)

    def keep(self, members: Members, asked: Request) -> None:
        """Take over what a client has chosen itself, from its request to what is said instead."""
        if b'"lora"' not in asked.body:
            return
        own = Members(asked.body)
        for name in self.members:
            found = own.get(name)
            if found is not None:
                members.put(name, found)
