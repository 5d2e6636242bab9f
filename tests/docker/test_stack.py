"""The configs of docker/gateway and the health check of the image, with a gateway that runs and engines that answer.

Rules:
- The configs are those that compose mounts; only addresses of engines, paths and the port are those of this machine.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.fake.engine import FakeEngine
from tests.docker.test_compose import DOCKER, compose, configs, port_of
from tests.serving import serving

MODEL = "org/model"
KEY = "Bearer gw-of-a-test"


async def health_check(url: str) -> tuple[int, str]:
    """Run the image's health check. Return its exit status and what it said."""
    words = [sys.executable, "-I", "-S", str(DOCKER / "healthcheck.py")]
    process = await asyncio.create_subprocess_exec(
        *words, env={"GATEWAY_HEALTH_URL": url, "HTTP_PROXY": "http://127.0.0.1:9"}, stderr=subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, errors.decode()


@pytest.mark.parametrize(
    ("profile", "engine"), [("gpu", "vllm"), ("sglang", "sglang"), ("lmdeploy", "lmdeploy")]
)
async def test_a_profile_serves_its_model_to_who_has_the_key(
    profile: str, engine: str, tmp_path: Path
) -> None:
    services = compose(COMPOSE_PROFILES=profile, MODEL=MODEL)["services"]
    folder = configs(tmp_path)
    common = folder / "common.yaml"
    common.write_text(common.read_text().replace("0.0.0.0:8080", "127.0.0.1:0"))
    async with FakeEngine(models=[MODEL], rules=[{"say": "one two"}]) as fake:
        text = (folder / f"{profile}.yaml").read_text()
        text = text.replace(f"http://{engine}:{port_of(services[engine])}", fake.url)
        text = text.replace("http://ollama:11434", "http://127.0.0.1:9")  # that engine is not up yet
        async with serving(folder, text, services["gateway"]["environment"]) as served:
            # A request that names no model gets the one of `.env`.
            body = {"messages": [{"role": "user", "content": "Hi"}]}
            assert (await served.post("/v1/chat/completions", body)).status == 401
            answer = await served.post("/v1/chat/completions", body, authorization=KEY)
            assert answer.status == 200, answer
            assert answer.json()["choices"][0]["message"]["content"] == "one two"
            listed = (await served.get("/v1/models", authorization=KEY)).json()["data"]
            assert [model["id"] for model in listed] == [MODEL]
            assert (await served.get("/gateway/backends", authorization=KEY)).status == 200
            assert await health_check(f"{served.url}/healthz") == (0, "")


async def test_the_health_check_says_what_is_wrong(tmp_path: Path) -> None:
    async with FakeEngine(models=["m"]) as fake:
        assert (await health_check(f"{fake.url}/health"))[0] == 0
        status, said = await health_check(f"{fake.url}/nothing")
        assert status == 1 and "404" in said
    status, said = await health_check(f"{fake.url}/health")
    assert status == 1 and "refused" in said
    assert (await health_check("nonsense"))[0] == 1
