"""The rules of `profiles`: their aliases lead to models that clients may use, and hide no model.

Rules:
- As in `check`: each rule yields problems, and stops no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from gateway.config.explain import Names
from gateway.config.problems import Problem, quote
from gateway.config.profile import NONE
from gateway.config.schema import Config
from gateway.config.yaml_source import Source, Where


def check(
    config: Config, source: Source, owners: Mapping[str, str], shown: Iterable[str], names: Names
) -> Iterator[Problem]:
    """Yield a problem for every broken rule.

    `owners` are the models that each name and alias belongs to, `shown` the names that a suggestion may hold.
    """
    models = source.names("models")
    if config.profiles and not models:
        message = "profiles need 'models': their aliases lead to models that are described there"
        yield source.problem(("profiles",), message, at_key=True)
        return
    known = list(shown)
    for profile, settings in config.profiles.items():
        if profile == NONE:
            message = f"{quote(NONE)} means that no profile is active: choose another name"
            yield source.problem(("profiles", profile), message, at_key=True)
        for alias, target in settings.aliases.items():
            where: Where = ("profiles", profile, "aliases", alias)
            if alias in models:
                message = f"{quote(alias)} is the name of a model: a profile gives aliases only"
                yield source.problem(where, message, at_key=True)
            if target not in owners:
                node = source.find(where)
                written = node.written if node else ""
                hint = names.suggest(written, known)
                yield source.problem(where, f"unknown model {quote(written)}{hint}")
            elif _internal(config, owners[target]):
                yield source.problem(
                    where, f"{quote(owners[target])} is internal: clients cannot be led to it"
                )


def _internal(config: Config, model: str) -> bool:
    return model in config.models and config.models[model].internal
