"""What lies between a hook and the logits, found by what the model's parts do, not by their names.

Architectures name their norms differently: the norm after an MLP is ``ln2_post`` in Gemma 2 and
``ln2`` in OLMo 2, and some norms store their weight less one. So each part is tried on numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from saework.core.errors import HookError
from saework.engine.forward import capture, never_fired
from saework.engine.left_out import check_has_logits, unknown_hook
from saework.engine.unembedding import a_few_tokens, agree

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from saework.core.protocols import Hook, HookedModel

# Hooks in the residual stream, or whose value is added to it as it is.
RESIDUAL = re.compile(
    r"(pos_)?embed\.hook_out"
    r"|hook_(pos_)?embed"
    r"|blocks\.\d+\.hook_(resid_(pre|mid|post)|mlp_out|attn_out|in|out)"
    r"|blocks\.\d+\.ln[12]_post\.hook_out"
)
# Hooks inside a branch of a block; "hidden" ones are before the MLP's W_out, "heads" before W_O.
BRANCH = re.compile(
    r"blocks\.(?P<layer>\d+)\."
    r"((?P<hidden>mlp\.(hook_post|out\.hook_in))|(?P<heads>attn\.(hook_z|o\.hook_in))"
    r"|mlp\.(out\.)?hook_out|attn\.(o\.)?hook_out)"
)
NORM_NAMES = ("ln2_post", "ln1_post", "ln2", "ln1")

# Of each model: from a hook in a branch to how the branch joins the stream.
_joins: WeakKeyDictionary[Any, dict[str, _Join]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Norm:
    """What a norm does to a direction, but for its scale, which depends on the token."""

    weight: Float[Tensor, " d_model"]
    centres: bool
    """Whether it subtracts the mean first (LayerNorm)."""

    def of_direction(
        self, direction: Float[Tensor, "*feature d_model"]
    ) -> Float[Tensor, "*feature d_model"]:
        """The direction behind the norm."""
        return self.centred(direction) * self.weight

    def of_reader(
        self, reader: Float[Tensor, "*feature d_model"]
    ) -> Float[Tensor, "*feature d_model"]:
        """What a reader behind the norm reads before it."""
        return self.centred(reader * self.weight)

    def centred(
        self, direction: Float[Tensor, "*feature d_model"]
    ) -> Float[Tensor, "*feature d_model"]:
        """The direction less its mean, if the norm subtracts it."""
        if not self.centres:
            return direction
        return direction - direction.mean(-1, keepdim=True)


@dataclass(frozen=True)
class _Join:
    """How a branch is added to the residual stream."""

    norm_name: str | None
    """The block's norm that it goes through first."""
    factor: float = 1.0
    """What it is multiplied by (Granite)."""


@torch.no_grad()
def direct_path(
    model: HookedModel, hook: str
) -> tuple[Float[Tensor, "width d_model"] | None, list[Norm]]:
    """From a hook to the unembedding's input.

    The first call for a hook inside a branch runs the model twice on four tokens.

    Returns:
        ``W_out`` or ``W_O`` of the hook's layer, None where the path does not go through it; and
        the norms that follow, in their order.

    Raises:
        HookError: the hook does not write to the residual stream, or in a way that is not known.
    """
    check_has_logits(model)
    branch = BRANCH.fullmatch(hook)
    if branch is None and not RESIDUAL.fullmatch(hook):
        raise HookError(
            f"{hook} does not write to the residual stream, so it has no direct path to the "
            "logits; use an MLP, attention-output or residual hook"
        )
    layer = -1 if branch is None else int(branch["layer"])
    # in a block that is there, it is said below what the block lacks
    if hook not in model.hook_dict and not 0 <= layer < len(model.blocks):
        raise unknown_hook(model, hook)
    norms = []
    w_out = None
    if branch is not None:
        if branch["hidden"]:
            w_out = _weights(model, hook, layer, "mlp", "W_out")
        if branch["heads"]:
            w_out = _weights(model, hook, layer, "attn", "W_O")
            w_out = w_out.reshape(-1, w_out.shape[-1])
        norms += _norms_of_branch(model, hook, layer, w_out)
    final_norm = getattr(model, "ln_final", None)
    if final_norm is not None:
        norms.append(_norm_of(final_norm, model, "ln_final"))
    return w_out, norms


def _weights(model: HookedModel, hook: str, layer: int, part: str, name: str) -> Tensor:
    """One layer's weights. ``model.W_out`` would stack, and so copy, those of every layer.

    Raises:
        HookError: this block has none (a hybrid model's linear attention, a mixture of experts).
    """
    weights = getattr(getattr(model.blocks[layer], part, None), name, None)
    if weights is None:
        raise HookError(
            f"{hook} has no direct path to the logits: block {layer} of this model has no "
            f"{part}.{name}; use a hook of the branch's output or of the residual stream"
        )
    return weights


def _norms_of_branch(
    model: HookedModel,
    hook: str,
    layer: int,
    w_out: Tensor | None,
) -> list[Norm]:
    """What lies between a branch and the stream; a factor stands as a norm's weight."""
    known = _joins.setdefault(model, {})
    if hook not in known:
        known[hook] = _join_of(model, hook, layer, w_out)
    join = known[hook]
    if join.norm_name is not None:
        block = model.blocks[layer]
        module = getattr(block, join.norm_name)
        return [_norm_of(module, model, f"blocks.{layer}.{join.norm_name}")]
    if join.factor == 1:
        return []
    ones = torch.ones_like(model.W_U[:, 0])
    weight = join.factor * ones
    return [Norm(weight, centres=False)]


