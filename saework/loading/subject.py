"""What a feature is about: the words and the passage that the notebooks read it by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from saework.core.protocols import HookedModel, SparseAutoencoder
from saework.core.tokens import str_tokens
from saework.engine.architectures import encode
from saework.engine.forward import as_tokens, sae_input

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Bool
    from torch import Tensor


@dataclass(frozen=True)
class Subject:
    """What the notebooks take one feature of a release to be about, until something tests it."""

    words: tuple[str, ...]
    """Whole words: they are counted in texts, and their log-probability is measured."""
    passage: str | None = None
    """The text that the feature is read off; None for the release's own (a conversation)."""
    strength: float | None = None
    """To steer with, in units of its activation; None for its largest on the passage."""


@torch.no_grad()
def feature_of(model: HookedModel, sae: SparseAutoencoder, subject: Subject) -> int:
    """The feature that the subject's words in its passage set apart.

    Of each feature: its largest activation on a token of the words, minus its largest on any other
    token of the passage (BOS left out). The largest difference wins; ties: by number. One passage
    chooses it, so what it is about has to be tested on other text.

    Raises:
        ValueError: if the subject has no passage, or no feature tells its words apart.
    """
    if not subject.passage:
        raise ValueError("this subject has no passage to choose a feature by; give a feature")
    tokens = as_tokens(model, subject.passage, sae)
    features = encode(sae, sae_input(model, sae, tokens))[0, 1:]
    is_word = touches_words(str_tokens(tokens[0, 1:], model.tokenizer), subject.words)
    if not is_word.any() or is_word.all():
        words = ", ".join(subject.words)
        raise ValueError(
            f"the passage {subject.passage!r} must hold some of the words {words}, and others"
        )
    is_word = is_word.to(features.device)
    margin = features[is_word].amax(0) - features[~is_word].amax(0)
    best = int(margin.argmax())
    if margin[best] <= 0:
        raise ValueError(
            f"no feature is more active on {', '.join(subject.words)} than on the rest of "
            f"{subject.passage!r}; give a feature"
        )
    return best


def touches_words(strings: Sequence[str], words: Iterable[str]) -> Bool[Tensor, " pos"]:
    """Which tokens hold a piece of one of the words, whatever its case.

    >>> touches_words([" My", " c", "at", " sat"], ["cat"]).tolist()
    [False, True, True, False]
    """
    alternatives = "|".join(map(re.escape, words))
    pattern = re.compile(rf"\b(?:{alternatives})\b", re.IGNORECASE)
    spans = [match.span() for match in pattern.finditer("".join(strings))]
    touched = []
    end = 0
    for string in strings:
        start, end = end, end + len(string)
        touched.append(any(start < last and end > first for first, last in spans))
    return torch.tensor(touched)
