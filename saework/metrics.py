"""The formulas, each with its name and source. This module knows no model: it takes numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from saework._checks import check_positive

CONFIDENCE = 0.95
BOOTSTRAP_DRAWS = 2000


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


def bootstrap_interval(losses: np.ndarray, counts: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95% interval of ``loss_recovered``, by drawing rows with replacement (2,000 draws).

    Args:
        losses: ``[3, batch]``: summed clean, spliced and ablated loss of each row.
        counts: ``[batch]``: tokens counted in each row.

    Returns: ``(low, high)``; NaN twice for a single row, which says nothing about its spread.
    Source: Efron, "Bootstrap methods" (1979), the percentile interval; rows are the unit because
    tokens of one row depend on each other.
    """
    losses, counts = losses[:, counts > 0], counts[counts > 0]  # a row of nothing, drawn alone, would be 0 / 0
    n_rows = len(counts)
    if n_rows < 2:
        return float("nan"), float("nan")
    weights = np.random.default_rng(seed).multinomial(n_rows, np.full(n_rows, 1 / n_rows), size=BOOTSTRAP_DRAWS)
    clean, spliced, ablated = (weights @ losses.T / (weights @ counts)[:, None]).T
    low, high = np.quantile((ablated - spliced) / (ablated - clean), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
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
        raise ValueError(f"the {len(x)} activations are all alike, so there is no variance to explain; give more tokens")
    return float(1 - (x - reconstruction).pow(2).sum() / (x - x.mean(0)).pow(2).sum())


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
        raise ValueError(f"fires has {fires.size} values and rule {rule.size}; give one of each a token")
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
