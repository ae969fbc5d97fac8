"""Normalised views of a residual stream: other values in the same directions, token by token.

A norm without weights only shifts and scales each token. Where the scale is near one, an SAE of
the stream fits the view nearly as well, by chance even better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from saework.core.reconstruction_formulas import BOOTSTRAP_DRAWS, CONFIDENCE, times_drawn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float
    from torch import Tensor

SAME_DIRECTION = 1 - 1e-5  # cosine, in float32


def directions(x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
    """Each token's activations around their own mean, at norm one."""
    x = x.double()
    centred = x - x.mean(-1, keepdim=True)
    return torch.nn.functional.normalize(centred, dim=-1)


def same_directions(sites: Mapping[str, Float[Tensor, "token d_in"]]) -> list[list[str]]:
    """The sites in groups whose activations have the same directions on every token.

    Args:
        sites: activations by hook, in the order of the model.
    """
    groups: list[list[str]] = []
    last: dict[str, Tensor] = {}  # direction of the last token, where most pairs differ
    for name, x in sites.items():
        (last[name],) = directions(x[-1:])
        for names in groups:
            first = names[0]
            alike = last[name] @ last[first] > SAME_DIRECTION
            if alike and _all_same(directions(x), directions(sites[first])):
                names.append(name)
                break
        else:
            groups.append([name])
    return groups


def _all_same(a: Tensor, b: Tensor) -> bool:
    return bool((a * b).sum(-1).min() > SAME_DIRECTION)


def fits_better(
    view: Float[Tensor, " row"], stream: Float[Tensor, " row"], *, seed: int = 0
) -> bool:
    """Whether an SAE leaves less unexplained of a view than of the stream, row by row.

    Args:
        view: each row's share of the unexplained fraction at the view.
        stream: the same at the stream.
        seed: of the draws.

    Returns:
        Whether the bootstrap interval of the difference, over rows, lies below zero. False for
        fewer than two rows, which tell nothing.
    """
    difference = (view - stream).double().numpy()
    if len(difference) < 2:
        return False
    generator = np.random.default_rng(seed)
    drawn = times_drawn(len(difference), BOOTSTRAP_DRAWS, generator) @ difference
    return bool(np.quantile(drawn, (1 + CONFIDENCE) / 2) < 0)
