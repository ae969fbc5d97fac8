"""Each public function, called with what a user has on one device; and results compared."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import saework
from saework import Workbook, corpus, feature_ordering, formulas, mutations, plots, probing
from saework.analysis.steering import generate
from saework.views.explorer.feature_search import example_options, features_raising

FEATURE = 3
PROMPT = "import os"
TRAINED_HERE = replace(feature_ordering.SMALL, d_in=8, d_sae=16, steps=24, batch=16)


@dataclass(frozen=True)
class Given:
    """A Workbook whose model is on some device, and arguments that are on ``place``."""

    whole: Workbook
    place: torch.device
    folder: Path

    def on(self, values: Tensor) -> Tensor:
        return values.to(self.place)

    @property
    def device(self) -> torch.device:
        """The model's."""
        return self.whole.sae.W_dec.device

    @cached_property
    def tokens(self) -> Tensor:
        return self.on(self.whole.tokens[:4, :12])

    @cached_property
    def book(self) -> Workbook:
        return replace(self.whole, tokens=self.tokens)

    @cached_property
    def mask(self) -> Tensor:
        mask = self.tokens != self.whole.tokenizer.bos_token_id
        mask[0, 8:] = False
        return mask

    @cached_property
    def features(self) -> Tensor:
        """``[batch, pos, 12]``, some of the SAE's, on the model's device as ``encode`` has them."""
        x = saework.activations(self.whole.model, self.tokens, self.whole.hook)
        return self.whole.sae.encode(x)[..., :12].contiguous()

    @cached_property
    def scan(self) -> saework.FeatureScan:
        return saework.scan(self.book, top_k=3, cofiring=(FEATURE,), progress=False)

    @cached_property
    def label(self) -> Tensor:
        return self.on(self.whole.tokens[:4, :12] % 3 == 0)

    def numbers(self, *shape: int, seed: int = 0) -> Tensor:
        return self.on(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))

    def another_sae(self) -> Any:
        sae = copy.deepcopy(self.whole.sae)
        sae.W_dec.data.copy_(sae.W_dec.flip(0))
        return sae


def _recorded(given: Given) -> Any:
    ledger = saework.Ledger(
        [saework.Claim("mean", 0.0, "-", "a card", 10.0, "gelu-1l-mini")], tier="gelu-1l-mini"
    )
    ledger.record("mean", given.numbers(3).mean())
    return ledger.to_dict()


def _reference(given: Given) -> Any:
    written = saework.write_reference(given.book, PROMPT, given.folder / "reference.json")
    read = saework.read_reference(given.folder / "reference.json")
    claims = saework.claims_of_reference(read, tier="mini")
    values = saework.validate(given.book, read)
    return {key: written[key] for key in sorted(written) if key != "created"}, claims, values


def _mutation_score(given: Given) -> Any:
    value = saework.reconstruction_metrics(given.book, progress=False)["with_bos"]["l0"]
    l0 = saework.Claim("l0", float(value), "features", "a card", 0.01, "gelu-1l-mini")
    return mutations.mutation_score(given.book, [l0])


def _trained(given: Given) -> Any:
    """Batches on the device where the study's are made; the SAE trained there."""
    data = given.numbers(64, 8)
    batches = feature_ordering.data.tensor_batches(data, 16)
    variant = feature_ordering.live_variants(TRAINED_HERE)["state moved"]
    options: dict[str, Any] = {"device": str(given.device), "progress": False}
    run = feature_ordering.train(variant, TRAINED_HERE, batches, data, **options)
    return run.metrics, run.rates, run.loss, run.variance


def _study_data(given: Given) -> Any:
    small = replace(feature_ordering.SMALL, n_tokens=2048, held_out_rows=2, batch=64)
    batches, held_out = feature_ordering.study_data(small, device=str(given.device))
    return list(islice(batches(0, 0), 2)), held_out


def _steered(given: Given, **options: Any) -> Any:
    steered = saework.steer(given.book, PROMPT, FEATURE, strength=4.0, max_new_tokens=4, **options)
    return steered, repr(steered)


def _explored(given: Given) -> Any:
    explorer = saework.explore(given.book, FEATURE, "It doesn't.", scan=given.scan)
    return (
        repr(explorer.heatmap),
        features_raising(given.book, [77], n=3),
        example_options(given.scan, given.tokens, [int(given.tokens[0, 4])], given.whole.tokenizer),
    )


def _pages(given: Given) -> Any:
    (page,) = saework.feature_pages(given.book, [FEATURE], scan=given.scan)
    return page.to_dict() if hasattr(page, "to_dict") else page


