"""Does our encoding agree with another implementation? References of one prompt: read, written, measured, claimed.

A reference is the JSON that candle-mi publishes (``scripts/sae_reference.json``): a prompt, the residual stream and the
features on its last token, and the error over all of it. Anything that can write one can be compared with anything else.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import torch

from saework.core.arguments import accepts_workbook, check_finite
from saework.core.errors import HookError, unknown
from saework.core.files import DATA, read_json
from saework.core.ledger import Claim
from saework.core.protocols import hook_of, sae_architecture
from saework.engine.forward import as_tokens, sae_input

TOLERANCE = 1e-3
"""Relative. Float32 implementations differ by about 1e-6; a wrong weight or formula by much more than 1e-3."""
N_SHOWN = 10

_TEXT, _WHOLE, _SIZE = "text", "a whole number of at least 0", "a finite number of at least 0"
_NUMBERS, _WORDS, _FEATURES = (
    "a list of finite numbers",
    "a list of text",
    "a list of {index, value} pairs",
)
_KINDS = {
    "model_id": _TEXT,
    "prompt": _TEXT,
    "hook_layer": _WHOLE,
    "hook_name": _TEXT,
    "sae_repo": _TEXT,
    "sae_npz_path": _TEXT,
    "d_in": _WHOLE,
    "d_sae": _WHOLE,
    "architecture": _TEXT,
    "tokens": _WORDS,
    "n_tokens": _WHOLE,
    "reconstruction_mse": _SIZE,
    "n_active_last_pos": _WHOLE,
    "top_features_last_pos": _FEATURES,
    "resid_last_first10": _NUMBERS,
    "encoded_last_first10": _NUMBERS,
    "decoded_last_first10": _NUMBERS,
    "resid_last_norm": _SIZE,
    "encoded_last_norm": _SIZE,
    "decoded_last_norm": _SIZE,
}
_EXACT = {
    "validation/tokens": "tokens",
    "validation/n_active": "features",
    "validation/top_features": "feature indices",
}


def read_reference(path: str | Path) -> dict:
    """A reference JSON, checked; keys beyond the form are kept. The name of a release gives that release's.

    ``source`` is the file's name if it says none, and -0.0 becomes 0.
    Raises: WeightsError for a file that is not JSON; ValueError for missing keys, values of another kind, and lengths
    or features that contradict each other.
    """
    if not Path(path).exists() and (own := DATA / str(path) / "reference.json").exists():
        path = own
    if not Path(path).exists():
        known = sorted(folder.parent.name for folder in DATA.glob("*/reference.json"))
        raise unknown(
            "reference",
            str(path),
            known,
            see=f"Give the path of a JSON file, or one of {', '.join(known)}.",
        )
    reference = read_json(path)
    missing = [key for key in _KINDS if key not in reference]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; a reference holds {', '.join(_KINDS)}, as write_reference() writes it"
        )
    for key, kind in {**_KINDS, "source": _TEXT}.items():
        if not _is_kind(reference.setdefault(key, Path(path).name), kind):
            raise ValueError(f"{path}: {key} is {_short(reference[key])}; it must be {kind}")
        if kind == _NUMBERS:
            reference[key] = [
                value + 0.0 for value in reference[key]
            ]  # a masked negative pre-activation is -0.0
    _check_consistent(path, reference)
    return reference


def _is_kind(value, kind: str) -> bool:
    if kind in (_NUMBERS, _WORDS, _FEATURES):
        return isinstance(value, list) and all(map(_ITEM[kind], value))
    if kind == _WHOLE:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return isinstance(value, str) if kind == _TEXT else _is_number(value) and value >= 0


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_ITEM = {
    _NUMBERS: _is_number,
    _WORDS: lambda item: isinstance(item, str),
    _FEATURES: lambda item: (
        isinstance(item, dict)
        and _is_kind(item.get("index"), _WHOLE)
        and _is_number(item.get("value"))
    ),
}


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _check_consistent(path, reference: dict) -> None:
    d_in, d_sae, top = reference["d_in"], reference["d_sae"], reference["top_features_last_pos"]
    lengths = {
        "tokens": reference["n_tokens"],
        "top_features_last_pos": min(N_SHOWN, reference["n_active_last_pos"]),
    }
    lengths |= {
        "resid_last_first10": min(N_SHOWN, d_in),
        "encoded_last_first10": min(N_SHOWN, d_sae),
        "decoded_last_first10": min(N_SHOWN, d_in),
    }
    for key, length in lengths.items():
        if len(reference[key]) != length:
            raise ValueError(
                f"{path}: {key} has {len(reference[key])} entries; the other values ask for {length}"
            )
    indices, values = [item["index"] for item in top], [item["value"] for item in top]
    if len(set(indices)) < len(indices) or any(index >= d_sae for index in indices):
        raise ValueError(
            f"{path}: top_features_last_pos names features {indices}; each must be named once, and lie in 0..{d_sae - 1}"
        )
    if values != sorted(values, reverse=True) or any(value <= 0 for value in values):
        raise ValueError(
            f"{path}: top_features_last_pos has values {values}; they must be above 0, highest first"
        )


@accepts_workbook
def write_reference(
    model,
    sae,
    prompt: str,
    path: str | Path,
    *,
    hook: str | None = None,
    model_id: str | None = None,
    sae_repo: str = "",
    sae_npz_path: str = "",
    source: str = "saework, through TransformerLens",
) -> dict:
    """Run a prompt (BOS put in front), encode it, and write what came out as a reference JSON; also returned.

    ``reconstruction_mse`` is the mean of (x - x̂)² over all positions, BOS too, and all ``d_in`` dimensions (per element).
    The lists and norms are of the last position: ``resid`` is x, ``encoded`` the features, ``decoded`` x̂. A feature is
    active where it is above 0; the ten highest are listed (fewer if fewer are), ties by index.

    Args:
        hook: the SAE's own by default.
        model_id, sae_repo, sae_npz_path, source: where model, SAE and numbers are from; ``model_id`` is the model's own
            name by default.

    Raises: HookError if the hook lies in no block, or fits neither the model nor the SAE; ValueError if something is not finite.
    Source: candle-mi, ``scripts/sae_validation.py``.
    """
    hook = hook_of(sae, hook)
    block = re.match(r"blocks\.(\d+)\.", hook)
    if block is None:
        raise HookError(
            f"hook {hook!r} lies in no block, and a reference names its layer; give one such as 'blocks.0.hook_resid_post'"
        )
    measured, _ = _measure(model, sae, prompt, hook)
    d_sae, d_in = sae.W_dec.shape
    about = {
        "model_id": model_id or str(model.cfg.model_name),
        "prompt": prompt,
        "hook_layer": int(block[1]),
        "hook_name": hook,
    }
    about |= {
        "sae_repo": sae_repo,
        "sae_npz_path": sae_npz_path,
        "d_in": d_in,
        "d_sae": d_sae,
        "architecture": _architecture(sae),
    }
    reference = {**about, **measured, "source": source}
    Path(path).write_text(
        json.dumps(reference, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return reference


def _architecture(sae) -> str:
    architecture = sae_architecture(sae)
    if architecture is None:
        architecture = "standard" if getattr(sae, "threshold", None) is None else "jumprelu"
    return {"standard": "ReLU", "jumprelu": "JumpReLU"}.get(architecture, architecture)


@torch.no_grad()
def _measure(model, sae, prompt: str, hook: str) -> tuple[dict, np.ndarray]:
    """A reference's measured values, and the features of the last position, float ``[d_sae]``."""
    if not isinstance(prompt, str):
        raise ValueError(f"the prompt is a {type(prompt).__name__}; give text")
    tokens = as_tokens(model, prompt)
    x = sae_input(model, sae, tokens, hook)
    features = check_finite(sae.encode(x), "feature activations")
    decoded = check_finite(sae.decode(features), "the reconstruction")
    x, decoded = (part[0].flatten(1).double().cpu().numpy() for part in (x, decoded))
    last = features[0, -1].double().cpu().numpy() + 0.0  # -0.0 becomes 0
    top = [int(i) for i in np.argsort(-last, kind="stable")[:N_SHOWN] if last[i] > 0]
    return {
        "tokens": list(model.tokenizer.convert_ids_to_tokens(tokens[0].tolist())),
        "n_tokens": tokens.shape[1],
        "reconstruction_mse": float(((x - decoded) ** 2).mean()),
        "n_active_last_pos": int((last > 0).sum()),
        "top_features_last_pos": [{"index": i, "value": float(last[i])} for i in top],
        "resid_last_first10": x[-1, :N_SHOWN].tolist(),
        "encoded_last_first10": last[:N_SHOWN].tolist(),
        "decoded_last_first10": decoded[-1, :N_SHOWN].tolist(),
        "resid_last_norm": float(np.linalg.norm(x[-1])),
        "encoded_last_norm": float(np.linalg.norm(last)),
        "decoded_last_norm": float(np.linalg.norm(decoded[-1])),
    }, last


