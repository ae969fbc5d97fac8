"""What an SAE reads and writes: the one place that decides, for any SAE and any model.

"The hook" of an SAE can be three different things: where its input is read, where its output takes
the place of the model's own activations, and, on some models, a second place where the residual
stream bypasses the first one. A ``Site`` holds all three, and how features come from the input.
Whatever is not supported is refused here, by name, before anything is computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from saework.core.errors import HookError
from saework.core.parts import check_model, check_sae
from saework.core.protocols import (
    Hook,
    HookedModel,
    SparseAutoencoder,
    hook_of,
    sae_architecture,
    sae_metadata,
)
from saework.engine.norm_edits import check_norm_edit

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
MID_BLOCK = re.compile(r"(blocks\.\d+)\.(ln[12]\.hook_in|hook_resid_mid)")
GATED_HOOKS = {"hook_mlp_in": "mlp.hook_in"}
"""Hooks that a bridge fires only on request, and the one that always has the values."""
SCALE_FREE = ("layer_norm", "constant_norm_rescale")
RESHAPING_STATE = ("reshape_fn_in", "reshape_fn_out", "d_head", "hook_z_reshaping_mode")
SCALING_STATE = ("x_norm_coeff", "ln_mu", "ln_std")


@dataclass(frozen=True)
class Site:
    """What one SAE reads and writes in one model."""

    sae: SparseAutoencoder
    reads: str
    """The hook of the SAE's input."""
    writes: str
    """The hook whose activations the SAE's output replaces; as ``reads``, but for a transcoder."""
    bypass: str | None
    """Where the stream comes back past ``writes``: a change must be added there too."""
    code: Code
    """How features come from the input."""
    d_in: int
    """Width of the input, heads taken together."""
    d_out: int
    """Width of the output."""
    d_sae: int
    """Number of features."""

    @property
    def is_transcoder(self) -> bool:
        """Whether the output stands for other activations than the input."""
        return self.reads != self.writes

    def check_width(self, hook: str, value: Float[Tensor, "batch pos *width"]) -> None:
        """Raises: HookError if activations at either hook are not as wide as the SAE's."""
        width = value[0, 0].numel()
        what, expected = ("reads", self.d_in) if hook == self.reads else ("writes", self.d_out)
        if width != expected:
            raise HookError(
                f"{hook} is {width} wide, but this SAE {what} {expected}; "
                "give the hook that the SAE was trained on"
            )

    def edit_hooks(self, edit: Callable[[Tensor, Tensor], Tensor]) -> list[Hook]:
        """Hooks that replace what the SAE writes; see ``edit_hooks``."""
        return edit_hooks(self.writes, edit, reads=self.reads, bypass=self.bypass)


def site_of(model: HookedModel | None, sae: SparseAutoencoder, hook: str | None = None) -> Site:
    """What an SAE reads and writes.

    Args:
        model: whose hooks are meant; None if only the SAE's own properties are asked for.
        sae: a ``sae_lens.SAE``, or an object with ``encode``, ``decode``, ``W_enc``, ``W_dec``.
        hook: where to read; the SAE's own by default. An SAE also writes there; a transcoder writes
            at the hook that its config names.

    Raises:
        HookError: if a hook is missing, or no edit there would reach the logits.
        ValueError: for an architecture or a property that is not supported.
    """
    check_sae(sae)
    if model is not None:
        check_model(model)
    own = hook_of(sae, hook)
    code = code_of(sae)
    reads = readable(model, own)
    writes = readable(model, _output_hook(sae, own))
    carrier, bypass = carrier_of(model, writes)
    check_norm_edit(model, carrier)
    reads = carrier if reads == writes and bypass is None else reads
    d_sae, d_out = sae.W_dec.shape
    return Site(
        sae=sae,
        reads=reads,
        writes=carrier,
        bypass=bypass,
        code=code,
        d_in=input_width(sae),
        d_out=d_out,
        d_sae=d_sae,
    )


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


def _output_hook(sae: SparseAutoencoder, own: str) -> str:
    """The hook that a transcoder's config names, or the SAE's own.

    Raises: ValueError for a transcoder that does not say where it writes.
    """
    if not is_transcoder(sae):
        return own
    output = sae_metadata(sae, "hook_name_out")
    if not output:
        raise ValueError(
            f"this transcoder reads {own}, but its config does not say where it writes; "
            "set sae.cfg.metadata.hook_name_out, such as 'blocks.0.hook_mlp_out'"
        )
    return output


