"""The registry: every row leads to an engine, unknown names fail, engines of other packages join by entry point."""

import importlib.metadata
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest

from backends import registry
from backends.base import Engine
from backends.engines.ollama.engine import Ollama, OllamaOptions
from backends.engines.openai import OpenAI
from backends.engines.presets import PRESETS
from backends.engines.triton.engine import Triton, TritonOptions
from backends.engines.triton.frontend import TritonFrontend

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Pretend that packages with these engines are installed: `install(name="module:Class")`."""

    def forget() -> None:
        registry._external.cache_clear()
        registry.engine.cache_clear()

    def install(**rows: str) -> None:
        points = [
            importlib.metadata.EntryPoint(name, row, registry.ENTRY_POINTS) for name, row in rows.items()
        ]

        def entry_points(group: str) -> list[importlib.metadata.EntryPoint]:
            return [point for point in points if point.group == group]

        monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
        forget()

    forget()
    yield install
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize("name", [*registry.ENGINES, *PRESETS])
def test_every_row_leads_to_an_engine_of_that_name(name: str, install: Install) -> None:
    install()
    found = registry.engine(name)
    assert issubclass(found, Engine)
    assert found.name == name
    assert found().name == name  # no abstract method is left


def test_names_are_sorted_and_hold_both_kinds(install: Install) -> None:
    install(zebra="backends.engines.openai:OpenAI", ape="backends.engines.openai:OpenAI")
    assert registry.names() == tuple(sorted({*registry.ENGINES, *PRESETS, "zebra", "ape"}))


@pytest.mark.parametrize("name", ["", "OpenAI", "openai ", "backends.engines.openai:OpenAI", "nothing"])
def test_an_unknown_name_is_a_key_error(name: str, install: Install) -> None:
    install()
    with pytest.raises(KeyError, match=name or "''"):
        registry.engine(name)


def test_an_engine_of_another_package(install: Install) -> None:
    install(theirs="backends.engines.openai:OpenAI")
    assert registry.engine("theirs") is OpenAI


def test_a_built_in_name_wins(install: Install) -> None:
    install(openai="json:JSONDecoder")
    assert registry.engine("openai") is OpenAI


@pytest.mark.parametrize("row", ["json:JSONDecoder", "json:loads", "backends.base:Kind"])
def test_what_is_no_engine_is_refused(row: str, install: Install) -> None:
    install(theirs=row)
    with pytest.raises(TypeError, match=f"engine 'theirs': {row} is not a backends.base.Engine"):
        registry.engine("theirs")


@pytest.mark.parametrize(
    ("row", "error"),
    [("no_such_module:Engine", ModuleNotFoundError), ("backends.engines.openai:Nothing", AttributeError)],
)
def test_a_row_that_leads_nowhere(row: str, error: type[Exception], install: Install) -> None:
    install(theirs=row)
    with pytest.raises(error):
        registry.engine("theirs")


def test_an_engine_is_made_with_its_options() -> None:
    assert type(registry.create("openai")) is OpenAI
    assert type(registry.create("triton", TritonOptions())) is Triton
    assert type(registry.create("triton", TritonOptions(api="openai"))) is TritonFrontend


class DerivedOllama(Ollama):
    """An engine that inherits its type of options, which make an `Ollama`."""

    name: ClassVar[str] = "derived"


def test_options_that_make_another_engine_are_refused(install: Install) -> None:
    install(derived=f"{__name__}:DerivedOllama")
    assert type(registry.create("derived")) is DerivedOllama
    with pytest.raises(TypeError, match="engine 'derived': its options make 'ollama'"):
        registry.create("derived", OllamaOptions())
