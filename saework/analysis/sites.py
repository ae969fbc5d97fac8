"""Which hook an SAE belongs to."""

from __future__ import annotations

import pandas as pd
import torch

from saework.core.arguments import accepts_workbook, check_finite, check_mask
from saework.core.errors import HookError
from saework.core.protocols import sae_metadata
from saework.engine import forward
from saework.engine.encoder import Encoder
from saework.engine.forward import with_and_without_bos

SITE_TOKENS = 512  # a batch's tokens, of which every fitting site's activations are held at once
NO_SITE = (
    "hook_cos",
    "hook_sin",
    "hook_pattern",
    "hook_attn_scores",
)  # tables over positions, whatever their width
GATED = {
    "mlp_in": "use_hook_mlp_in",
    "attn_in": "use_attn_in",
    "attn.hook_result": "use_attn_result",
    "q_input": "use_split_qkv_input",
    "k_input": "use_split_qkv_input",
    "v_input": "use_split_qkv_input",
}
"""Hooks that a model refuses until its config says that they are wanted."""
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


@accepts_workbook
@torch.no_grad()
def find_site(model, sae, tokens, *, mask=None) -> pd.DataFrame:
    """The hooks whose activations this SAE could have been trained on, best first.

    Each hook that fires before the unembedding and is ``d_in`` wide (heads taken together) is
    encoded and decoded. Names of one place share a row: those of one hook, and those whose values
    are equal to the last bit in the first batch (a block's output and the next one's input).

    Args:
        tokens: long ``[batch, pos]``, BOS first; a few thousand tokens tell sites apart.
        mask: bool ``[batch, pos]``; where False, nothing is counted.

    Returns: columns ``hook`` (the SAE's own name if it is among them, or else a usual one),
    ``unexplained`` (fraction: 1 - the conventional variance explained, without BOS), ``l0``
    (features per token) and ``names`` (all, separated by commas); sorted by ``unexplained``, ties
    in the order of the model. Sites that do not vary are left out.
    Raises: HookError if no hook is ``d_in`` wide; ValueError if fewer than two tokens are left without BOS.
    Memory: 512 tokens (a row at least) of every fitting site, 4 bytes an element: about 1 GB for
    the 300 sites of an 18-layer model 2,048 wide; it does not grow with the tokens.
    Source: ``reconstruction_metrics``'s ``variance_explained``.
    """
    tokens = forward.as_tokens(model, tokens)
    on = with_and_without_bos(model, tokens, check_mask(mask, tokens.shape))[1]
    if int(on.sum()) < 2:
        raise ValueError(
            f"{int(on.sum())} token(s) are left without BOS, and two are the least that can vary; give more tokens, or unmask more"
        )
    kept = on.any(1)  # a row that counts nothing need not run
    tokens, on = tokens[kept], on[kept]
    groups, totals, encode = None, {}, Encoder(sae)
    for part in forward.progress_bar(
        forward.row_blocks(len(tokens), max(1, SITE_TOKENS // tokens.shape[1])),
        show=True,
        desc="sites",
    ):
        sites = _sites(model, tokens[part], sae.W_enc.shape[0], groups)
        groups = groups or _grouped(model, sites)
        for site in groups:
            _add_site(
                totals.setdefault(site, {}),
                encode,
                check_finite(sites[site][on[part]], f"activations at {site}"),
            )
    own = sae_metadata(sae, "hook_name")
    rows = []
    for site, names in groups.items():
        n, spread, error, l0 = (totals[site][name] for name in ("n", "spread", "error", "l0"))
        if spread > 0:
            rows.append((_usual_name(names, own), error / spread, l0 / n, ", ".join(names)))
    frame = pd.DataFrame(rows, columns=["hook", "unexplained", "l0", "names"])
    return frame.sort_values("unexplained", kind="stable", ignore_index=True)


def _sites(model, tokens: torch.Tensor, d_in: int, wanted=None) -> dict[str, torch.Tensor]:
    """Activations ``[batch, pos, d_in]`` of each hook of that width, by its first name, in the order of the model."""
    found, widths, hooks = {}, set(), {}

    def recorder(name):
        def record(value, hook):
            if (
                not isinstance(value, torch.Tensor)
                or value.shape[:2] != tokens.shape
                or not value.is_floating_point()
            ):
                return
            widths.add(value[0, 0].numel())
            if value[0, 0].numel() == d_in:
                found.setdefault(
                    name, value.detach().flatten(2).clone()
                )  # later layers may write into it

        return record

    for name, point in model.hook_dict.items():
        gate = next((flag for end, flag in GATED.items() if name.endswith(end)), None)
        if (
            not name.endswith(NO_SITE)
            and (gate is None or getattr(model.cfg, gate, False))
            and (wanted is None or name in wanted)
        ):
            hooks.setdefault(id(point), (name, recorder(name)))
    forward.capture(model, tokens, forward.UNEMBED_INPUT, list(hooks.values()))
    if not found:
        raise HookError(
            f"no hook of this model is {d_in} wide, as the SAE needs; there are {', '.join(map(str, sorted(widths)))}. Is it this model's?"
        )
    return found


def _grouped(model, sites: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    """First names to all names of one place."""
    same_point = {}
    for name, point in model.hook_dict.items():
        same_point.setdefault(id(point), []).append(name)
    groups, by_key = {}, {}
    for name, value in sites.items():
        alike = by_key.setdefault(
            tuple(value[-1, -1].tolist()), []
        )  # so that few pairs are compared in full
        first = next((other for other in alike if torch.equal(sites[other], value)), name)
        if first is name:
            alike.append(name)
        groups.setdefault(first, []).extend(same_point[id(model.hook_dict[name])])
    return groups


def _usual_name(names: list[str], own: str | None) -> str:
    if own in names:
        return own
    return next((name for ending in USUAL for name in names if name.endswith(ending)), names[0])


def _add_site(total: dict, encode: Encoder, x: torch.Tensor) -> None:
    """Adds ``x`` ``[token, d_in]``; the spread is kept around the running mean (Chan, Golub and LeVeque)."""
    if not len(x):
        return
    made = encode.reconstruct(x[None])
    x, x_hat = x.double(), made.x_hat[0].double()
    n, mean = len(x), x.mean(0)
    before = total.get("n", 0)
    apart = float((mean - total.get("mean", mean)).pow(2).sum())
    total["spread"] = (
        total.get("spread", 0.0)
        + float((x - mean).pow(2).sum())
        + apart * before * n / (before + n)
    )
    total["mean"] = (total.get("mean", 0.0) * before + mean * n) / (before + n)
    total["n"] = before + n
    total["error"] = total.get("error", 0.0) + float((x - x_hat).pow(2).sum())
    total["l0"] = total.get("l0", 0.0) + float(made.l0.sum())
