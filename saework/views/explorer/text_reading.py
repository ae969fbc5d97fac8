"""Text that a model has read once, and any feature on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd
import torch

from saework.analysis.features import firing_at
from saework.core.argument_kinds import checked
from saework.core.arguments import check_feature, check_finite
from saework.core.parts import check_workbook
from saework.core.protocols import SparseAutoencoder, WorkbookParts, sae_metadata
from saework.core.tokens import visible, whole_characters
from saework.engine.encoder import encode_columns
from saework.engine.forward import as_tokens, sae_input
from saework.engine.model_input import text_tokens
from saework.views.heatmap import TokenHeatmap, token_heatmap

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True)
class Reading:
    """One row of tokens with the activations at the SAE's hook.

    Another feature costs one encoder column; the model does not run again.
    """

    sae: SparseAutoencoder
    tokens: Int[Tensor, "1 pos"]
    strings: tuple[str, ...]
    """Each token's text; a character of several tokens stands at the first (whole_characters)."""
    x: Float[Tensor, "1 pos d_in"]
    """Activations at the SAE's hook."""
    has_bos: bool
    left_out: str = ""
    """How far a text was read that is longer than the model's context, in words."""

    @property
    def first(self) -> int:
        """The first position to show.

        BOS is left out, because its activation says nothing about the text. It is shown if there
        is nothing else.
        """
        return 1 if self.has_bos and len(self.strings) > 1 else 0

    @torch.no_grad()
    def values(self, feature: int) -> Float[Tensor, " pos"]:
        """One feature's activations.

        Raises:
            ValueError: for a feature that does not exist, or activations that are not finite.
        """
        feature = check_feature(feature, self.sae.W_dec.shape[0])
        values = encode_columns(self.sae, self.x, feature)
        return check_finite(values, f"activations of feature {feature}")[0]

    @torch.no_grad()
    def firing(self, pos: int, *, n: int = 20) -> pd.DataFrame:
        """The features that fire on one token, highest first.

        Returns:
            Columns ``index`` (the feature) and ``value`` (its activation); ``n`` rows at most.
        """
        return firing_at(self.sae, self.x, pos, n)

    @property
    def token_options(self) -> list[tuple[str, int]]:
        """The tokens for a slider: what it shows of each, and the position."""
        positions = range(self.first, len(self.strings))
        return [(f"{pos}: {visible(self.strings[pos])}", pos) for pos in positions]

    def firing_options(self, pos: int) -> list[tuple[str, int]]:
        """``firing`` for a list: what it shows of each feature, and the feature."""
        firing = self.firing(pos)
        return [
            (f"{feature}: {value:.3g}", feature)
            for feature, value in firing.itertuples(index=False)
        ]

    def heatmap(
        self,
        feature: int,
        *,
        second: int | None = None,
        max_value: float | None = None,
        mark: int | None = None,
        window: range | None = None,
    ) -> TokenHeatmap:
        """One or two features on the text.

        Args:
            feature: shown as the colour of each token.
            second: another feature, shown as a bar below each token on the same scale.
            max_value: the activation with the strongest colour; by default the largest shown.
            mark: the position to put a frame around.
            window: the positions to show; by default all but BOS.
        """
        if window is None:
            window = range(self.first, len(self.strings))
        shown = slice(window.start, window.stop)
        second_values = None
        second_label = ""
        if second is not None:
            second_values = self.values(second)[shown]
            second_label = f"feature {second}, activation"
        if mark is not None:
            # the heatmap counts from the first position shown
            mark = mark - window.start if mark in window else None
        return token_heatmap(
            self.strings[shown],
            self.values(feature)[shown],
            max_value=max_value,
            label=f"feature {feature}, activation",
            second=second_values,
            second_label=second_label,
            mark=mark,
        )


def read(workbook: WorkbookParts, text_or_tokens: str | Int[Tensor, "*batch pos"]) -> Reading:
    """Run the model on one text or row, up to the SAE's hook.

    Args:
        workbook: model, SAE, tokenizer and hook.
        text_or_tokens: text (BOS is put in front), or one row of tokens (used as they are).

    Raises:
        ValueError: for text that cannot be run, or several rows.
    """
    tokens = as_tokens(workbook.model, text_or_tokens, workbook.sae)
    if len(tokens) != 1:
        raise ValueError(f"{len(tokens)} rows were given; give text or one row")
    with torch.no_grad():
        x = sae_input(workbook.model, workbook.sae, tokens, workbook.hook)
    strings = whole_characters(tokens, workbook.tokenizer)
    bos = getattr(workbook.tokenizer, "bos_token_id", None)
    return Reading(workbook.sae, tokens, tuple(strings), x, has_bos=int(tokens[0, 0]) == bos)


def read_start(workbook: WorkbookParts, text: str) -> Reading:
    """Run the model on a text as far as its context goes; ``left_out`` says how far.

    Raises:
        ValueError: for what cannot be run: no text, or half a character in it.
    """
    if not isinstance(text, str):
        raise ValueError(f"text is a {type(text).__name__}; give words to read")
    prepend_bos = sae_metadata(workbook.sae, "prepend_bos")
    tokens = text_tokens(workbook.model, text, prepend_bos=prepend_bos)
    n_ctx = workbook.model.cfg.n_ctx
    reading = read(workbook, tokens[:, :n_ctx])
    n_more = tokens.shape[1] - n_ctx
    if n_more <= 0:
        return reading
    n_read = n_ctx - int(reading.has_bos)
    return replace(
        reading,
        left_out=f"the model's context is {n_ctx} tokens: the text's first {n_read:,} are read, "
        f"{n_more:,} are not",
    )


@checked
def text_heatmap(
    workbook: WorkbookParts, text: str, feature: int, *, max_value: float | None = None
) -> TokenHeatmap:
    """One feature on one text, as a heatmap: what ``explore`` shows, without a kernel.

    BOS is left out, because its activation says nothing about the text.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> text_heatmap(book, "It doesn't matter.", 526, max_value=12)
    It·doesn[10.4]'t·matter.
    (feature 526, activation; strongest colour at 12)

    Args:
        workbook: model, SAE, tokenizer and hook.
        text: the text to run.
        feature: its number.
        max_value: the activation with the strongest colour; by default the largest in the text.

    Raises:
        ValueError: for a feature that does not exist, or a text that cannot be run.
    """
    check_workbook(workbook)
    return read(workbook, text).heatmap(feature, max_value=max_value)