def readable(model: HookedModel | None, hook: str) -> str:
    """The hook itself, or the one that always holds the same values.

    Raises: HookError for a hook that the model fires only after a setting was changed.
    """
    if model is None or hook not in model.hook_dict:
        return hook
    for ending, same in GATED_HOOKS.items():
        if not hook.endswith(f".{ending}"):
            continue
        always = hook.removesuffix(ending) + same
        if always in model.hook_dict:
            return always
        if not getattr(model.cfg, "use_hook_mlp_in", False):
            raise HookError(
                f"{hook} fires only after model.set_use_hook_mlp_in(True), and then holds the "
                "residual stream before the norm; give the hook that the SAE was trained on, "
                f"such as {hook.replace('hook_mlp_in', 'ln2.hook_normalized')}"
            )
    return hook


def carrier_of(model: HookedModel | None, hook: str) -> tuple[str, str | None]:
    """The hook to write at, and where the stream bypasses it.

    On a ``TransformerBridge`` the middle of a block is a point inside a branch (the input of its
    second norm, or of its MLP): the stream goes on past it, and comes back at the block's output.
    The input of a norm that reads the stream is written at the stream itself.
    """
    place = MID_BLOCK.fullmatch(hook)
    if model is None or place is None or hook not in model.hook_dict:
        return hook, None
    block, part = place.groups()
    points = model.hook_dict
    stream = f"{block}.hook_in"
    if stream not in points:  # a HookedTransformer, whose hooks are the stream itself
        return hook, None
    is_norm_input = part != "hook_resid_mid"
    if is_norm_input and getattr(model.cfg, "parallel_attn_mlp", False):
        return stream, None
    middle = points.get(f"{block}.hook_resid_mid")
    # else the norms follow the branches (OLMo 2), and read what these give
    norms_read_stream = middle is not None and middle is points.get(f"{block}.ln2.hook_in")
    if part == "ln1.hook_in":
        return (stream, None) if norms_read_stream else (hook, None)
    if is_norm_input and not norms_read_stream:
        return hook, None
    return hook, f"{block}.hook_out"


def edit_hooks(
    writes: str,
    edit: Callable[[Tensor, Tensor], Tensor],
    *,
    reads: str | None = None,
    bypass: str | None = None,
) -> list[Hook]:
    """Hooks that put ``edit(read, written)`` in the place of the activations at ``writes``.

    Args:
        writes: where activations are replaced.
        edit: takes the activations at ``reads`` and those at ``writes``; returns the new ones.
        reads: the hook of the SAE's input, which fires before ``writes``; the same by default.
        bypass: where the stream comes back past ``writes``: the change is added there as well.
    """
    kept: dict[str, Tensor] = {}  # from one hook to a later one, in each forward pass

    def read(value: Tensor, hook: Any) -> None:
        kept["read"] = value

    def write(value: Tensor, hook: Any) -> Tensor | None:
        if reads is not None and reads != writes and "read" not in kept:
            return None  # reported by the caller, since the reading hook never fired
        new = edit(kept.pop("read", value), value)
        if bypass is not None:
            kept["change"] = new - value
        return new

    def add_change(value: Tensor, hook: Any) -> Tensor:
        return value + kept.pop("change")

    hooks: list[Hook] = []
    if reads is not None and reads != writes:
        hooks.append((reads, read))
    hooks.append((writes, write))
    if bypass is not None:
        hooks.append((bypass, add_change))
    return hooks


@contextmanager
def unchanged(sae: Any) -> Iterator[None]:
    """Use an SAE, and leave it as it was: sae_lens keeps the last input's shape and scale on it.

    Within, an SAE of attention heads reads them already put together, ``[..., head * d_head]``.
    """
    state = vars(sae) if isinstance(sae, torch.nn.Module) else {}
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
        return sae.encode(x.flatten(2))


def skipped(sae: Any, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_out"] | None:
    """What a transcoder's skip connection adds to its output; None if it has none."""
    skip = getattr(sae, "W_skip", None)
    return None if skip is None else x.to(skip.dtype) @ skip.T
