"""The size limit of every framer: how large one event or one line of an engine's stream may grow."""

from __future__ import annotations

from typing import Final

EVENT: Final = 32 << 20
"""The most bytes of one event, unless the gateway's config says otherwise.

An event may hold an image or the whole answer once more, and one of Ollama's lines every token of a long context.
"""
