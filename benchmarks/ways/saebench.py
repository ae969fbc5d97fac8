"""SAEBench's core evaluation, on its own ReLU SAE with the same weights.

It runs in an environment of its own (peers.sh).
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from sae_bench.custom_saes.relu_sae import ReluSAE
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.evals.core.main import run_evals
from ways.sae_lens_evals import COMPUTED, ROWS, SAEWORK_NAMES, renamed, store

# its formulas of these two names are not sae_lens's
OWN_FORMULAS = {
    "explained_variance": "variance_explained_squares",
    "mse": "mse_saebench",
}


def before_metrics(s: SimpleNamespace) -> None:
    """Its stream and its SAE."""
    s.store = store(s, s.sae)
    d_in, d_sae = s.sae.W_enc.shape
    sae = ReluSAE(
        d_in,
        d_sae,
        "gelu-1l",
        0,
        torch.device("cpu"),
        torch.float32,
        hook_name=s.hook,
    )
    s.bench_sae = sae.requires_grad_(False)
    s.bench_sae.load_state_dict(s.sae.state_dict())
    del s.sae


def metrics(s: SimpleNamespace) -> dict:
    """Every reconstruction metric."""
    batches = len(s.tokens) // ROWS
    config = CoreEvalConfig(
        batch_size_prompts=ROWS,
        n_eval_reconstruction_batches=batches,
        n_eval_sparsity_variance_batches=batches,
        context_size=s.tokens.shape[1],
        **COMPUTED,
    )
    results, _ = run_evals(s.bench_sae, s.store, s.model, config)
    return renamed(results, SAEWORK_NAMES | OWN_FORMULAS)
