"""The reconstruction score: how much of the model's loss survives when an SAE's output takes the activations' place."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saework import run
from saework._checks import check_finite, check_mask
from saework.encoding import Encoder
from saework.metrics import bootstrap_interval, loss_recovered
from saework.predictions import next_token_losses

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
    tokens, hook, mask, batch_size = run.prepared(model, sae, tokens, hook, mask, batch_size)
    keep = check_mask(keep, (sae.W_dec.shape[0],), what="keep")
    counted = run.counted_predictions(tokens, mask).cpu()
    run.sae_input(model, sae, tokens[:1], hook)  # width and finiteness, before the long run
    baseline = 0.0
    if ablation == "mean":
        on = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        baseline = run.mean_activations(model, tokens, hook, on[None], batch_size=batch_size)[0].float()

    encode = Encoder(sae, keep)
    losses = torch.empty(3, len(tokens), tokens.shape[1] - 1)
    for part in run.progress_bar(run.row_blocks(len(tokens), batch_size), show=progress, desc="recons score"):
        on = None if mask is None else mask[part].to(tokens.device)
        splice = lambda x: [run.masked(new, x, on) for new in (encode.reconstruct(x).x_hat, torch.zeros_like(x) + baseline)]  # noqa: E731, B023
        states = run.spliced_states(model, tokens[part], hook, splice, 2)
        losses[:, part] = next_token_losses(model, [state[:, :-1] for state in states], tokens[part, 1:])[0].cpu().float()

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
