"""Which formula a number was made with, and when that is not known."""

from __future__ import annotations

import evaluation_records as records
import pytest

from saework.core.reconstruction_formulas import RECONSTRUCTION
from saework.studies.saebench import EXAMPLES, convert, definitions, read
from saework.studies.saebench.definitions import meaning_of, superseded


@pytest.fixture
def formulas_of(written):
    def formulas(record):
        (evaluation,) = read(written(record)).values()
        return definitions(evaluation).set_index("metric").formula.to_dict()

    return formulas


def test_explained_variance_is_another_formula_since_0_4_1(formulas_of):
    before = formulas_of(records.old("core", records.CORE, "2025-01-16"))
    after = formulas_of(
        records.current("core", records.core_metrics(explained_variance_legacy=0.7))
    )
    assert before["explained_variance"] == "variance_explained_legacy"
    assert after["explained_variance"] == "variance_explained_squares"
    assert after["explained_variance_legacy"] == "variance_explained_legacy"
    for name in ("mse", "cossim", "l0", "ce_loss_score", "ce_loss_without_sae"):
        assert before[name] == after[name]
    assert before["mse"] == "mse_saebench" and before["ce_loss_without_sae"] == "ce_loss_clean"


def test_absorption_is_another_formula_since_0_4_1(formulas_of):
    metrics = {"mean": {"mean_absorption_fraction_score": 0.1, "mean_full_absorption_score": 0.0}}
    before = formulas_of(records.old("absorption_first_letter", metrics, "2025-01-16"))
    after = formulas_of(
        records.current(
            "absorption_first_letter", metrics, eval_config={"min_GT_probe_f1": 0.6, "n": 1}
        )
    )
    assert before["mean_absorption_fraction_score"] == "absorption_fraction_all_latents"
    assert after["mean_absorption_fraction_score"] == "absorption_fraction_three_latents"
    assert before["mean_full_absorption_score"] != after["mean_full_absorption_score"]
    between = formulas_of(records.old("absorption_first_letter", metrics, "2025-03-01"))
    assert set(between.values()) == {"not known"}, "a checkout between the two releases"


def test_a_formula_that_is_not_known_says_which_it_may_be(written):
    record = {"eval_type_id": "core", "eval_result_metrics": {"a": {"explained_variance": 0.9}}}
    (row,) = definitions(read(written(record))["core"]).itertuples()
    assert row.formula == "not known" and row.releases == ""
    assert row.meaning == (
        "variance_explained_legacy (0.1.0 to 0.4.0), or variance_explained_squares (0.4.1 to 0.6.0)"
    )
    assert row.because == "it has neither a date nor a mark of a release"


def test_what_was_not_computed_is_no_value(written):
    metrics = records.CORE | {"model_behavior_preservation": {"kl_div_score": -1.0, "kl": -1.0}}
    table = definitions(read(written(records.old("core", metrics, "2025-01-16")))["core"])
    assert table.formula[table.group == "model_behavior_preservation"].tolist() == [
        "not computed",
        "not computed",
    ]
    assert "not computed" not in table.formula[table.group == "sparsity"].tolist()


def test_l1_is_of_folded_rows_where_saebench_loads_the_sae(formulas_of):
    def l1_of(made, **more):
        return formulas_of(made("core", records.CORE, "2024-11-05", **more))["l1"]

    assert l1_of(records.old, sae_lens_id="blocks.4") == "l1"
    assert l1_of(records.old, sae_lens_id="custom_sae") == "l1"
    new = records.core_metrics(explained_variance_legacy=0.7)
    of_registry = formulas_of(records.current("core", new, sae_lens_id="blocks.4"))
    assert of_registry["l1"] == "l1_unit_rows"
    assert formulas_of(records.current("core", new))["l1"] == "l1"


@pytest.mark.parametrize(
    "record",
    [
        records.RAVEL,
        records.UNLEARNING,
        records.META_STRUCTURE,
        records.SAE_PROBES,
        records.MDL,
        records.TPP,
    ],
    ids=lambda record: record["eval_type_id"],
)
def test_each_other_evaluation_has_its_formulas(written, record):
    (evaluation,) = read(written(record)).values()
    table = definitions(evaluation)
    assert len(table) == len(evaluation.metrics) and "not known" not in set(table.formula)
    assert table.meaning.str.len().gt(5).all() and table.because.str.len().gt(5).all()


def test_the_template_and_an_unknown_evaluation_have_none(formulas_of, written):
    for evaluation in read(written(records.TEMPLATE)).values():
        table = definitions(evaluation)
        assert set(table.formula) == {"not known"}
        assert table.because[0].startswith("its layout is SAE_Bench_Template (2024)")
    with pytest.warns(UserWarning):
        assert formulas_of(records.current("dreams", {"a": {"x": 1}})) == {"x": "not known"}


def test_the_names_of_a_converted_evaluation_are_their_own():
    core = read(EXAMPLES / "core_gelu_1l_mini.json")["core"]
    converted = convert(core)
    assert definitions(converted).formula.tolist() == converted.metrics.metric.tolist()


def test_the_files_in_the_package():
    run_0 = read(EXAMPLES / "run_0.json")
    formulas = {
        kind: definitions(evaluation).set_index("metric").formula
        for kind, evaluation in run_0.items()
    }
    assert formulas["absorption"]["mean_absorption_score"] == "absorption_rate"
    assert formulas["core"]["explained_variance"] == "variance_explained_legacy"
    assert set(formulas["scr"]) == {"not known"}, "it is of a checkout after 0.3.2"
    assert set(formulas["training"]) == {"not known"}


def test_old_definitions_are_named_once_each(written):
    record = records.old("core", records.CORE, "2025-01-16")
    sentences = superseded(read(written(record))["core"])
    assert [text.partition(":")[0] for text in sentences] == ["explained_variance", "mse"]
    scores = {"s": {f"scr_metric_threshold_{k}": 0.5 for k in (2, 5, 10)}}
    (sentence,) = superseded(read(written(records.old("scr", scores, "2024-11-05")))["scr"])
    assert sentence.startswith("scr_metric_threshold_2 and 2 more: scr_score, since SAEBench 0.4.0")
    assert superseded(read(written(records.UNLEARNING))["unlearning"]) == []


def test_a_meaning_has_saebench_s_own_habits_in_it():
    assert meaning_of("l0") == RECONSTRUCTION["l0"][1]
    assert meaning_of("variance_explained_legacy").endswith("around the mean of its own batch")


def test_the_arithmetic_of_a_file_agrees_with_its_formula():
    """Run 0's explained variance, 0.82, cannot be the formula of 0.4.1: that would be 0.89."""
    core = read(EXAMPLES / "run_0.json")["core"]
    error = core.value("mse") * 16 * 127  # tokens of a batch; one BOS a row is left out
    squares = core.value("l2_norm_in") ** 2  # E||x||^2 is at least this, and the formula grows
    by_0_4_1 = 1 - error / (squares - (squares / 2304) ** 2)
    assert by_0_4_1 > 0.89 > core.value("explained_variance") + 0.05
    assert superseded(core)[0].startswith("explained_variance: variance_explained_legacy")


def test_definitions_of_what_is_no_evaluation():
    with pytest.raises(ValueError, match="evaluation is 'x'; give one evaluation, such as read"):
        definitions("x")
