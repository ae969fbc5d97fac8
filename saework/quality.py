"""How well an SAE stands for the activations: each published definition, and the site where it fits best.

One name covers several formulas in this field ("explained variance" at least five), so each row of
``reconstruction_metrics`` says its own. All are pooled: sums over tokens in float64, then one division.
"""

from __future__ import annotations

from collections import Counter

import pandas as pd
import torch

from saework import run
from saework._checks import HookError, check_finite, check_mask
from saework.encoding import Encoder
from saework.metrics import RECONSTRUCTION, pooled_reconstruction, reconstruction_sums
from saework.predictions import next_token_losses

SITE_TOKENS = 512  # a batch's tokens, of which every fitting site's activations are held at once
NO_SITE = ("hook_cos", "hook_sin", "hook_pattern", "hook_attn_scores")  # tables over positions, whatever their width
GATED = {"mlp_in": "use_hook_mlp_in", "attn_in": "use_attn_in", "attn.hook_result": "use_attn_result"}
GATED |= dict.fromkeys(("q_input", "k_input", "v_input"), "use_split_qkv_input")  # not hookable until the model is told
USUAL = ("resid_post", "resid_pre", "resid_mid", "mlp_out", "attn_out", "mlp.hook_post", "mlp.hook_pre", "attn.hook_z", "hook_embed")


@torch.no_grad()
def reconstruction_metrics(
    model, sae, tokens, *, hook: str | None = None, mask=None, batch_size: int | None = None, progress: bool = True
) -> pd.DataFrame:
    """Each definition of reconstruction quality on the same tokens, with BOS and without.

    Args:
        tokens: long ``[batch, pos]``, BOS first.
        hook: the SAE's own by default.
        mask: bool ``[batch, pos]``; where False, nothing is spliced or ablated, and nothing counted.
        batch_size: rows run at a time; by default about 1,024 tokens' worth. It changes no result beyond float32's rounding.

    Returns: a row a metric, its name as index; columns ``with_bos``, ``without_bos``, ``unit``,
    ``formula``, ``source``. ``without_bos`` leaves out every token that is the tokenizer's BOS (the
    first column, if the model has no tokenizer): those are neither spliced nor counted. NaN where
    nothing is left, or nothing varies.
    Raises: ValueError if a row has one token only, the activations do not vary, ablation changes
    nothing, or an argument does not fit; HookError if the hook fits neither model nor SAE.
    Memory: does not grow with the tokens; a batch's activations (fivefold behind the hook), one block of features and a few
    of logits. Time: a pass to the hook for the mean, and one to the output, fivefold behind the hook.
    Source: in each row.
    """
    tokens, hook, mask, batch_size = run.prepared(model, sae, tokens, hook, mask, batch_size)
    run.counted_predictions(tokens, mask)  # that there are any
    run.sae_input(model, sae, tokens[:1], hook)  # width and finiteness, before the long run
    masks = _with_and_without_bos(model, tokens, mask)
    means = run.mean_activations(model, tokens, hook, masks, batch_size=batch_size).flatten(1)
    totals, encode = (Counter(), Counter()), Encoder(sae)
    for part in run.progress_bar(run.row_blocks(len(tokens), batch_size), show=progress, desc="reconstruction metrics"):
        on = masks[:, part]
        if not on[0].any():
            continue

        def splice(x: torch.Tensor) -> list[torch.Tensor]:
            made = encode.reconstruct(check_finite(x, f"activations at {hook}"))
            check_finite(made.x_hat, f"the SAE's reconstructions at {hook}")
            for total, some, mean in zip(totals, on, means):
                total.update(reconstruction_sums(x.flatten(2)[some], made.x_hat.flatten(2)[some], made.l0[some], made.l1[some], mean))
            return [run.masked(new, x, mask) for mask in kinds for new in (made.x_hat, torch.zeros_like(x))]

        kinds = on[:1] if torch.equal(*on) else on
        pairs = kinds[:, :, 1:] & kinds[:, :, :-1]
        losses = _spliced_losses(model, tokens[part], hook, splice, pairs)
        for i, total in enumerate(totals):
            i = min(i, len(pairs) - 1)
            sums = [float(each[i, j][pairs[i]].sum()) for each, j in zip((losses[0],) * 3 + (losses[1],) * 2, (0, 1, 2, 1, 2))]
            total.update(dict(zip(("ce_clean", "ce_spliced", "ce_ablated", "kl_spliced", "kl_ablated"), sums)))
            total["predictions"] += int(pairs[i].sum())
    if totals[0]["spread"] == 0:
        raise ValueError(f"the activations at {hook} are all alike, so there is no variance to explain; give more tokens")
    with_bos, without_bos = (pooled_reconstruction(total, mean) for total, mean in zip(totals, means))
    rows = [(with_bos[name], without_bos[name], *words) for name, words in RECONSTRUCTION.items()]
    return pd.DataFrame(
        rows, index=pd.Index(RECONSTRUCTION, name="metric"), columns=["with_bos", "without_bos", "unit", "formula", "source"]
    )


