"""What the lint says of the study's results, and what it keeps quiet about."""

from __future__ import annotations

import json
import math

import pytest

from saework import UnknownNameError
from saework.studies.saebench import EXAMPLES, lint, read


@pytest.fixture(scope="module")
def runs():
    return {path.stem: read(path) for path in sorted(EXAMPLES.glob("run_*.json"))}


def found(frame, check):
    return frame[frame.check == check].set_index("run").finding


def test_the_lint_of_the_study(runs):
    frame = lint(runs, target_l0=20, stated=json.loads((EXAMPLES / "stated.json").read_text()))
    assert (
        found(frame, "L0 target")["run_0"]
        == "mean L0 is 1,639.48 features per token, 82 times the target of 20"
    )
    assert len(found(frame, "L0 target")) == 9
    assert set(frame[(frame.run == "run_0") & (frame.check == "details")].evaluation) == {
        "core",
        "unlearning",
    }
    assert found(frame, "settings").to_dict() == {
        "run_0": "sparsity_penalty is 1 in the settings and 0.04 in the record of the same run"
    }
    assert (
        "trained by CustomTrainer, and run_0 by JumpReLUTrainer" in found(frame, "trainer")["run_8"]
    )
    assert len(found(frame, "trainer")) == 6
    assert (
        "cossim is 0.961, and 0.965 in run_7: neighbours in bfloat16, whose step there is 0.00391"
        in found(frame, "resolution")["run_8"]
    )
    assert (
        "mse is said to have improved from 3.281 to 3.422; lower is better, so it got worse"
        in found(frame, "stated")["run_8"].tolist()
    )
    assert found(frame, "quoted").tolist() == [
        "kl_div_score of run_1 is given as 0.987, and run_1's own record says 0.994"
    ]
    stated = found(frame, "stated")
    assert stated.str.endswith("it got worse").sum() == 6
    assert stated.str.endswith("the two are equal").sum() == 7
    (rounding,) = stated[stated.str.contains("neighbours")]
    assert "cossim is said to have improved from 0.965 to 0.961" in rounding


def test_each_stated_improvement_is_in_the_sentence_that_is_quoted():
    stated = json.loads((EXAMPLES / "stated.json").read_text())
    assert len(stated) == 24
    for row in stated:
        sentence = row["sentence"].replace(",", "")
        assert str(row["after"]) in sentence
        if row["before"] is not None:
            assert str(row["before"]) in sentence
    in_words = json.loads((EXAMPLES / "stated_in_words.json").read_text())
    assert not {row["sentence"] for row in in_words} & {row["sentence"] for row in stated}


def test_the_lint_of_one_run_takes_the_target_from_its_training(runs):
    frame = lint(runs["run_0"])
    assert found(frame, "L0 target").tolist() == [
        "mean L0 is 1,639.48 features per token, 82 times the target of 20"
    ]
    assert set(frame.check) == {"L0 target", "definition", "details", "settings"}


def test_sound_results_are_not_flagged(evaluations):
    a, b = evaluations({"l0": 20.5, "cossim": 0.75}, {"l0": 19.5, "cossim": 0.875})
    better = [{"run": "b", "against": "a", "metric": "cossim", "before": 0.75, "after": 0.875}]
    assert lint({"a": {"core": a}, "b": {"core": b}}, target_l0=20, stated=better).empty
    assert lint({}).empty


def test_a_low_l0_and_a_stated_step_of_one_rounding(evaluations):
    a, b = evaluations({"l0": 5.0}, {"cossim": 0.9609375})
    assert "25% of the target of 20" in lint({"core": a}, target_l0=20).finding[0]
    statement = {"run": "r", "metric": "cossim", "before": 0.957, "after": 0.961}
    (finding,) = lint({"core": b}, stated=[statement]).finding
    assert "neighbours in bfloat16" in finding


def test_statements_that_cannot_be_judged(evaluations):
    with pytest.raises(ValueError, match="evaluations has type Evaluation; give what read"):
        lint(evaluations({"l0": 1.0})[0])
    with pytest.raises(ValueError, match="lacks after; give run, metric, after, and before or"):
        lint({}, stated=[{"run": "a", "metric": "mse", "before": 1}])
    alone = {"run": "a", "metric": "mse", "after": 1.0, "against": "b"}
    with pytest.raises(ValueError, match="has no before, and no run named by against"):
        lint({}, stated=[alone])
    unknown = {"run": "a", "metric": "wonder", "before": 1.0, "after": 9.0}
    with pytest.raises(
        ValueError,
        match="better for 'wonder' is not known here; add better='higher' or better='lower'",
    ):
        lint({}, stated=[unknown])
    with pytest.raises(UnknownNameError, match="no part of a statement 'beter'. Did you mean 'bet"):
        lint({}, stated=[unknown | {"beter": "higher"}])
    with pytest.raises(ValueError, match="better is 'up'; give 'higher' or 'lower'"):
        lint({}, stated=[unknown | {"better": "up"}])
    assert lint({}, stated=[unknown | {"better": "higher"}]).empty
    assert "it got worse" in lint({}, stated=[unknown | {"better": "lower"}]).finding[0]


