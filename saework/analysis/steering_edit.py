"""The edit of a steered model, as hooks: what is added to the activations, where and how much."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from saework.core.argument_kinds import checked
from saework.core.arguments import check_feature, check_finite
from saework.core.errors import HookError
from saework.core.protocols import HookedModel, SparseAutoencoder
from saework.engine.architectures import check_reconstructs, decoder_rows
from saework.engine.encoder import Encoder, encode_columns, token_scale
from saework.engine.site import site_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from saework.core.protocols import Hook

MODES = ("add", "clamp")
SITES = ("corrected", "published")
LAYER_INPUT = re.compile(r"blocks\.(\d+)\.(hook_resid_pre|hook_in)")
LAYER_OUTPUT = re.compile(r"blocks\.(\d+)\.(hook_resid_post|hook_out)")


@checked
def steering_hooks(
    model: HookedModel,
    sae: SparseAutoencoder,
    feature: int,
    *,
    strength: float,
    mode: str = "add",
    error_term: bool = True,
    site: str = "corrected",
    direction: str | Float[Tensor, " d_in"] | None = None,
    hook: str | None = None,
    seed: int = 0,
) -> list[Hook]:
    """The edit as hooks: ``out = base + delta * direction`` at every position.

    Args:
        model: whose hooks are meant.
        sae: the SAE.
        feature: the feature's number.
        strength: in mode ``"add"``, ``delta``. In mode ``"clamp"``, the activation that the
            feature is set to: ``delta = strength - activation of the feature``, times the
            token's scale for SAEs that rescale each token (``layer_norm``).
        mode: ``"add"`` or ``"clamp"``.
        error_term: base is the activations themselves; if False, the SAE's reconstruction of
            them. With it, strength 0 in mode add at the corrected site changes no bit.
        site: ``"corrected"`` edits the activations at the hook. ``"published"`` is qresearch's:
            what was read at a layer's input is returned, edited, as that layer's *output*, so the
            layer is skipped, even at strength 0.
        direction: None for the feature's own decoder row; ``"random"`` for a Gaussian one
            of the same norm, drawn on the CPU with ``seed``; or a tensor, taken as it is.
        hook: the SAE's own by default.
        seed: of the random direction.

    Returns:
        For ``model.hooks(fwd_hooks=...)``.

    Raises:
        ValueError: for a value that is not allowed.
        HookError: if the published site is asked for at a hook that is not a layer's input.

    Source: the steering cells of qresearch's notebook for Llama-3.2-1B-Instruct-SAE-l9, 22 January
    2025.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> ((hook, edit),) = steering_hooks(book.model, book.sae, 985, strength=2.0)
    >>> hook, torch.equal(edit(torch.zeros(1, 1, 512), hook=None)[0, 0], 2 * book.sae.W_dec[985])
    ('blocks.0.mlp.hook_post', True)
    """
    where = site_of(model, sae, hook)
    feature = check_feature(feature, where.d_sae)
    check_reconstructs(sae)
    _check_settings(strength, mode, error_term, site)
    _check_fits(strength, sae.W_dec.dtype)
    edit = _Edit(
        sae=sae,
        feature=feature,
        strength=float(strength),
        clamp=mode == "clamp",
        error_term=error_term,
        direction=_direction(sae, feature, direction, seed).detach(),
    )
    if site == "corrected":
        plain = not where.is_transcoder and where.bypass is None
        return [(where.writes, edit)] if plain else where.edit_hooks(edit.of)
    if where.is_transcoder:
        raise ValueError(
            f"site='published' edits what is read, and this transcoder writes at {where.writes}; "
            "give site='corrected'"
        )
    return _skipping_hooks(model, where.reads, edit)


@dataclass(frozen=True, eq=False, repr=False)  # TransformerLens takes the repr of each hook
class _Edit:
    """Edits activations ``[batch, pos, ...]``; axes after ``pos`` (heads) are read as one."""

    sae: SparseAutoencoder
    feature: int
    strength: float
    clamp: bool
    error_term: bool
    direction: Tensor

    def __call__(self, x: Tensor, hook: Any = None) -> Tensor:
        """The edited activations, in the dtype of those given."""
        return self.of(x, x)

    def of(self, read: Tensor, written: Tensor) -> Tensor:
        """The same where an SAE reads one hook and writes another."""
        base = written
        if not self.error_term:
            base = Encoder(self.sae).reconstruct(read).x_hat.reshape(written.shape)
        delta = self._delta(read)
        step = delta[..., None] * self.direction.to(written.device)
        return (base + step.reshape(written.shape)).to(written.dtype)

    def _delta(self, x: Tensor) -> Tensor:
        """How much of the direction is added, ``[batch, pos]``, in the SAE's dtype."""
        delta = torch.full(x.shape[:2], self.strength, device=x.device, dtype=self.direction.dtype)
        if not self.clamp:
            return delta
        delta = delta - encode_columns(self.sae, x, self.feature).to(delta)
        scale = token_scale(self.sae, x)
        return delta if scale is None else delta * scale[..., 0].to(delta)