@accepts_workbook
def validate(model, sae, reference: dict, *, hook: str | None = None) -> dict[str, object]:
    """Our values for a reference's claims, by claim id: ``for id, value in ...items(): ledger.record(id, value)``.

    Feature values are ours at the reference's indices, so that another top list shows as such and not as a missing claim.
    Tokens are compared in ASCII if the reference's are, since candle-mi writes ``?`` for anything else.

    Args:
        reference: as ``read_reference`` gives it; its prompt is run with BOS in front.
        hook: the reference's by default.

    Raises: ValueError if the SAE has other sizes than the reference; UnknownNameError for a hook that the model lacks;
    HookError for one of another width than the SAE's.
    """
    d_sae, d_in = sae.W_dec.shape
    if (d_in, d_sae) != (reference["d_in"], reference["d_sae"]):
        raise ValueError(
            f"the SAE has d_in {d_in} and d_sae {d_sae}, the reference d_in {reference['d_in']} and d_sae {reference['d_sae']}; "
            f"load the SAE that it is about: {reference['sae_repo']} {reference['sae_npz_path']}"
        )
    measured, features = _measure(model, sae, reference["prompt"], hook or reference["hook_name"])
    if all(token.isascii() for token in reference["tokens"]):
        measured["tokens"] = [
            token.encode("ascii", "replace").decode() for token in measured["tokens"]
        ]
    return _by_claim(
        measured,
        {
            item["index"]: float(features[item["index"]])
            for item in reference["top_features_last_pos"]
        },
    )


