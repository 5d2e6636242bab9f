"""Templates of Ollama's made chat templates in Jinja: the same prompt for each conversation, or a clear refusal.

The expected prompts are what Ollama's rules make of a template (see `gateway.console.prompt_template`), worked out by
hand.
"""

from __future__ import annotations

from typing import Any

import jinja2
import jinja2.sandbox
import pytest

from gateway.console.go_template import Refused
from gateway.console.prompt_template import to_jinja

S, U, A = (
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hi <b>"},
    {"role": "assistant", "content": 'Yes "so".'},
)
U2 = {"role": "user", "content": "And\nnow?"}

CHATML = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
LAST = """{{- if .Suffix }}<fim>{{ .Suffix }}{{ else if .Messages }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "user" }}[INST] {{ if and (eq $i 0) $.System }}{{ $.System }}

{{ end }}{{ .Content }}[/INST]
{{- else if eq .Role "assistant" }} {{ .Content }}{{ if not $last }}</s>{{ end }}
{{- end }}
{{- if and (ne .Role "assistant") $last }}!{{ end }}
{{- end }}
{{- else }}{{ .Prompt }}{{ end }}"""
TURNS = """{{ if .System }}<|system|>
{{ .System }}</s>
{{ end }}{{ if .Prompt }}<|user|>
{{ .Prompt }}</s>
{{ end }}<|assistant|>
{{ .Response }}</s>
"""
PLAIN = "{{ .System }}\n### {{ .Prompt }}\n"
WRAPPED = "{{ .Prompt }}:{{ if .Response }}{{ .Response }};{{ end }}|"


CASES: list[tuple[str, list[dict[str, str]], str]] = [
    (CHATML, [U], "<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\n"),
    (
        CHATML,
        [S, U, A, U2],
        (
            "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\n"
            'Yes "so".<|im_end|>\n<|im_start|>user\nAnd\nnow?<|im_end|>\n<|im_start|>assistant\n'
        ),
    ),
    # Neighbours of one role are joined.
    (CHATML, [U, U2], "<|im_start|>user\nHi <b>\n\nAnd\nnow?<|im_end|>\n<|im_start|>assistant\n"),
    (
        "{{ .System }}|{{ range .Messages }}{{ .Role }},{{ end }}",
        [S, U, S],
        "Be short.\n\nBe short.|system,user,system,",
    ),
    (LAST, [U], "[INST] Hi <b>[/INST]!"),
    (LAST, [U, A], '[INST] Hi <b>[/INST] Yes "so".'),
    (LAST, [U, A, U2], '[INST] Hi <b>[/INST] Yes "so".</s>[INST] And\nnow?[/INST]!'),
    # Turn by turn: the last time without what follows the answer.
    (TURNS, [U], "<|user|>\nHi <b></s>\n<|assistant|>\n"),
    (TURNS, [S, U], "<|system|>\nBe short.</s>\n<|user|>\nHi <b></s>\n<|assistant|>\n"),
    (
        TURNS,
        [S, U, A, U2],
        (
            '<|system|>\nBe short.</s>\n<|user|>\nHi <b></s>\n<|assistant|>\nYes "so".</s>\n'
            "<|user|>\nAnd\nnow?</s>\n<|assistant|>\n"
        ),
    ),
    (TURNS, [U, A], '<|user|>\nHi <b></s>\n<|assistant|>\nYes "so".'),
    # A system message later on begins a turn of its own.
    (
        TURNS,
        [U, S, U2],
        (
            "<|user|>\nHi <b></s>\n<|assistant|>\n</s>\n<|system|>\nBe short.</s>\n<|user|>\nAnd\nnow?</s>\n"
            "<|assistant|>\n"
        ),
    ),
    # Without .Response it stands at the end.
    (PLAIN, [S, U, A, U2], 'Be short.\n### Hi <b>\nYes "so".\n### And\nnow?\n'),
    (WRAPPED, [U, A, U2], 'Hi <b>:Yes "so".;|And\nnow?:'),
    ("{{ .Prompt }}", [U], "Hi <b>"),
    # Trimming, comments, strings, variables.
    ("a  {{- /* no }} */ -}}  b{{ range .Messages -}}\n\n {{ .Content }} {{- end }}", [U], "abHi <b>"),
    (
        '{{ $x := "a\\n\\"{{" }}{{ range .Messages }}{{ $x = .Content }}{{ end }}{{ $x }}{{ `\\n%}` }}',
        [U, A],
        'Yes "so".\\n%}',
    ),
    (
        '{{ $x := "o" }}{{ range .Messages }}{{ $x := .Role }}{{ $x }}{{ end }}{{ $x }}',
        [U, A],
        "userassistanto",
    ),
    (
        "{{ (index .Messages 0).Role }}{{ if gt (len .Messages) 1 }}+{{ end }}{{ range .Messages }}{{ end }}",
        [U, A],
        "user+",
    ),
    ("{{ range slice .Messages 1 }}{{ .Role }}{{ else }}none{{ end }}", [U], "none"),
    (
        '{{ range $i, $m := .Messages }}{{ $i }}{{ .Role }}{{ if or (eq $m.Role "user") false }}!{{ end }}{{ end }}',
        [U, A],
        "0user!1assistant",
    ),
    ("ü{{ range .Messages }}\t{{ .Content }}{{ end }}\r\n é\\n", [U], "ü\tHi <b>\r\n é\\n"),
]
"""Templates, conversations, and the prompts that Ollama makes of them."""


