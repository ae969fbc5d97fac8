"""SAEBench's own probe functions beside ``sparse_probe``, on the same splits of a mini's text.

It runs in SAEBench's environment, which ``peers.sh`` makes:

    bash benchmarks/peers.sh DIR
    PYTHONPATH=. DIR/saebench/bin/python benchmarks/saebench_probes.py

SAEBench draws as many negatives for testing as there are positives; saework takes all. So the two
agree up to that draw, and the draw of negatives for training.
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

K = (1, 5, 50)
DRAWS = 3


def probe_data(
    x: torch.Tensor, y: np.ndarray, side: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels of the tokens of one side, as SAEBench takes them."""
    positives = x[torch.from_numpy(side & y)]
    negatives = x[torch.from_numpy(side & ~y)]
    # it takes no more positives than there are negatives
    classes = {"yes": positives[: len(negatives)], "no": negatives}
    return prepare_probe_data(classes, "yes")


def saebench_accuracy(x: torch.Tensor, y: np.ndarray, row: np.ndarray) -> list[float]:
    """Mean accuracy for each k, by SAEBench's functions, of tokens ``x [token, d]``."""
    accuracy = np.zeros((DRAWS, len(K)))
    for draw in range(DRAWS):
        rng = np.random.default_rng([0, draw])
        is_test = np.isin(row, draw_test_rows(row, y, rng))
        torch.manual_seed(draw)
        train, train_y = probe_data(x, y, ~is_test)
        test, test_y = probe_data(x, y, is_test)
        for i, k in enumerate(K):
            mask = get_top_k_mean_diff_mask(train, train_y, k)
            _, accuracy[draw, i] = train_sklearn_probe(
                apply_topk_mask_reduce_dim(train, mask),
                train_y,
                apply_topk_mask_reduce_dim(test, mask),
                test_y,
            )
    return accuracy.mean(0).tolist()


def main() -> None:
    """Print both, for each label."""
    warnings.simplefilter("ignore", FutureWarning)
    book = saework.load("gelu-1l-mini", n_tokens=16_384, device="cpu")
    mask = book.tokens != book.tokenizer.bos_token_id
    row, _ = mask.numpy().nonzero()
    neurons = activations(book.model, book.tokens, book.hook)
    rows = []
    for source, values in {"SAE features": book.sae.encode(neurons), "neurons": neurons}.items():
        for name, label in book.labels().items():
            probes = saework.sparse_probe(values, label, k=K, mask=mask, draws=DRAWS)
            peer = saebench_accuracy(values[mask], label[mask].numpy(), row)
            for k, peer_accuracy, accuracy in zip(K, peer, probes.accuracy):
                difference = accuracy - peer_accuracy
                rows.append((source, name, k, peer_accuracy, accuracy, difference))
    columns = ["source", "label", "k", "SAEBench", "saework", "difference"]
    frame = pd.DataFrame(rows, columns=columns)
    print(frame.round(3).to_string(index=False))
    mean, largest = frame.difference.mean(), frame.difference.abs().max()
    print(f"mean difference {mean:.4f}, largest {largest:.4f}")


if __name__ == "__main__":
    main()
