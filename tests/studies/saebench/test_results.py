"""Results in each layout, and what is no result."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pandas as pd
import pytest
import torch

import saework
from saework.studies.saebench import EXAMPLES, ResultError, read

METRICS = {
    "sae": {"sae_top_1_test_accuracy": 0.75, "sae_top_100_test_accuracy": None},
    "llm": {"llm_test_accuracy": 0.5},
}
RESULT = {  # the keys of SAEBench 0.6.0, in its order
    "eval_type_id": "sparse_probing",
    "eval_config": {"model_name": "m", "k_values": [1, 2], "llm_dtype": "float32"},
    "eval_id": "0",
    "datetime_epoch_millis": 1738044936713,
    "eval_result_metrics": METRICS,
    "eval_result_details": [
        {"dataset_name": "a_results", "sae_top_1_test_accuracy": 1.0},
        {"dataset_name": "b_results", "sae_top_1_test_accuracy": 0.5},
    ],
    "sae_bench_commit_hash": "Unknown",
    "sae_lens_id": "custom_sae",
    "sae_lens_release_id": "r",
    "sae_lens_version": "6.54.12",
    "sae_cfg_dict": {"d_in": 2},
    "eval_result_unstructured": None,
}


UNKNOWN_KIND = pytest.mark.filterwarnings("ignore:.*the kind of evaluation is not known here")


def error_of(path) -> str:
    with pytest.raises(ResultError) as caught:
        read(path)
    return str(caught.value)


def core(**metrics):
    return {"eval_type_id": "core", "eval_result_metrics": {"all": metrics}}


def test_a_result_in_saebench_s_own_layout(written):
    (kind, evaluation), *rest = read(written(RESULT)).items()
    assert (kind, rest) == ("sparse_probing", []) and evaluation.kind == kind
    assert evaluation.config == RESULT["eval_config"]
    assert evaluation.metrics.columns.tolist() == ["group", "metric", "size", "value"]
    assert evaluation.metrics.group.tolist() == ["sae", "sae", "llm"]
    assert evaluation.metrics["size"].tolist() == [1, 100, pd.NA]
    assert evaluation.metrics.value.tolist()[::2] == [0.75, 0.5] and math.isnan(
        evaluation.metrics.value[1]
    )
    assert evaluation.details.dataset_name.tolist() == ["a_results", "b_results"]
    assert (
        evaluation.about["sae_cfg_dict"] == {"d_in": 2}
        and "eval_result_metrics" not in evaluation.about
    )
    assert evaluation.place == "result.json, line 1"


def test_a_python_literal_with_text_around_it_gives_the_same(written):
    words = (
        f"# Don't stop at {{braces}} or 'quotes\nResults: {RESULT!r}\nDescription: it's {{'so'}}.\n"
    )
    assert "'sae_top_100_test_accuracy': None" in words
    literal, plain = (
        read(written(words, "notes.txt"))["sparse_probing"],
        read(written(RESULT))["sparse_probing"],
    )
    pd.testing.assert_frame_equal(literal.metrics, plain.metrics)
    pd.testing.assert_frame_equal(literal.details, plain.details)
    assert literal.config == plain.config and literal.about == plain.about
    assert literal.place == "notes.txt, line 2"


def test_the_older_core_layout_and_training_records(written):
    old = {
        "unique_id": "u",
        "eval_cfg": {"llm_dtype": "bfloat16"},
        "metrics": {"sparsity": {"l0": 3.5}},
        "feature_metrics": {"density": [0.1, 0.2]},
    }
    record = {
        "config": {"trainer_class": "A", "lr": 1e-3},
        "final_info": {"final_loss": 2.5, "layer": 1},
    }
    found = read(written({"core evaluation results": old, "training results for layer 1": record}))
    assert list(found) == ["core", "training"]
    assert found["core"].value("l0") == 3.5 and found["core"].details.density.tolist() == [0.1, 0.2]
    assert (
        found["training"].value("final_loss") == 2.5
        and found["training"].config["trainer_class"] == "A"
    )


def test_what_a_log_prints_beside_a_result_is_passed_over(written):
    settings = "Settings: {'device': device(type='cuda'), 'dtype': torch.bfloat16}\n"
    assert list(read(written(settings + repr(RESULT), "log.txt"))) == ["sparse_probing"]
    words = error_of(written(settings, "log.txt"))
    assert (
        "holds no evaluation" in words
        and "Passed over: log.txt, line 1, column 22: 'device' is a call" in words
    )


@UNKNOWN_KIND
def test_whatever_is_cut_off_or_damaged_gives_a_result_or_a_result_error(written):
    text = f"Words {{'here'}}: {RESULT!r}\n{json.dumps(RESULT)}\nend"
    random = np.random.default_rng(0)
    for _ in range(400):
        cut = text[: random.integers(len(text))]
        at = int(random.integers(len(text)))
        damaged = text[:at] + str(random.choice(list("{}[]()'\",:\\ x0-\n"))) + text[at + 1 :]
        for broken in (cut, damaged):
            try:
                assert read(written(broken))
            except ResultError as error:
                assert "result.json" in str(error)


@UNKNOWN_KIND
def test_an_unknown_evaluation_is_read_all_the_same(written):
    unknown = {
        "eval_type_id": "dreams",
        "eval_result_metrics": {"deep": {"deeper": {"x": 1}}, "flat": 2},
    }
    evaluation = read(written(unknown))["dreams"]
    assert evaluation.metrics[["group", "metric", "value"]].values.tolist() == [
        ["deep/deeper", "x", 1.0],
        ["", "flat", 2.0],
    ]
    assert evaluation.config == {} and evaluation.details.empty


@UNKNOWN_KIND
def test_several_of_one_kind_are_numbered_and_repetitions_left_out(written):
    text = "\n".join(
        map(repr, [core(l0=1), core(l0=2), core(l0=1), core(l0=math.nan), core(l0=math.nan)])
    )
    found = read(written(text))
    assert {key: e.value("l0") for key, e in found.items() if key != "core (3)"} == {
        "core": 1,
        "core (2)": 2,
    }
    assert list(found) == ["core", "core (2)", "core (3)"] and found["core (2)"].kind == "core"
    assert [e.place for e in found.values()] == [f"result.json, line {line}" for line in (1, 2, 4)]
    a_list = written([core(l0=1), RESULT])
    assert list(read(a_list)) == ["core", "sparse_probing"]
    named_so = [core(l0=1) | {"eval_type_id": "core (2)"}, core(l0=2), core(l0=3)]
    assert list(read(written(named_so))) == ["core (2)", "core", "core (3)"]


def test_a_metric_by_its_name(written):
    evaluation = read(
        written(
            {"eval_type_id": "core", "eval_result_metrics": {"a": {"l0": 1, "x": 1}, "b": {"x": 2}}}
        )
    )["core"]
    assert evaluation.value("l0") == 1
    with pytest.raises(ValueError, match="there is no metric 'l00'. Did you mean 'l0'"):
        evaluation.value("l00")
    with pytest.raises(
        ValueError, match="core has 2 metrics named 'x', in several groups; take one from .metrics"
    ):
        evaluation.value("x")


@UNKNOWN_KIND
def test_an_evaluation_shows_itself_escaped(written):
    evaluation = read(
        written({"eval_type_id": "<b>", "eval_result_metrics": {"<i>": {"m": 0.123456789}}})
    )["<b>"]
    assert repr(evaluation).startswith(
        "Evaluation <b>: 1 metrics, details of 0 parts, 0 settings"
    ) and "0.123457" in repr(evaluation)
    assert (
        "&lt;b&gt;: 1 metrics" in evaluation._repr_html_() and "<i>" not in evaluation._repr_html_()
    )


@pytest.mark.parametrize("text", ["", "Only words, and (brackets).", "{'a': {'b': 1}}"])
def test_a_text_without_an_evaluation(written, text):
    words = error_of(written(text))
    assert "result.json holds no evaluation; one has eval_type_id and eval_result_metrics" in words
    assert "Give a file that SAEBench wrote" in words


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"eval_result_metrics": ...},
            r"sparse_probing \(result.json, line 1\) has no 'eval_result_metrics', which must be "
            "names with their values; it has eval_type_id, eval_config",
        ),
        ({"eval_result_metrics": {}}, "has dict as 'eval_result_metrics'"),
        ({"eval_result_metrics": [1]}, "has list as 'eval_result_metrics'"),
        ({"eval_config": "fast"}, "has str as 'eval_config'"),
        ({"eval_type_id": 7}, "eval_type_id is 7; it must be a name, such as 'core'"),
        ({"eval_type_id": None}, "eval_type_id is None"),
        ({"eval_type_id": ...}, "eval_type_id is None; it must be a name"),
        ({"eval_result_details": ["x"]}, "the details of sparse_probing .* are no list of parts"),
        ({"eval_result_details": 3}, "are no list of parts"),
        (
            {"eval_result_metrics": {"g": {"m": "high"}}},
            "'m' of sparse_probing .* is 'high'; a metric is a number, or none",
        ),
        ({"eval_result_metrics": {"g": {"m": True}}}, "is 'True'; a metric is a number"),
        ({"eval_result_metrics": {"g": {"m": 10**400}}}, "a metric is a number"),
    ],
)
def test_a_result_with_something_missing_or_wrong(written, change, words):
    with pytest.raises(ResultError, match=words):
        read(written({key: value for key, value in (RESULT | change).items() if value is not ...}))


def test_a_file_that_cannot_be_text(tmp_path, written, monkeypatch):
    (tmp_path / "binary").write_bytes(b"{'a': \xff}")
    assert (
        error_of(tmp_path / "binary")
        == "binary is not UTF-8 text (byte 6); give the JSON file itself, unpacked"
    )
    path = written(RESULT)
    assert "is a folder; give one of its files, such as result.json" in error_of(tmp_path)
    monkeypatch.setattr("saework.studies.saebench.results.MAX_BYTES", 100)
    assert "100 at most are read; give one evaluation's own file" in error_of(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.json")


def test_a_log_with_all_of_a_run_as_literals_reads_as_the_figures_in_the_package(written):
    """One literal after another with words between, and the training records of other runs."""
    records = json.loads((EXAMPLES / "run_0.json").read_text())
    later = [
        dict(final_info={"final_loss": float(i)}, config={"trainer_class": "CustomTrainer"})
        for i in range(6)
    ]
    words = [f"## {name}\nIt's {{so}}:\n{ {name: record}!r}\n" for name, record in records.items()]
    log, packaged = (
        read(written("\n".join([*words, *map(repr, later)]), "log.txt")),
        read(EXAMPLES / "run_0.json"),
    )
    assert sorted(log) == sorted([*packaged, *(f"training ({n})" for n in range(2, 8))])
    for kind, evaluation in packaged.items():
        pd.testing.assert_frame_equal(log[kind].metrics, evaluation.metrics)
        pd.testing.assert_frame_equal(log[kind].details, evaluation.details)
        assert log[kind].config == evaluation.config


def test_means_and_rates_follow_from_the_details():
    run = read(EXAMPLES / "run_0.json")
    letters = run["absorption"].details
    assert np.allclose(
        letters.num_absorption / letters.num_probe_true_positives,
        letters.absorption_rate,
        rtol=1e-12,
    )
    assert run["absorption"].value("mean_absorption_score") == pytest.approx(
        letters.absorption_rate.mean(), abs=1e-15
    )
    for kind in ("scr", "sparse_probing"):
        metrics = run[kind].metrics.dropna(subset="value")
        assert np.allclose(metrics.value, run[kind].details[metrics.metric].mean(), atol=1e-15)


def test_the_file_that_saebench_wrote_is_what_we_measure():
    theirs = read(EXAMPLES / "core_gelu_1l_mini.json")["core"]
    assert (
        theirs.config["dataset"] == "rows" and theirs.about["sae_lens_release_id"] == "gelu-1l-mini"
    )
    assert len(theirs.details) == 4096 and theirs.details.feature_density.sum() == pytest.approx(
        theirs.value("l0"), abs=1e-5
    )
    book = saework.load("gelu-1l-mini", n_tokens=64 * 128, device="cpu", check=False)
    special = [getattr(book.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")]
    mask = ~torch.isin(book.tokens, torch.tensor(special))
    ours = saework.reconstruction_metrics(
        book.model, book.sae, book.tokens, mask=mask, progress=False
    ).with_bos
    names = {
        "l0": "l0",
        "l1": "l1",
        "l2_ratio": "l2_ratio",
        "cossim": "cosine_similarity",
        "explained_variance": "variance_explained_squares",
    }
    for name, own in names.items():
        assert theirs.value(name) == pytest.approx(ours[own], rel=1e-5), name
    # SAEBench had four batches, and divides by the tokens of one.
    assert theirs.value("mse") == pytest.approx(4 * ours["mse_saebench"], rel=1e-4)
    for name, own in {
        "ce_loss_score": "ce_loss_score",
        "kl_div_score": "kl_div_score",
        "ce_loss_without_sae": "ce_loss_clean",
    }.items():
        assert theirs.value(name) == pytest.approx(ours[own], rel=1e-3), name


def test_a_call_in_a_text_is_refused_where_it_stands(tmp_path):
    path = tmp_path / "log.txt"
    opened = "open('/etc/passwd').read()"
    path.write_text(f"Results: {{'eval_type_id': 'core', 'eval_result_metrics': {opened}}}")
    assert error_of(path).startswith("log.txt, line 1, column 58: 'open' is a call")


def test_the_recorded_claims_are_the_numbers_that_saebench_wrote():
    claims = json.loads((EXAMPLES / "claims.json").read_text(encoding="utf-8"))
    evaluation = read(EXAMPLES / "core_gelu_1l_mini.json")["core"]
    assert len(claims) == 8
    for claim in claims:
        metric = claim["id"].removeprefix("core/")
        assert claim["value"] == evaluation.value(metric)
        assert claim["source"].startswith("regression value: SAEBench 0.6.0")


@pytest.mark.parametrize("path", [None, 5, "", "a\0b"])
def test_what_is_no_path(path):
    with pytest.raises(ValueError, match="path is .*(give a path|which no file can have)"):
        read(path)


def test_a_file_that_is_not_there_or_a_pipe(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*none.json; check the path"):
        read(tmp_path / "none.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a pipe or a device; give a file"):
        read(tmp_path / "pipe")
