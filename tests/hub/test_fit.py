"""`gateway fit`: what it says of a model here and at a hub, and that the config it suggests is accepted."""

import json
from pathlib import Path
from typing import Any

import pytest

from backends.sizing.config import Config
from backends.sizing.folder import folder_facts
from backends.sizing.need import GIB
from gateway.__main__ import main
from gateway.console.fitting import Card, fits, load, places, rows, suggested
from tests.hub.conftest import MODELS, Shell
from tests.hub.server import Store
from tests.sizing.published import MODELS as PUBLISHED

GGUF = str(MODELS / "demo.gguf")


def facts(name: str) -> Any:
    config = Config.read(json.dumps(PUBLISHED[name].config).encode())
    assert config is not None
    return folder_facts(config)


@pytest.mark.parametrize("model", [GGUF, str(MODELS / "demo")])
@pytest.mark.parametrize("machine", [["--ram", "8GiB"], ["--gpu", "24GiB", "--gpu", "24GiB"], []])
def test_the_config_that_is_printed_is_accepted(
    model: str, machine: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", model, *machine]) == 0
    page = capsys.readouterr().out
    assert all(len(line) <= 80 or "model:" in line or "/demo" in line for line in page.splitlines())
    file = tmp_path / "gateway.yaml"
    file.write_text(page[page.index("backends:") :])
    assert main(["check", str(file)]) == 0
    assert "ok (1 backend, 1 model" in capsys.readouterr().out


def test_the_page_says_what_the_model_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", GGUF, "--ram", "8GiB", "--context", "1024", "--parallel", "2"]) == 0
    page = capsys.readouterr().out
    for words in (
        "llama, gguf, F16",
        "2.56 million",
        "4, 2 of keys and values, 64 wide",
        "2048 tokens",
        "2.0 KiB a token; 4.0 MiB for 2 requests of 1024 tokens",
        "FP16 4.9 MiB, INT8 2.4 MiB, INT4 1.2 MiB",
    ):
        assert words in page
    assert "context: 1024\n      parallel: 2" in page
    lines = [line for line in page.splitlines() if line.startswith("* ")]
    assert len(lines) == 1
    assert lines[0].split()[:4] == ["*", "F16", "4.9", "MiB"]


def test_programs_get_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", GGUF, "--json", "--ram", "50MiB"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["parameters"], told["weights"], told["kv_cache_per_token"]) == (2_558_208, 5_121_024, 2048)
    assert told["at_least"] == {"FP16": 5_116_416, "INT8": 2_558_208, "INT4": 1_279_104}
    assert all(row["fits_on"] == [] for row in told["quantizations"])
    assert told["config"] is None


def test_what_fits_nowhere_is_said_with_the_arithmetic(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", GGUF, "--ram", "50MiB"]) == 0
    page = capsys.readouterr().out
    assert "it fits nowhere here. In RAM it needs 64.3 MiB" in page
    assert "16.0 MiB KV cache (4 layers x (128 + 128) numbers x 2 bytes x 2048 tokens x 4)" in page


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("/gone/model.gguf", "there is no file or folder /gone/model.gguf"),
        ("nonsense", "is no model of a hub"),
        ("ollama:qwen3", "the registry of Ollama does not tell"),
        (str(MODELS / "README.md"), "not in GGUF format"),
    ],
)
def test_what_is_no_model_is_one_line(model: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", model]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("gateway: ")
    assert len(said.splitlines()) == 1


def test_large_models_go_where_they_fit() -> None:
    eight = [Card("NVIDIA H100", 80 * GIB, 79 * GIB)] * 8
    where = places(eight, 400 * GIB, 512 * GIB)
    assert [(place.name, place.gpus) for place in where] == [
        ("80 GiB GPU", 1),
        ("2 GPUs", 2),
        ("4 GPUs", 4),
        ("8 GPUs", 8),
        ("RAM", 0),
    ]
    llama = facts("Llama-2-70B")
    use = load(llama, None, None)
    assert (use.context, use.parallel) == (4096, 4)
    assert [fits(llama, use, place) for place in where] == [False, True, True, True, True]
    four_bits = next(row for row in rows(llama, use, where) if row.quantization.startswith("INT4"))
    assert four_bits.fits[0]
    config = suggested(llama, use, where, "meta-llama/Llama-2-70b-hf")
    assert config is not None
    launch = config["backends"]["local"]["launch"]
    assert launch["tensor_parallel"] == 2
    assert launch["name"] in config["models"]
    small = places([Card("NVIDIA L4", 24 * GIB, 4 * GIB)], 10 * GIB, 16 * GIB)
    assert [fits(facts("Llama-3-8B"), use, place) for place in small] == [False, False]
    assert suggested(llama, use, small, "x/y") is None


def test_a_hub_is_asked_for_the_beginnings_only(shell: Shell, store: Store) -> None:
    store.repositories["org/big-GGUF"] = {
        "big-Q4_K_M.gguf": (MODELS / "demo.gguf").read_bytes() + bytes(30 << 20)
    }
    ran = shell.run("fit", "hf:org/big-GGUF:Q4_K_M", "--json")
    assert ran.status == 0, ran.err
    told = json.loads(ran.out)
    assert (told["parameters"], told["weights"]) == (2_558_208, 5_121_024)
    assert store.ranges() == ["bytes=0-1048575"]
    assert told["config"]["backends"]["local"]["launch"]["model"] == "hf:org/big-GGUF:Q4_K_M"
    assert not (shell.home / "hub").exists()


def test_a_folder_at_either_hub_is_read_by_its_heads(shell: Shell, store: Store) -> None:
    for name, model in (("org/demo", "org/demo"), ("ms:org/demo", "ms:org/demo")):
        ran = shell.run("fit", name, "--json", "--gpu", "24GiB")
        assert ran.status == 0, ran.err
        told = json.loads(ran.out)
        assert (told["parameters"], told["quantization"], told["context"]) == (2_558_208, "F16", 2048)
        assert told["config"]["backends"]["local"]["launch"]["model"] == model


def test_the_files_that_a_hub_offers_are_the_table(shell: Shell) -> None:
    ran = shell.run("fit", "hf:org/demo-GGUF", "--json")
    assert ran.status == 0, ran.err
    rows = {row["type"]: row for row in json.loads(ran.out)["quantizations"]}
    assert {"Q4_K_M", "Q8_0"} <= set(rows)
    assert rows["Q8_0"]["weights"] == 5_167_776 + 1000
    assert not any(row["estimated"] for row in rows.values())


def test_what_a_hub_refuses_is_one_line(shell: Shell, store: Store) -> None:
    store.gated.add("org/demo")
    for model, words in (
        ("org/demo", "gated: accept its terms at the hub, and set HF_TOKEN"),
        ("org/none", "the hub has no org/none"),
        ("hf:org/demo-GGUF:Q2_K", "Q2_K is none of its files: it has demo-Q4_K_M, demo-Q8_0"),
        ("ms:org/none", "ModelScope has no org/none"),
    ):
        ran = shell.run("fit", model)
        assert ran.status == 1
        assert words in ran.err
        assert len(ran.err.splitlines()) == 1
    ran = shell.run("fit", "org/demo", HF_ENDPOINT="http://127.0.0.1:9")
    assert "the hub at http://127.0.0.1:9 cannot be reached" in ran.err