@pytest.mark.parametrize(("template", "messages", "expected"), CASES)
def test_the_same_prompt(template: str, messages: list[dict[str, str]], expected: str) -> None:
    """Also in environments that trim around tags, as those of Transformers and vLLM do."""
    made = to_jinja(template)
    for trims in (False, True):
        env = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=trims,
            lstrip_blocks=trims,
            keep_trailing_newline=True,
            undefined=jinja2.StrictUndefined,
        )
        given: dict[str, Any] = {"messages": messages, "add_generation_prompt": True}
        assert env.from_string(made).render(given) == expected


@pytest.mark.parametrize(
    ("template", "line", "words"),
    [
        ("{{ if .Tools }}x{{ end }}{{ .Prompt }}", 1, ".Tools is not known"),
        ("{{ range .Messages }}\n{{ range .ToolCalls }}{{ end }}{{ end }}", 2, ".ToolCalls is not known"),
        ("{{ range .Messages }}{{ .Thinking }}{{ end }}", 1, ".Thinking"),
        ("{{ range .Messages }}{{ $.Prompt }}{{ end }}", 1, ".Prompt"),
        ("a\n\n{{ with .System }}x{{ end }}", 3, "{{ with }}"),
        ("{{ json .System }}", 1, "the function json <text>"),
        ("{{ .System | len }}", 1, "'|' is not known"),
        ("{{ len .System }}", 1, "the function len <text>"),
        ("{{ eq .System 1 }}", 1, "the function eq <text> <number>"),
        ("{{ eq .System .System }}", 1, "a truth that is written out"),
        ("{{ if .System }}x", 1, "without its end"),
        ("x{{ end }}", 1, "without a beginning"),
        ("{{ .System", 1, "not closed"),
        ("{{ $x }}", 1, "declared nowhere"),
        ("{{ if .System }}{{ $x := .System }}{{ end }}{{ $x }}", 1, "declared nowhere"),
        ("{{ range .System }}{{ end }}", 1, "a loop over a text"),
        ("{{ range .Messages }}{{ . }}{{ end }}", 1, "a message that is written out"),
        ("{{ if .Response }}{{ .Response }}{{ else }}x{{ end }}", 1, "before an {{ else }}"),
        ("{{ range $i, $j, $k := .Messages }}{{ end }}", 1, "variables of a loop"),
        ("{{ 'x' }}", 1, "is not known here"),
        ("{{ }}", 1, "a value is missing"),
        ("{{ (.System }}", 1, "parenthesis"),
        ("{{ block }}{{ end }}", 1, "{{ block }}"),
    ],
)
def test_what_is_refused(template: str, line: int, words: str) -> None:
    with pytest.raises(Refused) as caught:
        to_jinja(template)
    assert words in str(caught.value) and caught.value.line == line
