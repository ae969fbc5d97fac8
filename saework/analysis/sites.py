"""Which hook an SAE belongs to."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from saework.core.arguments import accepts_workbook, check_finite, check_mask
from saework.core.errors import HookError
from saework.core.protocols import HookedModel, SparseAutoencoder, sae_metadata
from saework.engine import forward
from saework.engine.encoder import Encoder
from saework.engine.masks import with_and_without_bos
from saework.engine.site import input_width, is_transcoder, site_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

# A batch's tokens; the activations of every site that fits are held for so many at once.
SITE_TOKENS = 512
# Tables over positions, whatever their width.
NO_SITE = ("hook_cos", "hook_sin", "hook_pattern", "hook_attn_scores")
GATED = {
    "mlp_in": "use_hook_mlp_in",
    "attn_in": "use_attn_in",
    "attn.hook_result": "use_attn_result",
    "q_input": "use_split_qkv_input",
    "k_input": "use_split_qkv_input",
    "v_input": "use_split_qkv_input",
}
"""Hooks that a model refuses unless its config switches them on: end of the name, and switch."""
USUAL = (
    "resid_post",
    "resid_pre",
    "resid_mid",
    "mlp_out",
    "attn_out",
    "mlp.hook_post",
    "mlp.hook_pre",
    "attn.hook_z",
    "hook_embed",
)
"""Ends of names that SAEs are usually published with, the preferred first."""


@dataclass
class _SiteSums:
    """Running sums over one site's tokens."""

    n: int = 0
    mean: Tensor | float = 0.0
    spread: float = 0.0
    """Sum of squared distances from ``mean``."""
    error: float = 0.0
    l0: float = 0.0

    def add(
        self, x: Float[Tensor, "token d_in"], written: Float[Tensor, "token d_out"], encode: Encoder
    ) -> None:
        """Add some tokens. Source: Chan, Golub and LeVeque (1979), for the running spread."""
        n = len(x)
        if not n:
            return
        made = encode.reconstruct(x[None])
        x = written.double()
        x_hat = made.x_hat[0].double()
        mean = x.mean(0)
        n_both = self.n + n
        within = float((x - mean).pow(2).sum())
        between = float((mean - self.mean).pow(2).sum())
        self.spread = self.spread + within + between * self.n * n / n_both
        self.mean = (self.mean * self.n + mean * n) / n_both
        self.n = n_both
        self.error += float((x - x_hat).pow(2).sum())
        self.l0 += float(made.l0.sum())


