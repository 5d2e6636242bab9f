"""Turn requests into what SGLang hears: its names and values, and refusals of what it would ignore without a word.

Facts are those of SGLang 0.5.23, each tried on its server with a scripted model.

Rules:
- Whole answers are asked for whole: only they say with status and words why the scheduler refused a request.
- The server refuses the nulls that SDKs send, so none is sent.
- A conversation that ends with the assistant's words is to be gone on with; the server would show them to the model as
  the user's.
- The grammar of a forced tool allows any JSON as arguments unless the tool says `strict`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from backends.base import Failure, Kind, Operation, Request, RequestError
from backends.dialect import edits, rewrite
from backends.dialect.edits import Members
from backends.dialect.openai import FORMS
from backends.engines.sglang import forms

_LOWEST_SEED, _HIGHEST_SEED = -(1 << 63), (1 << 63) - 1
_ONE = (b"1", b"1.0")


def edited(request: Request, model: str) -> Request:
    """Return a request as SGLang is asked. Raise RequestError for what it cannot do."""
    if request.operation is Operation.RESPONSES and ":" in model:
        raise RequestError(
            Failure(Kind.UNSUPPORTED, "the engine answers as the bare model here, without the adapter")
        )
    edit = EDITS.get(request.operation)
    if edit is None and (b"null" not in request.body or request.operation in FORMS):
        return request
    members = edits.without_nulls(rewrite.members(request.body))
    if edit is not None:
        members = edit(members) or members
    return msgspec.structs.replace(request, body=rewrite.joined(members))


def _sampling(members: Members) -> None:
    """Edit what chats and completions have in common."""
    edits.rename(members, "min_new_tokens", "min_tokens")
    edits.rename(members, "include_stop_str_in_output", "no_stop_trim")
    edits.stops(members, "stop")
    edits.within(members, "seed", _LOWEST_SEED, _HIGHEST_SEED)


def _chat(members: Members) -> None:
    _sampling(members)
    edits.messages(members)
    edits.hold_to_schema(members)
    if "continue_final_message" not in members and edits.ends_with_an_answer(members):
        members["continue_final_message"] = b"true"


def _completion(members: Members) -> None:
    _sampling(members)
    edits.refuse(members, ("suffix",))
    if members.pop("best_of", b"1") not in _ONE:
        raise edits.unsupported("best_of")
    edits.prompts(members, tokens=True)


def _tokenize(members: Members) -> None:
    edits.refuse(members, ("return_token_strs",))


EDITS: Mapping[Operation, Callable[[Members], Members | None]] = {
    Operation.CHAT: _chat,
    Operation.COMPLETIONS: _completion,
    Operation.TOKENIZE: _tokenize,
    Operation.SCORE: forms.score,
    Operation.DETOKENIZE: forms.detokenize,
}
"""What is done with the members of a request; one that returns others has made them anew."""
