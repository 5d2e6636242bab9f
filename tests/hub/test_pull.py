"""`gateway pull`: models of both hubs come whole, go on where they were broken off, and leave nothing broken behind."""

import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gateway.hub.fetch as fetching
from backends.sizing.hubs import HubError, choose, local, parse
from gateway.hub.fetch import TRIES, check_space, fetch
from tests.hub.conftest import MODELS, Shell
from tests.hub.server import COMMIT, Store, sha256

GGUF = (MODELS / "demo.gguf").read_bytes()


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "CACHEDIR" not in path.name
    }


def test_a_gguf_file_comes_into_the_cache_of_the_hub(shell: Shell, store: Store) -> None:
    ran = shell.run("pull", "hf:org/demo-GGUF:Q4_K_M")
    assert ran.status == 0, ran.err
    path = Path(ran.out.strip())
    assert path == shell.home / "hub" / "models--org--demo-GGUF" / "snapshots" / COMMIT / "demo-Q4_K_M.gguf"
    assert path.read_bytes() == GGUF
    assert path.resolve().name == sha256(GGUF)
    assert "4.9 MiB of 4.9 MiB" in ran.err
    assert local("hf:org/demo-GGUF:Q4_K_M", {"HF_HOME": str(shell.home)}) == path
    assert local("hf:org/demo-GGUF:Q8_0", {"HF_HOME": str(shell.home)}) is None
    store.asked.clear()
    assert shell.run("pull", "hf:org/demo-GGUF:Q4_K_M").status == 0
    assert not [path for _, path, _ in store.asked if path.startswith("/store/")]


def test_a_folder_comes_with_all_that_engines_read(shell: Shell) -> None:
    ran = shell.run("pull", "org/demo")
    assert ran.status == 0, ran.err
    folder = Path(ran.out.strip())
    wanted = {path.name for path in (MODELS / "demo").iterdir()}
    assert wanted <= {path.name for path in folder.iterdir()}
    assert (folder / "model.safetensors").read_bytes() == (MODELS / "demo" / "model.safetensors").read_bytes()
    assert local("org/demo", {"HF_HOME": str(shell.home)}) == folder


def test_modelscope_has_a_place_of_its_own(shell: Shell) -> None:
    ran = shell.run("pull", "ms:org/demo-GGUF:q8_0")
    assert ran.status == 0, ran.err
    path = Path(ran.out.strip())
    assert path == shell.home / "scope" / "models" / "org" / "demo-GGUF" / "demo-Q8_0.gguf"
    assert path.read_bytes() == GGUF + b"\0" * 1000
    assert local("ms:org/demo-GGUF:Q8_0", {"MODELSCOPE_CACHE": str(shell.home / "scope")}) == path


@pytest.mark.parametrize("model", ["hf:org/demo-GGUF:Q4_K_M", "ms:org/demo-GGUF:Q4_K_M"])
def test_a_broken_connection_is_taken_up_where_it_broke(shell: Shell, store: Store, model: str) -> None:
    store.cut_after = 3 << 20
    ran = shell.run("pull", model)
    assert ran.status == 0, ran.err
    assert Path(ran.out.strip()).read_bytes() == GGUF
    ranges = [asked for _, _, asked in store.asked if asked and not asked.startswith("bytes=0-")]
    assert any(asked.startswith("bytes=3145728-") for asked in ranges), ranges


def test_bytes_that_are_not_what_was_promised_are_thrown_away(shell: Shell, store: Store) -> None:
    store.spoilt = True
    for model in ("hf:org/demo-GGUF:Q4_K_M", "ms:org/demo-GGUF:Q4_K_M"):
        ran = shell.run("pull", model)
        assert ran.status == 1
        assert "is not what the hub promised (SHA-256): nothing was kept" in ran.err
    assert not [data for data in files(shell.home).values() if len(data) > 10_000]


def test_what_a_hub_refuses_is_one_line(shell: Shell, store: Store) -> None:
    store.gated.add("org/demo-GGUF")
    for model, words in (
        ("hf:org/demo-GGUF:Q4_K_M", "is gated: accept its terms at the hub"),
        ("hf:org/demo:Q4_K_M", "it has no GGUF files, so there is no Q4_K_M"),
        ("org/none", "the hub has no org/none"),
        ("ollama:qwen3", "gateway pull ollama:qwen3 --backend NAME"),
        ("nonsense", "is no model of a hub"),
    ):
        ran = shell.run("pull", model)
        assert ran.status == 1
        assert words in ran.err
        assert len([line for line in ran.err.splitlines() if line.startswith("gateway: ")]) == 1
    assert shell.run("pull", "hf:org/demo-GGUF:Q4_K_M", HF_TOKEN="hf_x").status == 0


def test_a_program_may_follow_in_its_place(shell: Shell) -> None:
    show = "import sys; print(sys.argv[1:])"
    ran = shell.run(
        "pull", "hf:org/demo-GGUF:Q4_K_M", "--exec", sys.executable, "-c", show, "--model={model}", "--x"
    )
    assert ran.status == 0, ran.err
    assert ran.out.strip().endswith("demo-Q4_K_M.gguf', '--x']")
    assert "'--model=/" in ran.out


