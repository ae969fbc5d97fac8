"""Two evaluations side by side; and numbers and their neighbours in bfloat16, by torch's own."""

from __future__ import annotations

import math

import evaluation_records as records
import pytest
import torch

from saework import saebench
from saework.studies.saebench import bfloat16_step, compare
from saework.studies.saebench.comparison import (
    better_direction,
    is_bfloat16,
    last_digit,
    shared_step,
    steps_apart,
)


@pytest.mark.parametrize(
    "value, step",
    [
        (1.0, 2**-7),
        (0.999, 2**-8),
        (2.0, 2**-6),
        (-3.3, 2**-6),
        (1640, 8),
        (0.0, 2**-133),
        (1e-40, 2**-133),
    ],
)
def test_the_step_of_bfloat16_by_hand_and_by_torch(value, step):
    assert bfloat16_step(value) == step
    x = torch.tensor(value, dtype=torch.bfloat16)
    up = torch.nextafter(x.abs(), torch.tensor(math.inf, dtype=torch.bfloat16))
    if abs(value) >= 1e-38 and float(x.abs()) == abs(value):
        assert float(up) - float(x.abs()) == step
    assert math.isnan(bfloat16_step(math.inf)) and math.isnan(bfloat16_step(math.nan))


def test_every_step_agrees_with_torch():
    x = torch.logspace(-30, 30, 500, dtype=torch.float64).to(torch.bfloat16)
    steps = torch.nextafter(x, torch.full_like(x, math.inf)).double() - x.double()
    assert steps.tolist() == [bfloat16_step(float(value)) for value in x]


def test_compare_knows_neighbours_from_differences(evaluations):
    a = {"cossim": 0.965, "mse": 3.281, "l0": 1652.80, "only_a": 1.0, "same": 0.5, "gone": math.nan}
    b = {"cossim": 0.961, "mse": 3.422, "l0": 1652.81, "same": 0.5, "gone": 1.0, "only_b": 2.0}
    frame = compare(*evaluations(a, b)).set_index("metric")
    assert frame.index.tolist() == ["cossim", "mse", "l0", "only_a", "same", "gone", "only_b"]
    judged = frame[["bfloat16_step", "neighbours"]]
    assert judged.loc["cossim"].tolist() == [2**-8, True], "247/256 and 246/256, as printed"
    assert judged.loc["mse"].tolist() == [2**-6, False], "nine steps"
    assert math.isnan(frame.bfloat16_step["l0"]), "1652.8 is no bfloat16 number"
    assert not frame.neighbours["l0"]
    assert frame.neighbours["same"] and frame.difference["same"] == 0
    assert frame.difference["mse"] == pytest.approx(0.141)
    assert frame.loc[["only_a", "gone", "only_b"], "difference"].isna().all()


def test_compare_of_float32_and_of_different_kinds(evaluations):
    a, b = evaluations({"x": 0.5}, {"x": 0.50390625}, config={"llm_dtype": "float32"})
    assert not compare(a, b).neighbours.any()
    assert compare(*evaluations({"x": 0.5}, {"x": 0.50390625})).neighbours.all()
    other = saebench.Evaluation("scr", {}, a.metrics, a.details)
    with pytest.raises(
        ValueError, match="a is 'core' and b is 'scr'; compare two evaluations of one kind"
    ):
        compare(a, other)


@pytest.mark.parametrize(
    "value, digit",
    [(0.957, 1e-3), (957.0, 1.0), (1640, 1.0), (1e-05, 1e-5), (1.5e22, 1e21), (-0.25, 1e-2)],
)
def test_the_last_digit_that_is_printed(value, digit):
    assert last_digit(value) == digit
    assert math.isnan(last_digit(math.nan))


