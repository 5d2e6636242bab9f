"""docker/compose.yaml is one that Compose takes, and agrees with everything that it names.

Rules:
- The schema is the Compose Specification's own, as the package check-jsonschema carries it; substitution is done
  here by the specification's rules, with the defaults of docker/.env and without them.
- No Docker engine runs in the tests. What only one can show is said in docs/docker.md.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from backends.registry import names
from gateway.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
COMPOSE = DOCKER / "compose.yaml"
PROFILES = ("cpu", "gpu", "lmdeploy", "ollama", "sglang", "tgi", "triton")
VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")
ENGINES = ("vllm", "ollama", "lmdeploy", "sglang", "tgi", "triton")
OURS = ("keys", "gateway", "gateway-cpu")
ONCE = ("keys", "ollama-pull")
"""Services that do one thing and end."""


def settings() -> dict[str, str]:
    """Return the variables of docker/.env."""
    found = {}
    for line in (DOCKER / ".env").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[name] = "".join(shlex.split(value)) if value.startswith('"') else value
    return found


def substituted(value: Any, env: Mapping[str, str]) -> Any:
    """Return a value of the file with its variables filled in, as Compose does it: in values, never in keys."""

    def one(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return env.get(match["name"]) or match["default"] or ""

    if isinstance(value, dict):
        return {key: substituted(item, env) for key, item in value.items()}
    if isinstance(value, list):
        return [substituted(item, env) for item in value]
    return VARIABLE.sub(one, value) if isinstance(value, str) else value


def compose(**env: str) -> dict[str, Any]:
    """Return the file as Compose sees it."""
    raw = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    found: dict[str, Any] = substituted(raw, {**settings(), **env})
    return found


FILE = compose()
SERVICES: dict[str, dict[str, Any]] = FILE["services"]


def active(profile: str) -> dict[str, dict[str, Any]]:
    """Return the services that run with a profile."""
    return {
        name: service for name, service in SERVICES.items() if profile in service.get("profiles", [profile])
    }


def mounts(service: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield source and target of each volume of a service."""
    for volume in service.get("volumes", ()):
        source, target, *_ = volume.split(":")
        yield source, target


def schema() -> dict[str, Any]:
    folder = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    found: dict[str, Any] = json.loads((folder / "compose-spec.json").read_text(encoding="utf-8"))
    return found


def test_it_fits_the_schema_of_the_compose_specification() -> None:
    validator = jsonschema.Draft202012Validator(schema())
    assert [error.message for error in validator.iter_errors(FILE)] == []
    broken = {**FILE, "services": {**SERVICES, "gateway": {**SERVICES["gateway"], "helthcheck": {}}}}
    assert not validator.is_valid(broken)


def test_every_setting_is_in_the_file_of_settings_with_the_same_default() -> None:
    used: dict[str, set[str]] = {}
    for match in VARIABLE.finditer(COMPOSE.read_text(encoding="utf-8")):
        if match["name"]:
            used.setdefault(match["name"], set()).add(match["default"] or "")
    assert {name: {value} for name, value in settings().items()} == used


def test_without_the_file_of_settings_it_is_the_same() -> None:
    raw = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    assert substituted(raw, {}) == FILE


def test_profiles_are_those_that_have_a_config() -> None:
    named = {profile for service in SERVICES.values() for profile in service.get("profiles", ())}
    assert named == set(PROFILES)
    assert {path.stem for path in (DOCKER / "gateway").glob("*.yaml")} == named | {"common"}
    assert settings()["COMPOSE_PROFILES"] == "gpu"
    assert set(active("gpu")) >= {"gateway", "vllm", "ollama", "prometheus", "grafana"}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_has_one_gateway_which_reads_its_config(profile: str) -> None:
    found = {name for name in active(profile) if name.startswith("gateway")}
    assert found == {"gateway-cpu" if profile == "cpu" else "gateway"}
    command = compose(COMPOSE_PROFILES=profile)["services"][found.pop()]["command"]
    assert command == ["serve", f"/etc/gateway/{profile}.yaml"]


