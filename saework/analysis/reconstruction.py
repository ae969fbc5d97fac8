"""The reconstruction score: how much of the model's loss survives when an SAE's output takes the activations' place."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pandas as pd
import torch

from saework.analysis.sites import GATED
from saework.core.arguments import accepts_workbook, check_finite, check_mask
from saework.core.formulas import (
    RECONSTRUCTION,
    bootstrap_interval,
    loss_recovered,
    pooled_reconstruction,
    reconstruction_sums,
)
from saework.engine import forward
from saework.engine.encoder import Encoder
from saework.engine.forward import with_and_without_bos
from saework.engine.losses import next_token_losses

ABLATIONS = ("zero", "mean")


@dataclass(frozen=True)
class ReconsScore:
    """How much of the model's loss survives when the SAE's reconstruction takes the activations' place."""

    loss: float
    """Of the untouched model, nats per token."""
    recons_loss: float
    """With the reconstruction spliced in, nats per token."""
    ablated_loss: float
    """With the activations ablated, nats per token."""
    score: float
    """``(ablated_loss - recons_loss) / (ablated_loss - loss)``, a fraction; pooled, then divided."""
    interval: tuple[float, float]
    """95% of ``score``, bootstrap over rows; NaN for a single row."""
    token_losses: torch.Tensor
    """float32 ``[3, batch, pos-1]``: clean, spliced and ablated loss of predicting the next token."""
    n_tokens: int
    """Predictions counted."""
    ablation: str
    """``zero`` or ``mean`` (the mean over all tokens given)."""
    hook: str
    """Where the splice was made."""

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"ReconsScore({self.score:.2%}, 95% {low:.2%} to {high:.2%}; nats per token: {self.loss:.4f} clean, "
            f"{self.recons_loss:.4f} spliced, {self.ablated_loss:.4f} {self.ablation}-ablated; "
            f"{self.n_tokens} predictions at {self.hook})"
        )


