"""The model and the SAE that a caller gives, checked before anything runs."""

from __future__ import annotations

from typing import Any

import torch

from saework.core.errors import in_words
from saework.core.protocols import WorkbookParts

WRAPPERS = {"_orig_mod": "torch.compile", "module": "DataParallel", "base_model": "PEFT"}
"""Attributes in which wrappers keep what they wrap."""
MODEL_NEEDS = ("hook_dict", "cfg", "hooks", "parameters")
SAE_NEEDS = ("encode", "decode", "W_dec")
ONLY_WEIGHTS = ("W_dec",)
OWN_SAE = "a sae_lens.SAE, or an object of your own with encode, decode, W_enc and W_dec"


def check_model(model: Any) -> None:
    """Refuse what is not a TransformerLens model.

    Raises: ValueError, which says what was given, and the line that makes a model of it.
    """
    _refuse_no_object("model", model, "a TransformerLens model")
    kind = type(model).__name__
    if "_orig_mod" in _modules(model):
        raise ValueError(
            f"model is compiled ({kind}), and hooks are not run in compiled code; "
            "give model._orig_mod"
        )
    missing = [name for name in MODEL_NEEDS if not hasattr(model, name)]
    if not missing:
        return
    if hasattr(model, "merge_and_unload"):
        raise ValueError(
            f"model is an adapted model of PEFT ({kind}); merge it first, "
            "model = model.merge_and_unload(), and wrap that for TransformerLens"
        )
    wrapped = _wrapped_name(model, "hook_dict")
    if wrapped:
        raise ValueError(f"model is wrapped ({kind}); give model.{wrapped}")
    if hasattr(model, "generate") and hasattr(model, "config"):
        name = getattr(model.config, "name_or_path", "") or "my-model"
        raise ValueError(
            f"model is a Hugging Face model ({kind}), which has no hooks; wrap it:\n"
            "from transformer_lens.model_bridge import TransformerBridge\n"
            f'model = TransformerBridge.boot_transformers("{name}", hf_model=model, '
            "tokenizer=tokenizer)"
        )
    raise ValueError(
        f"model is a {kind} without {', '.join(missing)}; give a TransformerLens model: "
        "TransformerBridge.boot_transformers(...) makes one from a Hugging Face folder, and "
        "saework.load(...) loads model and SAE together"
    )


def check_sae(sae: Any, *, needs: tuple[str, ...] = SAE_NEEDS) -> None:
    """Refuse what is not an SAE, or whose parts contradict each other.

    An SAE whose weights are square and transposed cannot be told from a right one.

    Args:
        sae: what was given.
        needs: what it must have; ``ONLY_WEIGHTS`` where it is not run.

    Raises: ValueError, which names the part and the remedy.
    """
    _refuse_no_object("sae", sae, OWN_SAE)
    kind = type(sae).__name__
    wrapped = _wrapped_name(sae, "W_dec")
    missing = [name for name in needs if not hasattr(sae, name)]
    if wrapped and (missing or wrapped == "_orig_mod"):
        raise ValueError(
            f"sae is wrapped ({kind}), and what is done to the wrapper does not reach the SAE; "
            f"give sae.{wrapped}"
        )
    if missing:
        raise ValueError(f"sae is a {kind} without {', '.join(missing)}; give {OWN_SAE}")
    _check_shapes(sae)
    _check_dtype(sae)
    for name in needs:
        if name not in ONLY_WEIGHTS and not callable(getattr(sae, name)):
            raise ValueError(
                f"sae.{name} is {in_words(getattr(sae, name))}; it must be a method of the SAE"
            )


def check_workbook(workbook: Any) -> None:
    """Refuse what is not a Workbook: a release's name, a model, an SAE.

    Raises: ValueError, which says what was given, and the line that makes a Workbook.
    """
    if isinstance(workbook, WorkbookParts) and not isinstance(workbook, type):
        check_model(workbook.model)
        check_sae(workbook.sae)
        return
    if isinstance(workbook, str):
        raise ValueError(
            f"workbook is the name {workbook!r}; load it first: workbook = load({workbook!r})"
        )
    raise ValueError(
        f"workbook is a {type(workbook).__name__}; give what load(...) returns, or "
        "Workbook(model, sae, tokens, tokenizer, hook)"
    )