def test_a_statement_without_a_number_is_held_against_the_run_it_names(evaluations):
    a, b = evaluations({"mse": 2.25}, {"mse": 2.5})
    statement = {"run": "b", "against": "a", "metric": "mse", "after": 2.5}
    frame = lint({"a": {"core": a}, "b": {"core": b}}, stated=[statement])
    assert found(frame, "stated").tolist() == [
        "mse is said to have improved from 2.25 to 2.5; lower is better, so it got worse"
    ]


def test_both_numbers_of_a_statement_are_compared_with_their_runs(evaluations):
    a, b = evaluations({"mse": 2.25}, {"mse": 1.5})
    statement = {"run": "b", "against": "a", "metric": "mse", "before": 2.5, "after": 1.46}
    frame = lint({"a": {"core": a}, "b": {"core": b}}, stated=[statement])
    assert found(frame, "quoted").tolist() == [
        "mse of a is given as 2.5, and a's own record says 2.25"
    ], "1.46 is within the last digit of 1.5"
    quoted = frame[frame.check == "quoted"]
    assert set(quoted.run) == {"b"} and set(quoted.evaluation) == {"core"}


def test_parts_under_another_key_are_details(tmp_path):
    """RAVEL's and autointerp's files: no list of details, and the parts as they came."""
    record = {
        "eval_type_id": "ravel",
        "eval_config": {},
        "eval_result_metrics": {"ravel": {"disentanglement_score": 0.5}},
        "eval_result_details": [],
    }
    path = tmp_path / "ravel.json"
    path.write_text(json.dumps(record))
    assert lint(read(path)).check.tolist() == ["details"]
    path.write_text(json.dumps(record | {"eval_result_unstructured": {"city": {"score": 0.5}}}))
    assert lint(read(path)).empty


def test_old_definitions_are_named(runs, evaluations):
    frame = lint(runs["run_0"])
    definitions = frame[frame.check == "definition"]
    assert definitions.evaluation.tolist() == ["absorption", "absorption", "core", "core"]
    assert definitions.finding.iloc[2] == (
        "explained_variance: variance_explained_legacy, a mean of ratios, each around its own "
        "batch's mean; SAEBench 0.4.1 (#61) replaced it"
    )
    assert lint({"core": evaluations({"l0": 5.0, "cossim": 0.5})[0]}).empty


@pytest.mark.parametrize("target", [-1, 0, math.nan, math.inf, "20", True])
def test_a_target_that_no_l0_can_be(runs, target):
    with pytest.raises(
        ValueError, match="target_l0 is .*; give features per token, a number above 0"
    ):
        lint(runs["run_0"], target_l0=target)


@pytest.mark.parametrize("recorded", ["20", math.nan, -3, None, {"a": 1}])
def test_a_strange_target_in_a_file_is_none(evaluations, recorded):
    (core,) = evaluations({"l0": 5.0}, config={"target_l0": recorded})
    assert lint({"core": core}).empty


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        (5, "stated is 5; give them in a list"),
        ({"run": "run_0"}, "stated is {'run': 'run_0'}; give them in a list"),
        (["words"], "a statement is 'words'; give a dict with run, metric, after"),
        ([{"run": "run_9x"}], "there is no run 'run_9x'. Did you mean 'run_9'"),
        ([{"against": "run_9x"}], "there is no run 'run_9x'. Did you mean 'run_9'"),
        ([{"before": "1"}], "before is '1'; give a finite number"),
        ([{"after": math.nan}], "after is nan; give a finite number"),
        ([{"after": True}], "after is True; give a finite number"),
        ([{"metric": 5}], "metric is 5; give text"),
    ],
)
def test_a_statement_of_another_kind(runs, stated, words):
    good = {"run": "run_1", "metric": "mse", "before": 1.0, "after": 0.5}
    if isinstance(stated, list) and isinstance(stated[0], dict):
        stated = [{**good, **stated[0]}]
    with pytest.raises(ValueError, match=words):
        lint(runs, stated=stated)


@pytest.mark.parametrize("evaluations", [None, 5, {"core": 5}, {"run": {"core": 5}}])
def test_what_read_did_not_return(evaluations):
    with pytest.raises(ValueError, match="has type .*; give what read|the evaluation 'core' is 5"):
        lint(evaluations)
