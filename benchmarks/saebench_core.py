"""SAEBench's own core evaluation of a mini's SAE, beside ``reconstruction_metrics``.

It made ``saework/data/saebench/core_gelu_1l_mini.json``. It runs in SAEBench's environment, which
``peers.sh`` makes:

    bash benchmarks/peers.sh DIR
    PYTHONPATH=. DIR/saebench/bin/python benchmarks/saebench_core.py OUT.json

Two things are changed. The model comes from the mini, which is in none of TransformerLens's tables.
And sae_lens does not ask the Hub which tokenizer made the rows, which lie in a local folder.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
from pathlib import Path

import pandas as pd
import sae_bench.evals.core.main as core
from sae_lens.training import activations_store

import saework
from saework import saebench

ROWS = 64
SAEWORK_NAMES = {  # by SAEBench's
    "ce_loss_without_sae": "ce_loss_clean",
    "ce_loss_with_sae": "ce_loss_spliced",
    "ce_loss_with_ablation": "ce_loss_ablated",
    "ce_loss_score": "ce_loss_score",
    "kl_div_score": "kl_div_score",
    "explained_variance": "variance_explained_squares",
    "explained_variance_legacy": "variance_explained_legacy",
    "mse": "mse_saebench",
    "cossim": "cosine_similarity",
    "l0": "l0",
    "l1": "l1",
    "l2_ratio": "l2_ratio",
    "relative_reconstruction_bias": "relative_reconstruction_bias",
}


def main(target: Path) -> None:
    """Run it, keep SAEBench's file, and print both sets of numbers."""
    book = saework.load("gelu-1l-mini", n_tokens=ROWS * 128, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rows").mkdir()
        pd.DataFrame({"tokens": book.tokens.tolist()}).to_parquet(
            Path(folder) / "rows" / "train.parquet"
        )
        os.chdir(folder)  # so that the result names no folder of this machine
        script = saebench.export(
            book.sae,
            "sae",
            name="gelu-1l-mini",
            model_name="gelu-1l-mini",
            hook=book.hook,
            dataset="rows",
            batches=ROWS // 16,
        )
        core.HookedTransformer.from_pretrained_no_processing = lambda *args, **kwargs: book.model
        activations_store.validate_pretokenized_dataset_tokenizer = lambda **kwargs: None
        runpy.run_path(str(script))
        (result,) = (script.parent / "eval_results" / "core").glob("*.json")
        # as it is, without the blanks
        compact = json.dumps(json.loads(result.read_text()), separators=(",", ":"))
        target.write_text(compact + "\n")
    peer = saebench.read(target)["core"]
    special = {
        book.tokenizer.bos_token_id,
        book.tokenizer.eos_token_id,
        book.tokenizer.pad_token_id,
    }
    mask = ~sum(book.tokens == token for token in special if token is not None).bool()
    metrics = saework.reconstruction_metrics(book, mask=mask, progress=False).with_bos
    rows = [
        (peer_name, peer.value(peer_name), metrics[name])
        for peer_name, name in SAEWORK_NAMES.items()
    ]
    print(pd.DataFrame(rows, columns=["metric", "SAEBench", "saework"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
