"""The members of Google's requests that the gateway has to know beside those at the top, as msgspec structs."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

MOST: Final = 128
"""The most answers to one request, as in OpenAI's API; Google's has eight."""
_Choices = Annotated[int, msgspec.Meta(ge=1, le=MOST)]


class _Config(msgspec.Struct):
    first: _Choices | None = msgspec.field(name="candidateCount", default=None)
    second: _Choices | None = msgspec.field(name="candidate_count", default=None)

    @property
    def choices(self) -> int:
        return self.first or self.second or 1


class _Generate(msgspec.Struct):
    first: _Config | None = msgspec.field(name="generationConfig", default=None)
    second: _Config | None = msgspec.field(name="generation_config", default=None)


_generate: Final = msgspec.json.Decoder(_Generate)


def choices(body: bytes) -> int:
    """Return how many answers a request asks for. Raises msgspec's errors where that is no number for it."""
    found = _generate.decode(body)
    config = found.first or found.second
    return 1 if config is None else config.choices