@accepts_workbook
@torch.no_grad()
def find_site(
    model: HookedModel,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "batch pos"],
    *,
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> pd.DataFrame:
    """The hooks whose activations this SAE could have been trained on, best first.

    A hook is considered if it fires before the unembedding and is ``d_in`` wide (heads taken
    together). Its activations are encoded and decoded.

    Names of one place share a row: the names of one hook, and of hooks whose values are equal to
    the last bit in the first batch (a block's output and the next one's input).

    Memory: 4 bytes per element, for every site that fits, of 512 tokens (one row at least). That
    is about 1 GB for the 300 sites of an 18-layer model 2,048 wide. It does not grow with the
    number of tokens.

    Args:
        model: the model, or a Workbook alone in place of model, sae and tokens.
        sae: the SAE.
        tokens: BOS first; a few thousand tokens tell sites apart.
        mask: where False, nothing is counted.

    Returns:
        One row per place, sorted by ``unexplained`` (ties: in the order of the model), with the
        columns

        - ``hook``: the SAE's own hook if it is among the names, else a usual name;
        - ``unexplained``: fraction of the variance, without BOS (``1 - variance_explained``);
        - ``l0``: features per token;
        - ``names``: all names of the place, separated by commas.

        Sites that do not vary are left out.

    Raises:
        HookError: if no hook is ``d_in`` wide.
        ValueError: if fewer than two tokens are left without BOS, or values are not finite.

    Source: ``variance_explained`` of ``reconstruction_metrics``.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=512, check=False)
    >>> find_site(book)["hook"].tolist()
    ['blocks.0.mlp.hook_post', 'blocks.0.mlp.hook_pre']
    """
    tokens = forward.as_tokens(model, tokens)
    mask = check_mask(mask, tokens.shape)
    _, without_bos = with_and_without_bos(model, tokens, mask)
    n_counted = int(without_bos.sum())
    if n_counted < 2:
        raise ValueError(
            f"{n_counted} token(s) are left without BOS, and two are the least that can vary; "
            "give more tokens, or unmask more"
        )
    counts_something = without_bos.any(1)
    tokens, without_bos = tokens[counts_something], without_bos[counts_something]

    encode = Encoder(sae)
    place = site_of(model, sae) if is_transcoder(sae) else None
    d_in = input_width(sae)
    groups: dict[str, list[str]] = {}
    sums: defaultdict[str, _SiteSums] = defaultdict(_SiteSums)
    n_rows, n_pos = tokens.shape
    blocks = forward.row_blocks(n_rows, max(1, SITE_TOKENS // n_pos))
    for part in forward.progress_bar(blocks, show=True, desc="sites"):
        sites = _activations_by_site(model, tokens[part], d_in, only=groups)
        groups = groups or _grouped(model, sites)  # by the first batch
        written = None
        if place is not None:  # whatever it reads, a transcoder is scored where it writes
            written = forward.activations(model, tokens[part], place.writes).flatten(2)
        for site in groups:
            x = sites[site][without_bos[part]]
            check_finite(x, f"activations at {site}")
            sums[site].add(x, x if written is None else written[without_bos[part]], encode)

    own = sae_metadata(sae, "hook_name")
    rows = []
    for site, names in groups.items():
        total = sums[site]
        if total.spread > 0:
            hook = _usual_name(names, own)
            unexplained = total.error / total.spread
            l0 = total.l0 / total.n
            rows.append((hook, unexplained, l0, ", ".join(names)))
    table = pd.DataFrame(rows, columns=["hook", "unexplained", "l0", "names"])
    return table.sort_values("unexplained", kind="stable", ignore_index=True)


def _activations_by_site(
    model: HookedModel, tokens: Tensor, d_in: int, *, only: Collection[str]
) -> dict[str, Tensor]:
    """Activations ``[batch, pos, d_in]`` of each hook of that width, in the order of the model.

    By the hook's first name. ``only``: the names to look at; empty for all.
    """
    found: dict[str, Tensor] = {}
    widths: set[int] = set()

    def record(name: str, value: Any, hook: Any) -> None:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return
        if value.shape[:2] != tokens.shape:
            return
        width = value[0, 0].numel()
        widths.add(width)
        if width == d_in and name not in found:
            # a copy, because later layers may write into it
            found[name] = value.detach().flatten(2).clone()

    names = [name for name in model.hook_dict if _can_be_read(model, name)]
    if only:
        names = [name for name in names if name in only]
    recorders: dict[int, tuple[str, Callable]] = {}  # one per hook, under its first name
    for name in names:
        point = model.hook_dict[name]
        recorders.setdefault(id(point), (name, partial(record, name)))
    forward.capture(model, tokens, forward.UNEMBED_INPUT, list(recorders.values()))
    if not found:
        others = ", ".join(map(str, sorted(widths)))
        raise HookError(
            f"no hook of this model is {d_in} wide, as the SAE needs; there are {others}. "
            "Is it this model's?"
        )
    return found


def _can_be_read(model: HookedModel, name: str) -> bool:
    """Whether a hook holds activations, and the model's config has it on."""
    if name.endswith(NO_SITE):
        return False
    for end, switch in GATED.items():
        if name.endswith(end):
            return getattr(model.cfg, switch, False)
    return True


def _grouped(model: HookedModel, sites: dict[str, Tensor]) -> dict[str, list[str]]:
    """The first name of each place, and all its names."""
    names_of_point: defaultdict[int, list[str]] = defaultdict(list)
    for name, point in model.hook_dict.items():
        names_of_point[id(point)].append(name)
    groups: defaultdict[str, list[str]] = defaultdict(list)
    # First names by their last token's values, so that few pairs are compared in full.
    first_names: defaultdict[tuple, list[str]] = defaultdict(list)
    for name, value in sites.items():
        last_token = tuple(value[-1, -1].tolist())
        candidates = first_names[last_token]
        first = next((other for other in candidates if torch.equal(sites[other], value)), None)
        if first is None:
            first = name
            candidates.append(name)
        point = model.hook_dict[name]
        groups[first] += names_of_point[id(point)]
    return dict(groups)


def _usual_name(names: list[str], own: str | None) -> str:
    """The SAE's own name of a place, or else the most usual one."""
    if own in names:
        return own
    for ending in USUAL:
        for name in names:
            if name.endswith(ending):
                return name
    return names[0]
