"""What an SAE reads and writes: the one place that decides, for any SAE and any model.

"The hook" of an SAE can be three different things: where its input is read, where its output takes
the place of the model's own activations, and, on some models, a second place where the residual
stream bypasses the first one. A ``Site`` holds all three, and how features come from the input.
Whatever is not supported is refused here, by name, before anything is computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saework.core.errors import HookError
from saework.core.parts import check_model, check_sae
from saework.core.protocols import (
    Hook,
    HookedModel,
    SparseAutoencoder,
    hook_of,
    sae_metadata,
)
from saework.engine.architectures import (
    Code,
    code_of,
    input_width,
    is_transcoder,
)
from saework.engine.norm_edits import check_norm_edit

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


MID_BLOCK = re.compile(r"(blocks\.\d+)\.(ln[12]\.hook_in|hook_resid_mid)")
GATED_HOOKS = {"hook_mlp_in": "mlp.hook_in"}
"""Hooks that a bridge fires only on request, and the one that always has the values."""


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
