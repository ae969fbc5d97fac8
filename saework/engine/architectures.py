"""What an SAE is by itself, of whatever architecture: how it encodes, and what a feature writes.

The architectures of sae_lens that are supported are listed here. Any other is refused by name,
before anything is computed. Where an SAE reads and writes in a model is in ``site``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

from saework.core.protocols import SparseAutoencoder, sae_architecture, sae_metadata
from saework.engine.one_thread import lock_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

Code = Literal["per feature", "joint", "over positions"]
"""How features come from the input.

``per feature``: each from its own encoder column. ``joint``: they compete on one token (TopK).
``over positions``: earlier tokens of the row matter too (temporal).
"""
CODES: dict[str, Code] = {
    "standard": "per feature",
    "jumprelu": "per feature",
    "gated": "per feature",
    "transcoder": "per feature",
    "skip_transcoder": "per feature",
    "jumprelu_transcoder": "per feature",
    "jumprelu_skip_transcoder": "per feature",
    "topk": "joint",
    "abstopk": "joint",
    "matching_pursuit": "joint",
    "temporal": "over positions",
}
"""The architectures of sae_lens 6 that are supported."""
TRAINING_ONLY = ("batchtopk", "matryoshka_batchtopk")
"""Here the features of a token depend on the other tokens of its batch, so no number is its own."""
ONE_PRODUCT = (
    "standard",
    "jumprelu",
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)
"""Architectures whose encoder is one product, a bias, ReLU, and a threshold if there is one."""
METHODS = ("encode", "decode", "process_sae_in", "run_time_activation_norm_fn_out")
"""Of sae_lens's SAEs, whose steps are written out in ``Encoder``."""
SCALE_FREE = ("layer_norm", "constant_norm_rescale")
RESHAPING_STATE = ("reshape_fn_in", "reshape_fn_out", "d_head", "hook_z_reshaping_mode")
SCALING_STATE = ("x_norm_coeff", "ln_mu", "ln_std")


def code_of(sae: SparseAutoencoder) -> Code:
    """How features come from the input; an object without a config is always encoded whole.

    Raises: ValueError for an architecture that is not supported, one for training alone, or an
        input that was whitened in training.
    """
    architecture = sae_architecture(sae)
    if architecture is None:
        return "joint"
    if architecture in TRAINING_ONLY:
        raise ValueError(
            f"this SAE is a {architecture} in its training form, in which a token's features "
            "depend on the other tokens of its batch; "
            "save it with sae.save_inference_model(folder), which keeps the trained threshold, "
            "and load that with sae_lens.SAE.load_from_disk"
        )
    if architecture not in CODES:
        raise ValueError(
            f"the architecture {architecture!r} is not known here; known are {', '.join(CODES)}. "
            "Give an object of your own with encode, decode, W_enc and W_dec (and no cfg), "
            "whose encode depends on each token alone"
        )
    if getattr(getattr(sae, "cfg", None), "normalize_activations", None) == "covariance_whitening":
        raise ValueError(
            "this SAE was trained on whitened activations, and its weights still read them "
            "(normalize_activations is 'covariance_whitening'); "
            "call sae.fold_activation_whitening(...) with the matrices of its training first"
        )
    return CODES[architecture]


def is_one_product(sae: Any) -> bool:
    """Whether an SAE's steps are those of ``ONE_PRODUCT``: sae_lens's own methods, unchanged.

    Not if a subclass or the object has a method of its own, or its activation function was
    replaced: then its own ``encode`` and ``decode`` say what it does.
    """
    if sae_architecture(sae) not in ONE_PRODUCT or not has_methods_of_sae_lens(sae):
        return False
    return type(getattr(sae, "activation_fn", None)) is torch.nn.ReLU


def has_methods_of_sae_lens(sae: Any) -> bool:
    """Whether neither a subclass nor the object has replaced one of ``METHODS``."""
    modules = [getattr(getattr(sae, name, None), "__module__", "") for name in METHODS]
    return all(module.startswith("sae_lens.") for module in modules)


def input_width(sae: SparseAutoencoder) -> int:
    """The width that an SAE reads."""
    return encoder_columns(sae).shape[0]


def encoder_columns(sae: SparseAutoencoder) -> Float[Tensor, "d_in d_sae"]:
    """``W_enc``; an SAE with tied weights has none, and reads with its decoder rows."""
    encoder = getattr(sae, "W_enc", None)
    return sae.W_dec.T if encoder is None else encoder


def is_transcoder(sae: SparseAutoencoder) -> bool:
    """Whether the SAE's output stands for other activations than its input."""
    return "transcoder" in (sae_architecture(sae) or "")


def scales_input(sae: SparseAutoencoder) -> bool:
    """Whether an SAE brings each token's input to one norm itself, whatever norm it has."""
    config = getattr(sae, "cfg", None)
    return getattr(config, "normalize_activations", None) in SCALE_FREE


def reconstructs(sae: SparseAutoencoder) -> bool:
    """Whether the output stands for activations (not for one layer of a cross-layer transcoder)."""
    return not sae_metadata(sae, "decoder_summed_over_layers")


