"""What `make compile` compiles: the list in setup.py fits the code, and a checkout is compiled whole or not at all."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.dialect.stream import EventStream
from gateway.api.endpoint import Admission
from gateway.dispatch.journey import Journey
from gateway.fleet.lease import Lease
from gateway.request import Exchange
from gateway.telemetry.timeline import Timeline
from gateway.wire.door import Door
from gateway.wire.heads import Head, HeadReader
from gateway.wire.heartbeat import Heartbeat
from gateway.wire.relay import Attempt

ROOT = Path(__file__).resolve().parent.parent
LARGEST_CONSTRUCTOR = 4


def compiled() -> list[str]:
    """Return the list of modules in setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    [found] = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED"
    ]
    return [str(path) for path in ast.literal_eval(found)]


@pytest.mark.parametrize("path", compiled())
def test_a_module_that_is_compiled_can_be(path: str) -> None:
    """mypyc compiles no msgspec structs, pydantic models, slotted dataclasses or subclasses of uvicorn's classes."""
    source = (ROOT / path).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base) for base in node.bases}
            assert not bases & {"msgspec.Struct", "BaseModel", "HttpToolsProtocol"}, node.name
            assert not any("dataclass" in ast.unparse(mark) for mark in node.decorator_list), node.name


def test_all_of_it_is_compiled_or_nothing() -> None:
    files = {path: _origin(path) for path in compiled()}
    interpreted = {path for path, origin in files.items() if origin.endswith(".py")}
    assert interpreted in (set(), set(files)), f"run `make compile` or `make pure`: {sorted(interpreted)}"


def _origin(path: str) -> str:
    found = importlib.util.find_spec(path.removesuffix(".py").replace("/", "."))
    assert found is not None
    return str(found.origin)


@pytest.mark.parametrize(
    "made",
    [Exchange, Timeline, Journey, Lease, Attempt, EventStream, Admission, Head, HeadReader, Heartbeat, Door],
)
def test_what_is_made_for_a_request_takes_few_arguments(made: Callable[..., object]) -> None:
    """One value carries a request: who needs more than four arguments for it takes that value instead."""
    if not _origin("gateway/wire/relay.py").endswith(".py"):
        pytest.skip("a compiled class does not tell its arguments; the interpreted run checks them")
    assert len(inspect.signature(made).parameters) <= LARGEST_CONSTRUCTOR
