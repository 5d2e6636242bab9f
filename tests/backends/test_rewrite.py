"""Edits of JSON bodies: the result is as intended, and every other byte is unchanged."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Operation, Request
from backends.dialect import rewrite

USAGE = b'"stream_options":{"include_usage":true}'


def request(body: bytes) -> Request:
    """Return the request in a body, as the gateway decodes it."""
    said = json.loads(body)
    options = said.get("stream_options")
    return Request(
        Operation.CHAT,
        body,
        said["model"],
        stream=bool(said.get("stream")),
        stream_options=options is not None,
        include_usage=bool((options or {}).get("include_usage")),
    )


def rewritten(body: bytes, model: str) -> bytes:
    return rewrite.request_body(request(body), model)


def members(body: bytes) -> list[tuple[str, Any]]:
    """Return the members of the outermost object, repeated ones included."""
    found: list[tuple[str, Any]] = json.loads(body, object_pairs_hook=list)
    return found


SPLICED = {
    "first": (b'{"model":"a","x":1}', b'{"model":"b/c","x":1}'),
    "last": (b'{"x":1,"model":"a"}', b'{"x":1,"model":"b/c"}'),
    "alone": (b'{"model":"a"}', b'{"model":"b/c"}'),
    "white space": (b' {\n "x" : 1 ,\t"model"\r\n :\n "a" } ', b' {\n "x" : 1 ,\t"model"\r\n :\n "b/c" } '),
    "numbers keep their digits": (
        b'{"seed":18446744073709551617,"t":1.00,"u":1E+2,"model":"a","v":-0}',
        b'{"seed":18446744073709551617,"t":1.00,"u":1E+2,"model":"b/c","v":-0}',
    ),
    "strings keep their escapes": (
        b'{"model":"a","s":"\\u00e9\\/\\n\xc3\xa9\\ud83d\\ude00"}',
        b'{"model":"b/c","s":"\\u00e9\\/\\n\xc3\xa9\\ud83d\\ude00"}',
    ),
    "repeated keys of others": (b'{"x":1,"x":2,"model":"a"}', b'{"x":1,"x":2,"model":"b/c"}'),
    "model in text": (
        b'{"messages":"say \\"model\\":\\"a\\" please","model":"a"}',
        b'{"messages":"say \\"model\\":\\"a\\" please","model":"b/c"}',
    ),
    "key like model": (
        b'{"models":"a","model":"a","model_":"a"}',
        b'{"models":"a","model":"b/c","model_":"a"}',
    ),
    "a stream whose usage is asked for": (
        b'{"model":"a","stream":true,"stream_options":{"include_usage": true, "x":1}}',
        b'{"model":"b/c","stream":true,"stream_options":{"include_usage": true, "x":1}}',
    ),
    "a stream": (b'{"model":"a","stream":true}', b"{" + USAGE + b',"model":"b/c","stream":true}'),
    "a stream with white space": (
        b' { "stream" : true, "model":"a"}',
        b" {" + USAGE + b', "stream" : true, "model":"b/c"}',
    ),
}


@pytest.mark.parametrize(("body", "expected"), SPLICED.values(), ids=SPLICED.keys())
def test_one_splice_leaves_every_other_byte(body: bytes, expected: bytes) -> None:
    assert rewritten(body, "b/c") == expected


REBUILT = {
    "nested before": (b'{"tools":[{"model": "a"}],"model":"a"}', b'{"tools":[{"model": "a"}],"model":"b"}'),
    "nested after": (b'{"model":"a","meta": {"model":"a"}}', b'{"model":"b","meta":{"model":"a"}}'),
    "as a value": (b'{"user":"model","model":"a"}', b'{"user":"model","model":"b"}'),
    "escaped name": (b'{"x":1.0,"model":"\\u0061"}', b'{"x":1.0,"model":"b"}'),
    "escaped key": (b'{"mod\\u0065l":"a","x":1}', b'{"model":"b","x":1}'),
    "escaped key, capital hex": (b'{"m\\u006Fdel":"a","x":1}', b'{"model":"b","x":1}'),
    "twice": (b'{"model":"z","x":1,"model":"a"}', b'{"model":"b","x":1}'),
    "twice, disguised first": (b'{"mod\\u0065l":"z","model":"a"}', b'{"model":"b"}'),
    "twice, disguised second": (b'{"model":"z","mod\\u0065l":"a"}', b'{"model":"b"}'),
    "disguised beside a nested decoy": (
        b'{"meta":{"model":"a"},"mod\\u0065l":"z","mod\\u0065l":"a"}',
        b'{"meta":{"model":"a"},"model":"b"}',
    ),
    "disguised beside a key that ends alike": (
        b'{"x\\"model":"a","mod\\u0065l":"a"}',
        b'{"x\\"model":"a","model":"b"}',
    ),
    "a stream with other options": (
        b'{"model":"a","stream":true,"stream_options":{"x": 1.0}}',
        b'{"model":"b","stream":true,"stream_options":{"x":1.0,"include_usage":true}}',
    ),
    "a stream that declines usage": (
        b'{"model":"a","stream_options":{"include_usage":false,"x":[1, 2]},"stream":true}',
        b'{"model":"b","stream_options":{"include_usage":true,"x":[1, 2]},"stream":true}',
    ),
    "a stream with null options": (
        b'{"model":"a","stream":true,"stream_options":null}',
        b'{"model":"b","stream":true,"stream_options":{"include_usage":true}}',
    ),
    "a stream with options twice": (
        b'{"model":"a","stream":true,"stream_options":{"include_usage":true},"stream_options":{}}',
        b'{"model":"b","stream":true,"stream_options":{"include_usage":true}}',
    ),
    "a stream with disguised options": (
        b'{"model":"a","stream":true,"stream\\u005foptions":null}',
        b'{"model":"b","stream":true,"stream_options":{"include_usage":true}}',
    ),
}


@pytest.mark.parametrize(("body", "expected"), REBUILT.values(), ids=REBUILT.keys())
def test_in_doubt_the_body_is_put_together_anew(body: bytes, expected: bytes) -> None:
    assert rewritten(body, "b") == expected


def test_nothing_to_do_is_nothing_done() -> None:
    body = b' {"model" : "a", "stream":true,"stream_options":{"include_usage":true}} '
    assert rewritten(body, "a") is body


@pytest.mark.parametrize("name", ['a"b', "a\\b", "日本語", "é", "a/b", "\u2028", "a\nb", "😀", "</script>"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_names_of_any_characters(name: str, ascii_only: bool) -> None:
    public = json.dumps({"x": 1, "model": name}, ensure_ascii=ascii_only).encode()
    assert json.loads(rewritten(public, "b")) == {"x": 1, "model": "b"}
    private = b'{"x": 1,"model":"a"}'
    assert json.loads(rewritten(private, name)) == {"x": 1, "model": name}


# Bodies are generated as text, with repeated keys and every spelling of keys and white space.

SPACE = st.sampled_from(["", "", " ", "\n", "\t\r\n "])
SPELLINGS = ['"model"', '"mod\\u0065l"', '"\\u006Dodel"', '"m\\u006F\\u0064el"']
NUMBERS = st.sampled_from(["0", "-0", "1.50", "1e5", "12345678901234567890123", "0.1000000000000000055"])
STRINGS = st.one_of(
    st.sampled_from(['"model"', '"\\"model\\": \\"a\\""', '"\\u006d"', '"\\\\"', '"a"', '"stream_options"']),
    st.text(max_size=6, alphabet=st.characters(exclude_categories=["Cs"])).map(json.dumps),
)
LEAVES = st.one_of(NUMBERS, STRINGS, st.sampled_from(["true", "false", "null"]))
KEYS = st.one_of(st.sampled_from([*SPELLINGS, '"x\\"model"', '"models"', '"MODEL"', '"user"']), STRINGS)


def objects(keys: st.SearchStrategy[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    member = st.tuples(keys, SPACE, SPACE, values).map(lambda m: f"{m[0]}{m[1]}:{m[2]}{m[3]}")
    return st.tuples(SPACE, st.lists(member, max_size=4), SPACE).map(
        lambda o: "{" + o[0] + f",{o[2]}".join(o[1]) + "}"
    )


VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        objects(KEYS, inner), st.lists(inner, max_size=2).map(lambda v: f"[{','.join(v)}]")
    ),
    max_leaves=4,
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Generate valid requests: at least one `model`, all strings; `stream` and its options of the right type."""
    names = ["a", "z", "model", "é"]
    model = st.tuples(st.sampled_from(SPELLINGS), st.sampled_from(names).map(json.dumps))
    plain = st.tuples(
        STRINGS.filter(lambda key: json.loads(key) not in {"model", "stream", "stream_options"}), VALUES
    )
    options = st.sampled_from(["null", "{}", '{"include_usage": true}', '{"include_usage":false, "y":1.0}'])
    parts = draw(st.lists(plain, max_size=4)) + draw(st.lists(model, min_size=1, max_size=3))
    if draw(st.booleans()):
        parts.append(('"stream"', draw(st.sampled_from(["true", "false"]))))
        parts += [('"stream_options"', draw(options)) for _ in range(draw(st.integers(0, 2)))]
    parts = draw(st.permutations(parts))
    inner = ",".join(
        f"{draw(SPACE)}{key}{draw(SPACE)}:{draw(SPACE)}{value}{draw(SPACE)}" for key, value in parts
    )
    return f"{draw(SPACE)}{{{inner}}}{draw(SPACE)}".encode()


