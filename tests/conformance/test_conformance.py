"""Every engine against every check; see README.md.

Rules:
- Nothing is skipped: an engine that cannot do what a check asks for has a row that says what happens instead.
- The real engines of this run are started once; the gateway in front of them is a new one for each check.
- The checks of one engine run in one process, one after the other, on a gateway that most of them share.
"""

from __future__ import annotations

import pytest

from backends import registry
from backends.dialect.openai import PATHS
from backends.surfaces.codecs import possible
from tests.conformance import checks, edges, faults, gemini_api, ollama_api, operations, page, realtime
from tests.conformance.engines import ENGINES, Proof
from tests.conformance.playing import RECORDINGS, Hosts, Replays, play, said_as, shares
from tests.conformance.stage import CHECKS
from tests.conformance.unproven import ASKED, UNPROVEN

assert (
    checks and edges and faults and gemini_api and ollama_api and operations and realtime
)  # importing them fills the table

REPLAYED = [
    pytest.param(engine, name, id=f"{engine}-{name}")
    for engine, row in ENGINES.items()
    # Those that need a gateway of their own come last: the shared one ends before the first of them.
    for name in sorted(CHECKS, key=lambda name: not shares(engine, CHECKS[name]))
    if name not in UNPROVEN.get(engine, ())
    if row.proof is not Proof.HERE or CHECKS[name].replayed or name in row.replayed
]
REAL = [
    pytest.param(engine, name, id=f"{engine}-{name}")
    for engine, row in ENGINES.items()
    for name in CHECKS
    if name not in UNPROVEN.get(engine, ())
    if row.proof is Proof.HERE and not (CHECKS[name].replayed or name in row.replayed)
]


def test_every_engine_has_a_row() -> None:
    assert {row.engine or name for name, row in ENGINES.items()} == set(registry.ENGINES)


def test_rows_speak_of_checks_that_exist() -> None:
    for row in ENGINES.values():
        assert set(row.instead) | set(row.replayed) <= set(CHECKS)
    for engine, table in [*ASKED.items(), *UNPROVEN.items()]:
        assert engine in ENGINES and set(table) <= set(CHECKS)


def test_what_is_unproven_has_no_recording() -> None:
    for engine, table in UNPROVEN.items():
        row = ENGINES[engine]
        assert not set(table) & {*row.instead, *row.replayed, *ASKED.get(engine, ())}, engine
        shown = {name for name in table if (RECORDINGS / engine / f"{name}.http").exists()}
        assert not shown, f"{engine}: {shown} can be checked"


def test_every_check_is_made_on_every_engine() -> None:
    assert len(CHECKS) == 101
    unproven = sum(len(table) for table in UNPROVEN.values())
    assert len(REPLAYED) + len(REAL) + unproven == len(ENGINES) * len(CHECKS)


def test_every_operation_of_every_engine_is_checked() -> None:
    """What docs/api.md says an engine can do is a check that expects it, which `unproven.py` may say nothing shows."""
    for engine in registry.ENGINES:
        for operation in registry.engine(engine).operations:
            asked = {name for name, check in CHECKS.items() if check.path == PATHS[operation]}
            assert asked - set(ENGINES[engine].instead), f"{engine}: {operation}"


def test_every_operation_that_is_translated_for_an_engine_is_checked() -> None:
    """Shown by what it answers to the operation that is said instead: replayed, or asked of the real engine."""
    for name, row in ENGINES.items():
        native = registry.engine(row.engine or name).operations
        for operation in possible(native) - native:
            asked = [check for check in CHECKS.values() if check.operation is operation]
            shown = [
                one
                for one in asked
                if said_as(name, one) not in {None, *row.instead, *UNPROVEN.get(name, ())}
            ]
            assert shown, f"{name}: {operation}"


@pytest.mark.parametrize(("engine", "name"), REPLAYED)
@pytest.mark.asyncio(loop_scope="module")
async def test_recordings(engine: str, name: str, replays: Replays) -> None:
    await replays.play(engine, CHECKS[name])


@pytest.mark.parametrize(("engine", "name"), REAL)
@pytest.mark.asyncio(loop_scope="session")
async def test_real(engine: str, name: str, hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> None:
    async with hosts.tap(engine, CHECKS[name]) as tap:
        await play(engine, CHECKS[name], tap, tmp_path_factory.mktemp("gateway"))


def test_the_page_on_engines_is_fresh() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.page(text) == text, "run `python -m tests.conformance.page`"
