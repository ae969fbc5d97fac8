"""sae_lens's ``run_evals``: its reconstruction metrics, and nothing that saework does not give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

ROWS = 64  # at once, as the published notebook; its own default of 16 needs less memory
SAEWORK_NAMES = {  # by sae_lens's
    "ce_loss_without_sae": "ce_loss_clean",
    "ce_loss_with_sae": "ce_loss_spliced",
    "ce_loss_with_ablation": "ce_loss_ablated",
    "kl_div_with_sae": "kl_div_spliced",
    "kl_div_with_ablation": "kl_div_ablated",
    "l0": "l0",
    "l1": "l1",
    "l2_ratio": "l2_ratio",
    "relative_reconstruction_bias": "relative_reconstruction_bias",
    "explained_variance": "variance_explained",
    "explained_variance_legacy": "variance_explained_legacy",
    "mse": "mse_per_token",
    "cossim": "cosine_similarity",
}
COMPUTED = {
    "compute_kl": True,
    "compute_ce_loss": True,
    "compute_l2_norms": True,
    "compute_sparsity_metrics": True,
    "compute_variance_metrics": True,
}


def store(s: SimpleNamespace, sae) -> Any:
    """Its stream of tokens, from rows in memory."""
    from datasets import Dataset
    from sae_lens.training.activations_store import ActivationsStore

    rows = Dataset.from_dict({"tokens": s.tokens.tolist()})
    return ActivationsStore.from_sae(s.model, sae, rows, context_size=s.tokens.shape[1])


def renamed(groups: dict, names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Its results under saework's names."""
    values = {}
    for group in groups.values():
        values.update(group)
    return {name: torch.tensor(float(values[peer_name])) for peer_name, name in names.items()}


def before_metrics(s: SimpleNamespace) -> None:
    """Its stream, and its import, which is not what is measured."""
    import sae_lens.evals  # noqa: F401, imported so that metrics need not

    s.store = store(s, s.sae)


def metrics(s: SimpleNamespace) -> dict:
    """Every reconstruction metric."""
    from sae_lens.evals import EvalConfig, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler

    rows = min(ROWS, len(s.tokens))
    batches = len(s.tokens) // rows
    config = EvalConfig(rows, batches, n_eval_sparsity_variance_batches=batches, **COMPUTED)
    results, _ = run_evals(
        s.sae, s.store, s.model, ActivationScaler(), config, exclude_special_tokens=False
    )
    return renamed(results, SAEWORK_NAMES)
