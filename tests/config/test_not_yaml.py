"""Files that are no YAML, or YAML that a config file may not use: the one line that each gets.

Rules:
- A line is "line:column: message" and points at where the mistake begins.
- Reading stops at the first place that cannot be read.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.files import lines


def case(name: str, text: str, expected: str) -> object:
    """Return one row: a file and the line it gets."""
    return pytest.param(text, expected, id=name)


CASES = [
    case(
        "empty",
        "",
        "1:1: the file is empty",
    ),
    case(
        "only a comment",
        """\
# nothing yet
""",
        "1:1: the file is empty",
    ),
    case(
        "null",
        "~",
        "1:1: the file is empty",
    ),
    case(
        "a list",
        "- backends",
        "1:1: expected a map with keys such as 'backends'",
    ),
    case(
        "text",
        "backends",
        "1:1: expected a map with keys such as 'backends'",
    ),
    case(
        "a number",
        "8080",
        "1:1: expected a map with keys such as 'backends'",
    ),
    case(
        "two documents",
        """\
backends: {}
---
backends: {}
""",
        "2:1: a second document starts here: a config file holds one",
    ),
    case(
        "not closed list",
        """\
backends: [a, b
models: {}
""",
        "1:11: a list that starts with '[' here is not closed with ']'",
    ),
    case(
        "not closed map",
        "backends: {a: b",
        "1:11: a map that starts with '{' here is not closed with '}'",
    ),
    case(
        "not closed quote",
        'backends: "a',
        "1:11: quoted text that starts here is not closed",
    ),
    case(
        "tab indents",
        "backends:\n\ta: 1",
        "2:1: a tab cannot stand here: indent with spaces",
    ),
    case(
        "tab before key",
        "é: 1\n\tb: 1",
        "2:1: a tab cannot stand here: indent with spaces",
    ),
    case(
        "colon in text",
        "a: b: c",
        "1:5: unexpected ':': quote text that holds ': ', or check the indentation",
    ),
    case(
        "indentation",
        """\
a:
  b: 1
 c: 2
""",
        "3:2: expected a key or the end of the map: check the indentation",
    ),
    case(
        "list in a map",
        """\
a:
  b: 1
  - c
""",
        "3:3: expected a key or the end of the map: check the indentation",
    ),
    case(
        "list on the same line",
        "a: - b",
        "1:4: a list that starts with '-' cannot stand here",
    ),
    case(
        "no colon",
        """\
a: 1
b
c: 2
""",
        "2:1: expected 'key: value'",
    ),
    case(
        "at sign",
        "a: @home",
        "1:4: text that starts with '@' must be quoted",
    ),
    case(
        "backtick",
        "a: `b`",
        "1:4: text that starts with '`' must be quoted",
    ),
    case(
        "percent",
        "a: %b",
        "1:4: text that starts with '%' must be quoted",
    ),
    case(
        "stray bracket",
        "a: ]",
        "1:4: expected a value; text that begins or ends with a bracket must be quoted",
    ),
    case(
        "substitution in a flow map",
        "a: {b: ${env.B}, c: 1}",
        "1:4: a map that starts with '{' here is not closed with '}'; within brackets, text with ${…} must be quoted",
    ),
    case(
        "bad escape",
        'a: "\\q"',
        "1:5: not valid YAML: found unknown escape character",
    ),
    case(
        "surrogate escape",
        'a: "\\ud800"',
        "1:7: not valid YAML: found invalid Unicode character escape code",
    ),
    case(
        "unknown alias",
        "a: *b",
        "1:4: this alias has no anchor before it; quote text that starts with '*'",
    ),
    case(
        "alias in itself",
        "a: &a [*a]",
        "1:8: this alias stands inside its own anchor",
    ),
    case(
        "bad directive",
        """\
%YAML 9.9
---
a: 1
""",
        "1:1: not valid YAML: found incompatible YAML document",
    ),
    case(
        "key is a list",
        """\
? [a]
: b
""",
        "1:3: a key must be text",
    ),
    case(
        "key is an alias",
        """\
a: &x b
*x : c
""",
        "2:1: a key must be text",
    ),
    case(
        "control character",
        "a: b\x07",
        "1:5: control character U+0007 is not allowed",
    ),
    case(
        "control character after others",
        "é: 1\r\n\u2028b: \x00",
        "3:4: control character U+0000 is not allowed",
    ),
    case(
        "nested",
        "[" * 100,
        "1:34: nested more than 32 deep",
    ),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_not_readable(text: str, expected: str, tmp_path: Path) -> None:
    assert lines(tmp_path, text) == [expected]
