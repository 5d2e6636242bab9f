"""A writer of `configs/schema.json` and of the reference in `docs/configuration.md`, from the types of the config.

Rules:
- `python -m tests.config.reference` writes both files; tests fail as long as they are not what this module makes.
- Every key, type, default and meaning comes from the types, so the reference cannot say anything else than the code.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, JsonValue, SecretStr
from pydantic.fields import FieldInfo

from backends import registry
from backends.base import EngineOptions, LaunchOptions, Operation
from backends.facts.launching import Gpus
from backends.facts.residing import MemoryNeed, Residing
from backends.facts.units import Duration, IdleTime, Share, Size, SizeOrShare, Wait
from gateway.config import json_schema
from gateway.config.address import IpNetwork, ListenAddress, Url
from gateway.config.admission import Slots
from gateway.config.backend import BackendConfig, engine_section
from gateway.config.data import Age, Data
from gateway.config.defaults import TimeoutOverrides
from gateway.config.hedge import After
from gateway.config.model import Alias, Target
from gateway.config.parameters import Parameter
from gateway.config.route import Choice, Clock, Day, Globs, Match
from gateway.config.schema import Config
from gateway.config.section import spelled
from gateway.config.texts import Hash, HeaderToMatch, Line, ModelGlob, ModelName, Name, Secret

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "configs" / "schema.json"
PAGE = ROOT / "docs" / "configuration.md"
BEGIN = "<!-- reference: made by `python -m tests.config.reference` -->\n"
END = "<!-- end of reference -->\n"

HOMES: dict[type[BaseModel], tuple[str, str]] = {
    Match: ("routes[].match", "conditions"),
    Choice: ("routes[].to", "choice"),
}
"""Sections that stand at several places, with the one where they are described and what they are called elsewhere."""
WORDS: list[tuple[Any, str]] = [
    (Duration, "duration"),
    (Wait, "duration"),
    (Age, "age"),
    (After, "duration, `p90`, `p95` or `p99`"),
    (Size, "size"),
    (Clock, "time of day"),
    (Day, "day"),
    (HeaderToMatch, "header"),
    (ListenAddress, "host:port"),
    (IpNetwork, "network"),
    (Url, "URL"),
    (Hash, "hash"),
    (Secret, "secret"),
    (SecretStr, "secret"),
    (ModelName, "model name"),
    (ModelGlob, "glob"),
    (Parameter, "name"),
    (Name, "name"),
    (Line, "text"),
    (str, "text"),
    (Path, "path"),
    (int, "whole number"),
    (Share, "percentage"),
    (SizeOrShare, "size or percentage"),
    (Gpus, "list of whole numbers, 0 to 1023, or `auto`"),
    (IdleTime, "duration or `never`"),
    (Slots, "`auto` or a whole number, 1 to 1000000"),
    (float, "number"),
    (bool, "`true` or `false`"),
]


_VALUES: dict[Any, str] = {JsonValue: "any values", tuple[int | float, int | float]: "pairs of numbers"}


def schema() -> str:
    """Return the text of `configs/schema.json`."""
    return json.dumps(json_schema.build(), indent=2) + "\n"


def page(text: str) -> str:
    """Return the page with its reference made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = "\n".join(_sections())
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def _sections() -> Iterator[str]:
    for title, kind in sections(Config, ""):
        yield f"### {title or 'The file'}\n\n{_sentence(kind)}\n"
        yield _table(kind, title)
        if kind is BackendConfig:
            yield from _residing(title)
            for engine in registry.names():
                for name in ("options", "launch"):
                    own = engine_section(engine, name)
                    if own:
                        yield f"### {title}.{name} of {engine}\n"
                        yield _table(own, title, frozenset(Residing.model_fields))


def _residing(title: str) -> Iterator[str]:
    """Yield what the launch options of all engines share: when they run."""
    yield f"### {title}.launch of every engine\n"
    yield _table(Residing, f"{title}.launch")
    yield f"### {title}.launch.memory\n\n{_sentence(MemoryNeed)}\n"
    yield _table(MemoryNeed, f"{title}.launch")