def _with_and_without_bos(model, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Two masks, bool ``[2, batch, pos]``."""
    on = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.to(tokens.device)
    bos = getattr(getattr(model, "tokenizer", None), "bos_token_id", None)
    is_bos = (torch.arange(tokens.shape[1], device=tokens.device) == 0).expand(tokens.shape) if bos is None else tokens == bos
    return torch.stack([on, on & ~is_bos])


def _spliced_losses(model, tokens: torch.Tensor, hook: str, splice, pairs: torch.Tensor):
    """Cross-entropy and KL, nats, ``[mask, (clean, spliced, ablated), row, pos-1]`` each, for one mask or two."""
    n = 2 * len(pairs)
    clean, *states = (state[:, :-1] for state in run.spliced_states(model, tokens, hook, splice, n))
    # where BOS alone was left out, and nothing reads it later, the other tokens' states are the same bits: once is enough
    new = [i for i, state in enumerate(states) if i < 2 or not _same(state, states[i - 2], pairs[1])]
    ce, kl = next_token_losses(model, [clean, *(states[i] for i in new)], tokens[:, 1:], kl=True)
    check_finite(ce, "losses")
    which = [new.index(i if i in new else i - 2) + 1 for i in range(n)]
    return [torch.stack([torch.stack([each[0], each[which[i]], each[which[i + 1]]]) for i in range(0, n, 2)]) for each in (ce, kl)]


def _same(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(*(state.expand(len(where), -1, -1)[where] for state in (a, b)))


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
    tokens = run.as_tokens(model, tokens)
    on = _with_and_without_bos(model, tokens, check_mask(mask, tokens.shape))[1]
    if int(on.sum()) < 2:
        raise ValueError(
            f"{int(on.sum())} token(s) are left without BOS, and two are the least that can vary; give more tokens, or unmask more"
        )
    kept = on.any(1)  # a row that counts nothing need not run
    tokens, on = tokens[kept], on[kept]
    groups, totals, encode = None, {}, Encoder(sae)
    for part in run.progress_bar(run.row_blocks(len(tokens), max(1, SITE_TOKENS // tokens.shape[1])), show=True, desc="sites"):
        sites = _sites(model, tokens[part], sae.W_enc.shape[0], groups)
        groups = groups or _grouped(model, sites)
        for site in groups:
            _add_site(totals.setdefault(site, {}), encode, check_finite(sites[site][on[part]], f"activations at {site}"))
    own = getattr(getattr(getattr(sae, "cfg", None), "metadata", None), "hook_name", None)
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
            if not isinstance(value, torch.Tensor) or value.shape[:2] != tokens.shape or not value.is_floating_point():
                return
            widths.add(value[0, 0].numel())
            if value[0, 0].numel() == d_in:
                found.setdefault(name, value.detach().flatten(2).clone())  # later layers may write into it

        return record

    for name, point in model.hook_dict.items():
        gate = next((flag for end, flag in GATED.items() if name.endswith(end)), None)
        if not name.endswith(NO_SITE) and (gate is None or getattr(model.cfg, gate, False)) and (wanted is None or name in wanted):
            hooks.setdefault(id(point), (name, recorder(name)))
    run.capture(model, tokens, run.UNEMBED_INPUT, list(hooks.values()))
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
        alike = by_key.setdefault(tuple(value[-1, -1].tolist()), [])  # so that few pairs are compared in full
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
    total["spread"] = total.get("spread", 0.0) + float((x - mean).pow(2).sum()) + apart * before * n / (before + n)
    total["mean"] = (total.get("mean", 0.0) * before + mean * n) / (before + n)
    total["n"] = before + n
    total["error"] = total.get("error", 0.0) + float((x - x_hat).pow(2).sum())
    total["l0"] = total.get("l0", 0.0) + float(made.l0.sum())