def check_single_tokens(sae: SparseAutoencoder) -> None:
    """Raises: ValueError for an SAE that needs whole rows (temporal)."""
    if code_of(sae) == "over positions":
        raise ValueError(
            f"the features of a {sae_architecture(sae)} SAE depend on earlier tokens of the "
            "row, so single tokens cannot be encoded or decoded; "
            "feature_activations and active_features encode whole rows"
        )


def check_reconstructs(sae: SparseAutoencoder) -> None:
    """Refuse to put an SAE's output in the place of activations that it does not stand for.

    Raises: ValueError for one layer of a cross-layer transcoder, and as ``check_single_tokens``.
    """
    check_single_tokens(sae)
    if reconstructs(sae):
        return
    raise ValueError(
        "this SAE is one layer of a cross-layer transcoder: its features write in every later "
        "layer, and each layer's output is the sum over the layers before it (its config says "
        "decoder_summed_over_layers). Alone it does not reconstruct any layer, and cannot be "
        "spliced, steered with or ablated. scan, feature_activations, active_features and "
        "logit_effect are right for it"
    )


@contextmanager
def unchanged(sae: Any) -> Iterator[None]:
    """Use an SAE, and leave it as it was: sae_lens keeps the last input's shape and scale on it.

    Within, an SAE of attention heads reads them already put together, ``[..., head * d_head]``.
    """
    state = vars(sae) if isinstance(sae, torch.nn.Module) else {}
    if not state:
        yield
        return
    with lock_of(sae):
        yield from _kept(sae, state)


def _kept(sae: Any, state: dict[str, Any]) -> Iterator[None]:
    """``unchanged`` of a torch module, whose attributes are ``state``."""
    kept = {name: state[name] for name in (*RESHAPING_STATE, *SCALING_STATE) if name in state}
    if getattr(sae, "hook_z_reshaping_mode", False):
        sae.turn_off_forward_pass_hook_z_reshaping()
    try:
        yield
    finally:
        for name in (*RESHAPING_STATE, *SCALING_STATE):
            if name in kept:
                state[name] = kept[name]
            else:
                state.pop(name, None)


def row_scale(sae: SparseAutoencoder) -> Float[Tensor, " d_sae"] | None:
    """What a feature's activation is multiplied with before its decoder row; None where it is 1.

    With ``rescale_acts_by_decoder_norm``, activations count units of a decoder row of norm one.
    With ``constant_scalar_rescale``, they count units of an input that was multiplied first.
    """
    config: Any = getattr(sae, "cfg", None)
    if getattr(config, "rescale_acts_by_decoder_norm", False):
        return 1 / sae.W_dec.norm(dim=-1)
    if getattr(config, "normalize_activations", None) == "constant_scalar_rescale":
        return torch.full_like(sae.W_dec[:, 0], 1 / config.activation_normalization_factor)
    return None


def decoder_rows(
    sae: SparseAutoencoder, features: int | list[int] | Bool[Tensor, " d_sae"] | slice
) -> Float[Tensor, "*feature d_out"]:
    """What one unit of a feature's activation adds to what the SAE writes, ``[feature, d_out]``.

    An SAE that rescales its input by each token's norm (``layer_norm``, ``constant_norm_rescale``)
    adds this times the token's scale.
    """
    rows = sae.W_dec[features]
    scale = row_scale(sae)
    return rows if scale is None else rows * scale[features].unsqueeze(-1)


def encode(
    sae: SparseAutoencoder, x: Float[Tensor, "batch pos *width"]
) -> Float[Tensor, "batch pos d_sae"]:
    """All features of whole rows; axes after ``pos`` (heads) are read as one."""
    with unchanged(sae):
        features = sae.encode(x.flatten(2))
    return check_output("encode", features, (*x.shape[:2], sae.W_dec.shape[0]))


def check_output(name: str, output: Any, shape: tuple[int, ...]) -> Tensor:
    """Refuse what an SAE's own method gave, if it is not real numbers of this shape.

    Args:
        name: of the method, ``encode`` or ``decode``.
        output: what it gave.
        shape: of its first axes.

    Raises:
        ValueError: it is something else; the message says what came.
    """
    if not isinstance(output, torch.Tensor) or not output.is_floating_point():
        kind = getattr(output, "dtype", type(output).__name__)
        raise ValueError(f"sae.{name} gave {kind}; it must give a tensor of floats")
    if output.layout is not torch.strided:
        raise ValueError(f"sae.{name} gave a sparse tensor; it must give a dense one (.to_dense())")
    if tuple(output.shape[: len(shape)]) != shape:
        width = "d_sae" if name == "encode" else "d_out"
        wanted = ", ".join(map(str, shape))
        raise ValueError(
            f"sae.{name} gave shape {tuple(output.shape)}; here it must give ({wanted}): "
            f"a row for each token, with {width} as in W_dec"
        )
    return output


def skipped(sae: Any, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_out"] | None:
    """What a transcoder's skip connection adds to its output; None if it has none."""
    skip = getattr(sae, "W_skip", None)
    return None if skip is None else x.to(skip.dtype) @ skip.T
