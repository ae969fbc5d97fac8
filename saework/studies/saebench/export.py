"""Write an SAE for SAEBench, with the script that runs SAEBench's core evaluation of it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from saework.core.argument_kinds import check_path, checked
from saework.core.arguments import check_positive
from saework.core.files import write_whole
from saework.core.protocols import hook_of

if TYPE_CHECKING:
    from saework.core.protocols import SparseAutoencoder

PACKAGES = '"sae-bench==0.6.0" "pyarrow<20"'
"""What SAEBench's own environment needs: numpy is below 2 there, which a newer pyarrow refuses."""
MARK = "(written by saework)"
SAVED_FILES = ("cfg.json", "sae_weights.safetensors", "sparsity.safetensors")
"""What ``SAE.save_model`` may write."""
SCRIPT = '''"""SAEBench's core evaluation of the SAE in this folder (written by saework).

python3 -m venv saebench && saebench/bin/pip install {packages}
saebench/bin/python {script}
"""

from pathlib import Path

import torch
from sae_bench.evals.core.main import multiple_evals
from sae_lens import SAE

folder = Path(__file__).resolve().parent
device = "cuda" if torch.cuda.is_available() else "cpu"
multiple_evals(
    selected_saes=[({name!r}, SAE.load_from_disk(folder, device=device))],
    n_eval_reconstruction_batches={batches},
    n_eval_sparsity_variance_batches={batches},
    eval_batch_size_prompts=16,
    exclude_special_tokens_from_reconstruction=True,
    compute_featurewise_density_statistics=True,
    compute_featurewise_weight_based_metrics=True,
    dataset={dataset!r},
    context_size={context},
    output_folder=str(folder / "eval_results" / "core"),
    dtype="float32",
    device=device,
    verbose=True,
)
'''


@checked
def export(
    sae: SparseAutoencoder,
    folder: str | Path,
    *,
    name: str,
    model_name: str,
    hook: str | None = None,
    dataset: str = "Skylion007/openwebtext",
    context_size: int = 128,
    batches: int = 200,
) -> Path:
    """Write an SAE as SAEBench reads it, with a script that evaluates it.

    SAEBench needs packages that saework's environment cannot have (numpy below 2). So the script
    is for an environment of its own. Its first lines are the commands that make one and run it.

    Args:
        sae: an ``sae_lens.SAE``.
        folder: where to write; made if it is missing.
        name: of the SAE in the result, which is written to ``folder/eval_results/core``.
        model_name: TransformerLens's name of the model, such as ``google/gemma-2-2b``.
        hook: the SAE's own by default.
        dataset: of the Hub; or a folder with parquet files that have a ``text`` column.
        context_size: tokens per row.
        batches: of 16 rows each, for each half of the evaluation.
    Returns: the script's path.
    Raises:
        ValueError: if the SAE cannot be saved, or the folder holds other people's files.
        HookError: (a ValueError) if it names no hook, and none is given.
    Source: sae_lens 6, ``SAE.save_model``; SAEBench 0.6.0, ``evals/core/main.py``.

    >>> import tempfile
    >>> from saework import load, saebench
    >>> sae = load("gelu-1l-mini", n_tokens=2048, check=False).sae
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     script = saebench.export(sae, folder, name="mine", model_name="gelu-1l")
    ...     print(script.read_text().split(chr(10))[3])
    saebench/bin/python run_core.py
    """
    if not hasattr(sae, "save_model"):
        raise ValueError(
            f"a {type(sae).__name__} cannot be written; give an sae_lens.SAE, such as load(...).sae"
        )
    # they become code of the script
    batches = check_positive(batches, "batches")
    context_size = check_positive(context_size, "context_size", minimum=2)
    check_path("dataset", dataset)
    metadata = {
        "hook_name": hook_of(sae, hook),
        "model_name": model_name,
        "context_size": context_size,
        "prepend_bos": True,
    }
    folder = Path(folder)
    script = folder / "run_core.py"
    _check_own(folder, script)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    # files of an earlier export stay until the new ones are whole
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as partial:
        cast("Any", sae).save_model(partial)
        _add_metadata(Path(partial) / "cfg.json", metadata)
        for file in Path(partial).iterdir():
            file.replace(folder / file.name)
    commands = SCRIPT.format(
        packages=PACKAGES,
        script=script.name,
        name=name,
        batches=batches,
        dataset=str(dataset),
        context=context_size,
    )
    return write_whole(script, commands)


def _check_own(folder: Path, script: Path) -> None:
    """Refuse a folder with files of these names that are of no earlier export."""
    if script.exists() and MARK in script.read_text(encoding="utf-8", errors="replace"):
        return
    others = [name for name in (*SAVED_FILES, script.name) if (folder / name).exists()]
    if others:
        raise ValueError(
            f"{folder / others[0]} is there already and of no export of saework's, and is left as "
            "it is; give another folder"
        )


def _add_metadata(path: Path, metadata: dict[str, Any]) -> None:
    """Put values into the metadata of a config that sae_lens wrote."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["metadata"] = {**(config.get("metadata") or {}), **metadata}
    write_whole(path, json.dumps(config, indent=1) + "\n")
