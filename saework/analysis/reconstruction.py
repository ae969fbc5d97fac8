"""Reconstruction quality: the share of the loss that an SAE keeps, and every other definition."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
import torch

from saework.core.argument_kinds import checked
from saework.core.arguments import accepts_workbook, check_finite, check_mask
from saework.core.errors import HookError, in_words
from saework.core.protocols import HookedModel, SparseAutoencoder
from saework.core.reconstruction_formulas import (
    RECONSTRUCTION,
    bootstrap_interval,
    loss_recovered,
    pooled_reconstruction,
    reconstruction_sums,
)
from saework.engine import forward
from saework.engine.architectures import check_reconstructs
from saework.engine.encoder import Encoder
from saework.engine.left_out import check_has_logits
from saework.engine.losses import next_token_losses
from saework.engine.masks import counted_predictions, masked, with_and_without_bos
from saework.engine.site import Site
from saework.engine.splice import spliced_states

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

ABLATIONS = ("zero", "mean")
REPLACEMENTS = 2  # of one SAE: its reconstruction, and the ablation
Sums = dict[str, float]  # by name; those of two parts add up


@dataclass(frozen=True)
class ReconsScore:
    """How much of the model's loss the SAE's reconstruction keeps."""

    loss: float
    """Of the untouched model, nats per token."""
    recons_loss: float
    """With the reconstruction spliced in, nats per token."""
    ablated_loss: float
    """With the activations ablated, nats per token."""
    score: float
    """Fraction: ``(ablated_loss - recons_loss) / (ablated_loss - loss)``; pooled, then divided."""
    interval: tuple[float, float]
    """95% of ``score``, bootstrap over rows; NaN for a single row."""
    token_losses: Float[Tensor, "3 batch pos-1"]
    """Clean, spliced and ablated loss of predicting each next token, float32."""
    n_tokens: int
    """Predictions counted."""
    ablation: str
    """``zero`` or ``mean`` (the mean over all tokens given)."""
    hook: str
    """Where the splice was made."""

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"ReconsScore({self.score:.2%}, 95% {low:.2%} to {high:.2%}; nats per token: "
            f"{self.loss:.4f} clean, "
            f"{self.recons_loss:.4f} spliced, "
            f"{self.ablated_loss:.4f} {self.ablation}-ablated; "
            f"{self.n_tokens} predictions at {self.hook})"
        )


@accepts_workbook
@torch.no_grad()
def recons_score(
    model: HookedModel,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "batch pos"],
    *,
    hook: str | None = None,
    ablation: str = "zero",
    mask: Bool[Tensor, "batch pos"] | None = None,
    keep: Bool[Tensor, " d_sae"] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ReconsScore:
    """Splice the SAE's reconstruction into the model and measure the loss it recovers.

    Memory: only ``token_losses`` grows: 12 bytes per token, and 24 more while they are summed.

    Args:
        model: the model, or a Workbook alone in place of model, sae and tokens.
        sae: the SAE.
        tokens: BOS first.
        hook: the SAE's own by default.
        ablation: ``"zero"`` or ``"mean"``: the mean over all unmasked tokens, of every batch.
        mask: where False (BOS, padding), nothing is spliced or ablated, and no prediction from or
            of that token is counted. By default all tokens count, BOS too, as published.
        keep: the features that stay on; by default all.
        batch_size: rows run at a time; by default about 1,024 tokens. Results change by float32
            rounding only.
        seed: for the bootstrap interval.
        progress: whether to show a progress bar.

    Raises:
        ValueError: if ablation changes nothing, rows have one token only, or an argument does not
            fit.
        HookError: if the hook does not fit the model or the SAE.

    Source: ``get_recons_loss`` of the gelu-1l notebook.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> round(recons_score(book).score, 2)
    0.95
    """
    (score,) = _scores(
        model,
        [("this SAE", sae)],
        tokens,
        hook,
        ablation=ablation,
        mask=mask,
        keep=keep,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    _warn_of_no_gain(score.loss, score.ablated_loss, f"{ablation} ablation at {score.hook}")
    return score


@checked
@torch.no_grad()
def recons_scores(
    model: HookedModel,
    saes: Mapping[str, SparseAutoencoder],
    tokens: Int[Tensor, "batch pos"],
    *,
    hook: str | None = None,
    ablation: str = "zero",
    mask: Bool[Tensor, "batch pos"] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, ReconsScore]:
    """``recons_score`` of several SAEs that write at one hook; clean and ablated losses are shared.

    The bootstrap draws the same rows for all. Three SAEs take five losses of each token in place of
    nine.

    Memory: as ``recons_score``, and behind the hook a batch's activations once more for each SAE.

    Args:
        model: the model.
        saes: by names of your own.
        tokens: BOS first.
        hook: the SAEs' own by default.
        ablation, mask, batch_size, seed, progress: as of ``recons_score``.

    Raises:
        HookError: the SAEs read or write at different hooks.
        ValueError: there is none, or they begin a text differently; and as ``recons_score``.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> saes = {run: book.with_sae(run).sae for run in ("run1", "run2")}
    >>> {run: round(s.score, 2) for run, s in recons_scores(book.model, saes, book.tokens).items()}
    {'run1': 0.95, 'run2': 0.95}
    """
    if not isinstance(saes, Mapping) or not saes:
        raise ValueError(f"saes is {in_words(saes)}; give one or more SAEs by name: {{name: sae}}")
    scores = _scores(
        model,
        list(saes.items()),
        tokens,
        hook,
        ablation=ablation,
        mask=mask,
        keep=None,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    one = scores[0]  # the two losses are the same for all
    _warn_of_no_gain(one.loss, one.ablated_loss, f"{ablation} ablation at {one.hook}")
    return dict(zip(saes, scores))


def _scores(
    model: HookedModel,
    saes: Sequence[tuple[str, SparseAutoencoder]],
    tokens: Int[Tensor, "batch pos"],
    hook: str | None,
    *,
    ablation: str,
    mask: Bool[Tensor, "batch pos"] | None,
    keep: Bool[Tensor, " d_sae"] | None,
    batch_size: int | None,
    seed: int,
    progress: bool,
) -> list[ReconsScore]:
    """The scores of SAEs at one hook, with their names; ``keep`` is of a single one."""
    if ablation not in ABLATIONS:
        allowed = ", ".join(map(repr, ABLATIONS))
        raise ValueError(f"ablation is {ablation!r}; give one of {allowed}")
    check_has_logits(model)
    encoders, sites, lengths = [], {}, set()
    for name, sae in saes:
        check_reconstructs(sae)
        rows, sites[name], on_rows, n_rows = forward.prepared(
            model, sae, tokens, hook, mask, batch_size
        )
        lengths.add(rows.shape[1])
        forward.check_site(model, sites[name], rows)
        encoders.append(Encoder(sae, check_mask(keep, sae.W_dec.shape[:1], what="keep")))
    site = _common(sites)
    if len(lengths) > 1:  # of a text, to which one SAE's config puts BOS and another's does not
        raise ValueError(
            "some of these SAEs' rows begin with BOS, and others' do not (prepend_bos); give "
            "tokens in place of text"
        )
    tokens, mask = rows, on_rows
    counted = counted_predictions(tokens, mask).cpu()
    baseline = torch.zeros(())
    if ablation == "mean":
        counted_tokens = mask
        if counted_tokens is None:
            counted_tokens = torch.ones_like(tokens, dtype=torch.bool)
        (mean,) = forward.mean_activations(
            model, tokens, site.writes, counted_tokens[None], batch_size=n_rows
        )
        baseline = mean.float()

    n = len(saes) + 1  # replacements: each SAE's reconstruction, and the ablation
    losses = torch.empty(1 + n, *counted.shape)
    blocks = forward.row_blocks(len(tokens), n_rows)
    for part in forward.progress_bar(blocks, show=progress, desc="recons score"):
        batch = tokens[part]
        on = None if mask is None else mask[part].to(batch.device)
        splice = partial(_replacements, encoders=encoders, baseline=baseline, on=on)
        states = spliced_states(model, batch, site.writes, splice, n, reads=site.reads)
        ce, _ = next_token_losses(model, _predicting(states), batch[:, 1:])
        losses[:, part] = ce.cpu().float()

    check_finite(losses, "losses")
    clean, *spliced, ablated = losses
    return [
        _score(torch.stack([clean, own, ablated]), counted, ablation, site.writes, seed)
        for own in spliced
    ]


def _common(sites: Mapping[str, Site]) -> Site:
    """The site of all SAEs.

    Raises:
        HookError: they have different ones.
    """
    (first, site), *others = sites.items()
    for name, other in others:
        if (other.reads, other.writes) != (site.reads, site.writes):
            raise HookError(
                f"{first} reads {site.reads} and writes {site.writes}, but {name} reads "
                f"{other.reads} and writes {other.writes}; give SAEs of one hook, or call "
                "recons_score for each"
            )
    return site


def _score(
    losses: Float[Tensor, "3 batch pos-1"],
    counted: Bool[Tensor, "batch pos-1"],
    ablation: str,
    hook: str,
    seed: int,
) -> ReconsScore:
    """From the clean, spliced and ablated losses."""
    counted_losses = losses.double() * counted
    row_sums = counted_losses.sum(-1).numpy()
    row_counts = counted.sum(-1).numpy()
    n_counted = row_counts.sum()
    mean_losses = row_sums.sum(-1) / n_counted
    clean, spliced, ablated = mean_losses.tolist()
    return ReconsScore(
        loss=clean,
        recons_loss=spliced,
        ablated_loss=ablated,
        score=loss_recovered(clean, spliced, ablated),
        interval=bootstrap_interval(row_sums, row_counts, seed=seed),
        token_losses=losses,
        n_tokens=int(n_counted),
        ablation=ablation,
        hook=hook,
    )


def _warn_of_no_gain(clean: float, ablated: float, ablation: str) -> None:
    """Warn of a score without a meaning: an ablation that does not raise the loss."""
    if clean <= ablated:  # equal losses are an error, not a warning
        return
    warnings.warn(
        f"the score has no meaning here: the model's own loss ({clean:.4f} nats) is not below that "
        f"of {ablation} ({ablated:.4f}), so there is nothing to recover. Is this text the model's "
        "kind of text? Compare recons_loss with loss instead",
        stacklevel=5,  # the line that called the analysis, which has two decorators
    )


def _replacements(
    x: Tensor,
    written: Tensor,
    *,
    encoders: Iterable[Encoder],
    baseline: Tensor,
    on: Tensor | None,
) -> list[Tensor]:
    """The SAEs' outputs, and the ablation, where the mask is on (or there is none)."""
    outputs = [encode.reconstruct(x).x_hat.reshape(written.shape) for encode in encoders]
    ablated = torch.zeros_like(written) + baseline
    return [masked(new, written, on) for new in (*outputs, ablated)]


