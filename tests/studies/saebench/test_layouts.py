"""Files of each evaluation, laid out as SAEBench's releases lay them out, and of none of them."""

from __future__ import annotations

import cProfile
import json
import math

import evaluation_records as records
import numpy as np
import pytest

from saework.studies.saebench import (
    ResultError,
    compare,
    convert,
    definitions,
    lint,
    read,
)


@pytest.mark.parametrize(
    "record, kind, metrics",
    [
        (records.RAVEL, "ravel", {"cause_score": 0.4, "isolation_score": 0.6}),
        (records.UNLEARNING, "unlearning", {"unlearning_score": 0.05}),
        (records.META_STRUCTURE, "meta_structure", {"decoder_fraction_variance_explained": 0.3}),
        (records.SAE_PROBES, "sparse_probing_sae_probes", {"sae_top_16_test_f1": 0.7}),
        (records.AUTOINTERP, "autointerp", {"autointerp_score": 0.84}),
        (records.TPP, "tpp", {"tpp_threshold_10_total_metric": 0.15}),
        (records.current("core", records.CORE), "core", {"l0": 20.0, "mse": 0.01}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_evaluation_is_read_without_a_warning(written, recwarn, record, kind, metrics):
    (key, evaluation), *rest = read(written(record)).items()
    assert (key, evaluation.kind, rest) == (kind, kind, [])
    assert {name: evaluation.value(name) for name in metrics} == metrics
    assert not recwarn.list


def test_mdl_has_a_group_for_each_number_of_bins(written, recwarn):
    evaluation = read(written(records.MDL))["mdl"]
    table = evaluation.metrics
    assert table.group.unique().tolist() == ["num_bins_8", "num_bins_16"]
    assert sorted(table.metric.unique()) == ["description_length", "mse_loss", "within_threshold"]
    by_size = table[table.metric == "mse_loss"].set_index("size").value
    assert by_size.to_dict() == {8: 1.5, 16: 0.75}
    within = table[table.metric == "within_threshold"].value.tolist()
    assert within == [0.0, 1.0]
    lengths = table[table.metric == "description_length"].value.tolist()
    assert lengths[0] == 169.5 and math.isnan(lengths[1]), "null is a missing number"
    assert evaluation.details.num_bins.tolist() == [8, 16]
    assert evaluation.config["num_bins_values"] == [8, 16]
    assert evaluation.about["sae_lens_id"] == "i" and not recwarn.list


def test_the_template_of_2024_has_an_evaluation_for_each_sae(written, recwarn):
    found = read(written(records.TEMPLATE))
    assert list(found) == ["sparse_probing", "sparse_probing (2)"], "equal numbers, two SAEs"
    names = [evaluation.about["sae_lens_id"] for evaluation in found.values()]
    assert names == list(records.TEMPLATE["custom_eval_results"])
    first = found["sparse_probing"]
    assert first.value("sae_top_5_test_accuracy") == 0.87
    assert first.metrics["size"].dropna().tolist() == [5] and first.config["k_values"] == [5]
    assert not recwarn.list


def test_a_template_of_another_evaluation_is_named_so(written):
    file = {"custom_eval_results": {"sae": {"shift_score": 0.5, "parts": {"a": 1}}}}
    with pytest.warns(UserWarning, match="the kind of evaluation is not known here"):
        evaluation = read(written(file))["template_2024"]
    assert evaluation.metrics[["group", "metric"]].values.tolist() == [
        ["", "shift_score"],
        ["parts", "a"],
    ]


@pytest.mark.parametrize("results", [None, [], 3, {"sae": [1]}, {"sae": {}}, {"sae": "high"}])
def test_a_template_without_numbers_is_refused(written, results):
    with pytest.raises(ResultError, match="result.json"):
        read(written({"custom_eval_results": results}))


def test_twice_the_saes_of_one_template_are_twice_the_work(written):
    """Calls of functions: the settings are not read again for each SAE."""

    def calls(n: int) -> int:
        metrics = {"llm_test_accuracy": 0.5}
        results = {f"sae_{i}": metrics | {"sae_test_accuracy": i} for i in range(n)}
        settings = {"names": ["x" * 100] * 500}
        path = written({"custom_eval_results": results, "custom_eval_config": settings})
        profile = cProfile.Profile()
        assert len(profile.runcall(read, path)) == n
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(120) < 2.2 * calls(60)


def test_an_unknown_kind_keeps_its_numbers_and_warns(written):
    metrics = {"g": {"x": 1.5, "flag": True, "words": "high", "list": [1], "none": None}, "y": 2}
    with pytest.warns(UserWarning, match="no formula is known of them; 3 metrics are no numbers"):
        evaluation = read(written(records.current("dreams", metrics)))["dreams"]
    assert evaluation.value("x") == 1.5 and evaluation.value("y") == 2
    assert math.isnan(evaluation.value("none")) and len(evaluation.metrics) == 3


def test_an_unknown_layout_of_a_known_kind_is_read_and_warned_of(written):
    record = {
        "eval_type_id": "core",
        "eval_config": {"n": 3},
        "scores": {"l0": 20.5, "deep": {"mse": 1, "name": "x"}},
        "sae_cfg_dict": {"d_in": 4},
    }
    with pytest.warns(UserWarning, match="the layout of this evaluation is not known here"):
        evaluation = read(written(record))["core"]
    assert evaluation.metrics[["group", "metric", "value"]].values.tolist() == [
        ["scores", "l0", 20.5],
        ["scores/deep", "mse", 1.0],
    ]
    assert evaluation.config == {"n": 3} and evaluation.about["sae_cfg_dict"] == {"d_in": 4}


def test_a_record_without_any_number_says_what_is_missing(written):
    record = {"eval_type_id": "core", "eval_id": "0", "eval_config": {"n": 3}}
    with pytest.raises(ResultError, match="has no 'eval_result_metrics'"):
        read(written(record))
    with pytest.raises(ResultError, match="eval_result_metrics"):
        read(written({key: records.MDL[key] for key in records.MDL if key != "eval_results"}))


def test_what_is_not_finite_or_empty_survives(written):
    text = json.dumps(
        records.current(
            "core",
            {"a": {"x": math.nan, "y": math.inf, "z": -math.inf, "none": None}, "empty": None},
            eval_result_details=[
                {"index": 0, "density": math.nan, "note": None},
                {"index": 1, "density": math.inf, "note": None},
                {},
            ],
        )
    )
    assert "NaN" in text and "Infinity" in text
    evaluation = read(written(text))["core"]
    values = dict(zip(evaluation.metrics.metric, evaluation.metrics.value))
    assert math.isnan(values["x"]) and values["y"] == math.inf and values["z"] == -math.inf
    assert math.isnan(values["none"]) and math.isnan(values["empty"])
    assert evaluation.details.density.tolist()[1] == math.inf and len(evaluation.details) == 3
    assert evaluation.details.density.isna().tolist() == [True, False, True]
    assert evaluation.details.note.isna().all()
    for nothing in (None, [], {}):
        record = records.current("core", {"a": {"x": 1}}, eval_result_details=nothing)
        assert read(written(record))["core"].details.empty


@pytest.mark.filterwarnings("ignore:.*is not known here")
def test_whatever_is_cut_off_or_damaged_is_read_or_refused_by_name(written):
    """And all that was read can be defined, compared with itself, checked and converted."""
    files = [
        records.MDL,
        records.TEMPLATE,
        records.RAVEL,
        records.current("core", records.core_metrics(explained_variance_legacy=0.5)),
        records.old("absorption", {"mean": {"mean_absorption_fraction_score": 0.1}}, "2025-01-16"),
    ]
    random = np.random.default_rng(0)
    n_read = 0
    for trial in range(120):
        text = json.dumps(files[trial % len(files)])
        at = int(random.integers(len(text)))
        character = str(random.choice(list("{}[]()'\",:\\ x0-\n")))
        broken = text[:at] if trial % 3 == 0 else text[:at] + character + text[at + 1 :]
        try:
            found = read(written(broken))
        except ResultError as error:
            assert "result.json" in str(error)
            continue
        n_read += 1
        lint(found)
        for evaluation in found.values():
            assert len(definitions(evaluation)) == len(evaluation.metrics)
            frame = compare(evaluation, evaluation)
            assert not (frame.difference.abs() > 0).any()
            try:
                convert(evaluation)
            except ValueError as error:
                assert "give" in str(error)
    assert n_read > 10


@pytest.mark.parametrize(
    "change",
    [
        {"sae_lens_version": 6},
        {"sae_lens_version": ["6"]},
        {"sae_bench_commit_hash": None},
        {"sae_bench_commit_hash": {"a": 1}},
        {"datetime_epoch_millis": {"a": 1}},
        {"sae_cfg_dict": "none"},
        {"sae_cfg_dict": {"d_in": "wide"}},
        {"eval_result_unstructured": [1]},
        {"sae_lens_id": None},
        {"layout": "mine"},
        {"eval_config": {"batch_size_prompts": -1, "context_size": "8", "llm_dtype": 3}},
        {"eval_config": {"batch_size_prompts": 10**30, "context_size": 10**30}},
        {"eval_result_details": [{"feature_density": {"a": 1}}, {"feature_density": "x"}]},
        {"eval_result_details": [{"dataset_name": ["a"], "mse": 1}] * 6},
    ],
)
def test_a_record_with_parts_of_another_form_is_judged_all_the_same(written, change):
    metrics = records.core_metrics(explained_variance_legacy=0.5)
    evaluation = read(written(records.current("core", metrics, **change)))["core"]
    assert len(definitions(evaluation)) == len(evaluation.metrics)
    assert (compare(evaluation, evaluation).difference.fillna(0) == 0).all()
    lint({"core": evaluation})
    with pytest.raises(ValueError, match="give"):
        convert(evaluation)
