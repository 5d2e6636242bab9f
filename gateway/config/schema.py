"""The shape of the config file: one frozen type per section, each field with its default and its meaning.

Rules:
- Names and defaults here are a promise to users. The JSON Schema, the reference in the docs and every "did you mean"
  come from these types, so a field is described once.
- Validation here sees one value at a time. Rules between values (names that must exist, cycles) live in
  `gateway.config.check`.
- Nothing here reads a file or the environment. Secrets are `SecretStr` and never part of an error.
- Each section has a module of its own beside this one.
"""

from __future__ import annotations

from gateway.config.backend import BackendConfig
from gateway.config.defaults import Defaults
from gateway.config.key import Key
from gateway.config.model import Model
from gateway.config.profile import Profile
from gateway.config.route import Route
from gateway.config.section import Frozen, Section, setting
from gateway.config.server import Server
from gateway.config.texts import Line, ModelName, Name


class Config(Section):
    """The whole config file."""

    include: tuple[Line, ...] = setting(
        (),
        "Further files that belong to this config: paths of files, of folders, or patterns such as `conf.d/*.yaml`, "
        "all relative to this file.",
    )
    server: Server = setting({}, "The gateway's own socket and what it accepts there.")
    defaults: Defaults = setting({}, "What every backend and model inherits.")
    backends: Frozen[Name, BackendConfig] = setting({}, "The engines, by name. At least one.")
    models: Frozen[ModelName, Model] = setting(
        {},
        "The models clients may ask for, by name. Left out, every backend's own models under their own names.",
    )
    routes: tuple[Route, ...] = setting(
        (),
        "Rules that say where requests go: the first that fits decides. Where none fits, a request goes to the model "
        "that it names.",
    )
    profiles: Frozen[Name, Profile] = setting(
        {},
        "Sets of aliases, by name. One of them or none is active; that is chosen while the gateway runs: by "
        "`gateway profile NAME`, or `POST /gateway/profile`.",
    )
    keys: Frozen[Name, Key] = setting({}, "Who may use the gateway, by name.")

    @property
    def guarded(self) -> bool:
        """Whether nobody gets in by mistake: there are keys, or only this machine is let in, or the config says so."""
        return bool(self.keys) or self.server.listen.loopback or self.server.auth == "none"
