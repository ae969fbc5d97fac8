"""How well an SAE stands for the activations: each published definition, and the site where it fits best.

One name covers several formulas in this field ("explained variance" at least five), so each row of
``reconstruction_metrics`` says its own. All are pooled: sums over tokens in float64, then one division.
"""

from __future__ import annotations

from collections import Counter

import pandas as pd
import torch

from saework._checks import HookError, check_finite, check_mask
from saework.metrics import RECONSTRUCTION, pooled_reconstruction, reconstruction_sums
from saework.run import (
    UNEMBED_INPUT,
    as_tokens,
    capture,
    counted_predictions,
    final_states,
    hook_of,
    mean_activations,
    next_token_logits,
    progress_bar,
    reconstruct,
    row_blocks,
    sae_input,
)

CHUNK = 128  # tokens; four tensors of [CHUNK, d_vocab] are alive at once
SITE_TOKENS = 512  # a batch's tokens, of which every fitting site's activations are held at once
NO_SITE = ("hook_cos", "hook_sin", "hook_pattern", "hook_attn_scores")  # tables over positions, whatever their width
GATED = {"mlp_in": "use_hook_mlp_in", "attn_in": "use_attn_in", "attn.hook_result": "use_attn_result"}
GATED |= dict.fromkeys(("q_input", "k_input", "v_input"), "use_split_qkv_input")  # not hookable until the model is told
USUAL = ("resid_post", "resid_pre", "resid_mid", "mlp_out", "attn_out", "mlp.hook_post", "mlp.hook_pre", "attn.hook_z", "hook_embed")


@torch.no_grad()
def reconstruction_metrics(
    model, sae, tokens, *, hook: str | None = None, mask=None, batch_size: int = 8, progress: bool = True
) -> pd.DataFrame:
    """Each definition of reconstruction quality on the same tokens, with BOS and without.

    Args:
        tokens: long ``[batch, pos]``, BOS first.
        hook: the SAE's own by default.
        mask: bool ``[batch, pos]``; where False, nothing is spliced or ablated, and nothing counted.
        batch_size: rows run at a time. It changes no result beyond float32's rounding.

    Returns: a row a metric, its name as index; columns ``with_bos``, ``without_bos``, ``unit``,
    ``formula``, ``source``. ``without_bos`` leaves out every token that is the tokenizer's BOS (the
    first column, if the model has no tokenizer): those are neither spliced nor counted. NaN where
    nothing is left, or nothing varies.
    Raises: ValueError if a row has one token only, the activations do not vary, ablation changes
    nothing, or an argument does not fit; HookError if the hook fits neither model nor SAE.
    Memory: does not grow with the tokens; a batch's activations and features, and four times
    ``[128, d_vocab]`` float32 (0.5 GB for Gemma). Time: a pass to the hook and five whole ones.
    Source: in each row.
    """
    hook = hook_of(sae, hook)
    tokens = as_tokens(model, tokens)
    mask = check_mask(mask, tokens.shape)
    counted_predictions(tokens, mask)
    sae_input(model, sae, tokens[:1], hook)  # width and finiteness, before the long run
    masks = _with_and_without_bos(model, tokens, mask)
    means = mean_activations(model, tokens, hook, masks, batch_size=batch_size).flatten(1)
    totals = (Counter(), Counter())
    for part in progress_bar(row_blocks(len(tokens), batch_size), show=progress, desc="reconstruction metrics"):
        if not masks[0, part].any():
            continue
        x, features, x_hat, states = _passes(model, sae, tokens[part], hook, masks[:, part])
        _add_predictions(totals, model, states, tokens[part], masks[:, part])
        for total, on, mean in zip(totals, masks[:, part], means):
            total.update(reconstruction_sums(x[on], features[on], x_hat[on], mean))
    if totals[0]["spread"] == 0:
        raise ValueError(f"the activations at {hook} are all alike, so there is no variance to explain; give more tokens")
    with_bos, without_bos = (pooled_reconstruction(total, mean) for total, mean in zip(totals, means))
    rows = [(with_bos[name], without_bos[name], *words) for name, words in RECONSTRUCTION.items()]
    return pd.DataFrame(rows, index=pd.Index(RECONSTRUCTION, name="metric"), columns=["with_bos", "without_bos", "unit", "formula", "source"])


