"""A config of several files: what is read, in which order, how it is merged, and where problems are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import include
from gateway.config.disk import Disk, Taken
from gateway.config.file import Loaded, load, read
from gateway.config.problems import ConfigError

A = "a: {engine: vllm, url: 'http://a'}"
B = "b: {engine: vllm, url: 'http://b'}"
BACKENDS = f"backends:\n  {A}\n"


def files(folder: Path, contents: dict[str, str]) -> Path:
    """Write files by their paths below a folder. Return the path of `main.yaml`."""
    for name, text in contents.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder / "main.yaml"


def loaded(folder: Path, contents: dict[str, str], environ: dict[str, str] | None = None) -> Loaded:
    return read(files(folder, contents), environ or {})


def problems(folder: Path, contents: dict[str, str], environ: dict[str, str] | None = None) -> list[str]:
    """Return every problem, with paths relative to the folder."""
    file = files(folder, contents)
    try:
        load(file, environ or {})
    except ConfigError as error:
        return [str(problem).replace(f"{folder}/", "") for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("includes", "order"),
    [
        ("[conf.d]", ["main.yaml", "conf.d/10-b.yml", "conf.d/9-a.yaml"]),
        ("['conf.d/*.yaml']", ["main.yaml", "conf.d/9-a.yaml"]),
        ("['conf.d/1?-b.*']", ["main.yaml", "conf.d/10-b.yml"]),
        ("[more, conf.d]", ["main.yaml", "more", "conf.d/10-b.yml", "conf.d/9-a.yaml"]),
        ("[conf.d, 'conf.d/*', conf.d/9-a.yaml]", ["main.yaml", "conf.d/10-b.yml", "conf.d/9-a.yaml"]),
        (
            "['*.yaml']",
            ["main.yaml", "also.yaml", "nested/deep.yaml", "conf.d/10-b.yml", "conf.d/9-a.yaml"],
        ),
    ],
    ids=["folder", "pattern", "question mark", "file of any name", "each once", "own folder, and nested"],
)
def test_each_file_is_read_once_in_a_fixed_order(includes: str, order: list[str], tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        {
            "main.yaml": f"include: {includes}\n{BACKENDS}",
            "more": "server: {drain: 9s}",
            "also.yaml": "include: [nested/deep.yaml]",
            "nested/deep.yaml": "include: [../conf.d, ../main.yaml]",
            "conf.d/9-a.yaml": "models: {m: {targets: {a: x}}}",
            "conf.d/10-b.yml": "# nothing yet",
            "conf.d/notes.txt": "{ no YAML",
            "conf.d/.hidden.yaml": "{ no YAML",
        },
    )
    assert [name.removeprefix(f"{tmp_path}/").replace("nested/../", "") for name in found.files] == order


def test_maps_are_merged_by_name_and_lists_at_the_top_are_joined(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        {
            "main.yaml": "include: [x]\n"
            "server: {drain: 9s, limits: {body: 1MiB}, cors: ['*'], log: {level: error}}\n"
            f"defaults: ~\n{BACKENDS}  {B}\nmodels: {{m: {{targets: {{a: x}}}}}}\nkeys: ~\n",
            "x/1.yaml": "server: {drain: 9s, limits: {values: 5000}, cors: ['*'], log: ~}\n"
            "defaults: {retry: {attempts: 3}}\nmodels: {n: {targets: {b: y}}, m: ~}",
            "x/2.yaml": f"include: [../y.yaml]\nkeys: {{k: {{hash: 'sha256:{'0' * 64}'}}}}",
            "y.yaml": "backends: {c: {engine: vllm, url: 'http://c'}}",
        },
    ).config
    assert (list(config.backends), list(config.models), list(config.keys)) == (
        ["a", "b", "c"],
        ["m", "n"],
        ["k"],
    )
    assert (config.server.drain, config.server.limits.body, config.server.limits.values) == (9, 1 << 20, 5000)
    assert (config.defaults.retry.attempts, config.server.log.level) == (3, "error")
    assert config.include == ("x", "../y.yaml")


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"x.yaml": BACKENDS}, ["x.yaml:2:3: 'a' is at main.yaml:3:3 already; one file describes it"]),
        (
            {"x.yaml": "server: {drain: 1s}", "y.yaml": "server: {drain: 2s}"},
            ["y.yaml:1:10: 'drain' has another value here than at x.yaml:1:10"],
        ),
        (
            {"x.yaml": "server: {cors: ['http://x']}", "y.yaml": "server: {cors: []}"},
            ["y.yaml:1:10: 'cors' has other items here than at x.yaml:1:10"],
        ),
        ({"x.yaml": "backends: [a]"}, ["x.yaml:1:1: 'backends' is a list here and a map at main.yaml:2:1"]),
        (
            {"x.yaml": "models: {m: {targets: {b: x}, wait: 1}}"},
            [
                "x.yaml:1:24: unknown backend 'b' (there are: ALL)",
                "x.yaml:1:31: unknown key 'wait'",
            ],
        ),
        (
            {"x.yaml": "models: {m: {targets: {a: '${env.UNSET_HERE}'}}}"},
            ["x.yaml:1:27: environment variable UNSET_HERE is not set"],
        ),
        (
            {"x.yaml": "models: {m: [a", "y.yaml": "- a"},
            [
                "x.yaml:1:13: a list that starts with '[' here is not closed with ']'",
                "y.yaml:1:1: expected a map with keys such as 'backends'",
            ],
        ),
        (
            {"x.yaml": "include: [gone.yaml]"},
            ["x.yaml:1:11: cannot read the file 'gone.yaml': No such file or directory"],
        ),
        ({"x.yaml": "include: ['*/x.yaml']"}, ["x.yaml:1:11: only the last part of a path may be a pattern"]),
        (
            {"x.yaml": "include: [e]", "e/no.txt": ""},
            ["x.yaml:1:11: 'e' gives no file whose name ends in .yaml or .yml"],
        ),
        (
            {"x.yaml": "include: ['gone/*']"},
            ["x.yaml:1:11: cannot read the folder of 'gone/*': No such file or directory"],
        ),
        ({"x.yaml": "include: conf.d"}, ["x.yaml:1:1: 'include' is a single value here and a list at main.yaml:1:1"]),
        ({"x.yaml": "include: [1]"}, ["x.yaml:1:11: expected text, got 1 (write \"1\")"]),
    ],
    ids=[
        *("name twice", "two values", "two lists", "two kinds", "after the merge", "substitution", "no YAML"),
        *("missing file", "pattern in the middle", "empty folder", "missing folder", "no list", "no text"),
    ],
)  # fmt: skip
def test_every_problem_is_told_at_its_own_file(
    contents: dict[str, str], expected: list[str], tmp_path: Path
) -> None:
    told = problems(tmp_path, {"main.yaml": f"include: ['?.yaml']\n{BACKENDS}", **contents})
    told = [
        line.partition("(there are: a")[0] + "(there are: ALL)" if "there are: a" in line else line
        for line in told
    ]
    assert [line.replace(f"{tmp_path}/", "") for line in told] == expected


def test_a_clash_shows_no_value(tmp_path: Path) -> None:
    told = problems(
        tmp_path,
        {
            "main.yaml": f"include: [x]\n{BACKENDS}",
            "x/1.yaml": "backends: {a: {engine: vllm, url: 'http://secret'}}",
            "x/2.yaml": "server: {listen: '127.0.0.1:4711'}",
            "x/3.yaml": "server: {listen: '127.0.0.1:4712'}",
        },
    )
    assert len(told) == 2 and not [line for line in told if "secret" in line or "471" in line], told


def test_the_version_is_that_of_the_text_alone(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("one")
    contents = {
        "main.yaml": f"include: [x]\nbackends: {{a: {{engine: vllm, url: 'http://a', api_key: '${{file:{secret}}}'}}}}",
        "x/1.yaml": "server: {drain: 1s}",
    }
    before = loaded(tmp_path, contents)
    secret.write_text("two")
    assert loaded(tmp_path, contents).version == before.version
    assert loaded(tmp_path, contents).config != before.config
    assert loaded(tmp_path, {"x/1.yaml": "server: {drain: 2s}"}).version != before.version


def test_another_process_reads_what_this_one_has_read(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("one")
    disk = Disk()
    main = files(
        tmp_path,
        {
            "main.yaml": "include: [x, 'x/1*', also.yaml]",
            "x/1.yaml": f"backends: {{a: {{engine: vllm, url: 'http://a', api_key: '${{file:{secret}}}'}}}}",
            "also.yaml": "server: {drain: 1s}",
        },
    )
    before = read(main, {}, disk)
    for file in (main, secret, tmp_path / "x/1.yaml", tmp_path / "also.yaml"):
        file.unlink()
    assert read(main, {}, Taken(disk.taken())) == before
    with pytest.raises(ConfigError, match="No such file"):
        read(tmp_path / "other.yaml", {}, Taken(disk.taken()))


def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(include, "MOST_FILES", 3)
    told = problems(
        tmp_path,
        {
            "main.yaml": f"include: [x]\n{BACKENDS}",
            **{f"x/{number}.yaml": "server: ~" for number in range(9)},
        },
    )
    assert told == ["main.yaml:1:11: the config has more than 3 files"]