@given(bodies(), st.sampled_from(["a", "b", 'q"\\', "Qwen/Qwen2.5", "模型"]))
def test_the_result_means_the_same_but_for_the_two_edits(body: bytes, model: str) -> None:
    asked = request(body)
    result = rewrite.request_body(asked, model)
    expected = json.loads(body) | {"model": model}
    if asked.stream and not asked.include_usage:
        expected["stream_options"] = (expected.get("stream_options") or {}) | {"include_usage": True}
    assert json.loads(result) == expected


@given(bodies(), st.sampled_from(["a", "b"]))
def test_every_parser_reads_the_same_model(body: bytes, model: str) -> None:
    """Parsers that use the first of repeated keys and those that use the last agree: there is only one."""
    result = rewrite.request_body(request(body), model)
    assert [value for key, value in members(result) if key == "model"] == [model]


@given(bodies())
def test_values_of_other_members_keep_their_bytes(body: bytes) -> None:
    """With numbers read as text, nothing differs but the two edits."""

    def read(text: bytes) -> dict[str, Any]:
        kept: dict[str, Any] = json.loads(text, parse_int=str, parse_float=str)
        return {key: value for key, value in kept.items() if key not in {"model", "stream_options"}}

    assert read(rewritten(body, "b")) == read(body)