def _with_and_without_bos(model, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Two masks, bool ``[2, batch, pos]``."""
    on = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.to(tokens.device)
    bos = getattr(getattr(model, "tokenizer", None), "bos_token_id", None)
    is_bos = (torch.arange(tokens.shape[1], device=tokens.device) == 0).expand(tokens.shape) if bos is None else tokens == bos
    return torch.stack([on, on & ~is_bos])


def _passes(model, sae, tokens: torch.Tensor, hook: str, masks: torch.Tensor):
    """Activations, features, reconstruction, and the final states: clean, then spliced and ablated for each mask."""
    seen = []

    def look(x):
        seen.append(x)
        return x

    states = [final_states(model, tokens, hook, look)]
    x = check_finite(seen[0], f"activations at {hook}")
    features, x_hat = reconstruct(sae, x)
    check_finite(x_hat, f"the SAE's reconstructions at {hook}")
    for i, mask in enumerate(masks):
        if i and torch.equal(mask, masks[0]):
            states += states[1:]
        else:
            states += [final_states(model, tokens, hook, lambda _, new=new: new, mask) for new in (x_hat, torch.zeros_like(x))]
    return x.flatten(2), features, x_hat.flatten(2), states


def _add_predictions(totals, model, states: list[torch.Tensor], tokens: torch.Tensor, masks: torch.Tensor) -> None:
    pairs = masks[:, :, 1:] & masks[:, :, :-1]
    counted = pairs[0]
    ce, kl = _prediction_losses(model, [state[:, :-1][counted] for state in states], tokens[:, 1:][counted])
    for total, which, own in zip(totals, ([0, 1, 2], [0, 3, 4]), pairs):
        inside = own[counted]
        sums = torch.cat([ce[which][:, inside].sum(1), kl[which][1:, inside].sum(1)]).tolist()
        total.update(dict(zip(("ce_clean", "ce_spliced", "ce_ablated", "kl_spliced", "kl_ablated"), sums)))
        total["predictions"] += int(inside.sum())


def _prediction_losses(model, states: list[torch.Tensor], targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy, and KL from the first state's prediction, nats, float64 ``[state, token]`` each."""
    ce, kl = torch.zeros(2, len(states), len(targets), dtype=torch.float64, device=targets.device)
    for part in row_blocks(len(targets), CHUNK):
        clean = None
        for i, state in enumerate(states):
            log_probs = next_token_logits(model, state[part]).log_softmax(-1)
            clean = log_probs if clean is None else clean
            ce[i, part] = -log_probs.gather(-1, targets[part, None])[:, 0].double()
            kl[i, part] = (clean.exp() * (clean - log_probs)).sum(-1).double()
    return check_finite(ce, "losses"), kl


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
    tokens = as_tokens(model, tokens)
    on = _with_and_without_bos(model, tokens, check_mask(mask, tokens.shape))[1]
    if int(on.sum()) < 2:
        raise ValueError(f"{int(on.sum())} token(s) are left without BOS, and two are the least that can vary; give more tokens, or unmask more")
    kept = on.any(1)  # a row that counts nothing need not run
    tokens, on = tokens[kept], on[kept]
    groups, totals = None, {}
    for part in progress_bar(row_blocks(len(tokens), max(1, SITE_TOKENS // tokens.shape[1])), show=True, desc="sites"):
        sites = _sites(model, tokens[part], sae.W_enc.shape[0], groups)
        groups = groups or _grouped(model, sites)
        for site in groups:
            _add_site(totals.setdefault(site, {}), sae, check_finite(sites[site][on[part]], f"activations at {site}"))
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
    capture(model, tokens, UNEMBED_INPUT, list(hooks.values()))
    if not found:
        raise HookError(f"no hook of this model is {d_in} wide, as the SAE needs; there are {', '.join(map(str, sorted(widths)))}. Is it this model's?")
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


def _add_site(total: dict, sae, x: torch.Tensor) -> None:
    """Adds ``x`` ``[token, d_in]``; the spread is kept around the running mean (Chan, Golub and LeVeque)."""
    if not len(x):
        return
    features, x_hat = reconstruct(sae, x[None])
    x, x_hat = x.double(), x_hat[0].double()
    n, mean = len(x), x.mean(0)
    before = total.get("n", 0)
    apart = float((mean - total.get("mean", mean)).pow(2).sum())
    total["spread"] = total.get("spread", 0.0) + float((x - mean).pow(2).sum()) + apart * before * n / (before + n)
    total["mean"] = (total.get("mean", 0.0) * before + mean * n) / (before + n)
    total["n"] = before + n
    total["error"] = total.get("error", 0.0) + float((x - x_hat).pow(2).sum())
    total["l0"] = total.get("l0", 0.0) + float((features != 0).sum())
