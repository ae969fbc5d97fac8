"""Does our encoding agree with another implementation's? References of one prompt.

Anything that can write a reference file (``reference_file``) can be compared with anything else.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from saework.analysis.reference_file import N_LISTED, check_reference
from saework.core.arguments import accepts_workbook, check_finite
from saework.core.errors import HookError
from saework.core.files import writable, write_whole
from saework.core.ledger import Claim
from saework.core.protocols import HookedModel, SparseAutoencoder, hook_of, sae_architecture
from saework.engine.architectures import check_output, unchanged
from saework.engine.forward import as_tokens, sae_input
from saework.engine.site import site_of

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-3
"""Relative. Float32 implementations differ by about 1e-6; a wrong weight or formula by much more
than 1e-3."""
PARTS = ("resid", "encoded", "decoded")
"""What is measured on the last token: the SAE's input, its features, its reconstruction."""
ARCHITECTURE_NAMES = {"standard": "ReLU", "jumprelu": "JumpReLU"}
EXACT_UNITS = {
    "validation/tokens": "tokens",
    "validation/n_active": "features",
    "validation/top_features": "feature indices",
}
"""Claims that must be equal, and their units."""


@accepts_workbook
def write_reference(
    model: HookedModel,
    sae: SparseAutoencoder,
    prompt: str,
    path: str | Path,
    *,
    hook: str | None = None,
    model_id: str | None = None,
    sae_repo: str = "",
    sae_npz_path: str = "",
    source: str = "saework, through TransformerLens",
) -> dict[str, Any]:
    """Run a prompt, encode it, and write the result as a reference file.

    BOS is put in front of the prompt. ``reconstruction_mse`` is the mean of (x - x̂)² per element:
    over all positions, BOS too, and all ``d_in`` dimensions. Lists and norms are of the last
    position: ``resid`` is x, ``encoded`` the features, ``decoded`` x̂. A feature is active where it
    is above 0. The ten highest are listed (fewer if fewer are active; ties: by index).

    Args:
        model: the model, or a Workbook alone in place of model and sae.
        sae: the SAE.
        prompt: text.
        path: of the file to write.
        hook: the SAE's own by default.
        model_id: where the model is from; its own name by default.
        sae_repo: where the SAE is from.
        sae_npz_path: its file in there.
        source: where the numbers are from.

    Returns:
        What was written.

    Raises:
        HookError: if the hook is in no block, or fits neither the model nor the SAE.
        ValueError: if something is not finite.

    Source: candle-mi, ``scripts/sae_validation.py``.

    >>> import os, tempfile
    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write_reference(book, "import os", os.path.join(folder, "ours.json"))
    >>> written["hook_name"], written["n_tokens"]
    ('blocks.0.mlp.hook_post', 3)
    """
    writable(path)  # before the model runs
    hook = hook_of(sae, hook)
    block = re.match(r"blocks\.(\d+)\.", hook)
    if block is None:
        raise HookError(
            f"hook {hook!r} lies in no block, and a reference names its layer; "
            "give one such as 'blocks.0.hook_resid_post'"
        )
    measured, _ = _measure(model, sae, prompt, hook)
    d_sae, d_in = sae.W_dec.shape
    reference = {
        "model_id": model_id or str(model.cfg.model_name),
        "prompt": prompt,
        "hook_layer": int(block[1]),
        "hook_name": hook,
        "sae_repo": sae_repo,
        "sae_npz_path": sae_npz_path,
        "d_in": d_in,
        "d_sae": d_sae,
        "architecture": _architecture(sae),
        **measured,
        "source": source,
    }
    write_whole(path, json.dumps(reference, indent=2, ensure_ascii=False) + "\n")
    return reference


def _architecture(sae: SparseAutoencoder) -> str:
    """The architecture as candle-mi writes it."""
    architecture = sae_architecture(sae)
    if architecture is None:
        architecture = "standard" if getattr(sae, "threshold", None) is None else "jumprelu"
    return ARCHITECTURE_NAMES.get(architecture, architecture)


@torch.no_grad()
def _measure(
    model: HookedModel, sae: SparseAutoencoder, prompt: Any, hook: str
) -> tuple[dict[str, Any], np.ndarray]:
    """A reference's measured values, and the last position's features, float64 ``[d_sae]``."""
    if not isinstance(prompt, str):
        raise ValueError(f"the prompt is a {type(prompt).__name__}; give text")
    tokens = as_tokens(model, prompt, sae)
    site = site_of(model, sae, hook)
    if site.is_transcoder:
        raise ValueError(
            f"this transcoder reads {site.reads} and writes {site.writes}; "
            "a reference compares an SAE with what it reads, so give an SAE"
        )
    if site.code == "over positions":
        raise ValueError(
            f"the features of a {sae_architecture(sae)} SAE are only a part of what it "
            "reconstructs; a reference has one for all of it, so give an SAE of single tokens"
        )
    x = sae_input(model, sae, tokens, hook)
    with unchanged(sae):
        d_sae, d_out = sae.W_dec.shape
        features = check_output("encode", sae.encode(x.flatten(2)), (*x.shape[:2], d_sae))
        check_finite(features, "feature activations")
        decoded = check_output("decode", sae.decode(features), (*x.shape[:2], d_out))
        check_finite(decoded, "the reconstruction")
    last_features = _float64_rows(features)[-1] + 0.0  # -0.0 becomes 0
    inputs = _float64_rows(x)
    outputs = _float64_rows(decoded)
    last = {"resid": inputs[-1], "encoded": last_features, "decoded": outputs[-1]}
    ids = tokens[0].tolist()
    errors = inputs - outputs
    measured = {
        "tokens": list(model.tokenizer.convert_ids_to_tokens(ids)),
        "n_tokens": len(ids),
        "reconstruction_mse": float((errors**2).mean()),
        "n_active_last_pos": int((last_features != 0).sum()),
        "top_features_last_pos": _top_features(last_features),
    }
    for part, values in last.items():
        measured[f"{part}_last_first10"] = values[:N_LISTED].tolist()
    for part, values in last.items():
        measured[f"{part}_last_norm"] = float(np.linalg.norm(values))
    return measured, last_features


