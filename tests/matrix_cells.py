"""Each public function on one SAE at one place of one model, beside a plain computation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_runs import PlainSae, rebuilt
from torch import Tensor

import saework
from saework import Workbook
from saework.analysis.steering_edit import steering_hooks
from saework.views.explorer.feature_search import features_raising
from saework.views.explorer.text_reading import read

close = partial(torch.testing.assert_close, rtol=2e-3, atol=2e-4, check_dtype=False)
BOS = 1
OTHER_TOKEN = 77
PROMPT = "import os"


class Refused(Exception):
    """A function said that it cannot do this."""


@dataclass(frozen=True, eq=False)
class Cell:
    """A Workbook, and the same by definition."""

    book: Workbook
    model: Any
    """Plain."""
    reads: str
    """A place of ``plain_runs.HOOKS``."""
    writes: str
    folder: Path
    site: str
    """The hook that always has what the SAE reads."""

    @cached_property
    def plain(self) -> PlainSae:
        return PlainSae(self.model, self.book.sae, self.book.tokens, self.reads, self.writes)

    @cached_property
    def features(self) -> Tensor:
        """``[batch, pos, d_sae]``, by definition."""
        return self.plain.features

    @cached_property
    def feature(self) -> int:
        """The one with the highest activation behind BOS."""
        return int(self.features[:, 1:].abs().amax((0, 1)).argmax())

    @cached_property
    def row(self) -> Tensor:
        return self.plain.row(self.feature)

    def call(self, function: Callable, *args: Any, **options: Any) -> Any:
        """The function on the Workbook."""
        return refusing(function, self.book, *args, **options)


def refusing(function: Callable, *args: Any, **options: Any) -> Any:
    """Call it; what it refuses is raised as ``Refused``."""
    try:
        return function(*args, **options)
    except ValueError as error:
        raise Refused(str(error)) from None


def largest(values: Tensor, n: int) -> Tensor:
    """Along the first axis, those of largest size."""
    return values.gather(0, values.abs().topk(n, 0).indices)


def check_scan(cell: Cell) -> None:
    seen = cell.call(saework.scan, top_k=2, progress=False)
    flat = cell.features.flatten(0, 1)
    assert torch.equal(seen.count, (flat != 0).sum(0))
    assert seen.mean_l0 == pytest.approx(float((flat != 0).sum(-1).double().mean()))
    close(seen.max_activation, flat.abs().amax(0))
    close(seen.top_values, largest(flat, 2).T)
    close(seen.total_activation, flat.double().sum(0))


def check_recons_score(cell: Cell, ablation: str) -> None:
    score = cell.call(saework.recons_score, ablation=ablation, progress=False)
    plain = cell.plain
    baseline = plain.y.mean((0, 1)) if ablation == "mean" else 0.0
    clean = plain.losses()
    spliced = plain.losses(plain.reconstructed)
    ablated = plain.losses(lambda x, y: torch.zeros_like(y) + baseline)
    close(score.token_losses, torch.stack([clean, spliced, ablated]))
    share = (ablated.mean() - spliced.mean()) / (ablated.mean() - clean.mean())
    assert score.score == pytest.approx(float(share), rel=1e-2, abs=1e-3)


def check_reconstruction_metrics(cell: Cell) -> None:
    table = cell.call(saework.reconstruction_metrics, progress=False)["with_bos"]
    plain = cell.plain
    y, y_hat = plain.y.double(), plain.reconstructed(plain.x, plain.y).double()
    spread = (y - y.mean((0, 1))).pow(2).sum()
    before = plain.clean[:, :-1].log_softmax(-1)
    after = plain.steered(plain.reconstructed)[:, :-1].log_softmax(-1)
    expected = {
        "ce_loss_clean": plain.losses().mean(),
        "ce_loss_spliced": plain.losses(plain.reconstructed).mean(),
        "ce_loss_ablated": plain.losses(lambda x, y: torch.zeros_like(y)).mean(),
        "kl_div_spliced": (before.exp() * (before - after)).sum(-1).mean(),
        "variance_explained": 1 - (y - y_hat).pow(2).sum() / spread,
        "mse_per_token": (y - y_hat).pow(2).sum(-1).mean(),
        "cosine_similarity": torch.cosine_similarity(y, y_hat, dim=-1).mean(),
        "l0": (cell.features != 0).sum(-1).double().mean(),
        "l1": cell.features.abs().sum(-1).double().mean(),
    }
    for name, value in expected.items():
        assert table[name] == pytest.approx(float(value), rel=2e-3, abs=2e-4), name


def check_find_site(cell: Cell) -> None:
    table = cell.call(saework.find_site)
    counted = cell.book.tokens != BOS
    plain = cell.plain
    y = plain.y[counted].double()
    y_hat = plain.reconstructed(plain.x, plain.y)[counted].double()
    unexplained = (y - y_hat).pow(2).sum() / (y - y.mean(0)).pow(2).sum()
    names = table["names"].str.split(", ")
    (row,) = table[names.map(lambda names: cell.site in names)].itertuples()
    assert row.unexplained == pytest.approx(float(unexplained), rel=2e-3, abs=1e-5)
    l0 = (cell.features[counted] != 0).sum(-1).double().mean()
    assert row.l0 == pytest.approx(float(l0))


def check_feature_activations(cell: Cell) -> None:
    for feature in (cell.feature, 3):
        found = cell.call(saework.feature_activations, cell.book.tokens, feature)
        close(found, cell.features[..., feature])


def check_active_features(cell: Cell) -> None:
    for pos in (-1, 2):
        found = cell.call(saework.active_features, cell.book.tokens[0], pos=pos, n=1000)
        expected = cell.features[0, pos]
        assert sorted(found["index"]) == expected.nonzero()[:, 0].tolist()
        close(torch.tensor(found["value"].to_numpy()), expected[found["index"].tolist()])
        assert found["value"].abs().is_monotonic_decreasing


def check_logit_effect(cell: Cell) -> None:
    effect = cell.call(saework.logit_effect, cell.feature)
    close(effect, plain_effect(cell, cell.feature))


def plain_effect(cell: Cell, feature: int) -> Tensor:
    effect = cell.model.direct_effect(cell.writes, cell.plain.row(feature))
    assert effect is not None, "there is no direct path, so this should have been refused"
    return effect


def check_explore(cell: Cell) -> None:
    """What the explorer shows of a text: a feature's values, and what fires on a token."""
    row = cell.book.tokens[0]
    reading = cell.call(read, row)
    close(refusing(reading.values, cell.feature), cell.features[0, :, cell.feature])
    firing = refusing(reading.firing, 4, n=1000)
    expected = cell.features[0, 4]
    assert sorted(firing["index"]) == expected.nonzero()[:, 0].tolist()