def sections(kind: type[BaseModel], title: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield every section below this one with the way to it, in the order of the file."""
    yield title, kind
    for name, hint in hints(kind).items():
        inner = section_of(hint)
        way = f"{title}.{name}{_entry(hint)}".lstrip(".")
        if (
            inner
            and inner not in (TimeoutOverrides,)
            and not (title.startswith("models") and name == "retry")
            and HOMES.get(inner, (way,))[0] == way
        ):
            yield from sections(inner, way)


def hints(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the types of a section's fields, annotations kept."""
    found = typing.get_type_hints(kind, include_extras=True)
    return {field.alias or name: found[name] for name, field in kind.model_fields.items()}


def section_of(hint: Any) -> type[BaseModel] | None:
    """Return the section that a field holds, itself or as the entries of a map or a list."""
    bare = _bare(hint)
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return None if bare in (EngineOptions, LaunchOptions) else bare
    if _is_map(hint):
        return section_of(typing.get_args(bare)[1])
    return section_of(typing.get_args(bare)[0]) if typing.get_origin(bare) is tuple else None


def _entry(hint: Any) -> str:
    """Return what stands for one entry of a map or a list in the way to it."""
    return ".NAME" if _is_map(hint) else "[]" if typing.get_origin(_bare(hint)) is tuple else ""


def _is_map(hint: Any) -> bool:
    return typing.get_origin(_bare(hint)) in (Mapping, dict)


def _bare(hint: Any) -> Any:
    """Return a type without annotations and without `| None`."""
    if typing.get_origin(hint) is typing.Annotated:
        return _bare(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _bare(_given(hint))
    return hint


def _given(hint: Any) -> Any:
    """Return a type without `| None`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not types.NoneType)
    return hint


def _table(kind: type[BaseModel], title: str, without: frozenset[str] = frozenset()) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, hint in hints(kind).items():
        if name in without:
            continue
        field = spelled(kind)[name]
        rows.append(
            f"| `{name}` | {_type(hint, field, title, name)} | {_default(field, hint)} | {field.description} |"
        )
    return "\n".join(rows) + "\n"


def _type(hint: Any, field: FieldInfo, title: str, name: str) -> str:
    if title == "backends.NAME" and name == "engine":
        return " or ".join(f"`{engine}`" for engine in registry.names())
    hint = _given(hint)
    for known, word in WORDS:
        if known in (hint, _bare(hint)):
            return word + _bounds(field)
    inner = section_of(hint)
    if inner:
        return _map(inner, hint, f"{title}.{name}".lstrip("."))
    bare = _bare(hint)
    if bare in (EngineOptions, LaunchOptions):
        return "map, by engine"
    if typing.get_origin(bare) is typing.Literal:
        return " or ".join(f"`{choice}`" for choice in typing.get_args(bare))
    if bare is Operation:
        return "operation"
    if _is_map(hint):
        inside = typing.get_args(bare)[1]
        values = {int: "whole numbers", Globs: "texts"}.get(inside) or _VALUES.get(_bare(inside), "text")
        return f"map of {values}"
    if typing.get_origin(bare) in (tuple, list):
        return f"list of {_type(typing.get_args(bare)[0], FieldInfo(), title, name)}s"
    return f"`{' or '.join(bare)}`"


def _map(kind: type[BaseModel], hint: Any, way: str) -> str:
    """Return the type of a field that holds a section, itself or as entries."""
    if kind is TimeoutOverrides:
        return f"[timeouts]({_anchor('defaults.timeouts')}), each optional"
    if kind is Target:
        return f"map of text or [map]({_anchor('models.NAME.targets.NAME')})"
    if kind is Alias:
        return f"list of names, globs or [maps]({_anchor('models.NAME.aliases')})"
    if kind is Data:
        return f"text or [map]({_anchor(way)})"
    if kind in HOMES:
        return _shared(kind, hint, way)
    entry = _entry(hint)
    linked = f"({_anchor('defaults.retry' if way == 'models.NAME.retry' else way + entry)})"
    return f"list of [maps]{linked}" if entry == "[]" else f"[map]{linked}"


def _shared(kind: type[BaseModel], hint: Any, way: str) -> str:
    """Return the type of a field that holds a section which may stand elsewhere too."""
    home, word = HOMES[kind]
    linked = f"[{word if home != way else 'map'}]({_anchor(home)})"
    if _entry(hint):
        return f"list of names or {linked}s"
    return f"model name or {linked}" if kind is Choice else linked


def _bounds(field: FieldInfo) -> str:
    limits = {
        key: getattr(part, key) for part in field.metadata for key in ("ge", "gt", "le") if hasattr(part, key)
    }
    if "ge" in limits and "le" in limits:
        return f", {limits['ge']} to {limits['le']}"
    if "ge" in limits or "gt" in limits:
        return f", at least {limits['ge']}" if "ge" in limits else f", more than {limits['gt']}"
    return ""


def _default(field: FieldInfo, hint: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ((), [], {}):
        return ""
    if isinstance(value, float) and _given(hint) in (Duration, Wait):
        return f"`{value / 60:g}m`" if value >= 60 and value % 60 == 0 else f"`{value:g}s`"
    if isinstance(value, BaseModel):
        return ""
    return f"`{json.dumps(value) if isinstance(value, bool | tuple | dict) else value}`"


def _sentence(kind: type[BaseModel]) -> str:
    return (kind.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _anchor(title: str) -> str:
    return "#" + title.lstrip(".").lower().translate({ord(sign): None for sign in ".[]"}).replace(" ", "-")


if __name__ == "__main__":
    SCHEMA.write_text(schema(), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