@pytest.mark.parametrize("profile", PROFILES)
def test_its_config_is_right_and_leads_to_the_engines_of_the_profile(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = configs(tmp_path)
    gateway = next(service for name, service in active(profile).items() if name.startswith("gateway"))
    monkeypatch.delenv("GATEWAY_KEY", raising=False)
    for name, value in gateway["environment"].items():
        monkeypatch.setenv(name, value)
    assert main(["check", str(folder / f"{profile}.yaml")]) == 0, capsys.readouterr()
    backends = yaml.safe_load((folder / f"{profile}.yaml").read_text())["backends"]
    running = active(profile).keys() & set(ENGINES)
    assert {name for name, backend in backends.items() if "url" in backend} == running
    for name, backend in backends.items():
        assert backend["engine"] == name and name in names()
        if "url" in backend:
            assert backend["url"] == f"http://{name}:{port_of(SERVICES[name])}"


def configs(folder: Path) -> Path:
    """Copy the configs to a folder, with the key and the models where this machine has them."""
    (folder / "gateway_key").write_text("gw-of-a-test")
    for path in (DOCKER / "gateway").glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        text = text.replace("/run/keys/", f"{folder}/").replace("/models/", f"{ROOT}/models/")
        (folder / path.name).write_text(text, encoding="utf-8")
    return folder


def port_of(engine: Mapping[str, Any]) -> int:
    """Return the port that an engine is told to listen at: the last one named in its command or environment."""
    host = engine.get("environment", {}).get("OLLAMA_HOST", "").replace(":", " --port ")
    words = f"{engine.get('command', '')} {host}"
    return int(re.findall(r"--(?:server-|openai-)?port (\d+)", words)[-1])


def test_engines_get_arguments_that_the_gateway_knows_of_them() -> None:
    for name in ("vllm", "lmdeploy", "sglang", "tgi"):
        known = (ROOT / "backends" / "engines" / name / "launch.py").read_text(encoding="utf-8")
        given = re.findall(r"(?<!\S)--[a-z-]+", SERVICES[name]["command"])
        assert len(given) > 3
        assert [flag for flag in given if f'"{flag}"' not in known] == []


def test_ports_agree_wherever_they_are_named() -> None:
    for name, service in SERVICES.items():
        check = " ".join(service.get("healthcheck", {}).get("test", ()))
        if name in ENGINES and name != "ollama":
            assert f"127.0.0.1:{port_of(service)}/" in check
    assert "127.0.0.1:3000/" in " ".join(SERVICES["grafana"]["healthcheck"]["test"])
    for name, inner in {"gateway": 8080, "gateway-cpu": 8080, "prometheus": 9090, "grafana": 3000}.items():
        assert [port.rpartition(":")[2] for port in SERVICES[name]["ports"]] == [str(inner)]
    config = yaml.safe_load((DOCKER / "gateway" / "common.yaml").read_text())
    assert config["server"]["listen"] == "0.0.0.0:8080"


def test_nothing_is_open_to_other_machines_unless_somebody_says_so() -> None:
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert not service.get("privileged") and service.get("network_mode") in {None, "none"}, name
    assert not any(service.get("ports") for name, service in SERVICES.items() if name in ENGINES)


def test_every_image_is_pinned() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    for name, service in SERVICES.items():
        image, _, tag = service["image"].rpartition(":")
        assert image and re.search(r"\d+\.\d+", tag) and "latest" not in tag, name
        if name in OURS:
            assert service["image"].split("-cpu")[0] == f"llm-serving-gateway:{version}"
            assert service["build"]["dockerfile"] == "docker/Dockerfile"
            assert (DOCKER / service["build"]["context"]).resolve() == ROOT
    dockerfile = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    bases = re.findall(r"^ARG \w*BASE=(\S+)", dockerfile, re.MULTILINE)
    assert len(bases) == 2 and all(re.fullmatch(r"python:3\.\d+\.\d+-[a-z-]+", base) for base in bases)


def test_everything_that_is_mounted_exists() -> None:
    for name, service in SERVICES.items():
        for source, target in mounts(service):
            if source.startswith("."):
                assert (DOCKER / source).exists(), f"{name}: {source}"
            else:
                assert source in FILE["volumes"], f"{name}: {source}"
            assert target.startswith("/")
        for config in service.get("configs", ()):
            assert config["source"] in FILE["configs"]
    used = {source for service in SERVICES.values() for source, _ in mounts(service)}
    assert set(FILE["volumes"]) <= used


def test_every_service_that_goes_on_has_a_health_check() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    assert "HEALTHCHECK" in dockerfile
    for name, service in SERVICES.items():
        own = service.get("healthcheck", {}).get("test")
        assert own or name in OURS or name in ONCE, name
        assert service.get("restart", "no").startswith(("no", "on-failure") if name in ONCE else "unless"), (
            name
        )


def test_who_needs_another_service_waits_until_it_is_healthy() -> None:
    def waits(name: str) -> dict[str, str]:
        return {other: how["condition"] for other, how in SERVICES[name].get("depends_on", {}).items()}

    assert waits("grafana")["prometheus"] == "service_healthy"
    assert waits("prometheus") == {"gateway": "service_healthy", "gateway-cpu": "service_healthy"}
    assert waits("ollama-pull") == {"ollama": "service_healthy"}
    for name, service in SERVICES.items():
        if any(source == "keys" for source, _ in mounts(service)) and name != "keys":
            assert waits(name)["keys"] == "service_completed_successfully", name
        for other, how in service.get("depends_on", {}).items():
            profiles = set(service.get("profiles", PROFILES))
            always = profiles <= set(SERVICES[other].get("profiles", PROFILES))
            assert always or how.get("required") is False, f"{name} needs {other}, which a profile leaves out"


def test_engines_and_nothing_else_compute_on_the_gpus() -> None:
    for name, service in SERVICES.items():
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        wanted = {"gateway": ["gpu", "utility"], **{engine: ["gpu"] for engine in ENGINES}}.get(name)
        assert [device["capabilities"] for device in devices] == ([wanted] if wanted else []), name


def test_keys_are_files_and_never_in_the_environment_of_what_serves() -> None:
    for name, service in SERVICES.items():
        given = service.get("environment", {}).keys()
        assert name == "keys" or not given & {"GATEWAY_KEY", "GRAFANA_PASSWORD", "HF_TOKEN"}, name
    assert (
        SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/keys/grafana_password"
    )
    assert settings()["GATEWAY_KEY"] == settings()["GRAFANA_PASSWORD"] == settings()["HF_TOKEN"] == ""


def test_prometheus_scrapes_the_gateway_where_it_is() -> None:
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    targets = [
        target
        for job in config["scrape_configs"]
        for static in job.get("static_configs", ())
        for target in static["targets"]
    ]
    assert targets == ["gateway:8080"]
    assert SERVICES["gateway-cpu"]["networks"]["default"]["aliases"] == ["gateway"]
    assert ("./prometheus", "/etc/prometheus") in mounts(SERVICES["prometheus"])


def test_grafana_finds_what_is_provisioned() -> None:
    provisioning = DOCKER / "grafana" / "provisioning"
    sources = [
        source
        for path in (provisioning / "datasources").glob("*.y*ml")
        for source in yaml.safe_load(path.read_text(encoding="utf-8"))["datasources"]
    ]
    assert [source["url"] for source in sources] == ["http://prometheus:9090"]
    places = {
        target: (DOCKER / source).resolve() for source, target in mounts(SERVICES["grafana"]) if "." in source
    }
    providers = [
        provider
        for path in (provisioning / "dashboards").glob("*.y*ml")
        for provider in yaml.safe_load(path.read_text(encoding="utf-8"))["providers"]
    ]
    assert providers
    for provider in providers:
        assert list(places[provider["options"]["path"]].rglob("*.json"))


def test_triton_gets_the_settings_of_the_others() -> None:
    model = json.loads(FILE["configs"]["triton-model"]["content"])
    env = settings()
    assert model == {
        "model": env["MODEL"],
        "gpu_memory_utilization": float(env["GPU_MEMORY"]),
        "max_model_len": int(env["MAX_MODEL_LEN"]),
    }
