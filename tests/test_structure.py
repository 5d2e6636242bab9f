"""The shape of the code, held by a test: who may import whom, and how big files and functions may grow.

Rules:
- `FLOORS` is the house, top to bottom. An import goes strictly down; only on a floor marked `siblings` may modules
  import each other.
- Imports count wherever they stand: at the top, inside a function, under `if TYPE_CHECKING`.
- An exception is a row in a table below and carries its reason. A row that is no longer needed fails too.
- Every check is a plain function from sources to complaints; the last tests show each refusing bad code.
- A file is read and parsed once, whatever looks at it; so these tests run in one process.
"""

import ast
import functools
import graphlib
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
EVERYTHING = ("gateway", "backends", "tests", "models", "bench", "docker")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
VAGUE_NAMES = {"common", "helper", "helpers", "manager", "misc", "util", "utils"}
WIRES = {
    "aiohttp",
    "anyio",
    "asyncio",
    "http",
    "httpx",
    "httpx2",
    "requests",
    "select",
    "selectors",
    "socket",
    "ssl",
}


class Floor(NamedTuple):
    """Modules of one height. With `siblings` they may import each other, though never in a circle."""

    modules: tuple[str, ...]
    siblings: bool = False


FLOORS = (
    Floor(("gateway.__main__",)),
    Floor(("gateway.serve", "gateway.fake.*", "gateway.console.*"), siblings=True),
    Floor(("gateway.hub.*",), siblings=True),
    Floor(("gateway.workers", "gateway.greeting")),
    Floor(("gateway.worker",)),
    Floor(("gateway.together",)),
    Floor(("gateway.adopt", "gateway.aside")),
    Floor(("gateway.front",)),
    Floor(("gateway.reload", "gateway.listening", "gateway.connections", "gateway.link")),
    Floor(("gateway.app",)),
    Floor(("gateway.api.*",), siblings=True),
    Floor(("gateway.dispatch.*", "gateway.routing.snapshot"), siblings=True),
    Floor(("gateway.routing.*", "gateway.auth"), siblings=True),
    Floor(("gateway.fleet.*",), siblings=True),
    Floor(("gateway.balance.*", "gateway.admission.*", "gateway.residency.*"), siblings=True),
    Floor(("gateway.wire.*", "gateway.machine.*"), siblings=True),
    Floor(("gateway.batches.*",), siblings=True),
    Floor(("gateway.store.*",), siblings=True),
    Floor(
        (
            "gateway.asked",
            "gateway.request",
            "gateway.running",
            "gateway.link",
            "gateway.errors",
            "gateway.telemetry.*",
            "gateway.logs",
            "gateway.keys",
        ),
        siblings=True,
    ),
    Floor(("gateway.config.file",)),
    Floor(("gateway.config.*",), siblings=True),
    Floor(
        (
            "gateway.globs",
            "gateway.proxies",
            "gateway.similar",
            "gateway.outlet",
            "gateway.priority",
            "gateway.roles",
        )
    ),
    Floor(("backends.registry",)),
    Floor(("backends.engines.*", "backends.surfaces.*"), siblings=True),
    Floor(("backends.dialect.*", "backends.facts.*"), siblings=True),
    Floor(
        (
            *("backends.framing.*", "backends.base", "backends.failure", "backends.load", "backends.metrics"),
            "backends.operation",
            "backends.action",
            "backends.launch",
        ),
        siblings=True,
    ),
    Floor(("backends.sizing.*",), siblings=True),
)

# A runner is a program of its own, started as a process: nobody imports it, it imports nothing of ours.
RUNNERS = re.compile(r"backends\.engines\.\w+\.runner|gateway\.fleet\.warden")

# path -> why this file imports inside a function
LATE_IMPORTS = {
    "gateway/__main__.py": "`check`, `schema` and `key` do not pay for the server's imports",
    "gateway/console/explain.py": "the other commands do not pay for the gateway's imports",
    "gateway/console/fit.py": "a model that is on this machine does not pay for the libraries of hubs",
    "gateway/console/local_models.py": "actions of engines are asked for without the libraries of hubs",
    "gateway/console/pull.py": "a model of Ollama is fetched without the libraries of hubs",
    "gateway/machine/nvidia.py": "only the process that asks for GPUs pays for the binding, which is large",
    "gateway/console/replay.py": "the other commands do not pay for the gateway's imports",
}

# (module, imported module) -> why it names a type of a higher floor, under `if TYPE_CHECKING` only
NAMED_TYPES = {
    ("gateway.asked", "gateway.auth"): "a request is described with its caller",
    ("gateway.request", "gateway.auth"): "a request carries its caller",
    ("gateway.request", "gateway.routing.catalog"): "a request carries its plan",
    ("gateway.request", "gateway.routing.decision"): "a request carries why it goes where it goes",
}

