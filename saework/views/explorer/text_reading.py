"""Text that a model has read once, and the ways to find a feature worth looking at."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch

from saework.analysis.features import firing_at, token_effect
from saework.analysis.scanning.feature_scan import FeatureScan
from saework.core.arguments import check_feature, check_finite, check_positive
from saework.core.tokens import NEWLINE, SPACE, TAB, str_tokens, visible
from saework.engine.encoder import encode_columns
from saework.engine.forward import as_tokens, sae_input
from saework.views.heatmap import TokenHeatmap, token_heatmap


@dataclass(frozen=True)
class Reading:
    """One row of tokens and what the SAE reads of it: a feature costs one encoder column, and no run of the model."""

    sae: object
    tokens: torch.Tensor
    """long ``[1, pos]``."""
    strings: tuple[str, ...]
    """Each token's text."""
    x: torch.Tensor
    """Activations at the SAE's hook, ``[1, pos, d_in]``."""

    @property
    def first(self) -> int:
        """The first position to show: BOS is left out, as its activation says nothing about the text, unless it is all there is."""
        return 1 if len(self.strings) > 1 else 0

    @torch.no_grad()
    def values(self, feature: int) -> torch.Tensor:
        """One feature's activations, ``[pos]``."""
        feature = check_feature(feature, self.sae.W_dec.shape[0])
        return check_finite(
            encode_columns(self.sae, self.x, feature), f"activations of feature {feature}"
        )[0]

    @torch.no_grad()
    def firing(self, pos: int, *, n: int = 20) -> pd.DataFrame:
        """The features that fire on one token: columns ``index`` and ``value``, highest first."""
        return firing_at(self.sae, self.x, pos, n)

    def heatmap(
        self,
        feature: int,
        *,
        second: int | None = None,
        max_value: float | None = None,
        mark: int | None = None,
        window: range | None = None,
    ) -> TokenHeatmap:
        """One feature on the text, or two.

        Args:
            second: another feature: a bar below each token, on the same scale.
            mark: the position to put a frame around.
            window: the positions to show; by default all but BOS.
        """
        window = range(self.first, len(self.strings)) if window is None else window
        shown = slice(window.start, window.stop)
        return token_heatmap(
            self.strings[shown],
            self.values(feature)[shown],
            max_value=max_value,
            label=f"feature {feature}, activation",
            second=None if second is None else self.values(second)[shown],
            second_label="" if second is None else f"feature {second}, activation",
            mark=mark - window.start if mark in window else None,
        )


def read(workbook, text_or_tokens) -> Reading:
    """Run the model on one text (BOS is put in front) or one row of tokens, up to the SAE's hook.

    Raises: ValueError for text that cannot be run, or several rows.
    """
    tokens = as_tokens(workbook.model, text_or_tokens)
    if len(tokens) != 1:
        raise ValueError(f"{len(tokens)} rows were given; give text or one row")
    with torch.no_grad():
        x = sae_input(workbook.model, workbook.sae, tokens, workbook.hook)
    return Reading(workbook.sae, tokens, tuple(str_tokens(tokens, workbook.tokenizer)), x)


def token_forms(text: str, tokenizer) -> list[int]:
    """The ids of the tokens that a text is: as typed, and with a space in front; ``·``, ``↩``, ``→`` are read as space, newline, tab.

    Raises: ValueError, with its parts, if no form is a single token.
    """
    plain = text.replace(SPACE, " ").replace(NEWLINE, "\n").replace(TAB, "\t")
    if not plain:
        raise ValueError(
            f"no token was typed; type one, such as {SPACE}return ({SPACE} is a space)"
        )
    forms = [text, plain] + ([] if plain[0].isspace() else [f" {plain}"])
    read_as = [tokenizer(form, add_special_tokens=False)["input_ids"] for form in forms]
    single = list(dict.fromkeys(ids[0] for ids in read_as if len(ids) == 1))
    if single:
        return single
    parts = "|".join(map(visible, str_tokens(read_as[1], tokenizer)))
    raise ValueError(
        f"{visible(plain)} is {len(read_as[1])} tokens here: {parts}; type one of them ({SPACE} is a space)"
    )


def features_raising(workbook, tokens: list[int], *, n: int = 20) -> pd.DataFrame:
    """Features whose one unit adds most to the logit of one of these tokens, by the direct path.

    It says what a feature writes, not where it fires; later layers are left out (see ``logit_effect``).

    Returns: columns ``index``, ``value`` (the largest over the tokens), ``token`` (the one that has it); highest first, ties by index.
    """
    effects = torch.stack(
        [
            token_effect(workbook.model, workbook.sae, token, hook=workbook.hook).float().cpu()
            for token in tokens
        ]
    )
    best, which = effects.max(0)
    found = _highest(best, n)
    return found.assign(token=[tokens[which[feature]] for feature in found["index"].tolist()])


def features_on(
    scan: FeatureScan, rows: torch.Tensor, tokens: list[int], *, n: int = 20
) -> pd.DataFrame:
    """Features by how many of their strongest examples in a scan lie on one of these tokens.

    Counted exactly over the examples that the scan kept; ties by index, and none that has no such example.

    Args: ``rows``: the tokens that were scanned, ``[batch, pos]``, row 0 first.
    Returns: columns ``index``, ``value`` (such examples), ``of`` (examples kept).
    Raises: ValueError if the scan kept no positions, or the rows are not all given.
    """
    if scan.top_values.shape[1] == 0:
        raise ValueError(
            "this scan kept no positions (top_k=0, or a file of counts only); leave scan= out to have one made"
        )
    row, pos = scan.top_positions.unbind(-1)
    if int(row.max()) >= rows.shape[0] or int(pos.max()) >= rows.shape[1]:
        n_rows, n_pos = rows.shape
        raise ValueError(
            f"the scan has examples outside these {n_rows} rows of {n_pos} tokens; give the rows that were scanned"
        )
    kept = row >= 0
    on_them = kept & torch.isin(
        rows.cpu()[row.clamp(min=0), pos.clamp(min=0)], torch.tensor(tokens)
    )
    found = _highest(on_them.sum(-1), n)
    found = found[found["value"] > 0]
    return found.assign(of=kept.sum(-1)[found["index"].tolist()].tolist())


def _highest(values: torch.Tensor, n: int) -> pd.DataFrame:
    order = torch.argsort(values, descending=True, stable=True)[: check_positive(n, "n")]
    return pd.DataFrame({"index": order.tolist(), "value": values[order].tolist()})