def _check_settings(strength: Any, mode: Any, error_term: Any, site: Any) -> None:
    """Raises ValueError for a value that is not allowed."""
    is_number = isinstance(strength, numbers.Real) and not isinstance(strength, bool)
    if not is_number or not math.isfinite(strength):
        raise ValueError(
            f"strength is {strength!r}; give a finite number, such as 3.0 (in units of the SAE's "
            "activations)"
        )
    _check_one_of("mode", mode, MODES)
    _check_one_of("site", site, SITES)
    _check_one_of("error_term", error_term, (True, False))


def _check_fits(strength: float, dtype: torch.dtype) -> None:
    """Raises ValueError for a strength beyond the dtype, or whose square float32 cannot hold."""
    # a norm squares what it reads: of infinity it would make zeros
    largest = min(torch.finfo(dtype).max, math.sqrt(torch.finfo(torch.float32).max))
    if abs(float(strength)) > largest:
        raise ValueError(
            f"strength is {strength!r}, and with {dtype} nothing above {largest:.3g} can be "
            "computed; give a smaller one, such as 100"
        )


def _check_one_of(name: str, value: Any, allowed: tuple) -> None:
    # the type too, because 1 == True
    if not isinstance(value, type(allowed[0])) or value not in allowed:
        raise ValueError(f"{name} is {value!r}; give one of {', '.join(map(repr, allowed))}")


def _direction(sae: SparseAutoencoder, feature: int, direction: Any, seed: int) -> Tensor:
    """What one unit of the edit adds, ``[d_in]``, in the SAE's dtype."""
    own = check_finite(decoder_rows(sae, feature), f"the decoder direction of feature {feature}")
    if direction is None:
        return own
    if isinstance(direction, str) and direction == "random":
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(len(own), generator=generator)
        length = own.float().norm().cpu()
        return (drawn * (length / drawn.norm())).to(own)
    if not isinstance(direction, torch.Tensor):
        raise ValueError(
            f"direction is {direction!r}; give None (the feature's own), 'random', or a tensor "
            f"[{len(own)}]"
        )
    if direction.shape != own.shape or not direction.dtype.is_floating_point:
        raise ValueError(
            f"direction is {direction.dtype} of shape {tuple(direction.shape)}; "
            f"this SAE needs floats of shape ({len(own)},)"
        )
    if not direction.isfinite().all() or not direction.any():
        raise ValueError(
            "direction is zero everywhere, or not finite, which steers nowhere; give one such as "
            "sae.W_dec[feature]"
        )
    return direction.to(own)


def _skipping_hooks(model: HookedModel, hook: str, edit: Callable) -> list[Hook]:
    """Read at a layer's input, and write the edited input as that layer's output."""
    layer = _layer_after(hook)
    n_layers = model.cfg.n_layers
    if layer is None or layer >= n_layers:
        raise HookError(
            f"{hook} is not the input of one of this model's {n_layers} layers, so "
            "site='published' has no layer to skip; give site='corrected', or "
            "hook='blocks.L.hook_resid_pre'"
        )
    outputs = (f"blocks.{layer}.hook_out", f"blocks.{layer}.hook_resid_post")
    out = next(name for name in outputs if name in model.hook_dict)
    edited = []  # from the reading hook to the writing one, in each forward pass

    def read(value: Tensor, hook: Any) -> None:
        edited.append(edit(value))

    def write(value: Tensor, hook: Any) -> Tensor | None:
        # a reading hook that never fired is reported by generate()
        return edited.pop() if edited else None

    return [(hook, read), (out, write)]


def _layer_after(hook: str) -> int | None:
    """The layer whose input the hook holds: a layer's output is the next one's input."""
    if match := LAYER_INPUT.fullmatch(hook):
        return int(match[1])
    if match := LAYER_OUTPUT.fullmatch(hook):
        return int(match[1]) + 1
    return None