CALLS: dict[str, Callable[[Given], Any]] = {
    "activations": lambda g: saework.activations(g.whole.model, g.tokens, g.whole.hook),
    "token_losses": lambda g: saework.token_losses(g.whole.model, g.tokens),
    "token_losses, edited": lambda g: saework.token_losses(
        g.whole.model, g.tokens, g.whole.hook, lambda x: x * 0.5, g.mask
    ),
    "scan": lambda g: g.scan,
    "scan, masked": lambda g: saework.scan(g.book, mask=g.mask, top_k=2, progress=False),
    "recons_score": lambda g: saework.recons_score(g.book, progress=False),
    "recons_score, mean": lambda g: saework.recons_score(
        g.book, ablation="mean", mask=g.mask, batch_size=3, progress=False
    ),
    "recons_score, kept": lambda g: saework.recons_score(
        g.book, keep=g.on(torch.arange(g.whole.sae.W_dec.shape[0]) % 2 == 0), progress=False
    ),
    "recons_scores": lambda g: saework.recons_scores(
        g.book.model, {"one": g.book.sae, "again": g.book.sae}, g.tokens, progress=False
    ),
    "reconstruction_metrics": lambda g: saework.reconstruction_metrics(
        g.book, mask=g.mask, progress=False
    ),
    "find_site": lambda g: saework.find_site(g.book, mask=g.mask),
    "feature_activations": lambda g: saework.feature_activations(g.book, g.tokens, FEATURE),
    "active_features": lambda g: saework.active_features(g.book, g.tokens[0], pos=5),
    "logit_effect": lambda g: saework.logit_effect(g.book, FEATURE),
    "ablation.states_without, next_token_log_probs": lambda g: (
        saework.ablation.next_token_log_probs(
            g.whole.model,
            saework.ablation.states_without(
                g.book, g.tokens, g.whole.sae.W_dec[:2], g.features[..., FEATURE], g.mask
            ),
        )
    ),
    "rare_features": lambda g: saework.rare_features(
        g.whole.sae, g.on(g.scan.firing_rate), threshold=0.01
    ),
    "compare": lambda g: saework.compare(g.whole.sae, g.another_sae()),
    "sparse_probe": lambda g: saework.sparse_probe(
        g.features, g.label, k=[1, 2], mask=g.mask, draws=2
    ),
    "rule_agreement": lambda g: saework.rule_agreement(g.features[..., 5] > 0, g.label),
    "steer": _steered,
    "steer, clamped": partial(_steered, mode="clamp", error_term=False),
    "steer, random": partial(_steered, direction="random"),
    "steer, given": lambda g: _steered(g, direction=g.numbers(g.whole.sae.W_dec.shape[1])),
    "steering.generate": lambda g: generate(g.whole.model, g.tokens[:1, :5], [], max_new_tokens=3),
    "write_reference, read_reference, claims_of_reference, validate": _reference,
    "permute_features": lambda g: saework.permute_features(
        copy.deepcopy(g.whole.sae), g.on(torch.arange(g.whole.sae.W_dec.shape[0]).flip(0))
    ),
    "select_features": lambda g: saework.select_features(
        g.whole.sae, g.on(torch.tensor([FEATURE, 5]))
    ),
    "str_tokens": lambda g: saework.str_tokens(g.tokens[0], g.whole.tokenizer),
    "token_df": lambda g: saework.token_df(
        g.tokens, g.whole.tokenizer, activation=g.features[..., 5], is_third=g.label
    ),
    "vocab_df": lambda g: saework.vocab_df(
        saework.logit_effect(g.book, FEATURE), g.whole.tokenizer, probs=True
    ),
    "token_heatmap": lambda g: saework.token_heatmap(
        ["a", "b"], g.numbers(2).abs(), second=g.numbers(2).abs()
    ).html(),
    "text_heatmap": lambda g: saework.text_heatmap(g.book, "It doesn't.", FEATURE).html(),
    "explore": _explored,
    "find_features": lambda g: (
        saework.find_features(g.book, " return", scan=g.scan),
        saework.find_features(g.book, " return", by="logit", n=3),
    ),
    "feature_page": lambda g: saework.feature_page(g.book, FEATURE),
    "feature_pages": _pages,
    "show": lambda g: repr(
        saework.show({"one": list(g.numbers(2)), "two": [g.numbers(1), 2.0]}, columns=["a", "b"])
    ),
    "Ledger.record": _recorded,
    "Workbook.with_sae": lambda g: g.book.with_sae(g.whole.sae_id).sae,
    "Workbook.labels": lambda g: replace(g.whole, tokens=g.on(g.whole.tokens)).labels(),
    "Workbook.recorded_scan": lambda g: g.whole.recorded_scan().count,
    "formulas": lambda g: (
        formulas.kl_divergence(g.numbers(3, 5), g.numbers(3, 5, seed=1)),
        formulas.repetition(g.tokens[0]),
        formulas.log10_rate(g.numbers(5).abs()),
        formulas.precision_and_recall(*(g.on(torch.tensor([n, n])) for n in (2, 3, 4))),
        formulas.variance_explained(g.numbers(9, 5), g.numbers(9, 5, seed=1)),
    ),
    "probing": lambda g: (
        probing.most_different(g.features.flatten(0, 1), g.label.flatten()),
        probing.random_features(g.numbers(4, 12, 8), g.features),
    ),
    "corpus.shuffled": lambda g: corpus.shuffled(g.tokens),
    "plots": lambda g: [
        plots.histogram({"a": g.numbers(50)}, title="A", x="x").to_dict(),
        plots.bars(g.numbers(3).abs(), g.numbers(4).sort().values, title="A", x="x").to_dict(),
        plots.scatter({"a": (g.numbers(5), g.numbers(5))}, title="A", x="x", y="y").to_dict(),
        plots.line({"a": (g.numbers(5), g.numbers(5))}, title="A", x="x", y="y").to_dict(),
        plots.sorted_rates(g.numbers(2, 5).abs(), [1, 2], title="A", floor=1e-6).to_dict(),
        plots.histories(
            {"a": g.numbers(2, 5).abs()}, g.on(torch.tensor([1, 2])), title="A"
        ).to_dict(),
    ],
    "mutations.mutation_score": _mutation_score,
    "feature_ordering.train": _trained,
    "feature_ordering.study_data": _study_data,
}

