"""The MSE multiplied back, against a plain computation, and the tokens that a file tells."""

from __future__ import annotations

import dataclasses

import evaluation_records as records
import numpy as np
import pandas as pd
import pytest
import torch

import saework
from saework.studies.saebench import EXAMPLES, compare, convert, read
from saework.studies.saebench.conversion import counted_tokens, tokens_of_rows

SETTINGS = {
    "batch_size_prompts": 2,
    "context_size": 8,
    "n_eval_sparsity_variance_batches": 3,
    "llm_dtype": "float32",
}


def densities(counts, n_tokens, decimals=10):
    shares = np.round(np.asarray(counts, np.float32) / np.float32(n_tokens), decimals)
    return [{"index": i, "feature_density": float(share)} for i, share in enumerate(shares)]


@pytest.fixture
def core_of(written):
    def core(counts=(1, 5, 7, 20, 0), n_tokens=43, *, decimals=10, mse=0.5, **more):
        record = records.current(
            "core",
            records.core_metrics(mse=mse, explained_variance_legacy=0.7),
            eval_config=SETTINGS,
            eval_result_details=densities(counts, n_tokens, decimals),
            **more,
        )
        return read(written(record))["core"]

    return core


def test_the_mean_of_batch_means_comes_back(core_of):
    """SAEBench's own loop, on errors of three batches of unlike length."""
    errors = [np.array([1.0, 4.0, 2.0]), np.array([3.0, 1.0]), np.array([2.0, 2.0, 6.0, 1.0])]
    per_token = np.concatenate([batch / len(batch) for batch in errors])
    n_tokens = len(per_token)
    core = core_of(mse=float(per_token.mean()))
    converted = convert(core, tokens_per_batch=n_tokens / 3)
    means = [batch.mean() for batch in errors]
    assert converted.value("mse_per_token") == pytest.approx(np.mean(means), rel=1e-12)
    assert converted.value("mse_per_element") == pytest.approx(np.mean(means) / 4, rel=1e-12)


def test_the_tokens_are_found_in_the_densities(core_of):
    core = core_of()
    assert counted_tokens(core) == 43 and tokens_of_rows(core) == 16
    converted = convert(core)
    assert converted.about["tokens_per_batch"] == 43 / 3
    assert converted.value("mse_per_token") == 0.5 * 43 / 3
    assert "tokens_per_batch" not in core.about, "the evaluation itself stays as it was"


def test_names_change_and_values_stay(core_of):
    core = core_of()
    converted = convert(core)
    for name, formula in {
        "explained_variance": "variance_explained_squares",
        "explained_variance_legacy": "variance_explained_legacy",
        "cossim": "cosine_similarity",
        "kl_div_with_sae": "kl_div_spliced",
        "l0": "l0",
    }.items():
        assert converted.value(formula) == core.value(name)
    assert "mse" not in set(converted.metrics.metric)
    again = convert(converted)
    pd.testing.assert_frame_equal(again.metrics, converted.metrics)
    assert again.about["tokens_per_batch"] == 43 / 3


def test_one_formula_under_two_names_is_compared_after_conversion(core_of, written):
    old = records.old("core", records.CORE, "2025-01-16", eval_config=SETTINGS)
    before = convert(read(written(old, "old.json"))["core"], tokens_per_batch=15)
    frame = compare(before, convert(core_of())).set_index("metric")
    row = frame.loc["variance_explained_legacy"]
    assert (row.a, row.b, row.verdict) == (0.8, 0.7, "not known")
    assert row.difference == pytest.approx(-0.1)


@pytest.mark.parametrize(
    "counts, n_tokens, decimals",
    [
        ((), 43, 10),  # no feature at all
        ((0, 0), 43, 10),  # none fired
        ((12, 24), 48, 10),  # a half and a quarter fit many numbers
        ((1, 5, 7), 43, 1),  # rounded to one decimal
        ((7,), 14, 10),
    ],
)
def test_densities_that_do_not_tell(core_of, counts, n_tokens, decimals):
    core = core_of(counts, n_tokens, decimals=decimals)
    assert counted_tokens(core) is None
    with pytest.raises(ValueError, match="give tokens_per_batch=, 16 at most, special tokens left"):
        convert(core)


def test_densities_that_are_no_numbers(core_of):
    core = core_of()
    for column in (["x"] * 5, [None] * 5, [[1], [2], 3, {}, None], [-1.0] * 5, [np.inf] * 5):
        details = core.details.assign(feature_density=pd.Series(column, dtype=object))
        assert counted_tokens(dataclasses.replace(core, details=details)) is None
    assert counted_tokens(dataclasses.replace(core, config={"context_size": "8"})) is None
    huge = SETTINGS | {"n_eval_sparsity_variance_batches": 10**12}
    assert counted_tokens(dataclasses.replace(core, config=huge)) is None


def test_tokens_that_cannot_be(core_of, written):
    core = core_of()
    with pytest.raises(ValueError, match="tokens_per_batch is 17, and a batch has 16 tokens with"):
        convert(core, tokens_per_batch=17)
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="give a number above 0"):
            convert(core, tokens_per_batch=wrong)
    with pytest.raises(ValueError, match="this is a ravel evaluation; only core's numbers"):
        convert(read(written(records.RAVEL))["ravel"])


@pytest.mark.parametrize("seed", range(5))
def test_the_tokens_of_random_counts(core_of, seed):
    generator = np.random.default_rng(seed)
    n_tokens = int(generator.integers(30, 48))
    core = core_of(generator.integers(0, n_tokens, 200), n_tokens)
    assert counted_tokens(core) == n_tokens


def test_saebench_s_own_run_converts_to_what_we_measure():
    """SAEBench 0.6.0 on a mini: its four batches, each measured here alone."""
    core = read(EXAMPLES / "core_gelu_1l_mini.json")["core"]
    converted = convert(core)
    book = saework.load("gelu-1l-mini", n_tokens=64 * 128, device="cpu", check=False)
    special = [getattr(book.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")]
    mask = ~torch.isin(book.tokens, torch.tensor(special))
    assert counted_tokens(core) == int(mask.sum()), "found without looking at the text"
    means = []
    for first in range(0, 64, 16):
        rows = slice(first, first + 16)
        x = saework.activations(book.model, book.tokens[rows], book.hook)[mask[rows]]
        errors = (x - book.sae.decode(book.sae.encode(x))).double().pow(2).sum(-1)
        means.append(float(errors.mean()))
    assert converted.value("mse_per_token") == pytest.approx(np.mean(means), rel=1e-5)


@pytest.mark.parametrize("tokens", [0, -1, float("nan"), float("inf"), "5", True])
def test_tokens_that_are_no_number(tokens):
    core = read(EXAMPLES / "core_gelu_1l_mini.json")["core"]
    with pytest.raises(ValueError, match="tokens_per_batch is .*; give a number above 0"):
        convert(core, tokens_per_batch=tokens)
    with pytest.raises(ValueError, match="evaluation is None; give one evaluation"):
        convert(None)
