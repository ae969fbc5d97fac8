"""SAEBench's own probe functions beside ``sparse_probe``, on the same splits of a mini's labelled text.

Run where SAEBench is installed (see ``saebench_core.py``): PYTHONPATH=. saebench/bin/python benchmarks/saebench_probes.py
They draw as many negatives for testing as there are positives; ours takes all, so the two agree up to
that draw (and the draw of negatives for training).
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import torch
from sae_bench.evals.sparse_probing.probe_training import (
    apply_topk_mask_reduce_dim,
    get_top_k_mean_diff_mask,
    prepare_probe_data,
    train_sklearn_probe,
)

import saework
from saework.analysis.labelled_tokens import draw_test_rows
from saework.engine.forward import activations

K, DRAWS = (1, 5, 50), 3


def theirs(x: torch.Tensor, y: np.ndarray, row: np.ndarray) -> list[float]:
    """Mean accuracy for each k, by SAEBench's functions, of tokens ``x [token, d]``."""
    found = []
    for draw in range(DRAWS):
        is_test = np.isin(row, draw_test_rows(row, y, np.random.default_rng([0, draw])))
        torch.manual_seed(draw)
        sides = [
            {"yes": x[torch.from_numpy(side & y)], "no": x[torch.from_numpy(side & ~y)]}
            for side in (~is_test, is_test)
        ]
        sides = [
            {"yes": side["yes"][: len(side["no"])], "no": side["no"]} for side in sides
        ]  # they want no more than there are negatives
        (train, train_y), (test, test_y) = (prepare_probe_data(side, "yes") for side in sides)
        for k in K:
            mask = get_top_k_mean_diff_mask(train, train_y, k)
            found.append(
                train_sklearn_probe(
                    apply_topk_mask_reduce_dim(train, mask),
                    train_y,
                    apply_topk_mask_reduce_dim(test, mask),
                    test_y,
                )[1]
            )
    return np.reshape(found, (DRAWS, len(K))).mean(0).tolist()


def main() -> None:
    """Print both, for each label."""
    warnings.simplefilter("ignore", FutureWarning)
    book = saework.load("gelu-1l-mini", n_tokens=16_384, device="cpu")
    mask = book.tokens != book.tokenizer.bos_token_id
    row = torch.arange(len(book.tokens))[:, None].expand_as(mask)[mask].numpy()
    neurons = activations(book.model, book.tokens, book.hook)
    rows = []
    for source, values in {"SAE features": book.sae.encode(neurons), "neurons": neurons}.items():
        for name, label in book.labels().items():
            ours = saework.sparse_probe(values, label, k=K, mask=mask, draws=DRAWS).accuracy
            for k, a, b in zip(K, theirs(values[mask], label[mask].numpy(), row), ours):
                rows.append((source, name, k, a, b, b - a))
    frame = pd.DataFrame(
        rows, columns=["source", "label", "k", "SAEBench", "saework", "difference"]
    )
    print(frame.round(3).to_string(index=False))
    print(
        f"mean difference {frame.difference.mean():.4f}, largest {frame.difference.abs().max():.4f}"
    )


if __name__ == "__main__":
    main()