def _predicting(states: list[Tensor]) -> list[Tensor]:
    """States without the last position, which has no next token to predict."""
    return [state[:, :-1] for state in states]


@accepts_workbook
@torch.no_grad()
def reconstruction_metrics(
    model: HookedModel,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "batch pos"],
    *,
    hook: str | None = None,
    mask: Bool[Tensor, "batch pos"] | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Each definition of reconstruction quality on the same tokens, with BOS and without.

    Memory: a batch's activations (five times behind the hook), one block of features and a few of
    logits. It does not grow with the tokens.
    Time: one pass to the hook for the mean; one to the output, five times as wide behind the hook.

    Args:
        model: the model, or a Workbook alone in place of model, sae and tokens.
        sae: the SAE.
        tokens: BOS first.
        hook: the SAE's own by default.
        mask: where False, nothing is spliced or ablated, and nothing is counted.
        batch_size: rows run at a time; by default about 1,024 tokens. Results change by float32
            rounding only.
        progress: whether to show a progress bar.

    Returns:
        One row per metric, its name as index, with the columns

        - ``with_bos``: over all tokens;
        - ``without_bos``: tokens that are the tokenizer's BOS (the first column, if the model has
          no tokenizer) are neither spliced nor counted;
        - ``unit``, ``formula``, ``source``: of the metric.

        NaN where nothing is left, or nothing varies.

    Raises:
        ValueError: if rows have one token only, the activations do not vary, ablation changes
            nothing, or an argument does not fit.
        HookError: if the hook does not fit the model or the SAE.

    Source: in each row.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=1024, check=False)
    >>> table = reconstruction_metrics(book)
    >>> table["without_bos"][["ce_loss_score", "variance_explained"]].round(2).tolist()
    [0.95, 0.82]
    """
    check_reconstructs(sae)
    check_has_logits(model)
    tokens, site, mask, batch_size = forward.prepared(model, sae, tokens, hook, mask, batch_size)
    counted_predictions(tokens, mask)  # that there are any
    forward.check_site(model, site, tokens)
    masks = with_and_without_bos(model, tokens, mask)
    means = forward.mean_activations(model, tokens, site.writes, masks, batch_size=batch_size)
    means = means.flatten(1)
    encode = Encoder(sae)
    totals: list[Counter[str]] = [Counter(), Counter()]
    blocks = forward.row_blocks(len(tokens), batch_size)
    for part in forward.progress_bar(blocks, show=progress, desc="reconstruction metrics"):
        counted = masks[:, part]
        if not counted[0].any():
            continue
        # Without a BOS in the batch, both columns replace the same tokens: one run serves both.
        columns_are_equal = torch.equal(*counted)
        replaced = counted[:1] if columns_are_equal else counted
        splice = _BatchSplice(encode, site.writes, counted, replaced, means)
        loss_sums = _loss_sums(model, tokens[part], site, splice)
        for column, total in enumerate(totals):
            total.update(splice.sums[column])
            total.update(loss_sums[0 if columns_are_equal else column])
    if totals[0]["spread"] == 0:
        raise ValueError(
            f"the activations at {site.writes} are all alike, so there is no variance to explain; "
            "give more tokens"
        )
    for total in totals:
        n_predictions = total["predictions"]
        if n_predictions:
            clean, ablated = total["ce_clean"] / n_predictions, total["ce_ablated"] / n_predictions
            _warn_of_no_gain(clean, ablated, f"zero ablation at {site.writes}")
    with_bos, without_bos = map(pooled_reconstruction, totals, means)
    rows = {}
    for name, description in RECONSTRUCTION.items():
        rows[name] = (with_bos[name], without_bos[name], *description)
    columns = ["with_bos", "without_bos", "unit", "formula", "source"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.rename_axis("metric")


@dataclass
class _BatchSplice:
    """Replaces one batch's activations, and keeps the sums over what the hook held."""

    encode: Encoder
    hook: str
    counted: Tensor
    """Bool ``[2, batch, pos]``: the tokens with BOS and without."""
    replaced: Tensor
    """Those of these two masks that differ, ``[1 or 2, batch, pos]``."""
    means: Tensor
    """``[2, width]``: mean activation over all tokens counted, not only this batch's."""
    sums: list[Sums] = field(default_factory=list)
    """``reconstruction_sums`` with BOS and without; empty until the model has run."""

    def __call__(self, read: Tensor, x: Tensor) -> list[Tensor]:
        """For each mask that differs: the reconstruction, and zeros."""
        check_finite(x, f"activations at {self.hook}")
        made = self.encode.reconstruct(read)
        x_hat = made.x_hat.reshape(x.shape)
        check_finite(x_hat, f"the SAE's reconstructions at {self.hook}")
        flat = x.flatten(2)
        flat_hat = x_hat.flatten(2)
        for on, mean in zip(self.counted, self.means):
            sums = reconstruction_sums(
                x=flat[on],
                x_hat=flat_hat[on],
                l0=made.l0[on],
                l1=made.l1[on],
                mean=mean,
            )
            self.sums.append(sums)
        zeros = torch.zeros_like(x)
        replacements = []
        for on in self.replaced:
            replacements.append(masked(x_hat, x, on))
            replacements.append(masked(zeros, x, on))
        return replacements


