"""Which hook an SAE belongs to."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from saework.core.arguments import accepts_workbook, check_finite, check_mask
from saework.core.errors import HookError
from saework.core.normalised_views import fits_better, same_directions
from saework.core.protocols import HookedModel, SparseAutoencoder, sae_metadata
from saework.engine import forward
from saework.engine.architectures import (
    check_reconstructs,
    input_width,
    is_transcoder,
    scales_input,
)
from saework.engine.encoder import Encoder
from saework.engine.left_out import check_has_logits
from saework.engine.masks import with_and_without_bos
from saework.engine.site import site_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

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
    row_errors: list[Tensor] = field(default_factory=list)
    """Sums of squared errors, float64, by row of tokens."""
    l0: float = 0.0

    @property
    def unexplained(self) -> Float[Tensor, " row"]:
        """Each row's part of the fraction of the variance that is not explained."""
        return torch.cat(self.row_errors) / self.spread

    def add(
        self,
        x: Float[Tensor, "token d_in"],
        written: Float[Tensor, "token d_out"],
        encode: Encoder,
        row_sizes: Int[Tensor, " row"],
    ) -> None:
        """Add whole rows' tokens. Source: Chan, Golub and LeVeque (1979), for the running spread.

        Args:
            x: what is read.
            written: what the SAE's output is compared with.
            encode: the SAE.
            row_sizes: number of tokens of each row, one or more.
        """
        n = len(x)
        made = encode.reconstruct(x[None])
        check_finite(made.x_hat, "the SAE's reconstructions")
        x = written.double()
        x_hat = made.x_hat[0].double()
        mean = x.mean(0)
        n_both = self.n + n
        within = float((x - mean).pow(2).sum())
        between = float((mean - self.mean).pow(2).sum())
        self.spread = self.spread + within + between * self.n * n / n_both
        self.mean = (self.mean * self.n + mean * n) / n_both
        self.n = n_both
        token_errors = (x - x_hat).pow(2).sum(-1).cpu()
        row_errors = [errors.sum() for errors in token_errors.split(row_sizes.tolist())]
        self.row_errors.append(torch.stack(row_errors))
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
    the last bit in the first batch (a block's output and the next one's input). A normalised view
    of a stream, in the same direction on every token, has a row of its own if the SAE fits worse
    there, or better in a paired bootstrap over rows. Otherwise it is named in the stream's row.

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
        - ``names``: all names of the place, separated by commas;
        - ``views``: names of views where the SAE fits as well, separated by commas.

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
    check_reconstructs(sae)
    check_has_logits(model)  # the right hook may be in a block that is not here
    tokens = forward.as_tokens(model, tokens, sae)
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
    families: list[list[str]] = []
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
            on = without_bos[part]
            x = sites[site][on]
            check_finite(x, f"activations at {site}")
            sums[site].add(x, x if written is None else written[on], encode, on.sum(1))
        if not families:
            on = without_bos[part]
            families = same_directions({site: sites[site][on] for site in groups})

    own = sae_metadata(sae, "hook_name")
    hooks = {site: _usual_name(names, own) for site, names in groups.items()}
    rows = []
    for family in families:
        varying = [site for site in family if sums[site].spread > 0]
        by_name = sorted(varying, key=lambda site: _rank_of_name(hooks[site], own))
        for site, views in _told_apart(by_name, sums, scales_input(sae)).items():
            unexplained = float(sums[site].unexplained.sum())
            l0 = sums[site].l0 / sums[site].n
            names = ", ".join(groups[site])
            other_names = ", ".join(name for view in views for name in groups[view])
            rows.append((hooks[site], unexplained, l0, names, other_names))
    table = pd.DataFrame(rows, columns=["hook", "unexplained", "l0", "names", "views"])
    order = {hook: place for place, hook in enumerate(hooks.values())}
    table = table.sort_values("hook", key=lambda column: column.map(order))
    return table.sort_values("unexplained", kind="stable", ignore_index=True)


def _told_apart(
    by_name: list[str], sums: Mapping[str, _SiteSums], reads_the_same: bool
) -> dict[str, list[str]]:
    """Sites with a row of their own, and the views that share it; the preferred names first.

    A view that looks better than its stream, but not by the paired test on rows, shares the
    stream's row. So does any view, if the SAE scales its input itself: it reads the same there.
    """
    shared: dict[str, list[str]] = {}
    for site in by_name:
        here = sums[site].unexplained
        for stream in shared:
            there = sums[stream].unexplained
            looks_better = bool(here.sum() <= there.sum())
            if reads_the_same or (looks_better and not fits_better(here, there)):
                shared[stream].append(site)
                break
        else:
            shared[site] = []
    return shared


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
    return min(names, key=lambda name: _rank_of_name(name, own))


def _rank_of_name(name: str, own: str | None) -> int:
    """-1 for the SAE's own hook; else how usual the name is, 0 for the most usual."""
    if name == own:
        return -1
    for rank, ending in enumerate(USUAL):
        if name.endswith(ending):
            return rank
    return len(USUAL)