def check_explorer_search(cell: Cell) -> None:
    found = cell.call(features_raising, [OTHER_TOKEN], n=3)
    for feature, value, _ in found.itertuples(index=False):
        effect = plain_effect(cell, feature)[OTHER_TOKEN]
        assert value == pytest.approx(float(effect), rel=2e-3, abs=2e-4)


def check_steering(cell: Cell, mode: str, error_term: bool) -> None:
    """A strength that is as large as the activations, which the SAE's own units say."""
    plain, feature = cell.plain, cell.feature
    strength = float(cell.features[..., feature].max()) + 1
    options = dict(strength=strength, mode=mode, error_term=error_term)
    book = cell.book
    hooks = refusing(steering_hooks, book.model, book.sae, feature, hook=book.hook, **options)
    steered = refusing(book.model.run_with_hooks, book.tokens, fwd_hooks=hooks)

    def new(x: Tensor, y: Tensor) -> Tensor:
        base = y if error_term else plain.reconstructed(x, y)
        if mode == "add":
            return base + strength * cell.row
        return base + plain.with_feature(feature, strength)(x, y) - y

    expected = plain.steered(new)
    close(steered.double().log_softmax(-1), expected.log_softmax(-1))


def check_feature_page(cell: Cell) -> None:
    feature = cell.feature
    page = cell.call(saework.feature_page, feature)
    counted = cell.book.tokens != BOS
    values = cell.features[..., feature]
    assert page.count == int((values[counted] != 0).sum())
    l0 = (cell.features[counted] != 0).sum(-1).double().mean()
    assert page.mean_l0 == pytest.approx(float(l0))
    top = torch.tensor([example.activation for example in page.top])
    close(top, largest(values[counted], len(top)))
    plain = cell.plain
    without = plain.with_feature(feature, 0.0)
    ablated = plain.losses(lambda x, y: torch.where(counted[..., None], without(x, y), y))
    change = ablated - plain.losses()
    for example in page.top:
        if example.pos + 1 < counted.shape[1]:
            expected = change[example.row, example.pos]
            assert example.loss_change == pytest.approx(float(expected), rel=5e-3, abs=2e-4)
    if page.logits is None:
        assert "no direct path" in page.missing["logits"] or "not known" in page.missing["logits"]
    else:
        raised = page.logits.raised["logit"]
        close(torch.tensor(raised.to_numpy()), plain_effect(cell, feature).topk(len(raised)).values)


def check_rare_features(cell: Cell) -> None:
    sae = cell.book.sae
    rates = (cell.features != 0).double().mean((0, 1))
    threshold = float(rates.quantile(0.4)) + 1e-9
    found = refusing(saework.rare_features, sae, rates, threshold=threshold)
    rare = rates < threshold
    encoder = getattr(sae, "W_enc", None)
    columns = sae.W_dec if encoder is None else encoder.T
    for cosine, rows in ((found.cosine, columns), (found.decoder_cosine, sae.W_dec)):
        mean = rows[rare].mean(0)
        close(cosine, torch.cosine_similarity(rows, mean[None], dim=-1))