def claims_of_reference(reference: dict, *, tier: str) -> list[Claim]:
    """What a reference claims, ids under ``validation/``.

    Tokens, the number of active features and the order of the top ones must be equal; numbers may differ by ``TOLERANCE``
    of their size, and lists by that of their largest magnitude (a list of zeros must be zeros).
    """
    claims = []
    for id, value in _by_claim(
        reference, {item["index"]: item["value"] for item in reference["top_features_last_pos"]}
    ).items():
        unit = _EXACT.get(id, "")
        tolerance = 0 if unit else TOLERANCE * float(np.abs(value).max())
        claims.append(Claim(id, value, unit, reference["source"], tolerance, tier))
    return claims


def _by_claim(reference: dict, feature_values: dict[int, float]) -> dict[str, object]:
    values = {"tokens": reference["tokens"], "n_active": reference["n_active_last_pos"]}
    values["top_features"] = [item["index"] for item in reference["top_features_last_pos"]]
    values |= {f"value/{index}": value for index, value in feature_values.items()}
    values |= {
        f"{part}_first10": reference[f"{part}_last_first10"]
        for part in ("resid", "encoded", "decoded")
    }
    values |= {
        f"{part}_norm": reference[f"{part}_last_norm"] for part in ("resid", "encoded", "decoded")
    }
    values["reconstruction_mse"] = reference["reconstruction_mse"]
    return {f"validation/{name}": value for name, value in values.items()}
