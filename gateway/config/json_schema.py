"""The JSON Schema of the config file, for editors, made from the types in `gateway.config.schema`.

Rules:
- It refuses nothing that `load` accepts: where a value may come from the environment or a file, text with `${` fits.
- The sections `options` and `launch` follow the engine that is named beside them.
- Draft 7, which editors support best.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from backends import registry
from backends.base import EngineOptions, LaunchOptions
from gateway.config.backend import BackendConfig, engine_section
from gateway.config.key import Key
from gateway.config.model import Model
from gateway.config.schema import Config

JsonSchema = dict[str, Any]
SUBSTITUTED = r"\$\{"
"""The pattern of text in which something is filled in."""


def build() -> JsonSchema:
    """Return the schema as plain values, ready for `json.dumps`."""
    engines = {
        name: {section: engine_section(name, section) for section in ("options", "launch")}
        for name in registry.names()
    }
    options = list(dict.fromkeys(kind for kinds in engines.values() for kind in kinds.values() if kind))
    kinds: list[type[BaseModel]] = [Config, BackendConfig, Model, Key, *options]
    refs, found = models_json_schema([(kind, "validation") for kind in kinds])
    ref_of = {kind: ref["$ref"] for (kind, _), ref in refs.items()}
    defs: dict[str, JsonSchema] = _tidy({"$defs": found["$defs"]})["$defs"]
    for abstract in (EngineOptions, LaunchOptions):
        defs.pop(abstract.__name__, None)

    def define(kind: type[BaseModel]) -> JsonSchema:
        return defs[ref_of[kind].rpartition("/")[2]]

    for kind in options:
        define(kind)["additionalProperties"] = False
    define(Model)["properties"]["targets"]["minProperties"] = 1
    define(Model)["anyOf"] = [{"required": ["targets"]}, {"required": ["from"]}]
    define(Key)["oneOf"] = [{"required": ["hash"]}, {"required": ["value"]}]
    backend = define(BackendConfig)
    backend["oneOf"] = [{"required": ["url"]}, {"required": ["launch"]}]
    backend["properties"]["engine"]["enum"] = list(engines)
    backend["allOf"] = [
        _for_engine(
            name, {section: {"$ref": ref_of[kind]} if kind else False for section, kind in kinds.items()}
        )
        for name, kinds in engines.items()
    ]
    config = define(Config)
    config["required"] = ["backends"]
    config["properties"]["backends"]["minProperties"] = 1
    del defs[ref_of[Config].rpartition("/")[2]]
    return {"$schema": "http://json-schema.org/draft-07/schema#", **config, "$defs": defs}


def _for_engine(engine: str, sections: dict[str, JsonSchema | bool]) -> JsonSchema:
    """Return what these sections may hold where this engine is named."""
    return {
        "if": {"properties": {"engine": {"const": engine}}, "required": ["engine"]},
        "then": {"properties": sections},
    }


def _tidy(schema: JsonSchema) -> JsonSchema:
    """Drop titles, empty defaults and null, which the file does not know, and allow for substitutions."""
    tidied: JsonSchema = {}
    for key, value in schema.items():
        if key in ("properties", "patternProperties", "$defs"):
            tidied[key] = {name: _tidy(member) for name, member in value.items()}
        elif key == "anyOf":
            kept = [_tidy(member) for member in value if member != {"type": "null"}]
            tidied |= kept[0] if len(kept) == 1 else {"anyOf": kept}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            tidied[key] = _tidy(value)
        elif key == "default" and isinstance(value, float) and schema.get("type") == "string":
            tidied[key] = f"{value:g}s"
        elif key != "title" and not (key == "default" and value in (None, {}, [], ())):
            tidied[key] = value
    if "patternProperties" in tidied:
        tidied["additionalProperties"] = False
    return _with_substitution(tidied)


def _with_substitution(schema: JsonSchema) -> JsonSchema:
    if schema.get("type") in ("integer", "number", "boolean"):
        return schema | {"type": [schema["type"], "string"], "pattern": SUBSTITUTED}
    if "pattern" in schema and SUBSTITUTED not in schema["pattern"]:
        return schema | {"pattern": f"{schema['pattern']}|{SUBSTITUTED}"}
    if "enum" in schema:
        choices = {"enum": schema.pop("enum"), "type": schema.pop("type", "string")}
        return schema | {"anyOf": [choices, {"type": "string", "pattern": SUBSTITUTED}]}
    return schema
