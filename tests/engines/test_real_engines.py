"""The conformance checks on real engines, and that all of them say the same.

With `RECORD=1` in the environment what the engines answered is written to `tests/recordings/`, for the runs that
replay it; see `tests/conformance/record.py`.
"""

from __future__ import annotations

import os

import pytest
import pytest_asyncio
import yaml

from tests.conformance import checks, edges, faults, operations, record, shapes
from tests.conformance.checks import CHAT, user
from tests.conformance.engines import ENGINES as ROWS
from tests.conformance.engines import Proof
from tests.conformance.playing import HOST, RECORDINGS, is_replayed, play, upstream_name
from tests.conformance.stage import CHECKS
from tests.conformance.unproven import UNPROVEN
from tests.engines.hosts import ENGINES, Hosts
from tests.engines.install import INSTALLATIONS, ROOT, is_installed
from tests.serving import Served, serving

assert checks and edges and faults and operations  # importing them fills the table

pytestmark = [pytest.mark.engines, pytest.mark.timeout(700), pytest.mark.asyncio(loop_scope="session")]

QUESTIONS = [
    entry["question"]
    for entry in yaml.safe_load(
        (ROOT / "models" / "training" / "questions.yaml").read_text(encoding="utf-8")
    )["questions"]
][::12]


async def answers(served: Served, model: str) -> list[str]:
    """Return a model's answers to the questions at temperature 0."""
    said = []
    for question in QUESTIONS:
        body = {"model": model, "messages": user(question), "max_tokens": 64, "temperature": 0}
        said.append(shapes.content((await served.post(CHAT, body)).json()))
    return said


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def from_llamacpp(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the answers of the embedded llama.cpp."""
    async with serving(tmp_path_factory.mktemp("gateway"), HOST.format(more=""), alone=False) as served:
        return await answers(served, "demo")


async def test_every_engine_that_runs_here_is_installed() -> None:
    here = {name for name, row in ROWS.items() if row.proof in (Proof.ENGINES, Proof.SERVERS)}
    assert here == set(ENGINES) == set(INSTALLATIONS)
    assert all(is_installed(name) for name in here)


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        pytest.param(engine, name, id=f"{engine}-{name}")
        for engine in ENGINES
        for name in CHECKS
        if not is_replayed(engine, CHECKS[name])
        if name not in UNPROVEN.get(engine, ()) or os.environ.get("RECORD")
    ],
)
async def test_checks(engine: str, name: str, hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> None:
    async with hosts.tap(engine, CHECKS[name]) as tap:
        await play(engine, CHECKS[name], tap, tmp_path_factory.mktemp("gateway"), hosts.metrics_url)
        if os.environ.get("RECORD"):
            record.write(RECORDINGS / engine, name, tap.exchanges)


@pytest.mark.parametrize("engine", ["vllm", "transformers", "llama-cpp-python"])
async def test_the_same_model_says_the_same(
    engine: str, hosts: Hosts, from_llamacpp: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    name = upstream_name(engine)
    async with hosts.tap(engine) as tap:
        text = (
            f'backends: {{host: {{engine: {engine}, url: "{tap.url}", api_key: known, models: ["{name}"]}}}}'
        )
        async with serving(tmp_path_factory.mktemp("gateway"), text, alone=False) as served:
            assert await answers(served, name) == from_llamacpp
