"""sae_lens's ``run_evals``: all of its reconstruction metrics, and nothing that ours does not give."""

from __future__ import annotations

import torch

ROWS = 64  # at once, as the published notebook; its own default of 16 needs less memory
SAME = {  # its name: ours
    "ce_loss_without_sae": "ce_loss_clean", "ce_loss_with_sae": "ce_loss_spliced", "ce_loss_with_ablation": "ce_loss_ablated",
    "kl_div_with_sae": "kl_div_spliced", "kl_div_with_ablation": "kl_div_ablated", "l0": "l0", "l1": "l1", "l2_ratio": "l2_ratio",
    "relative_reconstruction_bias": "relative_reconstruction_bias", "explained_variance": "variance_explained",
    "explained_variance_legacy": "variance_explained_legacy", "mse": "mse_per_token", "cossim": "cosine_similarity",
}  # fmt: skip
COMPUTED = {
    f"compute_{name}": True
    for name in ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics")
}


def store(s, sae):
    """Its stream of tokens, from rows in memory."""
    from datasets import Dataset
    from sae_lens.training.activations_store import ActivationsStore

    return ActivationsStore.from_sae(
        s.model,
        sae,
        Dataset.from_dict({"tokens": s.tokens.tolist()}),
        context_size=s.tokens.shape[1],
    )


def named(found: dict, same: dict) -> dict[str, torch.Tensor]:
    """By our names."""
    flat = {name: value for group in found.values() for name, value in group.items()}
    return {own: torch.tensor(float(flat[name])) for name, own in same.items()}


def before_metrics(s):
    import sae_lens.evals  # noqa: F401  (its import is not what is measured)

    s.store = store(s, s.sae)


def metrics(s):
    from sae_lens.evals import EvalConfig, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler

    rows = min(ROWS, len(s.tokens))
    batches = len(s.tokens) // rows
    config = EvalConfig(rows, batches, n_eval_sparsity_variance_batches=batches, **COMPUTED)
    found, _ = run_evals(
        s.sae, s.store, s.model, ActivationScaler(), config, exclude_special_tokens=False
    )
    return named(found, SAME)