def check_compare(cell: Cell) -> None:
    sae = cell.book.sae
    other = rebuilt(sae)
    noise = torch.randn(other.W_dec.shape, generator=torch.Generator().manual_seed(5))
    other.W_dec = torch.nn.Parameter(sae.W_dec.flip(0) + 0.05 * noise)
    table = refusing(saework.compare, sae, other)
    unit, unit_other = (torch.nn.functional.normalize(s.W_dec, dim=-1) for s in (sae, other))
    cosine, nearest = (unit @ unit_other.T).max(1)
    first = table[table["direction"] == "a to b"]
    assert first["nearest"].tolist() == nearest.tolist()
    close(torch.tensor(first["cosine"].to_numpy()), cosine)


def check_reference(cell: Cell) -> None:
    """``write_reference`` and ``validate``."""
    book = cell.book
    written = cell.call(saework.write_reference, PROMPT, cell.folder / "reference.json")
    ids = book.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    if book.model.cfg.default_prepend_bos:  # TransformerLens says it for each family
        ids = [BOS, *ids]
    plain = PlainSae(cell.model, book.sae, torch.tensor([ids]), cell.reads, cell.writes)
    y_hat = plain.reconstructed(plain.x, plain.y)
    last = plain.features[0, -1]
    assert written["n_active_last_pos"] == int((last != 0).sum())
    assert written["encoded_last_norm"] == pytest.approx(float(last.norm()), rel=1e-3)
    mse = (plain.x - y_hat).pow(2).mean()
    assert written["reconstruction_mse"] == pytest.approx(float(mse), rel=1e-3)
    assert written["decoded_last_norm"] == pytest.approx(float(y_hat[0, -1].norm()), rel=1e-3)
    values = refusing(saework.validate, book, written)
    assert values["validation/encoded_norm"] == written["encoded_last_norm"]


def check_permute_features(cell: Cell) -> None:
    sae = rebuilt(cell.book.sae)
    order = torch.arange(cell.features.shape[-1]).flip(0)
    permuted = refusing(saework.permute_features, sae, order)
    plain = PlainSae(cell.model, permuted, cell.book.tokens, cell.reads, cell.writes)
    close(plain.features, cell.features[..., order])
    close(plain.reconstructed(plain.x, plain.y), cell.plain.reconstructed(plain.x, plain.y))


def check_select_features(cell: Cell) -> None:
    chosen = [cell.feature, *(i for i in (5, 3) if i != cell.feature)]
    small = refusing(saework.select_features, cell.book.sae, chosen)
    plain = PlainSae(cell.model, small, cell.book.tokens, cell.reads, cell.writes)
    close(plain.features, cell.features[..., chosen])
    alone = torch.zeros_like(cell.features)
    alone[..., chosen] = cell.features[..., chosen]
    close(plain.reconstructed(plain.x, plain.y), cell.plain.decoded(plain.x, alone))


FUNCTIONS: dict[str, Callable[[Cell], None]] = {
    "scan": check_scan,
    "recons_score": partial(check_recons_score, ablation="zero"),
    "recons_score (mean)": partial(check_recons_score, ablation="mean"),
    "reconstruction_metrics": check_reconstruction_metrics,
    "find_site": check_find_site,
    "feature_activations": check_feature_activations,
    "active_features": check_active_features,
    "logit_effect": check_logit_effect,
    "explore": check_explore,
    "explore (search)": check_explorer_search,
    "steer": partial(check_steering, mode="add", error_term=True),
    "steer (clamp)": partial(check_steering, mode="clamp", error_term=True),
    "steer (no error term)": partial(check_steering, mode="add", error_term=False),
    "feature_page": check_feature_page,
    "write_reference": check_reference,
    "rare_features": check_rare_features,
    "compare": check_compare,
    "permute_features": check_permute_features,
    "select_features": check_select_features,
}


def weights_of(sae: Any) -> dict[str, Tensor]:
    return sae.state_dict() if isinstance(sae, torch.nn.Module) else vars(sae)


def state_of(cell: Cell) -> dict[str, Any]:
    """What no function may change: the SAE, and the model's hooks."""
    model, sae = cell.book.model, cell.book.sae
    return {
        "weights": {name: value.clone() for name, value in weights_of(sae).items()},
        "attributes": {name: id(value) for name, value in vars(sae).items()},
        "hooks": {name for name, point in model.hook_dict.items() if point.fwd_hooks},
    }


def outcome(cell: Cell, function: str) -> str:
    """``""`` if right; else the words of the refusal.

    Raises:
        AssertionError: it is wrong, or something of the caller's is changed.
        Exception: it crashes.
    """
    before = state_of(cell)
    try:
        FUNCTIONS[function](cell)
        words = ""
    except Refused as refusal:
        words = str(refusal)
    after = state_of(cell)
    now = after.pop("weights")
    for name, value in before.pop("weights").items():
        assert torch.equal(value, now[name]), f"{name} of the SAE is changed"
    assert after == before
    return words