# Answers.

RENAMED = {
    "compact": (b'{"id":1,"model":"e","x":2}', b'{"id":1,"model":"c","x":2}'),
    "spaced": (b'{"id": 1, "model": "e"}', b'{"id": 1, "model": "c"}'),
    "oddly spaced": (b'{"model"\n : \t"e"}', b'{"model"\n : \t"c"}'),
    "a nested one first": (b'{"meta":{"model":"e"},"model":"e"}', b'{"meta":{"model":"c"},"model":"c"}'),
    "another one first": (b'{"meta":{"model":"x"},"model":"e"}', b'{"meta":{"model":"x"},"model":"c"}'),
    "in text": (b'{"t":"\\"model\\":\\"e\\"","model":"e"}', b'{"t":"\\"model\\":\\"e\\"","model":"c"}'),
    "as a value": (
        b'{"t":"model","u":["model","e"],"model":"e"}',
        b'{"t":"model","u":["model","e"],"model":"c"}',
    ),
    "a longer name": (b'{"a":{"model":"ee"},"model":"e"}', b'{"a":{"model":"ee"},"model":"c"}'),
    "at the very end": (b'{"t":"model', b'{"t":"model'),
}


@pytest.mark.parametrize(("answer", "expected"), RENAMED.values(), ids=RENAMED.keys())
def test_an_answer_is_renamed(answer: bytes, expected: bytes) -> None:
    assert rewrite.renamed(answer, b'"e"', b'"c"') == expected


@pytest.mark.parametrize("said", [b"", b"null", b"5", b'"c"', b'{"name":"e"}'])
def test_an_answer_without_another_name_is_left_alone(said: bytes) -> None:
    answer = b'{"model":' + (said or b"1") + b"}"
    assert rewrite.renamed(answer, said, b'"c"') is answer


@pytest.mark.parametrize("said", [b'"a\\/b"', b'"\\u00e9"', b'"q\\"u\\\\"', '"模型"'.encode()])
@pytest.mark.parametrize("wanted", ["c", 'q"u\\', "a/b", "模型"])
def test_names_of_any_characters_in_answers(said: bytes, wanted: str) -> None:
    answer = b'{"id":"x","model":' + said + b',"choices":[]}'
    assert json.loads(rewrite.renamed(answer, said, json.dumps(wanted).encode())) == {
        "id": "x",
        "model": wanted,
        "choices": [],
    }
