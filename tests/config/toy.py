"""An engine for tests of the config file: its launch options hold one field of every kind an engine may use."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr

from backends.base import Engine, Launch, LaunchOptions
from backends.facts.units import Duration


class Shape(enum.StrEnum):
    """A closed set of words."""

    ROUND = "round"
    SQUARE = "square"


class ToyOptions(LaunchOptions):
    """What `launch` may say of the toy engine."""

    model: Path = Field(description="The file.")
    parallel: int = Field(4, ge=1, le=64, description="Slots.")
    threads: int | None = Field(None, gt=0, description="Threads.")
    scale: float | None = Field(None, description="Any number.")
    embeddings: bool = Field(False, description="Whether.")
    shape: Shape = Field(Shape.ROUND, description="Which.")
    lora: tuple[Path, ...] = Field((), max_length=2, description="Files.")
    extra_args: list[str] = Field(default_factory=list, description="More.")
    env: dict[str, str] = Field(default_factory=dict, description="Variables.")
    token: SecretStr | None = Field(None, description="A secret.")
    start_timeout: Duration = Field(300.0, description="How long.")

    def served_names(self) -> tuple[str, ...]:
        return ("toy",)

    def launch(self, host: str, port: int) -> Launch:
        return Launch(("toy", host, str(port)))


class Toy(Engine):
    """Never asked anything but its options."""

    name: ClassVar[str] = "toy"
    launch_options: ClassVar[type[LaunchOptions] | None] = ToyOptions
