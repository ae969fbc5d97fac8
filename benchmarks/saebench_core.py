"""SAEBench's own core evaluation of a mini's SAE, beside ``reconstruction_metrics``.

It made ``saework/data/saebench/core_gelu_1l_mini.json``. It runs in SAEBench's environment, which
``peers.sh`` makes:

    bash benchmarks/peers.sh DIR
    PYTHONPATH=. DIR/saebench/bin/python benchmarks/saebench_core.py OUT.json

The file that it wrote is compared with ``reconstruction_metrics`` in saework's own environment too:

    python benchmarks/saebench_core.py --read saework/data/saebench/core_gelu_1l_mini.json

SAEBench's MSE is divided by the tokens of a batch, and ``saebench.convert`` multiplies it back.
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

import saework
from saework import saebench

ROWS = 64
ROWS_OF_A_BATCH = 16
TOLERANCE = 1e-5
"""Relative, of the converted MSE."""


def mini() -> saework.Workbook:
    """The mini, and the rows that SAEBench is given."""
    return saework.load("gelu-1l-mini", n_tokens=ROWS * 128, device="cpu")


def run_saebench(target: Path) -> None:
    """Run SAEBench's own core evaluation, and keep its file."""
    import sae_bench.evals.core.main as core
    from sae_lens.training import activations_store

    book = mini()
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
            batches=ROWS // ROWS_OF_A_BATCH,
        )
        core.HookedTransformer.from_pretrained_no_processing = lambda *args, **kwargs: book.model
        activations_store.validate_pretokenized_dataset_tokenizer = lambda **kwargs: None
        runpy.run_path(str(script))
        (result,) = (script.parent / "eval_results" / "core").glob("*.json")
        # as it is, without the blanks
        compact = json.dumps(json.loads(result.read_text()), separators=(",", ":"))
        target.write_text(compact + "\n")


def side_by_side(path: Path) -> pd.DataFrame:
    """SAEBench's numbers in saework's names, beside what ``reconstruction_metrics`` measures.

    The MSE is measured a batch at a time, since SAEBench's is the mean of its batches' means.
    """
    converted = saebench.convert(saebench.read(path)["core"])
    book = mini()
    special = {
        book.tokenizer.bos_token_id,
        book.tokenizer.eos_token_id,
        book.tokenizer.pad_token_id,
    }
    mask = ~sum(book.tokens == token for token in special if token is not None).bool()
    metrics = saework.reconstruction_metrics(book, mask=mask, progress=False).with_bos
    of_batches = []
    for first in range(0, ROWS, ROWS_OF_A_BATCH):
        rows = slice(first, first + ROWS_OF_A_BATCH)
        batch = saework.reconstruction_metrics(
            book.model, book.sae, book.tokens[rows], mask=mask[rows], progress=False
        )
        of_batches.append(batch.with_bos)
    means = pd.concat(of_batches, axis=1).mean(axis=1)
    rows = []
    for row in converted.metrics.itertuples():
        is_mse = row.metric.startswith("mse_")
        measured = means[row.metric] if is_mse else metrics[row.metric]
        rows.append((row.metric, row.value, measured, row.value / measured - 1))
    return pd.DataFrame(rows, columns=["metric", "SAEBench, converted", "saework", "difference"])


def main(arguments: list[str]) -> None:
    """Run SAEBench or read its file, and print both sets of numbers."""
    path = Path(arguments[-1]).resolve()
    if arguments[0] != "--read":
        run_saebench(path)
    table = side_by_side(path)
    print(table.to_string(float_format="{:.6g}".format))
    differences = table.set_index("metric").difference
    of_mse = differences[["mse_per_token", "mse_per_element"]].abs().max()
    assert of_mse < TOLERANCE, f"the converted MSE differs by {of_mse:.1e} of its size"


if __name__ == "__main__":
    main(sys.argv[1:])
