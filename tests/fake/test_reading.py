"""Scripts as text: every mistake is named in plain words, where it is."""

import json
from pathlib import Path

import pytest

from gateway.fake.reading import ScriptError, load, read
from gateway.fake.script import Fault, Rule, Script


def mistakes(text: str) -> list[str]:
    with pytest.raises(ScriptError) as caught:
        read(text)
    return str(caught.value).split("\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: a", "1:1: expected a list"),
        ("model: [a]", "1:1: unknown key 'model': did you mean 'models'?"),
        ("defaults: {gap: 20}", "1:12: expected a duration such as 30s: write 20s"),
        ("defaults: {sse: {newlines: lf}}", "1:18: unknown key 'newlines': did you mean 'newline'?"),
        ("defaults: {sse: {newline: nl}}", "1:18: expected one of: 'lf', 'crlf', 'cr' or 'mixed'"),
        ("defaults: {http: {interim: 3}}", "1:19: expected a map"),
        ("defaults: {http: {interim: {stat: 3}}}", "1:29: unknown key 'stat': did you mean 'status'?"),
        ("defaults: {endless: true, http: {framing: length}}", "1:1: an endless stream has no length"),
        ("defaults: {jitter: 2}", "1:12: expected a number of at most 1"),
        ("defaults: {rate: 0}", "1:12: expected a number greater than 0"),
        ("slots: 1.5", "1:1: expected a whole number"),
        ("slots: '2'", "1:1: expected a whole number"),
        ("rules:\n- match: {stream: 1}", "2:11: expected true or false"),
        ("rules:\n- match: {times: 0}", "2:11: expected a number of at least 1"),
        ("rules:\n- reply: {headers: {a: 1}}", "2:11: expected a map of header names to text"),
        ("rules:\n- reply: {body: 'hex:zz'}", "2:11: expected hex digits after 'hex:'"),
        ("rules:\n- faults: [{do: close}]", "2:12: 'at' is missing"),
        (
            "rules:\n- faults: [{at: evnt 3, do: close}]",
            "2:13: expected one of: accept, request, headers, byte N",
        ),
        ("rules:\n- faults: [{at: end, do: end}]", "2:12: 'end' needs a place in the body"),
        ("rules:\n- faults: [{at: end, do: raw}]", "2:12: 'raw' needs 'data'"),
        ("rules:\n- faults: [{at: end, do: close, size: 3}]", "2:12: 'close' takes no 'size'"),
        ("rules:\n- faults: [{at: byte 3, do: event}]", "2:12: 'event' needs a place between events"),
        ("rules:\n- faults: [{at: accept, do: drip}]", "2:12: 'drip' cannot happen at accept"),
        (
            "rules:\n- match: {model: a}\n  faults: [{at: accept, do: close}]",
            "2:3: at accept no request is known",
        ),
        (
            "rules:\n- faults: [{at: accept, do: close}, {at: end, do: close}]",
            "2:3: a rule with a fault at accept",
        ),
        ("- a", "1:1: expected a map"),
        ("a: [", "2:1: expected a value"),
        ("\x00", "1:1: control character"),
        ("a: 1\n---\nb: 2", "2:1: a second document starts here: a script holds one"),
        ("models: [a]\nmodels: [b]", "2:1: 'models' is here twice"),
        ("&a [*a]", "1:5: this alias stands inside its own anchor"),
    ],
)
def test_one_mistake(text: str, said: str) -> None:
    (line,) = mistakes(text)
    assert line.startswith(f"script:{said}")


def test_all_mistakes_in_the_order_of_the_text() -> None:
    text = "seed: x\nslots: 0\nrules:\n- faults: [{at: x, do: y}]\n"
    places = [line.split(":")[1:3] for line in mistakes(text)]
    assert places == [["1", "1"], ["2", "1"], ["4", "13"], ["4", "20"]]


def test_yaml_json_and_python_say_the_same() -> None:
    fields = {"gap": "250ms", "faults": [{"at": "event -1", "do": "raw", "data": "hex:00ff"}]}
    plain = {"models": ["a"], "rules": [{"match": {"times": 2}, **fields}]}
    built = Script(
        models=["a"],
        rules=[Rule(match={"times": 2}, gap=0.25, faults=[Fault(at="event -1", do="raw", data=b"\x00\xff")])],
    )
    text = "models: [a]\nrules:\n- {match: {times: 2}, gap: 250ms, faults: [{at: event -1, do: raw, data: 'hex:00ff'}]}"
    assert read(json.dumps(plain)) == read(text) == built


def test_text_is_taken_as_it_is() -> None:
    """Nothing is filled in, and JSON may write any character as escapes."""
    say = "on ${HOME} ${env.HOME} 😀"
    assert read(json.dumps({"defaults": {"say": say}})).defaults.say == say
    assert read(f"defaults: {{say: '{say}'}}").defaults.say == say


def test_nothing_is_a_script_too() -> None:
    assert read("") == read("{}") == read("# nothing\n") == Script()


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "script.yaml"
    file.write_text("models: [ü]", encoding="utf-8")
    assert load(file).models == ("ü",)
    with pytest.raises(
        ScriptError, match=r"gone\.yaml:1:1: cannot read the file: No such file or directory$"
    ):
        load(tmp_path / "gone.yaml")