def _loss_sums(model: HookedModel, tokens: Tensor, site: Site, splice: _BatchSplice) -> list[Sums]:
    """Sums of one batch's cross-entropy and KL, nats: for each mask that differs."""
    masks = splice.replaced
    predictions = masks[..., 1:] & masks[..., :-1]
    n_spliced = REPLACEMENTS * len(masks)
    states = spliced_states(model, tokens, site.writes, splice, n_spliced, reads=site.reads)
    clean, *spliced = _predicting(states)
    # Where only BOS was left out, and nothing reads it later, both masks give states of the same
    # bits: such a state is unembedded once. `place` is a state's number among the distinct ones.
    distinct = [clean]
    place: list[int] = []
    for i, state in enumerate(spliced):
        twin = i - REPLACEMENTS  # the same replacement under the first mask
        if twin >= 0 and _same(state, spliced[twin], predictions[1]):
            place.append(place[twin])
        else:
            place.append(len(distinct))
            distinct.append(state)
    targets = tokens[:, 1:]
    ce, kl = next_token_losses(model, distinct, targets, kl=True)
    check_finite(ce, "losses")

    sums = []
    for i, counted in enumerate(predictions):
        reconstructed = place[REPLACEMENTS * i]
        ablated = place[REPLACEMENTS * i + 1]
        losses = {
            "ce_clean": ce[0],
            "ce_spliced": ce[reconstructed],
            "ce_ablated": ce[ablated],
            "kl_spliced": kl[reconstructed],
            "kl_ablated": kl[ablated],
        }
        total: Sums = {"predictions": int(counted.sum())}
        for name, loss in losses.items():
            total[name] = float(loss[counted].sum())
        sums.append(total)
    return sums


def _same(a: Tensor, b: Tensor, where: Tensor) -> bool:
    """Whether two states are equal at some predictions; a state of one row stands for all rows."""
    if a.shape != b.shape:
        return False
    shape = (len(where), -1, -1)
    a = a.expand(shape)
    b = b.expand(shape)
    return torch.equal(a[where], b[where])
