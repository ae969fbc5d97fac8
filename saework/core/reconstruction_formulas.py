"""The formulas of reconstruction quality: losses, variances, and their pooling over batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

CONFIDENCE = 0.95
BOOTSTRAP_DRAWS = 2000

_CORE = "SAEBench core"
_SAE_LENS = "sae_lens 6.54 evals"
# Name: (unit, formula, source). In the formulas, e is x - x_hat, f the features, E the mean over
# tokens; mean and var are of x over tokens.
RECONSTRUCTION: dict[str, tuple[str, str, str]] = {
    "tokens": ("tokens", "tokens counted", ""),
    "predictions": (
        "tokens",
        "next tokens counted: neither they nor the token before is left out; of CE and KL alike",
        "",
    ),
    "ce_loss_clean": ("nats per token", "E -log p(next token), untouched model", _SAE_LENS),
    "ce_loss_spliced": ("nats per token", "the same with x_hat in x's place", _SAE_LENS),
    "ce_loss_ablated": (
        "nats per token",
        "the same with 0 in x's place",
        f"{_SAE_LENS}, which ablates the ignored tokens as well",
    ),
    "ce_loss_score": (
        "fraction",
        "(ablated - spliced) / (ablated - clean)",
        f"{_SAE_LENS}; {_CORE}; get_recons_loss of gelu-1l",
    ),
    "kl_div_spliced": (
        "nats per token",
        "E KL(clean || spliced)",
        f"{_SAE_LENS}, which counts each row's last token too",
    ),
    "kl_div_ablated": (
        "nats per token",
        "E KL(clean || ablated)",
        f"{_SAE_LENS}, which counts each row's last token too",
    ),
    "kl_div_score": ("fraction", "(ablated - spliced) / ablated", f"{_SAE_LENS}; {_CORE}"),
    "variance_explained": (
        "fraction",
        "1 - sum ||e||^2 / sum ||x - mean||^2",
        f"{_SAE_LENS}: explained_variance",
    ),
    "variance_explained_legacy": (
        "fraction",
        "E [1 - ||e||^2 / ||x - mean||^2], mean over all tokens counted",
        f"{_SAE_LENS} and {_CORE}: explained_variance_legacy; "
        "they take the mean of each batch, so theirs depends on its size",
    ),
    "variance_explained_global": (
        "fraction",
        "1 - mean(e^2) / var, both over all elements, var around one scalar mean, n - 1",
        "qresearch's Llama notebook: torch.var",
    ),
    "variance_explained_squares": (
        "fraction",
        "1 - E||e||^2 / (E||x||^2 - mean(x^2)^2), mean(x^2) over all elements: "
        "squared before averaging, so not a variance",
        f"{_CORE}: explained_variance (chanind/SAEBench, 1b21c23), there averaged over batches; "
        "a slip, kept for comparison",
    ),
    "mse_per_element": (
        "squared activation",
        "mean of e^2 over all elements",
        "torch.nn.functional.mse_loss",
    ),
    "mse_per_token": ("squared activation", "E||e||^2", f"{_SAE_LENS}: mse"),
    "mse_saebench": (
        "squared activation per token",
        "E||e||^2 / tokens, for one batch of all tokens counted",
        f"{_CORE}: mse; divides by the tokens of its batch, so theirs depends on its size",
    ),
    "l0": ("features per token", "E count(f != 0)", f"{_SAE_LENS}; {_CORE}"),
    "l1": ("activation per token", "E sum |f|", f"{_SAE_LENS}; {_CORE}"),
    "l2_ratio": (
        "ratio",
        "E ||x_hat|| / ||x||, ||x|| below 1e-4 taken as 1",
        f"{_SAE_LENS}; {_CORE}",
    ),
    "relative_reconstruction_bias": (
        "ratio",
        "E||x_hat||^2 / E(x . x_hat)",
        "arXiv:2404.16014, eq. 10",
    ),
    "cosine_similarity": (
        "fraction",
        "E cos(x, x_hat), 0 where either is 0",
        f"{_SAE_LENS}; {_CORE}: cossim",
    ),
}


def loss_recovered(clean: float, spliced: float, ablated: float) -> float:
    """Share of the loss that the SAE keeps: ``(ablated - spliced) / (ablated - clean)``.

    1 if the reconstruction is as good as the activations; 0 if it is as bad as ablation; below 0
    if it is worse.

    Args:
        clean: the loss of the untouched model, nats per token, pooled over all tokens.
        spliced: the same with the reconstruction in place of the activations.
        ablated: the same with the activations ablated.

    Raises:
        ValueError: ablation does not change the loss, so there is nothing to recover.

    Source: ``get_recons_loss`` of the gelu-1l notebook; "CE loss score" in sae_lens and SAEBench.
    """
    if ablated == clean:
        raise ValueError(
            f"the ablated loss equals the clean loss ({clean:.6g} nats per token): ablating this "
            "hook changes nothing, so the score is undefined. "
            "Check that the hook is one that the model's output depends on"
        )
    return (ablated - spliced) / (ablated - clean)


def bootstrap_interval(
    losses: np.ndarray, counts: np.ndarray, *, seed: int = 0
) -> tuple[float, float]:
    """95% interval of ``loss_recovered``, by drawing rows with replacement (2,000 draws).

    Args:
        losses: ``[3, batch]``: summed clean, spliced and ablated loss of each row.
        counts: ``[batch]``: tokens counted in each row.
        seed: of the draws.

    Returns:
        ``(low, high)``; NaN twice for a single row, which does not show its spread.

    Source: Efron, "Bootstrap methods" (1979), the percentile interval. Rows are the unit, because
    tokens of one row depend on each other.
    """
    # a draw of nothing but empty rows would be 0 / 0
    losses, counts = losses[:, counts > 0], counts[counts > 0]
    n_rows = len(counts)
    if n_rows < 2:
        return math.nan, math.nan
    weights = times_drawn(n_rows, BOOTSTRAP_DRAWS, np.random.default_rng(seed))
    n_tokens = (weights @ counts)[:, None]
    clean, spliced, ablated = (weights @ losses.T / n_tokens).T
    scores = (ablated - spliced) / (ablated - clean)
    low, high = np.quantile(scores, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def times_drawn(n_rows: int, n_draws: int, generator: np.random.Generator) -> np.ndarray:
    """How often each row occurs when rows are drawn with replacement, ``[draw, row]``.

    The sums of a bootstrap are then one product: ``times_drawn(...) @ values``.

    >>> times_drawn(3, 2, np.random.default_rng(0)).sum(1).tolist()
    [3, 3]
    """
    equal = np.full(n_rows, 1 / n_rows)
    return generator.multinomial(n_rows, equal, size=n_draws)


def variance_explained(
    x: Float[Tensor, "token d_in"], reconstruction: Float[Tensor, "token d_in"]
) -> float:
    """Conventional variance explained: ``1 - sum ||x - x_hat||^2 / sum ||x - mean(x)||^2``.

    1 for a perfect reconstruction, 0 for predicting the mean, below 0 for worse than that.
    Sums over tokens, in float64.

    Raises:
        ValueError: ``x`` does not vary, so there is nothing to explain.
    """
    if x.shape != reconstruction.shape:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and the reconstruction {tuple(reconstruction.shape)}; "
            "give one for each token"
        )
    x, reconstruction = x.double(), reconstruction.double()
    if (x == x[:1]).all():
        raise ValueError(
            f"the {len(x)} activations are all alike, so there is no variance to explain; "
            "give more tokens"
        )
    error = (x - reconstruction).pow(2).sum()
    spread = (x - x.mean(0)).pow(2).sum()
    return float(1 - error / spread)


def reconstruction_sums(
    x: Float[Tensor, "token d_in"],
    x_hat: Float[Tensor, "token d_in"],
    l0: Int[Tensor, " token"],
    l1: Float[Tensor, " token"],
    mean: Float[Tensor, " d_in"],
) -> dict[str, float]:
    """Sums over some tokens that ``RECONSTRUCTION`` needs; those of two parts add up.

    Args:
        x: activations.
        x_hat: their reconstructions.
        l0: number of features that are not zero.
        l1: sum of the features' absolute values.
        mean: of ``x`` over all tokens, not only these.

    Returns:
        Sums in float64, for ``pooled_reconstruction``.
    """
    error = _squared_norm(x - x_hat)
    spread = _squared_norm(x - mean)
    squares = _squared_norm(x)
    norm, norm_hat = squares.sqrt(), _squared_norm(x_hat).sqrt()
    dot = (x * x_hat).sum(-1, dtype=torch.float64)
    per_token = {
        "error": error,
        "spread": spread,
        "legacy": 1 - error / spread,
        "squares": squares,
        "l0": l0,
        "l1": l1,
        "l2_ratio": norm_hat / torch.where(norm < 1e-4, 1.0, norm),
        "squares_hat": norm_hat.pow(2),
        "dot": dot,
        "cosine": torch.where(norm * norm_hat > 0, dot / (norm * norm_hat), 0.0),
    }
    sums = {name: float(values.sum()) for name, values in per_token.items()}
    return sums | {"tokens": len(x)}


def _squared_norm(rows: Float[Tensor, "token d_in"]) -> Float[Tensor, " token"]:
    return rows.pow(2).sum(-1, dtype=torch.float64)


def pooled_reconstruction(
    total: Mapping[str, float], mean: Float[Tensor, " d_in"]
) -> dict[str, float]:
    """The values of ``RECONSTRUCTION``: sums over all tokens first, then one ratio.

    Args:
        total: ``reconstruction_sums`` added up, ``predictions`` (their number), and the sums over
            the predictions of ``ce_clean``, ``ce_spliced``, ``ce_ablated``, ``kl_spliced`` and
            ``kl_ablated`` (nats).
        mean: of the activations over all tokens.

    Returns:
        By name; NaN where nothing was counted, or nothing varies.

    Raises:
        ValueError: ablation changes nothing.
    """
    n_tokens = total["tokens"]
    return {
        "tokens": n_tokens,
        "predictions": total["predictions"],
        **_pooled_losses(total),
        **_pooled_variances(total, mean),
        "mse_per_element": _ratio(total["error"], n_tokens) / len(mean),
        "mse_per_token": _ratio(total["error"], n_tokens),
        "mse_saebench": _ratio(_ratio(total["error"], n_tokens), n_tokens),
        "l0": _ratio(total["l0"], n_tokens),
        "l1": _ratio(total["l1"], n_tokens),
        "l2_ratio": _ratio(total["l2_ratio"], n_tokens),
        "relative_reconstruction_bias": _ratio(total["squares_hat"], total["dot"]),
        "cosine_similarity": _ratio(total["cosine"], n_tokens),
    }


def _pooled_losses(total: Mapping[str, float]) -> dict[str, float]:
    n_predictions = total["predictions"]
    ce_clean = _ratio(total["ce_clean"], n_predictions)
    ce_spliced = _ratio(total["ce_spliced"], n_predictions)
    ce_ablated = _ratio(total["ce_ablated"], n_predictions)
    kl_spliced = _ratio(total["kl_spliced"], n_predictions)
    kl_ablated = _ratio(total["kl_ablated"], n_predictions)
    return {
        "ce_loss_clean": ce_clean,
        "ce_loss_spliced": ce_spliced,
        "ce_loss_ablated": ce_ablated,
        "ce_loss_score": loss_recovered(ce_clean, ce_spliced, ce_ablated),
        "kl_div_spliced": kl_spliced,
        "kl_div_ablated": kl_ablated,
        # the clean model's divergence from itself is 0
        "kl_div_score": loss_recovered(0.0, kl_spliced, kl_ablated),
    }


def _pooled_variances(total: Mapping[str, float], mean: Float[Tensor, " d_in"]) -> dict[str, float]:
    n_tokens, d_in = total["tokens"], len(mean)
    error_per_token = _ratio(total["error"], n_tokens)
    squares_per_token = _ratio(total["squares"], n_tokens)
    squares_per_element = squares_per_token / d_in
    spread = total["spread"]
    # around one scalar, the spread grows by what the columns' means differ from it
    column_spread = float((mean - mean.mean()).pow(2).sum())
    spread_around_scalar = spread + n_tokens * column_spread if n_tokens else 0.0
    variance_of_elements = _ratio(spread_around_scalar, n_tokens * d_in - 1)
    return {
        "variance_explained": 1 - _ratio(total["error"], spread),
        "variance_explained_legacy": _ratio(total["legacy"], n_tokens) if spread else math.nan,
        "variance_explained_global": 1 - _ratio(error_per_token / d_in, variance_of_elements),
        "variance_explained_squares": 1
        - _ratio(error_per_token, squares_per_token - squares_per_element**2),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