# path -> why this file is longer than MAX_FILE_LINES
LONG_FILES: dict[str, str] = {
    "gateway/fleet/warden.py": "a program of its own, which can import nothing of the gateway",
    "gateway/wire/relay.py": "an attempt is one state machine, whose phases are read together",
}

# "path:function" -> why this function is longer than MAX_FUNCTION_LINES
LONG_FUNCTIONS: dict[str, str] = {}


@dataclass(frozen=True)
class Module:
    """One source file under its dotted name."""

    name: str
    path: str
    source: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.path)

    @functools.cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Every node of the tree."""
        return tuple(ast.walk(self.tree))

    @functools.cached_property
    def imports(self) -> tuple[ast.Import | ast.ImportFrom, ...]:
        """Every import statement."""
        return tuple(node for node in self.nodes if isinstance(node, ast.Import | ast.ImportFrom))

    @property
    def has_docstring(self) -> bool:
        """The first statement is a text that says something. Only the first tokens are looked at."""
        blank = {tokenize.COMMENT, tokenize.NL}
        tokens = tokenize.generate_tokens(io.StringIO(self.source).readline)
        first = next(token for token in tokens if token.type not in blank)
        if first.type != tokenize.STRING or next(tokens).type != tokenize.NEWLINE:
            return False
        text = ast.literal_eval(first.string)
        return isinstance(text, str) and bool(text.strip())

    @property
    def is_package(self) -> bool:
        return self.path.endswith("__init__.py")


@functools.cache
def read(*folders: str) -> dict[str, Module]:
    """Return the modules of these folders of the checkout, by dotted name."""
    modules = {}
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            path = file.relative_to(ROOT)
            parts = path.parent.parts if file.name == "__init__.py" else path.with_suffix("").parts
            name = ".".join(parts)
            modules[name] = Module(name, path.as_posix(), file.read_text(encoding="utf-8"))
    return modules


def imports(module: Module, known: Mapping[str, Module]) -> Iterator[tuple[str, int]]:
    """Every module imported, as (dotted name, line). `from package import module` names the module."""
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    for node in module.imports:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        else:
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield (submodule if submodule in known else base), node.lineno


def is_ours(name: str) -> bool:
    return name.partition(".")[0] in {"gateway", "backends"}


def floor_of(name: str) -> int | None:
    """Return the index in FLOORS, 0 at the top; None for a module the table does not know."""
    for height, floor in enumerate(FLOORS):
        if any(fnmatchcase(name, pattern) for pattern in floor.modules):
            return height
    return None


def functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def homeless(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if not module.is_package and not RUNNERS.fullmatch(module.name) and floor_of(module.name) is None:
            yield (
                f"{module.path}: not in the house yet. Add {module.name!r} to the floor it belongs on in FLOORS "
                "(an engine joins by its row in backends/registry.py)"
            )


def upward(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        here = floor_of(module.name)
        for name, line in imports(module, modules):
            there = floor_of(name)
            if here is None or there is None or there > here or name == module.name:
                continue
            if (there == here and FLOORS[here].siblings) or (module.name, name) in NAMED_TYPES:
                continue
            way = "beside it" if there == here else "above it"
            yield (
                f"{module.path}:{line}: imports {name}, which lives {way}. Imports go down only: pass the value in as "
                "an argument, or move what both need to a lower floor"
            )


def circle(modules: Mapping[str, Module]) -> list[str]:
    """One import circle, first module repeated at the end; empty when there is none."""
    inner = {name for name, module in modules.items() if not module.is_package}
    graph = {
        name: {other for other, _ in imports(modules[name], modules) if (name, other) not in NAMED_TYPES}
        & inner
        for name in inner
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


def impure(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if not module.name.startswith("backends") or RUNNERS.fullmatch(module.name):
            continue
        for name, line in imports(module, modules):
            if name.partition(".")[0] in WIRES | {"gateway"}:
                yield (
                    f"{module.path}:{line}: imports {name}. backends/ is knowledge only, bytes in and values out: "
                    "leave the socket and the waiting to gateway/wire or gateway/fleet"
                )
        for node in module.nodes:
            if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
                yield f"{module.path}:{node.lineno}: waits. Nothing in backends/ is a coroutine"


def misused_names(modules: Mapping[str, Module]) -> Iterator[str]:
    """Rows of NAMED_TYPES that are not needed, or are imported at run time too."""
    for importer, imported in NAMED_TYPES:
        tree = modules[importer].tree
        guards = [
            node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        ]
        guarded = {
            (node.lineno) for guard in guards for node in ast.walk(guard) if isinstance(node, ast.ImportFrom)
        }
        lines = {line for name, line in imports(modules[importer], modules) if name == imported}
        if not lines:
            yield f"NAMED_TYPES: {importer} does not name {imported} any more"
        elif not lines <= guarded:
            yield f"{importer}: imports {imported} at run time, though only its types may be named"


def entangled_engines(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        here = engine_of(module.name)
        for name, line in imports(module, modules):
            if here and engine_of(name) not in ("", here):
                yield (
                    f"{module.path}:{line}: imports {name}, another engine's file. What several engines share lives in "
                    "backends/dialect or backends/facts"
                )


def engine_of(name: str) -> str:
    """Return the engine that a module belongs to; empty for any other module."""
    return name.split(".")[2] if name.startswith("backends.engines.") else ""


def entangled_runners(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        for name, line in imports(module, modules):
            if RUNNERS.fullmatch(name):
                yield f"{module.path}:{line}: imports {name}, a program of its own. Start it, do not import it"
            elif RUNNERS.fullmatch(module.name) and is_ours(name):
                yield f"{module.path}:{line}: a runner stands alone, but imports {name}"


def second_metrics_owners(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        for name, line in imports(module, modules):
            if name.partition(".")[0] == "prometheus_client" and module.name != "gateway.telemetry.metrics":
                yield (
                    f"{module.path}:{line}: imports {name}. "
                    "Families are registered in gateway/telemetry/of_*.py: add yours there"
                )


def late_imports(modules: Mapping[str, Module], allowed: Mapping[str, str]) -> Iterator[str]:
    late = set()
    for module in modules.values():
        inner = [node for function in functions(module) for node in ast.walk(function)]
        lines = sorted({node.lineno for node in inner if isinstance(node, ast.Import | ast.ImportFrom)})
        if lines:
            late.add(module.path)
        if lines and module.path not in allowed:
            yield f"{module.path}:{lines[0]}: imports inside a function. Move it up, or give a reason in LATE_IMPORTS"
    yield from (f"LATE_IMPORTS: {path} needs no row any more" for path in allowed if path not in late)


def wordless(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if not module.has_docstring:
            yield f"{module.path}: opens without a docstring. Say the file's one job, and the rules it keeps"


def busy_packages(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if module.is_package and len(module.tree.body) > 1:
            yield f"{module.path}: holds more than a docstring. Code goes to a module with a name of its own"


def vague_names(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if VAGUE_NAMES & set(re.split(r"[._]", module.name)):
            yield f"{module.path}: a name that says nothing. Call it after what is in it"


def long_files(modules: Mapping[str, Module], allowed: Mapping[str, str]) -> Iterator[str]:
    lengths = {module.path: len(module.source.splitlines()) for module in modules.values()}
    long = {path: lines for path, lines in lengths.items() if lines > MAX_FILE_LINES}
    for path, lines in long.items():
        if path not in allowed:
            yield f"{path}: {lines} lines, the limit is {MAX_FILE_LINES}. Split it, or give a reason in LONG_FILES"
    yield from (f"LONG_FILES: {path} needs no row any more" for path in allowed if path not in long)


def long_functions(modules: Mapping[str, Module], allowed: Mapping[str, str]) -> Iterator[str]:
    long = {}
    for module in modules.values():
        for function in functions(module):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                long[f"{module.path}:{function.name}"] = lines
    for place, lines in long.items():
        if place not in allowed:
            limit = f"the limit is {MAX_FUNCTION_LINES}"
            yield f"{place}: {lines} lines, {limit}. Name its parts, or give a reason in LONG_FUNCTIONS"
    yield from (f"LONG_FUNCTIONS: {place} needs no row any more" for place in allowed if place not in long)


def clean(complaints: Iterator[str]) -> None:
    found = list(complaints)
    if found:
        pytest.fail("\n".join(found), pytrace=False)


@pytest.fixture(scope="module")
def code() -> dict[str, Module]:
    """Return what is shipped."""
    modules = read("gateway", "backends")
    assert {"gateway.errors", "backends.base"} <= modules.keys(), "the code was not found"
    return modules


def test_every_module_has_a_floor(code: dict[str, Module]) -> None:
    clean(homeless(code))


def test_imports_go_down(code: dict[str, Module]) -> None:
    clean(upward(code))


def test_types_of_higher_floors_are_only_named(code: dict[str, Module]) -> None:
    clean(misused_names(code))


def test_no_import_circle(code: dict[str, Module]) -> None:
    assert not circle(code), "modules that import each other: " + " -> ".join(circle(code))


def test_backends_are_pure(code: dict[str, Module]) -> None:
    clean(impure(code))


def test_engines_know_nothing_of_each_other(code: dict[str, Module]) -> None:
    clean(entangled_engines(code))


def test_runners_stand_alone(code: dict[str, Module]) -> None:
    clean(entangled_runners(code))


def test_metrics_have_one_owner(code: dict[str, Module]) -> None:
    clean(second_metrics_owners(code))


def test_imports_stand_at_the_top(code: dict[str, Module]) -> None:
    clean(late_imports(code, LATE_IMPORTS))


def test_every_file_opens_with_a_docstring() -> None:
    clean(wordless(read(*EVERYTHING)))


def test_packages_hold_only_a_docstring(code: dict[str, Module]) -> None:
    clean(busy_packages(code))


def test_names_say_something() -> None:
    clean(vague_names(read(*EVERYTHING)))


def test_files_are_short(code: dict[str, Module]) -> None:
    clean(long_files(code, LONG_FILES))


def test_functions_are_short(code: dict[str, Module]) -> None:
    clean(long_functions(code, LONG_FUNCTIONS))


def house(**sources: str) -> dict[str, Module]:
    """Return a made-up house: `gateway__wire__relay="import x"` is gateway/wire/relay.py."""
    modules = {}
    for key, source in sources.items():
        name = key.replace("__", ".")
        package = name in {"gateway", "backends", "gateway.wire", "gateway.fleet", "gateway.api"}
        modules[name] = Module(name, name.replace(".", "/") + ("/__init__.py" if package else ".py"), source)
    return modules


def body(lines: int) -> str:
    return "def f():\n" + "    pass\n" * (lines - 1)


@pytest.mark.parametrize(
    "complaints",
    [
        wordless(house(gateway__app="# nothing\n\n''\n")),
        wordless(house(gateway__app="'x'.join([])")),
        homeless(house(gateway__attic="")),
        upward(house(gateway__wire__relay="from gateway.fleet import pool", gateway__fleet__pool="")),
        upward(
            house(
                gateway__auth="if TYPE_CHECKING:\n    import gateway.dispatch.dispatcher",
                gateway__dispatch="",
            )
        ),
        upward(house(gateway__auth="def f():\n    from . import app", gateway__app="")),
        upward(house(backends__base="from backends.dialect.openai import OpenAI", backends__openai="")),
        impure(house(backends__openai="import asyncio.streams")),
        impure(house(backends__openai="from gateway import errors")),
        impure(house(backends__openai="async def f(): ...")),
        entangled_engines(
            house(backends__engines__x="from backends.engines import y", backends__engines__y="")
        ),
        entangled_runners(
            house(backends__x="import backends.engines.x.runner", backends__engines__x__runner="")
        ),
        entangled_runners(house(backends__engines__x__runner="import backends.base", backends__base="")),
        second_metrics_owners(house(gateway__app="from prometheus_client import Counter")),
        late_imports(house(gateway__app="def f():\n    import json"), {}),
        late_imports(house(gateway__app="import json"), {"gateway/app.py": "stale"}),
        wordless(house(gateway__app="import json")),
        busy_packages(house(gateway='"""Words."""\nimport json')),
        vague_names(house(gateway__wire__http_utils="")),
        long_files(house(gateway__app="\n" * (MAX_FILE_LINES + 1)), {}),
        long_files(house(gateway__app="\n"), {"gateway/app.py": "stale"}),
        long_functions(house(gateway__app=body(MAX_FUNCTION_LINES + 1)), {}),
        long_functions(house(gateway__app=body(MAX_FUNCTION_LINES)), {"gateway/app.py:f": "stale"}),
    ],
)
def test_bad_code_is_refused(complaints: Iterator[str]) -> None:
    assert len(list(complaints)) == 1


def test_a_circle_is_found() -> None:
    modules = house(
        gateway__wire__a="from gateway.wire import b",
        gateway__wire__b="import gateway.wire.c",
        gateway__wire__c="",
    )
    assert circle(modules) == []
    modules |= house(gateway__wire__c="from gateway.wire.a import f")
    assert set(circle(modules)) == {"gateway.wire.a", "gateway.wire.b", "gateway.wire.c"}


def test_good_code_passes() -> None:
    modules = house(
        gateway__app='"""Top."""\nfrom gateway.wire import relay\nimport asyncio',
        gateway__wire__relay='"""Low."""\nfrom gateway.wire.upstream import x\nfrom backends.base import y',
        gateway__wire__upstream='"""Low."""',
        backends__base='"""Ground."""\nimport json',
        backends__engines__x__runner='"""Alone."""\nimport socket',
    )
    for check in (homeless, upward, impure, entangled_runners, second_metrics_owners, wordless, vague_names):
        assert list(check(modules)) == []
    assert (
        list(late_imports(modules, {})) + list(long_files(modules, {})) + list(long_functions(modules, {}))
        == []
    )
