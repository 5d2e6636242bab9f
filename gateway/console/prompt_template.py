"""A template of Ollama's made a chat template in Jinja, which gives the same prompt for a chat without tools.

Source: Ollama 0.33, `template/template.go`: what a template is executed with. One that names `.Messages` gets the whole
conversation, in which neighbours of one role are joined; any other one is executed turn by turn with `.System`,
`.Prompt` and `.Response`, the last time without what follows `.Response`.

Rules:
- Pure and strict: a field or function whose text would not be the same is refused. Tools, images and thoughts are.
- Jinja's own trimming never counts: all text stands in expressions, none between the tags.
- Each variable has a name of its own in one namespace, since Jinja forgets at the end of a loop what was set in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from gateway.console.go_template import Action, Branch, Node, Refused, Term, Text, parse

_ROOT, _MESSAGES, _MESSAGE, _TEXT, _NUMBER, _TRUTH = "root", "messages", "message", "text", "number", "truth"
_EITHER: Final = "value of one kind or another"
_TRUE_OR_FALSE: Final = (_TEXT, _NUMBER, _TRUTH, _MESSAGES, _EITHER)
"""What may be a condition."""
_COMPARED: Final = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_COLLATED: Final = """\
{% set chat = namespace(turns=[], system='', has_system=false, prompt='', response='', first='') %}\
{% for message in messages %}\
{% set text = message['content'] or '' %}\
{% if message['role'] == 'system' %}\
{% set chat.system = (chat.system ~ '\\n\\n' ~ text) if chat.has_system else text %}\
{% set chat.has_system = true %}\
{% endif %}\
{% if chat.turns and chat.turns[-1]['role'] == message['role'] and message['role'] != 'tool' %}\
{% set joined = chat.turns[-1]['content'] ~ '\\n\\n' ~ text %}\
{% set chat.turns = chat.turns[:-1] + [{'role': message['role'], 'content': joined}] %}\
{% else %}\
{% set chat.turns = chat.turns + [{'role': message['role'], 'content': text}] %}\
{% endif %}\
{% endfor %}\
{% set own = namespace() %}"""
"""What every template begins with: the messages as Ollama collates them."""
_TURNS: Final = """\
{% set chat.system = '' %}\
{% for turn in chat.turns %}\
{% if (turn['role'] == 'system' and (chat.prompt or chat.response)) or (turn['role'] == 'user' and chat.response) %}"""
_TURN: Final = """\
{% set chat.system = '' %}{% set chat.prompt = '' %}{% set chat.response = '' %}\
{% endif %}\
{% if turn['role'] == 'system' %}{% set chat.system = turn['content'] %}\
{% elif turn['role'] == 'user' %}{% set chat.prompt = turn['content'] %}\
{% elif turn['role'] == 'assistant' %}{% set chat.response = turn['content'] %}\
{% endif %}\
{% endfor %}"""
"""What stands before and behind a template without `.Messages`, which is executed for each turn, and then once more."""


def to_jinja(template: str) -> str:
    """Return the chat template that gives the same prompts. Raise Refused where there may be none."""
    nodes = parse(template)
    names = set(_named(nodes))
    if "Messages" in names:
        return _COLLATED + _Writer(whole=True).written(nodes)
    if "Response" not in names:
        nodes = (*nodes, Action(Term(0, "dot", fields=("Response",))))
    last, _ = _cut(nodes)
    writer = _Writer(whole=False)
    return "".join((_COLLATED, _TURNS, writer.written(nodes), _TURN, writer.written(last)))


def _named(nodes: Sequence[Node]) -> Iterator[str]:
    """Yield every field that a template names."""
    for node in nodes:
        if isinstance(node, Text):
            continue
        yield from _fields(node.value)
        if isinstance(node, Branch):
            yield from _named((*node.body, *node.otherwise))


def _fields(term: Term) -> Iterator[str]:
    yield from term.fields
    for argument in term.arguments:
        yield from _fields(argument)


def _cut(nodes: Sequence[Node]) -> tuple[tuple[Node, ...], bool]:
    """Return a template without what follows the first `.Response` that is written, and whether there is one."""
    kept: list[Node] = []
    for node in nodes:
        if isinstance(node, Branch):
            body, found = _cut(node.body)
            if found and node.otherwise:
                raise Refused(node.value.line, ".Response before an {{ else }}: Ollama cannot execute that")
            otherwise, later = _cut(node.otherwise)
            kept.append(Branch(node.value, body, otherwise, node.over, node.names))
            found = found or later
        else:
            kept.append(node)
            found = isinstance(node, Action) and "Response" in _fields(node.value)
        if found:
            return tuple(kept), True
    return tuple(kept), False


@dataclass(frozen=True, slots=True)
class _Value:
    """An expression of Jinja's, and what it is. `always` is its truth, where every chat has the same."""

    code: str
    kind: str
    always: bool | None = None


