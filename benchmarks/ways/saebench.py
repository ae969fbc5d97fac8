"""SAEBench's core evaluation, on its own ReLU SAE with the same weights; in an environment of its own (peers.sh)."""

from __future__ import annotations

import torch
from sae_bench.custom_saes.relu_sae import ReluSAE
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.evals.core.main import run_evals
from ways.sae_lens_evals import COMPUTED, ROWS, SAME, named, store

THEIRS = {
    **SAME,
    "explained_variance": "variance_explained_squares",
    "mse": "mse_saebench",
}  # its own formulas of these names


def before_metrics(s):
    s.store = store(s, s.sae)
    d_in, d_sae = s.sae.W_enc.shape
    s.bench_sae = ReluSAE(
        d_in, d_sae, "gelu-1l", 0, torch.device("cpu"), torch.float32, hook_name=s.hook
    ).requires_grad_(False)
    s.bench_sae.load_state_dict(s.sae.state_dict())
    del s.sae


def metrics(s):
    batches = len(s.tokens) // ROWS
    amount = {
        "batch_size_prompts": ROWS,
        "n_eval_reconstruction_batches": batches,
        "n_eval_sparsity_variance_batches": batches,
    }
    config = CoreEvalConfig(**amount, context_size=s.tokens.shape[1], **COMPUTED)
    found, _ = run_evals(s.bench_sae, s.store, s.model, config)
    return named(found, THEIRS)
