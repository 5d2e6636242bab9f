"""What an operator may ask an engine to do with its models."""

from __future__ import annotations

import enum


class Action(enum.StrEnum):
    """What an operator may ask an engine to do with its models."""

    LIST = "list"
    PS = "ps"
    """The models in memory."""
    SHOW = "show"
    PULL = "pull"
    CREATE = "create"
    COPY = "copy"
    DELETE = "delete"
    LOAD = "load"
    UNLOAD = "unload"
    LOAD_LORA = "load_lora"
    UNLOAD_LORA = "unload_lora"
    SLEEP = "sleep"
    WAKE = "wake"