def _top_features(features: np.ndarray) -> list[dict[str, Any]]:
    """The ten largest that are active, by size, ties by index."""
    largest_first = np.argsort(-np.abs(features), kind="stable")
    top = []
    for index in largest_first[:N_LISTED].tolist():
        value = float(features[index])
        if value != 0:
            top.append({"index": index, "value": value})
    return top


def _float64_rows(values: Tensor) -> np.ndarray:
    """The one row's values in float64, ``[pos, width]``: heads are read as one axis."""
    return values[0].flatten(1).double().cpu().numpy()


@partial(accepts_workbook, brings_hook=False)
def validate(
    model: HookedModel,
    sae: SparseAutoencoder,
    reference: dict[str, Any],
    *,
    hook: str | None = None,
) -> dict[str, Any]:
    """Our values for a reference's claims, by claim id.

    Feature values are ours at the reference's indices. So a different top list shows as a
    difference, not as a missing claim. Tokens are compared in ASCII if the reference's are, since
    candle-mi writes ``?`` for anything else.

    Args:
        model: the model, or a Workbook alone in place of model and sae.
        sae: the SAE.
        reference: as ``read_reference`` returns it; its prompt is run with BOS in front.
        hook: the reference's by default, with a Workbook too.

    Raises:
        ValueError: if the SAE has other sizes than the reference, or it is no reference.
        UnknownNameError: for a hook that the model lacks.
        HookError: for a hook of another width than the SAE's.

    >>> from saework import Ledger, load, read_reference
    >>> book = load("gemma-mini", "layer_2/width_1k/average_l0_22", n_tokens=512, check=False)
    >>> reference = read_reference("gemma-mini")
    >>> ledger = Ledger(claims_of_reference(reference, tier="mini"), tier="mini")
    >>> for id, value in validate(book, reference).items():
    ...     _ = ledger.record(id, value)
    >>> {entry.verdict for entry in ledger.entries}
    {'unchanged'}
    """
    check_reference(reference)
    d_sae, d_in = sae.W_dec.shape
    if (d_in, d_sae) != (reference["d_in"], reference["d_sae"]):
        raise ValueError(
            f"the SAE has d_in {d_in} and d_sae {d_sae}, "
            f"the reference d_in {reference['d_in']} and d_sae {reference['d_sae']}; "
            "load the SAE that it is about: "
            f"{reference['sae_repo']} {reference['sae_npz_path']}"
        )
    measured, features = _measure(model, sae, reference["prompt"], hook or reference["hook_name"])
    if all(token.isascii() for token in reference["tokens"]):
        measured["tokens"] = [_in_ascii(token) for token in measured["tokens"]]
    values = {}
    for item in reference["top_features_last_pos"]:
        index = item["index"]
        values[index] = float(features[index])
    return _by_claim(measured, values)


def _in_ascii(token: str) -> str:
    """A token with ``?`` for what is not ASCII."""
    return token.encode("ascii", "replace").decode()


def claims_of_reference(reference: dict[str, Any], *, tier: str) -> list[Claim]:
    """What a reference claims, with ids under ``validation/``.

    Tokens, the number of active features and the order of the top features must be equal. Numbers
    may differ by ``TOLERANCE`` of their size. Lists may differ by that of their largest magnitude
    (a list of zeros must be zeros).

    Args:
        reference: as ``read_reference`` returns it.
        tier: of the claims, such as a release's name.

    >>> from saework import read_reference
    >>> claims = claims_of_reference(read_reference("gemma-mini"), tier="mini")
    >>> [claim.id for claim in claims][:3]
    ['validation/tokens', 'validation/n_active', 'validation/top_features']
    """
    check_reference(reference)
    top = reference["top_features_last_pos"]
    values = {item["index"]: item["value"] for item in top}
    source = reference.get("source", "a reference")
    claims = []
    for id, value in _by_claim(reference, values).items():
        unit = EXACT_UNITS.get(id, "")
        tolerance = 0 if unit else TOLERANCE * float(np.abs(value).max())
        claims.append(Claim(id, value, unit, source, tolerance, tier))
    return claims


def _by_claim(reference: dict[str, Any], feature_values: dict[int, float]) -> dict[str, Any]:
    """A reference's values by claim id; ``feature_values`` by feature."""
    values = {
        "tokens": reference["tokens"],
        "n_active": reference["n_active_last_pos"],
        "top_features": [item["index"] for item in reference["top_features_last_pos"]],
    }
    for index, value in feature_values.items():
        values[f"value/{index}"] = value
    for part in PARTS:
        values[f"{part}_first10"] = reference[f"{part}_last_first10"]
    for part in PARTS:
        values[f"{part}_norm"] = reference[f"{part}_last_norm"]
    values["reconstruction_mse"] = reference["reconstruction_mse"]
    return {f"validation/{name}": value for name, value in values.items()}