@accepts_workbook
@torch.no_grad()
def recons_score(
    model,
    sae,
    tokens,
    *,
    hook: str | None = None,
    ablation: str = "zero",
    mask=None,
    keep=None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ReconsScore:
    """Splice the SAE's reconstruction into the model, and say how much of the loss it recovers.

    Args:
        tokens: long ``[batch, pos]``, BOS first.
        hook: the SAE's own by default.
        ablation: ``"zero"``, or ``"mean"``: the mean activation over all (unmasked) tokens given,
            so that it does not depend on how they are cut into batches.
        mask: bool ``[batch, pos]``; where False (BOS, padding), nothing is spliced or ablated, and
            no prediction from or of that token is counted. By default all tokens count, BOS too, as published.
        keep: bool ``[d_sae]``, the features that stay on; by default all.
        batch_size: rows run at a time; by default about 1,024 tokens' worth. It changes no result beyond float32's rounding.
        seed: for the bootstrap interval.

    Raises: ValueError if ablation changes nothing, a row has one token only, or an argument does
    not fit; HookError if the hook does not fit the model or the SAE.
    Memory: only ``token_losses`` grows with the tokens: 12 bytes each, and for a moment 24 more when they are summed.
    Source: ``get_recons_loss`` of the gelu-1l notebook.
    """
    if ablation not in ABLATIONS:
        raise ValueError(f"ablation is {ablation!r}; give one of {', '.join(map(repr, ABLATIONS))}")
    tokens, hook, mask, batch_size = forward.prepared(model, sae, tokens, hook, mask, batch_size)
    keep = check_mask(keep, (sae.W_dec.shape[0],), what="keep")
    counted = forward.counted_predictions(tokens, mask).cpu()
    forward.sae_input(model, sae, tokens[:1], hook)  # width and finiteness, before the long run
    baseline = 0.0
    if ablation == "mean":
        on = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        baseline = forward.mean_activations(model, tokens, hook, on[None], batch_size=batch_size)[
            0
        ].float()

    encode = Encoder(sae, keep)
    losses = torch.empty(3, len(tokens), tokens.shape[1] - 1)
    for part in forward.progress_bar(
        forward.row_blocks(len(tokens), batch_size), show=progress, desc="recons score"
    ):
        on = None if mask is None else mask[part].to(tokens.device)
        splice = lambda x: [
            forward.masked(new, x, on)
            for new in (encode.reconstruct(x).x_hat, torch.zeros_like(x) + baseline)
        ]  # noqa: E731, B023
        states = forward.spliced_states(model, tokens[part], hook, splice, 2)
        losses[:, part] = (
            next_token_losses(model, [state[:, :-1] for state in states], tokens[part, 1:])[0]
            .cpu()
            .float()
        )

    check_finite(losses, "losses")
    row_sums = (losses.double() * counted).sum(-1).numpy()
    row_counts = counted.sum(-1).numpy()
    clean, spliced, ablated = (row_sums.sum(-1) / row_counts.sum()).tolist()
    return ReconsScore(
        loss=clean,
        recons_loss=spliced,
        ablated_loss=ablated,
        score=loss_recovered(clean, spliced, ablated),
        interval=bootstrap_interval(row_sums, row_counts, seed=seed),
        token_losses=losses,
        n_tokens=int(row_counts.sum()),
        ablation=ablation,
        hook=hook,
    )


@accepts_workbook
@torch.no_grad()
def reconstruction_metrics(
    model,
    sae,
    tokens,
    *,
    hook: str | None = None,
    mask=None,
    batch_size: int | None = None,
    progress: bool = True,
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
    tokens, hook, mask, batch_size = forward.prepared(model, sae, tokens, hook, mask, batch_size)
    forward.counted_predictions(tokens, mask)  # that there are any
    forward.sae_input(model, sae, tokens[:1], hook)  # width and finiteness, before the long run
    masks = with_and_without_bos(model, tokens, mask)
    means = forward.mean_activations(model, tokens, hook, masks, batch_size=batch_size).flatten(1)
    totals, encode = (Counter(), Counter()), Encoder(sae)
    for part in forward.progress_bar(
        forward.row_blocks(len(tokens), batch_size), show=progress, desc="reconstruction metrics"
    ):
        on = masks[:, part]
        if not on[0].any():
            continue

        def splice(x: torch.Tensor) -> list[torch.Tensor]:
            made = encode.reconstruct(check_finite(x, f"activations at {hook}"))
            check_finite(made.x_hat, f"the SAE's reconstructions at {hook}")
            for total, some, mean in zip(totals, on, means):
                total.update(
                    reconstruction_sums(
                        x.flatten(2)[some],
                        made.x_hat.flatten(2)[some],
                        made.l0[some],
                        made.l1[some],
                        mean,
                    )
                )
            return [
                forward.masked(new, x, mask)
                for mask in kinds
                for new in (made.x_hat, torch.zeros_like(x))
            ]

        kinds = on[:1] if torch.equal(*on) else on
        pairs = kinds[:, :, 1:] & kinds[:, :, :-1]
        losses = _spliced_losses(model, tokens[part], hook, splice, pairs)
        for i, total in enumerate(totals):
            i = min(i, len(pairs) - 1)
            sums = [
                float(each[i, j][pairs[i]].sum())
                for each, j in zip((losses[0],) * 3 + (losses[1],) * 2, (0, 1, 2, 1, 2))
            ]
            total.update(
                dict(
                    zip(("ce_clean", "ce_spliced", "ce_ablated", "kl_spliced", "kl_ablated"), sums)
                )
            )
            total["predictions"] += int(pairs[i].sum())
    if totals[0]["spread"] == 0:
        raise ValueError(
            f"the activations at {hook} are all alike, so there is no variance to explain; give more tokens"
        )
    with_bos, without_bos = (
        pooled_reconstruction(total, mean) for total, mean in zip(totals, means)
    )
    rows = [(with_bos[name], without_bos[name], *words) for name, words in RECONSTRUCTION.items()]
    return pd.DataFrame(
        rows,
        index=pd.Index(RECONSTRUCTION, name="metric"),
        columns=["with_bos", "without_bos", "unit", "formula", "source"],
    )


def _spliced_losses(model, tokens: torch.Tensor, hook: str, splice, pairs: torch.Tensor):
    """Cross-entropy and KL, nats, ``[mask, (clean, spliced, ablated), row, pos-1]`` each, for one mask or two."""
    n = 2 * len(pairs)
    clean, *states = (
        state[:, :-1] for state in forward.spliced_states(model, tokens, hook, splice, n)
    )
    # where BOS alone was left out, and nothing reads it later, the other tokens' states are the same bits: once is enough
    new = [
        i for i, state in enumerate(states) if i < 2 or not _same(state, states[i - 2], pairs[1])
    ]
    ce, kl = next_token_losses(model, [clean, *(states[i] for i in new)], tokens[:, 1:], kl=True)
    check_finite(ce, "losses")
    which = [new.index(i if i in new else i - 2) + 1 for i in range(n)]
    return [
        torch.stack(
            [torch.stack([each[0], each[which[i]], each[which[i + 1]]]) for i in range(0, n, 2)]
        )
        for each in (ce, kl)
    ]


def _same(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(
        *(state.expand(len(where), -1, -1)[where] for state in (a, b))
    )
