"""What a model settles of the requests for it: parameters of sampling and the like, and a system prompt."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, JsonValue

from backends.dialect.parameters import RESERVED, path_of
from backends.dialect.parameters import Parameters as Rules
from backends.dialect.prompting import Examples, Mode
from backends.dialect.prompting import System as Prompt
from backends.dialect.selection import Selection
from backends.facts.units import expected
from gateway.config.section import Frozen, Section, setting
from gateway.config.texts import Member


def _free(name: str) -> str:
    first = path_of(name)[0]
    if first in RESERVED:
        hint = "; a system prompt is the model's 'system'" if first in ("messages", "system") else ""
        raise expected(f"a parameter that a model may settle{hint}")
    return name


Parameter = Annotated[Member, AfterValidator(_free)]


def _range(value: object) -> object:
    given = value if isinstance(value, list | tuple) else ()
    numbers = [one for one in given if isinstance(one, int | float) and not isinstance(one, bool)]
    if len(numbers) != 2 or len(given) != 2 or numbers[0] > numbers[1]:
        raise expected("the least and the greatest number, such as [0, 1.5]")
    return tuple(given)


Range = Annotated[tuple[int | float, int | float], BeforeValidator(_range)]


class Parameters(Section):
    """What becomes of the parameters of requests for a model. Names with dots are members of members."""

    set: Frozen[Parameter, JsonValue] = setting({}, "Parameters with this value, whatever the client says.")
    default: Frozen[Parameter, JsonValue] = setting(
        {}, "Parameters with this value where the client gives none."
    )
    strip: tuple[Parameter, ...] = setting((), "Parameters of the client that are left out.")
    clamp: Frozen[Parameter, Range] = setting(
        {},
        "Parameters whose number is kept between the least and the greatest. One that the client does not give stays "
        "so: add a `default`.",
    )


class System(Section):
    """The system prompt of a model."""

    text: str = setting(..., "The prompt.", min_length=1, max_length=1_000_000)
    mode: Literal["default", "prepend", "replace"] = setting(
        "default",
        "What becomes of the client's own system prompt: it stands instead (`default`), follows (`prepend`), or is "
        "left out (`replace`).",
    )


def _system(value: object) -> object:
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, dict | System):
        return value
    raise expected("a text, or a map with 'text' and 'mode'")


SystemPrompt = Annotated[System, BeforeValidator(_system, json_schema_input_type=str | System)]


LateSystem = Literal["system", "user"]
"""Where a system message behind the first message goes."""


class Turn(Section):
    """One turn of an example."""

    role: Literal["user", "assistant"] = setting(..., "Who says it.")
    content: str = setting(..., "What is said.", min_length=1, max_length=1_000_000)


class Said(NamedTuple):
    """What a model settles of its requests, as the config has it."""

    parameters: Parameters
    system: System | None = None
    template: str | None = None
    late_system: LateSystem = "system"
    messages: tuple[Turn, ...] = ()


def settled(said: Said, selection: Selection | None = None) -> Rules | None:
    """Return the rules for a model's requests; None where there are none.

    `selection` is which LoRA adapters they choose at one backend.
    """
    if selection is None and said == Said(Parameters()):
        return None
    rules, system = said.parameters, said.system
    prompt = None if system is None else Prompt(system.text, Mode(system.mode))
    examples = Examples([(turn.role, turn.content) for turn in said.messages]) if said.messages else None
    as_user = said.late_system == "user"
    return Rules(
        rules.set,
        rules.default,
        rules.strip,
        rules.clamp,
        prompt,
        said.template,
        as_user,
        selection,
        examples,
    )
