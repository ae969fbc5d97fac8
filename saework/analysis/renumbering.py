"""Permute or select an SAE's features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from saework.core.argument_kinds import checked
from saework.core.arguments import as_tensor, check_feature
from saework.core.errors import in_words
from saework.core.parts import ONLY_WEIGHTS, check_sae
from saework.core.protocols import sae_architecture
from saework.engine.architectures import CODES, has_methods_of_sae_lens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jaxtyping import Int
    from torch import Tensor

FEATURE_AXIS = {
    "W_enc": 1,
    "W_dec": 0,
    "b_enc": 0,
    "threshold": 0,
    "log_threshold": 0,
    "b_gate": 0,
    "b_mag": 0,
    "r_mag": 0,
    "scaling_factor": 0,
}
"""Which axis of a parameter counts the features. By name: shapes do not tell if d_in is d_sae."""
NO_FEATURE_AXIS = ("b_dec", "topk_threshold", "W_skip")
INDEPENDENT = tuple(name for name, code in CODES.items() if code == "per feature")
"""Architectures in which no feature depends on another."""


@checked
@torch.no_grad()
def permute_features(
    sae: Any,
    order: Int[Tensor, " d_sae"] | Sequence[int],
    *,
    optimizer: torch.optim.Optimizer | None = None,
) -> Any:
    """Renumber an SAE's features in place: new feature ``i`` is old feature ``order[i]``.

    Encoding gives the same numbers in another order. Decoding gives the same reconstruction up to
    float rounding, because sums are taken in another order. A loss that treats features alike (L1
    or L0, not Matryoshka's) does not change.

    Training continues unchanged only if the optimiser's state moves along: give ``optimizer``, and
    its state is renumbered too. Gradients always are.

    Memory: a copy of the largest parameter at a time.

    Args:
        sae: a ``sae_lens.SAE``, or a module whose parameters have the names in ``FEATURE_AXIS``.
        order: each of 0..d_sae-1 once.
        optimizer: of the SAE's parameters.

    Returns:
        The same ``sae``.

    Raises:
        ValueError: for an object that is no torch module, an order that is no permutation, a
            parameter whose feature axis is not known, or optimiser state of another shape than its
            parameter. Nothing is changed then.

    >>> from saework import load
    >>> sae = load("gelu-1l-mini", n_tokens=2048, check=False).sae
    >>> before = sae.W_dec[7].clone()
    >>> order = torch.arange(4096).flip(0)
    >>> torch.equal(permute_features(sae, order).W_dec[-8], before)
    True
    """
    check_sae(sae, needs=ONLY_WEIGHTS)
    if not hasattr(sae, "named_parameters"):
        raise ValueError(
            f"this {type(sae).__name__} is no torch module, so its parameters are not listed; "
            "permute its arrays yourself: columns of W_enc, rows of W_dec, biases"
        )
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(
            f"optimizer is {in_words(optimizer)}; give that of the SAE's training, or leave it out"
        )
    index = _checked_order(order, sae.W_dec.shape[0]).to(sae.W_dec.device)
    # All moves are collected, and so checked, before the first is made.
    moves = []
    for name, value in [*sae.named_parameters(), *sae.named_buffers()]:
        axis = _feature_axis(name)
        if axis is None:
            continue
        moves.append((value, axis))
        if value.grad is not None:
            moves.append((value.grad, axis))
        if optimizer is not None:
            moves += [(state, axis) for state in _optimizer_state(optimizer, name, value)]
    for value, axis in moves:
        value.copy_(value.index_select(axis, index))
    return sae


@checked
@torch.no_grad()
def select_features(sae: Any, features: Int[Tensor, " n"] | Sequence[int]) -> Any:
    """An SAE of some features: its feature ``i`` is ``features[i]`` of the given SAE.

    A scan or a page of a few features of a wide SAE then encodes no others.

    Args:
        sae: a ``sae_lens.SAE`` whose features do not depend on each other.
        features: each once.

    Returns:
        A new ``sae_lens.SAE`` of the same kind. Decoding gives these features' part of the
        reconstruction, ``b_dec`` (and a transcoder's skip term) included.

    Raises:
        ValueError: for a feature that does not exist or is given twice, an SAE whose features
            depend on each other (such as TopK), or one with methods of its own.

    >>> from saework import load
    >>> sae = load("gelu-1l-mini", n_tokens=2048, check=False).sae
    >>> small = select_features(sae, [985, 3])
    >>> small.cfg.d_sae, torch.equal(small.W_dec[0], sae.W_dec[985])
    (2, True)
    """
    check_sae(sae, needs=ONLY_WEIGHTS)
    kind = sae_architecture(sae)
    if kind is None:
        raise ValueError(
            f"this {type(sae).__name__} has no cfg of sae_lens, so it is not known how to make a "
            "smaller one; give a sae_lens.SAE, or take columns of W_enc and rows of W_dec"
        )
    if kind not in INDEPENDENT:
        raise ValueError(
            f"in a {kind} SAE whether a feature is on depends on the others, so none can be taken "
            f"out alone; it can be with {', '.join(INDEPENDENT)}"
        )
    d_sae = sae.W_dec.shape[0]
    given = as_tensor(features, "features").flatten().tolist()
    chosen = [check_feature(feature, d_sae) for feature in given]
    n_different = len(set(chosen))
    if not chosen or n_different < len(chosen):
        raise ValueError(
            f"{len(chosen)} features are given, {n_different} of them different; "
            "give at least one, and each once"
        )
    index = torch.tensor(chosen, device=sae.W_dec.device)
    state = {}
    for name, value in sae.state_dict().items():
        axis = _feature_axis(name)
        state[name] = value if axis is None else value.index_select(axis, index)
    config = {**sae.cfg.to_dict(), "d_sae": len(chosen)}
    small = _of_the_same_kind(sae, config)
    small.load_state_dict(state)
    small.to(device=sae.W_dec.device, dtype=sae.W_dec.dtype)
    return small.requires_grad_(False)


def _of_the_same_kind(sae: Any, config: dict[str, Any]) -> Any:
    """A new SAE, which computes with its weights what the given one does with its own.

    Raises:
        ValueError: the given one is no class of sae_lens, or a method or the activation function
            was replaced.
    """
    kind = type(sae)
    if kind.__module__.startswith("sae_lens.") and has_methods_of_sae_lens(sae):
        new = kind.from_dict(config)
        activation, given = (type(getattr(one, "activation_fn", None)) for one in (new, sae))
        if activation is given:
            return new
    raise ValueError(
        f"this {kind.__name__} has a class, methods or an activation function of its own, which a "
        "new SAE with some of its weights would not have; use the whole SAE"
    )


def _feature_axis(name: str) -> int | None:
    """Which axis of a parameter counts the features; None if none does."""
    if name in NO_FEATURE_AXIS:
        return None
    if name not in FEATURE_AXIS:
        raise ValueError(
            f"which axis of {name!r} counts the features is not known (known: "
            f"{', '.join(FEATURE_AXIS)}); add it to saework.analysis.renumbering.FEATURE_AXIS"
        )
    return FEATURE_AXIS[name]


def _optimizer_state(
    optimizer: torch.optim.Optimizer, name: str, parameter: Tensor
) -> Iterator[Tensor]:
    """What an optimiser keeps for each weight of a parameter, such as Adam's moments."""
    for key, state in optimizer.state.get(parameter, {}).items():
        if not torch.is_tensor(state) or not state.ndim:
            continue  # a count of steps
        if state.shape != parameter.shape:
            raise ValueError(
                f"the optimiser's {key!r} of {name} has shape {tuple(state.shape)}, not "
                f"{tuple(parameter.shape)}, so its feature axis is unknown; "
                "use an optimiser with one value per weight, such as Adam"
            )
        yield state


def _checked_order(order: Any, d_sae: int) -> Tensor:
    """The order as long ``[d_sae]``, if it is a permutation."""
    order = as_tensor(order, "order")
    is_whole = not order.dtype.is_floating_point and order.dtype != torch.bool
    numbers = order.long().flatten()
    in_order = numbers.cpu().sort().values
    if not is_whole or not torch.equal(in_order, torch.arange(d_sae)):
        raise ValueError(
            f"order has {order.numel()} entries of {order.dtype} and is no permutation; "
            f"give each of 0..{d_sae - 1} once, such as rates.argsort(descending=True)"
        )
    return numbers
