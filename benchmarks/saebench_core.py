"""SAEBench's own core evaluation of a mini's SAE, beside our ``reconstruction_metrics`` on the same tokens.

It made ``saework/data/saebench/core_gelu_1l_mini.json``. SAEBench wants an environment of its own
(numpy below 2, which a newer pyarrow refuses); on a machine without CUDA keep torch's CPU build:

    python3 -m venv saebench && saebench/bin/pip install torch==2.13.0 "sae_lens>=6.54,<7" "transformer_lens>=3.9,<4" \
        "numpy<2" "datasets>=3,<4" "pyarrow<20" plotly seaborn matplotlib tabulate openai beartype collectibles scikit-learn
    saebench/bin/pip install --no-deps "sae-bench==0.6.0" "sae-probes>=0.4,<0.5"
    PYTHONPATH=. saebench/bin/python benchmarks/saebench_core.py OUT.json

Two things are changed: where the model comes from (a mini is in none of TransformerLens's tables), and
sae_lens does not ask the Hub which tokenizer made the rows, which lie in a local folder.
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
PAIRS = {  # SAEBench's name: ours
    "ce_loss_without_sae": "ce_loss_clean", "ce_loss_with_sae": "ce_loss_spliced", "ce_loss_with_ablation": "ce_loss_ablated",
    "ce_loss_score": "ce_loss_score", "kl_div_score": "kl_div_score", "explained_variance": "variance_explained_squares",
    "explained_variance_legacy": "variance_explained_legacy", "mse": "mse_saebench", "cossim": "cosine_similarity", "l0": "l0", "l1": "l1",
    "l2_ratio": "l2_ratio", "relative_reconstruction_bias": "relative_reconstruction_bias",
}  # fmt: skip


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
        target.write_text(
            json.dumps(json.loads(result.read_text()), separators=(",", ":")) + "\n"
        )  # as it is, without the blanks
    theirs = saebench.read(target)["core"]
    special = {
        book.tokenizer.bos_token_id,
        book.tokenizer.eos_token_id,
        book.tokenizer.pad_token_id,
    }
    mask = ~sum(book.tokens == token for token in special if token is not None).bool()
    ours = saework.reconstruction_metrics(
        book.model, book.sae, book.tokens, mask=mask, progress=False
    ).with_bos
    print(
        pd.DataFrame(
            [(name, theirs.value(name), ours[own]) for name, own in PAIRS.items()],
            columns=["metric", "SAEBench", "saework"],
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
