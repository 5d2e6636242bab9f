"""The one reader of engines' lists of models: JSON of any shape, and cards of which some may be odd.

Rules:
- What can be read of a list counts. An odd card is left out, an odd context length is not known; `ModelCard.odd` says
  what was odd, for the operator's log. Only what is no list at all is an error.
- A bare array is a list too. `null` in place of the list is an empty one: engines written in Go write it so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from backends.base import ABILITIES, ModelCard

_array = msgspec.json.Decoder(list[msgspec.Raw])
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_anything = msgspec.json.Decoder()

_LONGEST = 2**40
"""Tokens of the longest context that is believed."""


class Entry:
    """One card of a list, read member by member."""

    __slots__ = ("_members", "odd")

    def __init__(self, raw: bytes | msgspec.Raw) -> None:
        """Read a card; what is no object is an odd card without members."""
        self.odd = ""
        """What was odd about it so far; empty if nothing was."""
        try:
            self._members = _object.decode(raw)
        except (ValueError, RecursionError):
            self._members = {}
            self.odd = "it is no object"

    def text(self, name: str) -> str:
        """Return a member's text; an empty one where it is missing or no text."""
        value = self._value(name)
        return value if isinstance(value, str) else ""

    def whole(self, *path: str) -> int | None:
        """Return the positive whole number at a path of members, such as `meta`, `n_ctx`; None if there is none."""
        name, *below = path
        if below:
            raw = self._members.get(name, msgspec.Raw(b"null"))
            if bytes(raw) == b"null":
                return None
            inner = Entry(raw)
            found = inner.whole(*below)
            self.odd = self.odd or (inner.odd and f"its {name}: {inner.odd}")
            return found
        value = self._value(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LONGEST:
            return value
        if value not in (None, 0):
            self.odd = self.odd or f"its {name} is no number of tokens"
        return None

    def abilities(self, name: str) -> frozenset[str] | None:
        """Return what a list of words says that the model can do; None where there is no list.

        Words that are not known here are left out.
        """
        value = self._value(name)
        if isinstance(value, list):
            return frozenset(ABILITIES).intersection(word for word in value if isinstance(word, str))
        if value is not None:
            self.odd = self.odd or f"its {name} is no list"
        return None

    def card(
        self, name: str, context: int | None = None, abilities: frozenset[str] | None = None
    ) -> ModelCard:
        """Return the card of a model; one without a name is odd."""
        return ModelCard(name, context, self.odd if name else self.odd or "it has no name", abilities)

    def _value(self, name: str) -> object:
        """Return a member's value; None where it is missing or cannot be read."""
        raw = self._members.get(name)
        try:
            return None if raw is None else _anything.decode(raw)
        except (ValueError, RecursionError):
            self.odd = self.odd or f"its {name} cannot be read"
            return None


def entries(body: bytes, member: str = "data") -> Iterator[Entry]:
    """Yield the cards of a list of models: a bare array, or the object's member of this name.

    Raises:
        ValueError: It is not a list of models.
    """
    try:
        listed: bytes | msgspec.Raw = body
        if body.lstrip()[:1] == b"{":
            listed = _object.decode(body)[member]
        cards = [] if bytes(listed).strip() == b"null" and listed is not body else _array.decode(listed)
    except KeyError as error:
        raise ValueError(f"not a list of models: it has no '{member}'") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a list of models: {error}") from error
    return map(Entry, cards)


def named(body: bytes, member: str, name: str, abilities: str = "") -> tuple[ModelCard, ...]:
    """Return the models in a list whose cards have the model's name in the member `name`, and no context length.

    `abilities` is the member that lists what a model can do; empty where the engine does not tell.

    Raises:
        ValueError: It is not a list of models.
    """
    read = [
        (entry, entry.text(name), entry.abilities(abilities) if abilities else None)
        for entry in entries(body, member)
    ]
    return tuple(entry.card(own, abilities=able) for entry, own, able in read)


def openai(
    body: bytes, context: Sequence[str] = ("max_model_len",), joined: str = ""
) -> tuple[ModelCard, ...]:
    """Return the models in a list of OpenAI's form.

    `context` is the path to a card's context length. A card with a `parent` is a LoRA adapter, which has its base
    model's context; where `joined` is given, it is asked for as base model, `joined` and its own name.

    Raises:
        ValueError: It is not a list of models.
    """
    read = [(entry, entry.text("id"), entry.whole(*context)) for entry in entries(body)]
    known = {own: length for _, own, length in read}
    found = []
    for entry, own, length in read:
        parent = entry.text("parent")
        name = f"{parent}{joined}{own}" if joined and parent and own else own
        found.append(entry.card(name, length or known.get(parent)))
    return tuple(found)