ON_ALL_RELEASES = (
    "activations",
    "token_losses",
    "token_losses, edited",
    "scan",
    "recons_score",
    "recons_score, mean",
    "reconstruction_metrics",
    "feature_activations",
    "active_features",
    "logit_effect",
    "steer, clamped",
    "write_reference, read_reference, claims_of_reference, validate",
    "text_heatmap",
    "feature_page",
)
"""What runs a model; the rest meets one release."""

RESULTS = {
    "FeaturePage",
    "FeatureScan",
    "Ledger",
    "RareFeatures",
    "ReconsScore",
    "Steering",
    "TokenHeatmap",
    "Workbook",
    "load",
}
"""What the calls above return or start from."""

NO_TENSORS = {
    "Claim",
    "HookError",
    "NotAvailableError",
    "Preflight",
    "UnknownNameError",
    "WeightsError",
    "chat_tokens",
    "claims_of",
    "plans_here",
    "preflight",
    "release_named",
    "releases",
    "versions",
}
"""Public names that neither take nor make anything on a device."""


def assert_alike(found: Any, expected: Any, path: str = "result") -> None:
    """The same numbers and words, wherever the tensors are."""
    if isinstance(expected, nn.Module):
        found, expected = found.state_dict(), expected.state_dict()
    if dataclasses.is_dataclass(expected) and not isinstance(expected, type):
        found, expected = vars(found), vars(expected)
    if isinstance(expected, Tensor | np.ndarray):
        close = torch.testing.assert_close
        found, expected = torch.as_tensor(found).cpu(), torch.as_tensor(expected).cpu()
        close(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True, msg=lambda m: f"{path}: {m}")
    elif isinstance(expected, pd.DataFrame | pd.Series):
        check = pd.testing.assert_frame_equal
        if isinstance(expected, pd.Series):
            check = pd.testing.assert_series_equal
        check(found, expected, rtol=1e-4, atol=1e-5, obj=path)
    elif isinstance(expected, Mapping):
        assert list(found) == list(expected), path
        for key, value in expected.items():
            assert_alike(found[key], value, f"{path}.{key}")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-4, abs_tol=1e-5) or (
            math.isnan(found) and math.isnan(expected)
        ), f"{path}: {found} is not {expected}"
    elif isinstance(expected, Iterable) and not isinstance(expected, str):
        found, expected = list(found), list(expected)
        assert len(found) == len(expected), path
        for i, (one, other) in enumerate(zip(found, expected)):
            assert_alike(one, other, f"{path}[{i}]")
    elif not isinstance(expected, torch.device | ModuleType):
        assert found == expected, f"{path}: {found!r} is not {expected!r}"