def test_printed_bfloat16_numbers_are_known_as_such():
    x = torch.rand(200, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    for value in x.tolist():
        assert is_bfloat16(value) and is_bfloat16(round(value, 4))
    assert not is_bfloat16(0.9631) and not is_bfloat16(math.inf)


def test_steps_between_two_numbers():
    assert steps_apart(0.965, 0.961) == 1 and shared_step(0.965, 0.961) == 2**-8
    assert steps_apart(0.99609375, 1.015625) == 2.5, "in steps of the larger number"
    assert math.isnan(steps_apart(0.9631, 0.5)) and math.isnan(shared_step(0.5, math.nan))


def read_records(written, *given):
    return [
        next(iter(saebench.read(written(record, f"{i}.json")).values()))
        for i, record in enumerate(given)
    ]


def test_two_formulas_under_one_name_are_refused(written):
    new = records.core_metrics(explained_variance_legacy=0.7)
    a, b = read_records(
        written, records.old("core", records.CORE, "2025-01-16"), records.current("core", new)
    )
    frame = compare(a, b).set_index("metric")
    row = frame.loc["explained_variance"]
    assert (row.a, row.b, row.verdict) == (0.8, 0.8, "not comparable")
    assert math.isnan(row.difference) and not row.neighbours
    assert row.reason == (
        "a's formula is variance_explained_legacy (SAEBench 0.1.0 to 0.4.0), and b's is "
        "variance_explained_squares (SAEBench 0.4.1 to 0.6.0); see convert(a) and convert(b), "
        "which name formulas"
    )
    assert frame.difference["l0"] == 0 and frame.formula["l0"] == "l0"


def test_a_redefined_absorption_is_no_finding(written):
    metrics = [{"mean": {"mean_absorption_fraction_score": value}} for value in (0.155, 0.017)]
    old = records.old("absorption", metrics[0], "2025-01-16")
    new = records.current("absorption", metrics[1], eval_config={"min_GT_probe_f1": 0.6})
    (row,) = compare(*read_records(written, old, new)).itertuples()
    assert row.verdict == "not comparable" and math.isnan(row.difference)
    assert "absorption_fraction_all_latents (SAEBench 0.3.0 to 0.4.0)" in row.reason
    unsaid = records.old("absorption", metrics[1], "2025-03-01")
    (row,) = compare(*read_records(written, old, unsaid)).itertuples()
    assert row.verdict == "not comparable" and row.reason.endswith("b's is not known")


def test_an_mse_of_other_batches_is_refused(written):
    def of_batches(rows, **more):
        settings = {"batch_size_prompts": rows, "context_size": 128}
        return records.old("core", records.CORE, "2025-01-16", eval_config=settings, **more)

    frame = compare(*read_records(written, of_batches(4), of_batches(16))).set_index("metric")
    assert frame.verdict["mse"] == "not comparable" and math.isnan(frame.difference["mse"])
    assert frame.reason["mse"] == (
        "it is divided by the tokens of a batch, 512 in a and 2,048 in b; "
        "compare convert(a) and convert(b)"
    )
    frame = compare(*read_records(written, of_batches(4), of_batches(4))).set_index("metric")
    assert frame.verdict["mse"] == "not known" and frame.difference["mse"] == 0


def test_what_was_not_computed_is_not_compared(written):
    metrics = records.CORE | {"model_behavior_preservation": {"kl_div_score": -1.0}}
    new = records.core_metrics(explained_variance_legacy=0.7)
    given = records.old("core", metrics, "2025-01-16"), records.current("core", new)
    row = compare(*read_records(written, *given)).set_index("metric").loc["kl_div_score"]
    assert (row.a, row.b, row.verdict) == (-1.0, 0.9, "not comparable")
    assert math.isnan(row.difference)


def test_a_difference_is_shown_or_within_the_noise(written):
    values = [0.1, 0.4, 0.2, 0.3, 0.15, 0.35]
    noisy = [0.02, -0.03, 0.01, 0.02, -0.01, -0.02]

    def of_letters(changes):
        parts = [value + change for value, change in zip(values, changes)]
        mean = {"mean": {"mean_absorption_fraction_score": sum(parts) / len(parts)}}
        details = records.letters(parts)
        return records.old("absorption", mean, "2025-01-16", eval_result_details=details)

    base, near, far = read_records(
        written,
        of_letters([0] * 6),
        of_letters(noisy),
        of_letters([0.2 + change for change in noisy]),
    )
    (row,) = compare(base, near).itertuples()
    assert row.verdict == "not shown" and abs(row.difference) < row.smallest_shown
    assert row.reason == "" and row.formula == "absorption_fraction_all_latents"
    (row,) = compare(base, far).itertuples()
    assert row.verdict == "shown" and row.difference > row.smallest_shown
    assert row.smallest_shown == saebench.smallest_shown(base, far, row.metric)


def test_a_metric_that_one_of_them_lacks(written):
    a = {"eval_type_id": "core", "eval_result_metrics": {"a": {"l0": 1.0, "cossim": 0.5}}}
    b = {"eval_type_id": "core", "eval_result_metrics": {"a": {"l0": 2.0}}}
    frame = compare(*read_records(written, a, b)).set_index("metric")
    assert frame.reason["cossim"] == "one of the two has no value"
    assert frame.verdict["cossim"] == "not known" and frame.formula["cossim"] == "cosine_similarity"


@pytest.mark.parametrize(
    "metric, better",
    [
        ("mse", "lower"),
        ("cossim", "higher"),
        ("mean_absorption_score", "lower"),
        ("sae_top_5_test_accuracy", "higher"),
    ],
)
def test_which_direction_is_better(metric, better):
    assert better_direction(metric) == better
    with pytest.raises(ValueError, match="better for 'wonder' is not known here"):
        better_direction("wonder")


@pytest.mark.parametrize("what", ["a", "b"])
def test_what_is_no_evaluation(evaluations, what):
    (core,) = evaluations({"mse": 1.0})
    for given, words in {
        "file": ({"core": core}, r"give one of it, such as \['core'\]"),
        "none": (None, f"{what} is None; give one evaluation, such as read"),
    }.values():
        with pytest.raises(ValueError, match=words):
            compare(**{"a": core, "b": core, what: given})
