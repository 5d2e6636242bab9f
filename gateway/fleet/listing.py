"""What one backend has told of its models: the last good list, and what is wrong where the engine tells none.

Rules:
- One bad answer takes nothing away. The last good list stays until a good one says otherwise, or until the backend was
  down or has another engine, which must tell for itself.
- Models that the config names are served whatever the engine tells; it only adds what it knows of them. Of an engine
  that was launched the options say how long a request may be, where it does not.
- Whatever a list has that cannot be offered is logged, once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from backends.base import Failure, ModelCard
from backends.dialect.errors import readable
from gateway.config.texts import PUBLIC_NAME
from gateway.fleet.backend import Backend
from gateway.wire.upstream import Upstream

log = logging.getLogger("gateway.fleet")

NAME = re.compile(PUBLIC_NAME)
"""What the name of a model an engine lists must look like to be offered, as in the config."""
UNSAFE = frozenset("'\"`$<>")
"""What it must not have besides: names are shown in commands to copy, and an engine may not end a quotation there."""
MOST_MODELS = 1000
"""Models of one backend that are offered at most."""
MOST_TOLD = 20
"""Oddities of one backend's lists that are logged at most."""
NO_LIST = (404, 405, 501)
"""Statuses of a server that has no list of models. That is no flaw where the config names its models."""

Answer = tuple[int, bytes] | Failure


class Listing:
    """The models of one backend."""

    def __init__(self, backend: Backend) -> None:
        """Start with the models the config names, if it does; the engine has told nothing."""
        self._backend = backend
        self._named = backend.models
        self._told_by: Upstream | None = None
        """Where the last good list is from; None if it is not to be relied on any more."""
        self._odd: set[str] = set()

    def name(self, names: tuple[str, ...] | None) -> None:
        """Take the backend to serve the models of these names, as the config says; None: ask the engine.

        What the engine said before stays until it is asked again.
        """
        self._named = None if names is None else tuple(map(ModelCard, names))
        if self._named is not None:
            self._backend.models = self._with_what_is_known(self._backend.models or ())

    @property
    def is_named(self) -> bool:
        """Whether the config names the models, so that the engine cannot add any."""
        return self._named is not None

    def distrust(self) -> None:
        """Rely on the last good list no longer than until the engine is asked again: it was down."""
        self._told_by = None

    def take(self, answer: Answer, upstream: Upstream, now: float) -> bool:
        """Note the engine's answer at the loop's time `now`. Return whether the models are others than before."""
        backend, before = self._backend, self._backend.models
        flaw, told = self._read(answer)
        if told is not None:
            backend.models = told if self._named is None else self._with_what_is_known(told)
            backend.listed.at, self._told_by = now, upstream
        elif self._named is None and self._told_by is not upstream:
            backend.models = backend.listed.at = None
        self._tell("" if self._is_no_matter(answer) else flaw)
        return backend.models != before

    def _read(self, answer: Answer) -> tuple[str, tuple[ModelCard, ...] | None]:
        """Return what is wrong with an answer, and the models in it; empty and None where there is no such thing."""
        flaw = self._flaw(answer)
        if flaw or isinstance(answer, Failure):
            return flaw, None
        try:
            cards = self._backend.engine.models_of(answer[1])
            offered = self._offered(cards)
        except ValueError as error:
            return f"its model list cannot be read: {readable(str(error))}", None
        except Exception as error:
            flaw = f"its adapter cannot read its model list, which is a bug ({type(error).__name__})"
            if flaw != self._backend.listed.flaw:
                log.error("backend '%s': %s", self._backend.name, flaw, exc_info=error)
            return flaw, None
        if cards and not offered:
            return "its model list has no model in it that can be offered", None
        return "", offered

    def _flaw(self, answer: Answer) -> str:
        """Return what is wrong with an answer before it is read; empty if nothing is."""
        if isinstance(answer, Failure):
            return f"its model list did not come: {answer.message}"
        status, body = answer
        if status in (401, 403):
            return f"its model list answered {status}: check `api_key`"
        if status in NO_LIST:
            return f"its model list answered {status}: check `url`, or name its models in the config"
        if status != 200:
            return f"its model list answered {status}"
        if body.lstrip()[:1] == b"<":
            return "its model list is a web page: check `url`"
        return ""

    def _is_no_matter(self, answer: Answer) -> bool:
        """Tell whether the engine has no list, and nobody needs it to have one."""
        needed = self._named is None and not self._backend.listed.targeted
        return not needed and not isinstance(answer, Failure) and answer[0] in NO_LIST

    def _offered(self, cards: Sequence[ModelCard]) -> tuple[ModelCard, ...]:
        """Return the models that can be offered, each once; log what else there is."""
        # Names become labels, header values and lines on the terminal: an engine may not make up just any.
        found: dict[str, ModelCard] = {}
        for card in cards:
            if card.odd:
                self._log_odd(f"in its model list, {card.id or 'a card is left out'}: {card.odd}")
            if NAME.fullmatch(card.id) and UNSAFE.isdisjoint(card.id):
                found[card.id] = ModelCard(card.id, card.context, abilities=card.abilities)
            elif card.id:
                self._log_odd(
                    f"its model {card.id[:100]!a} is not offered under this name; the config may give it one"
                )
        if len(found) > MOST_MODELS:
            self._log_odd(f"only the first {MOST_MODELS} of its models are offered")
        return tuple(found.values())[:MOST_MODELS]

    def _with_what_is_known(self, told: Sequence[ModelCard]) -> tuple[ModelCard, ...]:
        known = {card.id: card for card in told}
        # An engine that was launched with one model has it under all names, whatever it calls it itself.
        alone = told[0] if self._backend.launched and len(told) == 1 else ModelCard("")
        longest = alone.context or self._backend.longest
        found = [(card.id, known.get(card.id, alone)) for card in self._named or ()]
        return tuple(ModelCard(name, one.context or longest, abilities=one.abilities) for name, one in found)

    def _log_odd(self, words: str) -> None:
        if words not in self._odd and len(self._odd) < MOST_TOLD:
            self._odd.add(words)
            log.warning("backend '%s': %s", self._backend.name, readable(words))

    def _tell(self, flaw: str) -> None:
        """Log a flaw that is new, and the end of one."""
        backend = self._backend
        before, backend.listed.flaw = backend.listed.flaw, flaw
        if flaw == before:
            return
        if not flaw:
            log.info("backend '%s': its model list is sound again", backend.name)
            return
        backend.trouble(flaw)
        kept = "; what it told before stays" if backend.models and self._named is None else ""
        log.warning("backend '%s': %s%s", backend.name, flaw, kept)
