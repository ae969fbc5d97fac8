"""Renumbering an SAE's features, with or without the state of its optimiser; and an SAE of some of them."""

from __future__ import annotations

import torch

from saework.core.arguments import check_feature

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
"""Which axis of a parameter counts the features. By name: where d_in equals d_sae, shapes do not tell."""
INDEPENDENT = ("standard", "jumprelu", "gated")
NO_FEATURE_AXIS = ("b_dec", "topk_threshold")


@torch.no_grad()
def permute_features(
    sae: torch.nn.Module, order, *, optimizer: torch.optim.Optimizer | None = None
) -> torch.nn.Module:
    """Renumber an SAE's features in place: the new feature ``i`` is the old feature ``order[i]``.

    Encoding gives the same numbers in another order, and decoding the same reconstruction up to
    float rounding (sums are taken in another order). A loss that treats features alike (L1, L0, not
    Matryoshka's) does not change. Training goes on unchanged only if the optimiser's state moves
    along: give ``optimizer``, and its state, gradients included, is renumbered too.

    Args:
        sae: any ``sae_lens.SAE``, or a module whose parameters bear the names in ``FEATURE_AXIS``.
        order: long ``[d_sae]``, each of 0..d_sae-1 once.
    Returns: the same ``sae``.
    Raises: ValueError for an order that is no permutation, for a parameter whose feature axis is not
    known, and for optimiser state of another shape than its parameter (then nothing is changed).
    Memory: a copy of the largest parameter at a time.
    """
    order = _checked_order(order, sae.W_dec.shape[0]).to(sae.W_dec.device)
    moves = []
    for name, value in [*sae.named_parameters(), *sae.named_buffers()]:
        axis = _feature_axis(name)
        if axis is None:
            continue
        moves.append((value, axis))
        if value.grad is not None:
            moves.append((value.grad, axis))
        for key, state in (optimizer.state.get(value, {}) if optimizer else {}).items():
            if not torch.is_tensor(state) or not state.ndim:
                continue  # a count of steps
            if state.shape != value.shape:
                raise ValueError(
                    f"the optimiser's {key!r} of {name} has shape {tuple(state.shape)}, not {tuple(value.shape)}, so its feature axis is unknown; "
                    "use an optimiser with one value a weight, such as Adam"
                )
            moves.append((state, axis))
    for value, axis in moves:
        value.copy_(value.index_select(axis, order))
    return sae


@torch.no_grad()
def select_features(sae, features):
    """An SAE of some features only: its feature ``i`` is ``features[i]`` of the one given.

    What scans or draws a few features of a wide SAE then encodes no others.

    Args: ``features``: long ``[n]``, each once; ``sae``: a ``sae_lens.SAE`` whose features do not depend on each other.
    Returns: a new ``sae_lens.SAE`` of the same kind; decoding gives these features' part of the reconstruction.
    Raises: ValueError for a feature that does not exist or comes twice, or an SAE of dependent features (such as TopK).
    """
    d_sae, kind = sae.W_dec.shape[0], sae.cfg.architecture()
    if kind not in INDEPENDENT:
        raise ValueError(
            f"in a {kind} SAE whether a feature is on depends on the others, so none can be taken out alone; it can be with {', '.join(INDEPENDENT)}"
        )
    chosen = [
        check_feature(feature, d_sae) for feature in torch.as_tensor(features).flatten().tolist()
    ]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"{len(chosen)} features are given, {len(set(chosen))} of them different; give at least one, and each once"
        )
    index = torch.tensor(chosen, device=sae.W_dec.device)
    state = {
        name: value if (axis := _feature_axis(name)) is None else value.index_select(axis, index)
        for name, value in sae.state_dict().items()
    }
    small = type(sae).from_dict({**sae.cfg.to_dict(), "d_sae": len(chosen)})
    small.load_state_dict(state)
    return small.to(device=sae.W_dec.device, dtype=sae.W_dec.dtype).requires_grad_(False)


def _feature_axis(name: str) -> int | None:
    if name in NO_FEATURE_AXIS:
        return None
    if name not in FEATURE_AXIS:
        raise ValueError(
            f"which axis of {name!r} counts the features is not known (known: {', '.join(FEATURE_AXIS)}); add it to saework.analysis.renumbering.FEATURE_AXIS"
        )
    return FEATURE_AXIS[name]


def _checked_order(order, d_sae: int) -> torch.Tensor:
    order = torch.as_tensor(order)
    if (
        order.dtype.is_floating_point
        or order.dtype == torch.bool
        or not torch.equal(order.cpu().long().flatten().sort().values, torch.arange(d_sae))
    ):
        raise ValueError(
            f"order has {order.numel()} entries of {order.dtype} and is no permutation; give each of 0..{d_sae - 1} once, such as rates.argsort(descending=True)"
        )
    return order.long().flatten()
