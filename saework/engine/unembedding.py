"""The model's last step, from final states to logits, and a check that it is the model's own.

The last step is ``hidden @ W_U + b_U`` and then what the architecture does to its logits: a soft
cap (Gemma 2), a scale (Granite, Cohere, Falcon-H1). Each logit must depend on its own column of
``W_U`` only, so that a block of the vocabulary can be computed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from saework.engine.left_out import check_has_logits
from saework.engine.one_thread import hooked
from saework.engine.products import product

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from saework.core.protocols import HookedModel

    Transform = Callable[[Tensor], Tensor]

UNEMBED_INPUT = "unembed.hook_in"
VOCAB_BLOCK = 2048
TOKENS_COMPARED = 4
# The largest difference that rounding may make, as a share of the largest logit.
TOLERANCE = 1e-3
TOLERANCE_OF_HALF_PRECISION = 3e-2

# Of each model that was compared: the weights it then had, and its transform.
_compared: WeakKeyDictionary[Any, tuple[object, Transform]] = WeakKeyDictionary()


def logits_transform(model: HookedModel) -> Transform:
    """What the model does to each logit after the unembedding.

    The first call for a model runs it on four tokens, and compares its logits with those that are
    rebuilt from the unembedding's input. An object that is no torch module is not compared.

    Returns:
        Float32 logits of any part of the vocabulary to the model's logits. It may change its
        argument in place.

    Raises:
        ValueError: the rebuilt logits are not the model's own.
    """
    if not isinstance(model, torch.nn.Module):
        return _soft_cap(model)
    check_has_logits(model)
    weights = _state_of_weights(model)
    compared_weights, transform = _compared.get(model, (None, None))
    if transform is None or compared_weights != weights:
        transform = _transform_that_fits(model)
        _compared[model] = weights, transform
    return transform


def unembedded(
    hidden: Float[Tensor, "*batch d_model"],
    weights: Float[Tensor, "d_model vocab"],
    bias: Float[Tensor, " vocab"],
    transform: Transform,
) -> Float[Tensor, "*batch vocab"]:
    """Logits of the part of the vocabulary that the weights belong to, float32."""
    flat = hidden.flatten(0, -2)
    logits = product(flat.to(weights.dtype), weights, bias).float()
    logits = logits.reshape(*hidden.shape[:-1], -1)
    return transform(logits)


def _state_of_weights(model: HookedModel) -> object:
    """Equal for as long as nobody changes or replaces the unembedding."""
    weights = model.W_U
    n_changes = 0 if weights.is_inference() else weights._version
    return weights.data_ptr(), n_changes, _cap(model)


@torch.no_grad()
def _transform_that_fits(model: HookedModel) -> Transform:
    """The first known transform that gives the model's own logits."""
    hidden, own_logits = _a_few_logits(model)
    differences = []
    for transform in _known_transforms(model):
        rebuilt = _rebuilt(model, hidden, transform)
        if rebuilt.shape != own_logits.shape:
            raise ValueError(
                f"this model gives {own_logits.shape[-1]} logits, but its W_U has "
                f"{rebuilt.shape[-1]} columns. {_not_known(model)}"
            )
        if agree(rebuilt, own_logits, model.W_U.dtype):
            return transform
        differences.append(float((rebuilt - own_logits).abs().max()))
    raise ValueError(
        f"this model's logits are not hidden @ W_U + b_U with a known scale or soft cap: they "
        f"differ by up to {min(differences):.3g}. {_not_known(model)}"
    )


def _not_known(model: HookedModel) -> str:
    return (
        f"What {type(model).__name__} does after its unembedding is not known here, so no loss, "
        "score or divergence can be computed; use activations, features and scans, which do not "
        "need logits, or a model class whose last step TransformerLens describes "
        "(adapter.apply_output_logits_transform)"
    )


def _a_few_logits(model: HookedModel) -> tuple[Tensor, Tensor]:
    """The unembedding's input of a few tokens, and the model's own logits in float32."""
    captured = []

    def keep(value: Tensor, hook: object) -> None:
        captured.append(value)

    tokens = a_few_tokens(model)
    with hooked(model, [(UNEMBED_INPUT, keep)]):
        logits = model(tokens, return_type="logits")
    return captured[0], logits.float()


def a_few_tokens(model: HookedModel) -> Int[Tensor, "1 pos"]:
    """A short row to try the model on."""
    n_tokens = min(TOKENS_COMPARED, model.cfg.n_ctx)
    d_vocab = model.cfg.d_vocab
    # from the middle of the vocabulary: the ends have special and padding tokens
    first = d_vocab // 2
    ids = torch.arange(first, first + n_tokens)
    tokens = (ids % d_vocab)[None]
    return tokens.to(model.W_U.device)


def _rebuilt(model: HookedModel, hidden: Tensor, transform: Transform) -> Tensor:
    """Logits in blocks of the vocabulary, as they are computed for losses."""
    blocks = []
    for first in range(0, model.W_U.shape[1], VOCAB_BLOCK):
        vocab = slice(first, first + VOCAB_BLOCK)
        block = unembedded(
            hidden,
            weights=model.W_U[:, vocab],
            bias=model.b_U[vocab],
            transform=transform,
        )
        blocks.append(block)
    return torch.cat(blocks, dim=-1)


def agree(rebuilt: Tensor, own: Tensor, dtype: torch.dtype) -> bool:
    """Whether two tensors are the same but for rounding in this dtype; NaN equals NaN."""
    is_half = dtype.itemsize < 4
    share = TOLERANCE_OF_HALF_PRECISION if is_half else TOLERANCE
    finite = own[own.isfinite()]
    largest = float(finite.abs().max()) if len(finite) else 0.0
    return torch.allclose(
        rebuilt,
        own,
        rtol=0,
        atol=share * largest,
        equal_nan=True,
    )


def _known_transforms(model: HookedModel) -> list[Transform]:
    """The adapter's own, if its architecture has one; then the soft cap alone.

    An adapter's scale may have been folded into ``W_U`` already (Cohere, in compatibility mode).
    """
    adapter = getattr(model, "adapter", None)
    if adapter is None:
        return [_soft_cap(model)]
    # importing it makes modules, which nothing may do before there is a model
    from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter

    name = "apply_output_logits_transform"
    own = getattr(type(adapter), name, None)
    if own is None or own is getattr(ArchitectureAdapter, name):
        return [_soft_cap(model)]
    return [adapter.apply_output_logits_transform, _soft_cap(model)]


def _cap(model: HookedModel) -> float | None:
    return getattr(model.cfg, "output_logits_soft_cap", None)


def _soft_cap(model: HookedModel) -> Transform:
    """``cap * tanh(logit / cap)`` where the model has a cap (Gemma 2)."""
    cap = _cap(model)
    if cap is None or cap <= 0:
        return lambda logits: logits
    return lambda logits: logits.div_(cap).tanh_().mul_(cap)
