"""The formulas, each with its name and source. This module knows no model: it takes numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from saework.core.arguments import check_positive

# ---- formulas ----


def kl_divergence(logits_p, logits_q) -> torch.Tensor:
    """KL(p || q) of the distributions that two tables of logits give, nats, float64 ``[...]`` on the CPU.

    Args: ``logits_p``, ``logits_q``: ``[..., d_vocab]``.
    Source: sum over the vocabulary of ``p (log p - log q)`` (Kullback and Leibler, 1951).
    """
    log_p, log_q = (
        torch.as_tensor(logits).cpu().double().log_softmax(-1) for logits in (logits_p, logits_q)
    )
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def repetition(tokens) -> float:
    """The share of token trigrams that had occurred before: ``1 - distinct / total``; NaN below three tokens.

    Args: ``tokens``: integers ``[pos]``.
    Source: the "seq-rep-n" of Welleck et al., 2019 (arXiv 1908.04319), with n = 3.
    """
    ids = [int(token) for token in tokens]
    trigrams = list(zip(ids, ids[1:], ids[2:]))
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else math.nan


CONFIDENCE = 0.95
BOOTSTRAP_DRAWS = 2000

# name: (unit, formula, source). e is x - x_hat; E is the mean over tokens; mean and var are of x over tokens.
_CORE = "SAEBench core"
_SAE_LENS = "sae_lens 6.54 evals"
RECONSTRUCTION = {
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
        f"{_SAE_LENS} and {_CORE}: explained_variance_legacy; they take the mean of each batch, so theirs depends on its size",
    ),
    "variance_explained_global": (
        "fraction",
        "1 - mean(e^2) / var, both over all elements, var around one scalar mean, n - 1",
        "qresearch's Llama notebook: torch.var",
    ),
    "variance_explained_squares": (
        "fraction",
        "1 - E||e||^2 / (E||x||^2 - mean(x^2)^2), mean(x^2) over all elements: squared before averaging, so not a variance",
        f"{_CORE}: explained_variance (chanind/SAEBench, 1b21c23), there averaged over batches; a slip, kept for comparison",
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
    """The share of the loss that the SAE keeps: ``(ablated - spliced) / (ablated - clean)``.

    1 when splicing the reconstruction in costs nothing; 0 when it is as bad as ablation; below 0
    when it is worse. Losses in nats per token, each pooled over all tokens first.

    Raises: ValueError if ablation does not change the loss, which leaves nothing to recover.
    Source: ``get_recons_loss`` of the gelu-1l notebook; "CE loss score" in sae_lens and SAEBench.
    """
    if ablated == clean:
        raise ValueError(
            f"the ablated loss equals the clean loss ({clean:.6g} nats per token): ablating this hook changes "
            "nothing, so the score is undefined. Check that the hook is one that the model's output depends on"
        )
    return (ablated - spliced) / (ablated - clean)


def bootstrap_interval(
    losses: np.ndarray, counts: np.ndarray, *, seed: int = 0
) -> tuple[float, float]:
    """95% interval of ``loss_recovered``, by drawing rows with replacement (2,000 draws).

    Args:
        losses: ``[3, batch]``: summed clean, spliced and ablated loss of each row.
        counts: ``[batch]``: tokens counted in each row.

    Returns: ``(low, high)``; NaN twice for a single row, which says nothing about its spread.
    Source: Efron, "Bootstrap methods" (1979), the percentile interval; rows are the unit because
    tokens of one row depend on each other.
    """
    losses, counts = (
        losses[:, counts > 0],
        counts[counts > 0],
    )  # a row of nothing, drawn alone, would be 0 / 0
    n_rows = len(counts)
    if n_rows < 2:
        return float("nan"), float("nan")
    weights = np.random.default_rng(seed).multinomial(
        n_rows, np.full(n_rows, 1 / n_rows), size=BOOTSTRAP_DRAWS
    )
    clean, spliced, ablated = (weights @ losses.T / (weights @ counts)[:, None]).T
    low, high = np.quantile(
        (ablated - spliced) / (ablated - clean), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    )
    return float(low), float(high)


def rate_bound(n_tokens: int) -> float:
    """What is known of a feature that never fired in ``n_tokens``: its rate is below this, at 95%.

    ``1 - 0.05 ** (1 / n)``, about ``3 / n`` ("the rule of three").
    """
    check_positive(n_tokens, "n_tokens")
    return float(-np.expm1(np.log1p(-CONFIDENCE) / n_tokens))


def variance_explained(x: torch.Tensor, reconstruction: torch.Tensor) -> float:
    """Conventional: ``1 - sum ||x - x_hat||^2 / sum ||x - mean(x)||^2``, sums over tokens, in float64.

    1 for a perfect reconstruction, 0 for predicting the mean, below 0 for worse than that.

    Args: both ``[token, d_in]``.
    Raises: ValueError if ``x`` does not vary, which leaves nothing to explain.
    """
    x, reconstruction = x.double(), reconstruction.double()
    if (x == x[:1]).all():
        raise ValueError(
            f"the {len(x)} activations are all alike, so there is no variance to explain; give more tokens"
        )
    return float(1 - (x - reconstruction).pow(2).sum() / (x - x.mean(0)).pow(2).sum())


def reconstruction_sums(
    x: torch.Tensor, x_hat: torch.Tensor, l0: torch.Tensor, l1: torch.Tensor, mean: torch.Tensor
) -> dict[str, float]:
    """What the rows of ``RECONSTRUCTION`` need of some tokens, in float64; sums of parts add up.

    Args: ``x`` and ``x_hat`` ``[token, d_in]``; ``l0`` and ``l1`` ``[token]``: number and sum of sizes of the features that
    are not zero; ``mean`` ``[d_in]``: of ``x`` over all tokens.
    """
    total = lambda values: values.sum(-1, dtype=torch.float64)  # noqa: E731
    error, spread, squares = total((x - x_hat).pow(2)), total((x - mean).pow(2)), total(x.pow(2))
    norm, norm_hat, dot = squares.sqrt(), total(x_hat.pow(2)).sqrt(), total(x * x_hat)
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
    return {name: float(values.sum()) for name, values in per_token.items()} | {"tokens": len(x)}


def pooled_reconstruction(total: Mapping[str, float], mean: torch.Tensor) -> dict[str, float]:
    """The values of ``RECONSTRUCTION``; NaN where nothing was counted, or nothing varies.

    Args: ``total``: ``reconstruction_sums`` added up, ``predictions``, and the sums over these of
    ``ce_clean``, ``ce_spliced``, ``ce_ablated``, ``kl_spliced`` and ``kl_ablated`` (nats); ``mean`` ``[d_in]``.
    Raises: ValueError if ablation changes nothing.
    """
    n, k, width = total["tokens"], total["predictions"], len(mean)
    each = lambda name: _ratio(total[name], n)  # noqa: E731
    loss = {
        name: _ratio(total[name], k)
        for name in ("ce_clean", "ce_spliced", "ce_ablated", "kl_spliced", "kl_ablated")
    }
    spread, squares = total["spread"], each("squares") / width
    around_scalar = spread + n * float((mean - mean.mean()).pow(2).sum()) if n else 0.0
    return {
        "tokens": n,
        "predictions": k,
        "ce_loss_clean": loss["ce_clean"],
        "ce_loss_spliced": loss["ce_spliced"],
        "ce_loss_ablated": loss["ce_ablated"],
        "ce_loss_score": loss_recovered(loss["ce_clean"], loss["ce_spliced"], loss["ce_ablated"]),
        "kl_div_spliced": loss["kl_spliced"],
        "kl_div_ablated": loss["kl_ablated"],
        "kl_div_score": loss_recovered(0.0, loss["kl_spliced"], loss["kl_ablated"]),
        "variance_explained": 1 - _ratio(total["error"], spread),
        "variance_explained_legacy": each("legacy") if spread else math.nan,
        "variance_explained_global": 1
        - _ratio(each("error") / width, _ratio(around_scalar, n * width - 1)),
        "variance_explained_squares": 1 - _ratio(each("error"), each("squares") - squares**2),
        "mse_per_element": each("error") / width,
        "mse_per_token": each("error"),
        "mse_saebench": _ratio(each("error"), n),
        "l0": each("l0"),
        "l1": each("l1"),
        "l2_ratio": each("l2_ratio"),
        "relative_reconstruction_bias": _ratio(total["squares_hat"], total["dot"]),
        "cosine_similarity": each("cosine"),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def log10_rate(firing_rate: torch.Tensor) -> torch.Tensor:
    """``log10(rate + 10**-6.5)``, which puts features that never fired at -6.5.

    Source: the gelu-1l notebook's histogram.
    """
    return (torch.as_tensor(firing_rate).double() + 10**-6.5).log10()


def rule_agreement(fires, rule) -> pd.Series:
    """How well "this feature fires" says "this rule holds", token by token.

    Args: ``fires`` and ``rule``: bool, of the same shape.
    Returns: ``specificity`` (of the tokens where it fires, the share that the rule covers: precision),
    ``recall`` (of the tokens that the rule covers, the share where it fires), ``base_rate`` (what a
    feature that fires at random would get as specificity), ``fires`` and ``rule`` (tokens).
    A share of nothing is NaN.
    """
    fires, rule = np.asarray(fires, dtype=bool).ravel(), np.asarray(rule, dtype=bool).ravel()
    if fires.shape != rule.shape:
        raise ValueError(
            f"fires has {fires.size} values and rule {rule.size}; give one of each a token"
        )
    both = int((fires & rule).sum())
    share = lambda part, whole: part / whole if whole else float("nan")  # noqa: E731
    return pd.Series(
        {
            "specificity": share(both, int(fires.sum())),
            "recall": share(both, int(rule.sum())),
            "base_rate": share(int(rule.sum()), rule.size),
            "fires": int(fires.sum()),
            "rule": int(rule.sum()),
        },
        dtype=object,  # counts stay whole numbers
    )


def chance_cosine(d_in: int, n_rows: int) -> float:
    """How near the nearest of ``n_rows`` random directions comes to a given one: the median of its cosine.

    The cosine of two isotropic directions is ``2 B - 1`` with ``B ~ Beta((d_in - 1) / 2, (d_in - 1) / 2)``; of
    ``n_rows`` of them, the highest has its median where the distribution function is ``0.5 ** (1 / n_rows)``.
    """
    from scipy.stats import beta

    return float(2 * beta.isf(-np.expm1(np.log(0.5) / n_rows), (d_in - 1) / 2, (d_in - 1) / 2) - 1)
