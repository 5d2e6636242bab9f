"""The section of one profile: names that clients may ask for while it is active."""

from __future__ import annotations

from gateway.config.section import Frozen, Section, setting
from gateway.config.texts import ModelGlob, ModelName

NONE = "none"
"""What stands for no profile where one is named."""


class Profile(Section):
    """Aliases that hold while the profile is active. They win over the same aliases of models."""

    aliases: Frozen[ModelGlob, ModelName] = setting(
        ...,
        "What clients may ask for, to the model, by name or alias, that serves it. Patterns such as `gpt-4*` may stand "
        "here as at models.",
    )
