"""Send an engine only the members of a request that it knows, because it refuses a request with any other.

Rules:
- A member without which the answer would be another one is refused by name: another backend may know it.
- Any other is left out, and the client is told where it could have mattered (`dropped.py`).
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from backends.dialect import edits
from backends.dialect.dropped import dropped
from backends.dialect.edits import Members

_SAMPLING: Final = """n best_of top_k top_p min_p typical_p temperature repetition_penalty presence_penalty
    frequency_penalty length_penalty seed logit_bias use_beam_search"""
_EXTENT: Final = """max_tokens max_completion_tokens min_tokens stop stop_token_ids include_stop_str_in_output
    ignore_eos bad_words echo suffix truncate_prompt_tokens"""
_FORM: Final = """response_format guided_json guided_regex guided_choice guided_grammar structured_outputs modalities
    audio logprobs top_logprobs prompt_logprobs return_token_ids"""
_PROMPT: Final = """tools tool_choice parallel_tool_calls functions function_call web_search_options chat_template
    chat_template_kwargs documents continue_final_message add_generation_prompt"""
_SHAPING: Final = frozenset(f"{_SAMPLING} {_EXTENT} {_FORM} {_PROMPT}".split())
"""Members that make an answer another one, by what is sampled, how far it goes, its form, and what is asked."""


def only(members: Members, known: Container[str]) -> tuple[str, ...]:
    """Leave only the members that an engine knows, and return the names of others that the client is told of.

    Raise RequestError for one without which the answer would be another.
    """
    edits.refuse(members, [name for name in members if name in _SHAPING and name not in known])
    told = dropped(members, known)
    for name in [name for name in members if name not in known]:
        del members[name]
    return told