class Pieces:
    """A stream of bytes that fails as it is told."""

    def __init__(self, data: bytes, *failures: int) -> None:
        self.data, self.failures, self.begun = data, list(failures), list[int]()

    def __call__(self, begin: int) -> Iterator[bytes]:
        self.begun.append(begin)
        end = self.failures.pop(0) if self.failures else len(self.data)
        yield self.data[begin:end]
        if end < len(self.data):
            raise HubError("broken", final=False)


def test_a_part_stays_for_the_next_run(tmp_path: Path) -> None:
    target, data = tmp_path / "model.gguf", bytes(range(256)) * 40
    broken = Pieces(data, 5000, *[5000] * TRIES)
    with pytest.raises(HubError, match="broke at 5000 of 10240 bytes: run it again to go on"):
        fetch(broken, target, len(data), sha256(data), pause=lambda _: None)
    assert not target.exists()
    assert files(tmp_path) == {"model.gguf.part": data[:5000]}
    again = Pieces(data)
    fetch(again, target, len(data), sha256(data))
    assert again.begun == [5000]
    assert files(tmp_path) == {"model.gguf": data}


def test_a_part_that_was_spoilt_is_noticed(tmp_path: Path) -> None:
    target, data = tmp_path / "model.gguf", b"abc" * 1000
    (tmp_path / "model.gguf.part").write_bytes(b"x" * 500)
    with pytest.raises(HubError, match="SHA-256"):
        fetch(Pieces(data), target, len(data), sha256(data))
    assert files(tmp_path) == {}
    (tmp_path / "model.gguf.part").write_bytes(b"x" * 5000)
    fetch(Pieces(data), target, len(data), sha256(data))
    assert files(tmp_path) == {"model.gguf": data}


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    def until_full(begin: int) -> Iterator[bytes]:
        yield b"abc"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(HubError, match=r"the disk of .* is full: model\.gguf was not fetched"):
        fetch(until_full, tmp_path / "model.gguf", 300_000, None)
    assert list(tmp_path.iterdir()) == []


def test_a_large_part_gives_back_what_others_need_of_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "SPARE", 1000)
    target, data = tmp_path / "model.gguf", bytes(range(256)) * 40

    def until_full(begin: int) -> Iterator[bytes]:
        yield data[begin:5000]
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    told = r"is full: 3\.9 KiB of 10\.0 KiB are here: make room and run it again to go on"
    with pytest.raises(HubError, match=told):
        fetch(until_full, target, len(data), sha256(data))
    assert files(tmp_path) == {"model.gguf.part": data[:4000]}
    again = Pieces(data)
    fetch(again, target, len(data), sha256(data))
    assert again.begun == [4000] and files(tmp_path) == {"model.gguf": data}


def test_the_disk_is_looked_at_first(tmp_path: Path, shell: Shell, store: Store) -> None:
    with pytest.raises(HubError) as raised:
        check_space(tmp_path / "not" / "yet", 3 << 20, free=lambda _: 9 << 10)
    told = f"3.0 MiB are to be fetched into {tmp_path / 'not' / 'yet'}, whose disk has 9.0 KiB left"
    assert str(raised.value) == f"{told}, of which 256.0 MiB are to stay free"
    check_space(tmp_path, 1 << 30, free=lambda _: 2 << 30)


def test_two_do_not_fetch_the_same(tmp_path: Path) -> None:
    target, data = tmp_path / "model.gguf", b"abc" * 1000

    def second(begin: int) -> Iterator[bytes]:
        with pytest.raises(HubError, match="another process is fetching"):
            fetch(Pieces(data), target, len(data), None)
        yield data[begin:]

    fetch(second, target, len(data), sha256(data))
    assert files(tmp_path) == {"model.gguf": data}


def test_names_of_hubs() -> None:
    assert str(parse("org/name")) == "hf:org/name"
    assert str(parse("HuggingFace:org/name:Q4_K_M")) == "hf:org/name:Q4_K_M"
    assert str(parse("modelscope:org/name")) == "ms:org/name"
    assert parse("ollama:qwen3:8b").repository == "qwen3:8b"
    for wrong in ("hf:", "ollama:", "../x/y", "a/b/c", "hf:org/..", "org/na me"):
        with pytest.raises(HubError):
            parse(wrong)


def test_a_quantization_means_one_file() -> None:
    stems = ["m-IQ4_XS", "m-Q4_K_M", "m-Q8_0", "m-UD-Q4_K_M"]
    assert choose(["m-Q4_K_M", "m-Q8_0"], "q4_k_m") == "m-Q4_K_M"
    assert choose(stems, "m-Q4_K_M") == "m-Q4_K_M"
    assert choose(stems, "") == "m-Q4_K_M"
    assert choose(["only"], "") == "only"
    with pytest.raises(HubError, match="Q4_K_M means several of its files: m-Q4_K_M, m-UD-Q4_K_M"):
        choose(stems, "Q4_K_M")
    with pytest.raises(HubError, match="Q2_K is none of its files"):
        choose(stems, "Q2_K")