def _norm_of(module: Any, model: HookedModel, name: str) -> Norm:
    """What a norm does, by its values at a few points.

    Raises:
        HookError: it is neither a LayerNorm nor an RMSNorm, nor a product with weights.
    """
    ones = torch.ones_like(model.W_U[:, 0])
    # So large that the norm's epsilon is rounded away, and a power of two, which adds no rounding.
    constant = 1024 * ones
    signs = ones.clone()
    # of both signs, so that a norm that subtracts the mean leaves them as they are
    signs[1::2] = -1
    large = 1024 * signs
    at_large = _odd_part(module, large)
    at_larger = _odd_part(module, 2 * large)
    at_constant = _odd_part(module, constant)
    growth = at_larger - at_large
    rounding = at_large.abs().max() / 1000
    centres = bool(at_constant.abs().max() <= rounding)
    has_scale = bool(growth.abs().max() <= rounding)
    plain = Norm(ones, centres)
    weight = at_large / _without_weight(plain, large, has_scale)
    drawn = 1024 * _drawn_like(ones)
    at_drawn = _odd_part(module, drawn)
    expected = weight * _without_weight(plain, drawn, has_scale)
    if not agree(at_drawn, expected, drawn.dtype):
        raise HookError(
            f"{name} of this model is neither a LayerNorm nor an RMSNorm, so the direct path "
            "through it to the logits is not known. Measure the effect on the logits with "
            "steer_kl or reconstruction_metrics"
        )
    return Norm(weight, centres)


def _odd_part(module: Any, x: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    """``(norm(x) - norm(-x)) / 2``: without the bias."""
    rows = torch.stack([x, -x])
    plus, minus = module(rows[None])[0]
    return (plus - minus) / 2


def _without_weight(norm: Norm, x: Tensor, has_scale: bool) -> Tensor:
    """What the norm would give for ``x`` if its weight were 1."""
    centred = norm.centred(x)
    if not has_scale:
        return centred
    mean_square = centred.pow(2).mean()
    return centred / mean_square.sqrt()


def _drawn_like(x: Float[Tensor, " width"]) -> Float[Tensor, " width"]:
    """Normal numbers, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(len(x), generator=generator)
    return drawn.to(x)


def _join_of(model: HookedModel, hook: str, layer: int, w_out: Tensor | None) -> _Join:
    """How a branch joins the stream, from what an added direction does to the block's output.

    Raises:
        HookError: nothing known fits.
    """
    clean = _BlockRun.of(model, layer, [])
    hooks: list[Hook] = []
    outputs = (f"blocks.{layer}.mlp.hook_out", f"blocks.{layer}.hook_mlp_out")
    mlp_output = next((name for name in outputs if name in model.hook_dict), None)
    if ".attn." in hook and mlp_output is not None:
        # the MLP reads what attention writes; only the direct path counts
        kept = capture(model, a_few_tokens(model), mlp_output, [])
        hooks.append((mlp_output, lambda value, hook: kept))
    added: list[Tensor] = []

    def add(value: Tensor, hook: object) -> Tensor:
        direction = _large_direction(value, clean.output)
        added.append(direction if w_out is None else direction.flatten() @ w_out)
        return value + direction

    hooks.insert(0, (hook, add))
    edited = _BlockRun.of(model, layer, hooks)
    if not added:
        raise never_fired(hook)
    (direction,) = added
    same = partial(agree, dtype=model.W_U.dtype)
    change = _change(clean.output, edited.output)
    if same(change, direction):
        return _Join(None)
    factor = change @ direction / direction.pow(2).sum()
    if same(change, factor * direction):
        return _Join(None, float(factor))
    for name, clean_output in clean.norm_outputs.items():
        read = _change(clean.norm_inputs[name], edited.norm_inputs[name])
        written = _change(clean_output, edited.norm_outputs[name])
        if same(read, direction) and same(change, written):
            return _Join(name)
    raise HookError(
        f"how {hook} of this {type(model).__name__} is added to the residual stream is not known, "
        f"so it has no known direct path to the logits; use a hook of the stream, such as "
        f"blocks.{layer}.hook_out"
    )


def _change(clean: Tensor, edited: Tensor) -> Tensor:
    """The difference at the last token."""
    change = edited - clean
    return change[0, -1]


def _large_direction(value: Tensor, stream: Tensor) -> Tensor:
    """A direction at the hook that rounding in the stream cannot hide."""
    at_hook = value[0, -1]
    in_stream = stream[0, -1]
    size = torch.maximum(at_hook.abs().max(), in_stream.abs().max())
    drawn = _drawn_like(at_hook.flatten())
    return size * drawn.reshape(at_hook.shape)


@dataclass
class _BlockRun:
    """A block's output on a few tokens, and what its norms read and gave."""

    output: Tensor
    norm_inputs: dict[str, Tensor]
    norm_outputs: dict[str, Tensor]

    @classmethod
    def of(cls, model: HookedModel, layer: int, hooks: list[Hook]) -> _BlockRun:
        """Run the model as far as the block's output."""
        run = cls(torch.empty(0), {}, {})
        block = model.blocks[layer]
        handles = []
        for name in NORM_NAMES:
            module = getattr(block, name, None)
            if isinstance(module, torch.nn.Module):
                keep = partial(run._keep, name)
                handle = module.register_forward_hook(keep)
                handles.append(handle)
        names = [
            f"blocks.{layer}.hook_out",
            f"blocks.{layer}.hook_resid_post",
        ]
        output_name = next(name for name in names if name in model.hook_dict)
        try:
            run.output = capture(model, a_few_tokens(model), output_name, hooks)
        finally:
            for handle in handles:
                handle.remove()
        return run

    def _keep(self, name: str, module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.norm_inputs[name] = args[0]
        self.norm_outputs[name] = output