def _refuse_no_object(name: str, given: Any, wanted: str) -> None:
    """Refuse None, a name, a class, and a Workbook in one part's place."""
    if isinstance(given, WorkbookParts):
        raise ValueError(
            f"{name} is a Workbook; give its {'SAE' if name == 'sae' else name}, workbook.{name}"
        )
    if isinstance(given, type):
        raise ValueError(f"{name} is the class {given.__name__}; give an object of it: {wanted}")
    if given is None or isinstance(given, (str, bytes, int, float)):
        raise ValueError(
            f"{name} is {given!r}; give {wanted}. saework.load(...) gives a Workbook with both"
        )


def _modules(module: Any) -> dict[str, Any]:
    """A ``torch.nn.Module``'s own submodules; empty for any other object."""
    return vars(module).get("_modules", {}) if hasattr(module, "__dict__") else {}


def _wrapped_name(wrapper: Any, needed: str) -> str:
    """The attribute that holds the thing itself, known by what it needs to have; or nothing."""
    own = {**getattr(wrapper, "__dict__", {}), **_modules(wrapper)}
    names = sorted(own, key=lambda name: name not in WRAPPERS)
    for name in names:
        if name.startswith("__") or isinstance(own[name], type):
            continue
        if hasattr(own[name], needed):
            return name
    return ""


def _check_shapes(sae: Any) -> None:
    decoder, encoder = sae.W_dec, getattr(sae, "W_enc", None)
    _check_axes("W_dec", decoder)
    d_sae, d_out = decoder.shape
    d_in = d_out
    if encoder is not None:
        _check_axes("W_enc", encoder)
        d_in = encoder.shape[0]
        if encoder.shape[1] != d_sae:
            shapes = f"W_enc is {list(encoder.shape)} and W_dec {list(decoder.shape)}"
            transposed = d_in == d_sae or encoder.shape[1] == d_out
            remedy = (
                "one of them is transposed: give its .T"
                if transposed
                else "they belong to different SAEs"
            )
            raise ValueError(
                f"{shapes}, but they must be [d_in, d_sae] and [d_sae, d_out]; {remedy}"
            )
    for name, width in {"b_enc": d_sae, "threshold": d_sae, "b_dec": d_out}.items():
        shape: Any = getattr(getattr(sae, name, None), "shape", ())
        if len(shape) == 1 and shape[0] != width:
            raise ValueError(
                f"{name} has {shape[0]} values, but by W_dec {list(decoder.shape)} it must have "
                f"{width}; the weights are of different SAEs, or W_enc and W_dec are transposed"
            )
    for name, width in {"d_in": d_in, "d_sae": d_sae, "d_out": d_out}.items():
        said = getattr(getattr(sae, "cfg", None), name, None)
        if isinstance(said, int) and said != width:
            raise ValueError(
                f"sae.cfg.{name} is {said}, but by its weights it is {width}; "
                "set the config to what the weights are, or load the SAE again"
            )


def _check_dtype(sae: Any) -> None:
    """Refuse an SAE whose weights were made smaller than what it casts its input to."""
    said, weights = getattr(sae, "dtype", None), sae.W_dec.dtype
    if isinstance(said, torch.dtype) and torch.promote_types(said, weights) != weights:
        raise ValueError(
            f"sae's weights are {weights}, but it casts its input to {said} (sae.dtype); "
            f"use sae.to(dtype={weights}), which changes both, in place of .half() or .bfloat16()"
        )


def _check_axes(name: str, weights: Any) -> None:
    shape = getattr(weights, "shape", None)
    if shape is None or len(shape) != 2:
        kind = type(weights).__name__ if shape is None else f"of shape {list(shape)}"
        raise ValueError(f"sae.{name} is {kind}; it must be a tensor with two axes")
    if not isinstance(weights, torch.Tensor):
        raise ValueError(f"sae.{name} is {in_words(weights)}; give torch.from_numpy(weights)")
    if not weights.is_floating_point() or weights.is_meta or weights.layout is not torch.strided:
        kind = "on device meta" if weights.is_meta else f"{weights.dtype}, {weights.layout}"
        raise ValueError(f"sae.{name} is {kind}; it must hold floats, in a dense tensor")
    if weights.numel() == 0:
        raise ValueError(f"sae.{name} is empty (shape {list(shape)}); an SAE has features")
