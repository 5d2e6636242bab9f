"""What the gateway says of config files that are wrong: a file, and the exact lines it gets.

Rules:
- The cases stand in the two text files beside this one: `=== name`, the config file, and each line it gets after `> `.
- Every problem of a file is listed, in order, as "line:column: message".
- `HASH` stands for a well-formed hash, `KEYHASH` for that of the key in the variable KEY.
- Cases of `problems_beside_a_backend.txt` get one sound backend, `a`, after their last line.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from tests.config.files import lines

ENVIRON = {"KEY": "canary-secret", "DIGITS": "123456", "ALL": "0.0.0.0"}
HASH = hashlib.sha256(b"x").hexdigest()
KEYHASH = hashlib.sha256(ENVIRON["KEY"].encode()).hexdigest()
BACKEND = "\nbackends: {a: {engine: openai, url: 'http://h:1'}}\n"


def cases(name: str, end: str) -> list[object]:
    """Return the cases of one text file: a config file and the lines it gets."""
    found: list[object] = []
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    for block in re.split(r"^=== ", text, flags=re.MULTILINE)[1:]:
        title, _, rest = block.partition("\n")
        rest = rest.replace("KEYHASH", KEYHASH).replace("HASHUP", HASH.upper()).replace("HASH", HASH)
        rows = rest.rstrip("\n").split("\n")
        expected = [row.removeprefix("> ") for row in rows if row.startswith("> ")]
        config = "\n".join(row for row in rows if not row.startswith("> "))
        assert expected, f"the case {title!r} of {name} expects nothing"
        found.append(pytest.param(config + end, expected, id=title))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [*cases("problems_whole_file.txt", ""), *cases("problems_beside_a_backend.txt", BACKEND)],
)
def test_every_problem_is_named_at_its_place(text: str, expected: list[str], tmp_path: Path) -> None:
    assert lines(tmp_path, text, ENVIRON) == expected