@dataclass(slots=True)
class _Writer:
    """Writes nodes as Jinja. `whole`: the template gets the whole conversation."""

    whole: bool
    _scopes: list[dict[str, _Value]] = field(default_factory=lambda: [{}])
    _dots: list[_Value] = field(default_factory=lambda: [_Value("", _ROOT)])
    _numbers: Iterator[int] = field(default_factory=count)

    def written(self, nodes: Sequence[Node]) -> str:
        """Return nodes as Jinja, with a scope of their own."""
        self._scopes.append({})
        out = "".join(map(self._node, nodes))
        self._scopes.pop()
        return out

    def _node(self, node: Node) -> str:
        if isinstance(node, Text):
            return f"{{{{ {_quoted(node.text)} }}}}"
        if isinstance(node, Branch):
            return self._loop(node) if node.over else self._condition(node)
        value = self._value(node.value)
        if not node.variable:
            if value.kind not in (_TEXT, _NUMBER):
                raise Refused(node.value.line, f"a {value.kind} that is written out")
            return f"{{{{ {value.code} }}}}"
        if node.declares:
            return self._declared(node.variable, value)
        known = self._known(node.variable, node.value.line)
        if known.kind != value.kind or not known.code.startswith("own."):
            raise Refused(node.value.line, f"another kind of value for {node.variable}")
        return f"{{% set {known.code} = {value.code} %}}"

    def _declared(self, name: str, value: _Value) -> str:
        code = f"own.v{next(self._numbers)}"
        self._scopes[-1][name] = _Value(code, value.kind)
        return f"{{% set {code} = {value.code} %}}"

    def _known(self, name: str, line: int) -> _Value:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        raise Refused(line, f"the variable {name} is declared nowhere")

    def _condition(self, node: Branch) -> str:
        value = self._value(node.value)
        if value.kind not in _TRUE_OR_FALSE:
            raise Refused(node.value.line, f"a {value.kind} as a condition")
        if value.always is not None:
            return self.written(node.body if value.always else node.otherwise)
        otherwise = f"{{% else %}}{self.written(node.otherwise)}" if node.otherwise else ""
        return f"{{% if {value.code} %}}{self.written(node.body)}{otherwise}{{% endif %}}"

    def _loop(self, node: Branch) -> str:
        value = self._value(node.value)
        if value.kind != _MESSAGES:
            raise Refused(node.value.line, f"a loop over a {value.kind}")
        item = _Value(f"item{next(self._numbers)}", _MESSAGE)
        otherwise = f"{{% else %}}{self.written(node.otherwise)}" if node.otherwise else ""
        self._scopes.append({})
        self._dots.append(item)
        begin = ""
        if len(node.names) == 2:
            begin = self._declared(node.names[0], _Value("loop.index0", _NUMBER))
        if node.names:
            self._scopes[-1][node.names[-1]] = item
        body = begin + self.written(node.body)
        self._dots.pop()
        self._scopes.pop()
        return f"{{% for {item.code} in {value.code} %}}{body}{otherwise}{{% endfor %}}"

    def _value(self, term: Term) -> _Value:
        if term.kind == "text":
            return _Value(_quoted(term.name), _TEXT)
        if term.kind == "number":
            return _Value(term.name, _NUMBER)
        if term.kind == "truth":
            return _Value(term.name, _TRUTH)
        if term.kind == "call":
            value = self._called(term)
        elif term.kind == "variable" and term.name != "$":
            value = self._known(term.name, term.line)
        else:
            value = self._dots[0] if term.kind == "variable" else self._dots[-1]
        for name in term.fields:
            value = self._field(value, name, term.line)
        return value

    def _field(self, value: _Value, name: str, line: int) -> _Value:
        if value.kind == _MESSAGE and name in ("Role", "Content"):
            return _Value(f"{value.code}['{name.lower()}']", _TEXT)
        if value.kind == _ROOT:
            if name == "System":
                return _Value("chat.system", _TEXT)
            if name == "Suffix":
                return _Value("''", _TEXT, always=False)
            if name == "Messages":
                return _Value("chat.turns", _MESSAGES, always=True)
            if name == "Response":
                return _Value("''", _TEXT, always=False) if self.whole else _Value("chat.response", _TEXT)
            if name == "Prompt" and not self.whole:
                return _Value("chat.prompt", _TEXT)
        raise Refused(line, f".{name} is not known here")

    def _called(self, term: Term) -> _Value:
        name, given = term.name, [self._value(each) for each in term.arguments]
        kinds = [value.kind for value in given]
        codes = [value.code for value in given]
        if name in ("and", "or") and given and set(kinds) <= set(_TRUE_OR_FALSE):
            return _Value(f"({f' {name} '.join(codes)})", kinds[0] if len(set(kinds)) == 1 else _EITHER)
        if name == "not" and len(given) == 1 and kinds[0] in _TRUE_OR_FALSE:
            return _Value(f"(not {codes[0]})", _TRUTH)
        plain = len(set(kinds)) == 1 and kinds[0] in (_TEXT, _NUMBER, _TRUTH)
        if name == "eq" and len(given) >= 2 and plain:
            return _Value(f"({' or '.join(f'{codes[0]} == {code}' for code in codes[1:])})", _TRUTH)
        if name == "ne" and len(given) == 2 and plain:
            return _Value(f"({codes[0]} != {codes[1]})", _TRUTH)
        if name in _COMPARED and kinds == [_NUMBER, _NUMBER]:
            return _Value(f"({codes[0]} {_COMPARED[name]} {codes[1]})", _TRUTH)
        if name == "len" and kinds == [_MESSAGES]:
            return _Value(f"({codes[0]} | length)", _NUMBER)
        if name == "slice" and kinds[:1] == [_MESSAGES] and kinds[1:] in ([_NUMBER], [_NUMBER, _NUMBER]):
            return _Value(f"{codes[0]}[{codes[1]}:{''.join(codes[2:])}]", _MESSAGES)
        if name == "index" and kinds == [_MESSAGES, _NUMBER]:
            return _Value(f"{codes[0]}[{codes[1]}]", _MESSAGE)
        shown = " ".join([name, *(f"<{kind}>" for kind in kinds)])
        raise Refused(term.line, f"the function {shown} is not known here")


def _quoted(text: str) -> str:
    """Return a text as Jinja has it; what is no ASCII stands as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\\/", "/")
