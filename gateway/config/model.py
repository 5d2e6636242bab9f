"""The section of one model: the names clients may ask for it by, and where it is served."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from backends.facts.units import Duration, expected
from gateway.config.admission import Admission
from gateway.config.balance import Balance, Policy, named_policy
from gateway.config.defaults import Retry, TimeoutOverrides
from gateway.config.hedge import Hedge
from gateway.config.parameters import LateSystem, Parameters, Said, SystemPrompt, Turn
from gateway.config.section import Frozen, Section, setting
from gateway.config.texts import Line, ModelGlob, ModelName, Name
from gateway.globs import is_wild


def _target(value: object) -> object:
    if isinstance(value, str):
        return {"model": value}
    if isinstance(value, dict | Target):
        return value
    raise expected("the backend's name for the model, or a map with 'model' and 'weight'")


class Target(Section):
    """One backend that serves a model."""

    model: Line = setting(..., "What the backend calls the model.")
    weight: int = setting(1, "The share of requests, against the other targets' weights.", ge=1, le=1000)


def _alias(value: object) -> object:
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict | Alias):
        return value
    raise expected("a name, or a map with 'name' and 'unlisted'")


class Alias(Section):
    """Another name for a model."""

    name: ModelGlob = setting(
        ..., "The name, or a pattern in which `*` stands for any text and `?` for any character."
    )
    unlisted: bool = setting(False, "Whether it can be used without being shown in lists of models.")


class Capabilities(Section):
    """What a model can do. What is left out is not known: it is not told, and requests are not checked for it."""

    tools: bool | None = setting(
        None, "Whether it can call tools. `false`: requests that offer some are refused."
    )
    vision: bool | None = setting(None, "Whether it sees images. `false`: requests with some are refused.")
    embeddings: bool | None = setting(None, "Whether it embeds. `false`: such requests are refused.")
    reasoning: bool | None = setting(None, "Whether it thinks before it answers. Only told, not checked.")


class Model(Section):
    """A name that clients may ask for, and where it is served."""

    aliases: tuple[
        Annotated[Alias, BeforeValidator(_alias, json_schema_input_type=ModelGlob | Alias)], ...
    ] = setting(
        (),
        "Other names for the same model, or patterns such as `gpt-4*`, which are never shown. Names win over patterns, "
        "and patterns with more letters over others, in whatever order they stand.",
    )
    unlisted: bool = setting(
        False, "Whether clients can use the model without its being shown in lists, under any of its names."
    )
    internal: bool = setting(
        False, "Whether only rules and fallbacks lead to the model: for clients there is none of its names."
    )
    parent: ModelName | None = Field(
        None,
        alias="from",
        description="Another model, by name or alias, that this one is made from: what is left out here is as it is "
        "there, but for names.",
    )
    loras: Frozen[ModelName, Line] = setting(
        {},
        "LoRA adapters of the model, which are models of their own: the name of each, and where its engines find it. "
        "One is loaded when it is asked for.",
    )
    lora_slots: int | None = setting(
        None,
        "How many of these adapters an engine has at once: the one that was not used for longest makes room. Left out, "
        "any number.",
        ge=1,
        le=10_000,
    )
    targets: Frozen[
        Name, Annotated[Target, BeforeValidator(_target, json_schema_input_type=Line | Target)]
    ] = setting(
        {},
        "Backends that serve the model: backend to the backend's own name for it, or to a map with `model` and "
        "`weight`. Needed, unless the model is made from another one.",
    )
    balance: Annotated[Balance, BeforeValidator(named_policy, json_schema_input_type=Policy | Balance)] = (
        setting(
            "least_loaded",
            "How one of several targets is chosen: the name of a policy, or a map with `policy`.",
        )
    )
    fallback: tuple[ModelName, ...] = setting(
        (),
        "Other models, by name or alias, tried in this order when no target can answer. A key that may use this model "
        "may use them so, though it may not name them.",
    )
    context: int | None = setting(
        None,
        "The most tokens of prompt and answer together. Prompts that are longer for certain are refused with 400, or "
        "go to a fallback that takes more. Left out, lists say what the engines tell.",
        ge=1,
        le=1_000_000_000,
    )
    capabilities: Capabilities = setting(
        {},
        "What the model can do. A request that needs more is refused with 400, or goes to a fallback that can.",
    )
    parameters: Parameters = setting({}, "What becomes of the parameters of its requests.")
    system: SystemPrompt | None = setting(None, "A system prompt for its chats.")
    messages: tuple[Turn, ...] = setting(
        (),
        "Example turns that every conversation begins with, behind the system prompt and before what the client says: "
        "a list of maps with `role` (`user` or `assistant`) and `content`. They are tokens of every prompt.",
    )
    late_system: LateSystem = setting(
        "system",
        "Where system messages go that Anthropic's clients, such as Claude Code, send in the middle of a conversation, "
        "which most chat templates refuse there: to the system text at the beginning (`system`), or into the user's "
        "turn (`user`), which leaves the beginning as it was, so that engines reuse what they have computed for it.",
    )
    template: str | None = setting(
        None,
        "A chat template (Jinja) for its chats, for engines that take one with a request.",
        min_length=1,
        max_length=1_000_000,
    )
    timeouts: TimeoutOverrides = setting(
        {}, "Timeouts of requests for this model, where they differ. They win over the backend's."
    )
    retry: Retry | None = setting(None, "How failed attempts are retried. Left out, as in `defaults`.")
    hedge: Hedge | None = setting(
        None,
        "A second attempt at another backend for requests whose answer does not begin. Left out, there is none.",
    )
    admission: Admission | None = setting(
        None, "How many requests run at once, and how the others wait. Left out, no limit and no queue."
    )
    heartbeat: Duration | None = setting(
        None,
        "Answer a stream's headers at once and send a comment (in Anthropic's API a `ping`) this often until the first "
        "token, for clients and proxies that give up on silence. Failures are then told in the stream. Left out, "
        "headers come with the first token.",
    )
    show_loading: bool = setting(
        False,
        "Whether a chat that is streamed and waits for its engine's start is told so as thoughts of the model, every "
        "few seconds, for people who look at a chat. Failures are then told in the stream.",
    )

    @property
    def settled(self) -> Said:
        """What it settles of its requests."""
        return Said(self.parameters, self.system, self.template, self.late_system, self.messages)

    @property
    def names(self) -> tuple[str, ...]:
        """The aliases that are names."""
        return tuple(alias.name for alias in self.aliases if not is_wild(alias.name))

    @property
    def globs(self) -> tuple[str, ...]:
        """The aliases that are patterns of names."""
        return tuple(alias.name for alias in self.aliases if is_wild(alias.name))
