"""Results in each layout, hostile ones among them; two side by side; what the lint says, and what it keeps quiet about."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pandas as pd
import pytest
import torch

from saework import saebench
from saework.core.files import DATA
from saework.studies.saebench.literals import MAX_DEPTH, values_in
from saework.studies.saebench.results import ResultError, bfloat16_step, compare, lint, read

FOLDER = DATA / "saebench"
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


@pytest.fixture
def written(tmp_path):
    def write(content, name="result.json"):
        path = tmp_path / name
        path.write_text(
            content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
        )
        return path

    return write


def error_of(path) -> str:
    with pytest.raises(ResultError) as caught:
        read(path)
    return str(caught.value)


def core(**metrics):
    return {"eval_type_id": "core", "eval_result_metrics": {"all": metrics}}


# ---- reading ----


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


@pytest.mark.parametrize(
    "literal, value",
    [
        ("{'a': (1, 2,), 'b': [],}", {"a": [1, 2], "b": []}),
        (
            "{'a': nan, 'b': -inf, 'c': 1e3, 'd': .5, 'e': -3}",
            {"a": math.nan, "b": -math.inf, "c": 1000.0, "d": 0.5, "e": -3},
        ),
        ("{'it\\'s': \"a '{\", 'x': '\\u00e9\\n'}", {"it's": "a '{", "x": "é\n"}),
        ('{"a": NaN, "b": "\\ud83d\\ude00", "c": true}', {"a": math.nan, "b": "😀", "c": True}),
        ("{'a': {1: 'one', None: True}}", {"a": {"1": "one", "null": True}}),
    ],
)
def test_what_a_value_may_hold(literal, value):
    ((place, found),) = values_in(f"so: {literal}.", "text", marks=())
    assert repr(found) == repr(value) and place == "text, line 1"


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
    assert list(read(written([core(l0=1), RESULT]))) == [
        "core",
        "sparse_probing",
    ]  # a list in a file
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


# ---- what cannot be read ----


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "result.json holds no evaluation; one has eval_type_id and eval_result_metrics"),
        ("Only words, and (brackets).", "Give a file that SAEBench wrote"),
        ("{'a': {'b': 1}}", "holds no evaluation"),
        (
            "x\n{'eval_type_id': 'core', 'm': [1, 2",
            "begins at result.json, line 2, column 1 is not closed: the text ends at line 2 with 2 bracket",
        ),
        (
            "{'eval_type_id': 'co",
            "line 1, column 18: the string that begins here does not end on its line. Is the file whole?",
        ),
        ('{"eval_ty', "line 1, column 2: the string that begins here"),
        ("{'a': [1, 2}}", "line 1, column 12: '}' closes a bracket of another kind"),
        (
            "{'a': __import__('os').system('true')}",
            "line 1, column 7: '__import__' is a call, and nothing is evaluated here",
        ),
        ("{'a':\n np.float64(0.5)}", "line 2, column 2: 'np.float64' is a call"),
        ("{'a': x}", "'x' is no plain value"),
        ("{'a': 1 + 1}", r"'\+' is no plain value"),
        ("{'a': b'x'}", "'b' is no plain value"),
        (
            "{'a': {1, 2}}",
            r"line 1, column 8: no plain value .*; values are strings, numbers, lists and mappings",
        ),
        ("{'a': 1, 'a': 2}", "the key 'a' is given twice; one of the two values would be lost"),
        ("{'a': " + "9" * 5000 + "}", "4300"),
        ("{'a': '\\x'}", "line 1, column 7"),
    ],
)
def test_a_text_that_is_no_result_says_where_and_why(written, text, words):
    with pytest.raises(ResultError, match=words):
        read(written(text))


@pytest.mark.parametrize("opening", ["{'a': ", "[", '{"a":[', "{'a': ("])
def test_a_million_brackets_are_refused_at_once(written, opening):
    began = time.monotonic()
    words = error_of(written(opening * 10**6))
    assert f"nested more than {MAX_DEPTH} deep" in words and "line 1, column" in words
    assert time.monotonic() - began < 10


def test_the_time_is_linear_in_the_text(written):
    many = "{'a': 1}\n" * 20_000
    began = time.monotonic()
    assert "holds no evaluation" in error_of(written(many))
    assert "'-'" in error_of(written("{'a': " + "-" * 10**6 + "1}"))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"eval_result_metrics": ...},
            r"sparse_probing \(result.json, line 1\) has no 'eval_result_metrics', which must be names with their values; it has eval_type_id, eval_config",
        ),
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


# ---- the study's figures ----


def test_a_log_with_all_of_a_run_as_literals_reads_as_the_figures_in_the_package(written):
    """As the seed has them: one literal after another, with words between, and the training records of other runs."""
    records = json.loads((FOLDER / "run_0.json").read_text())
    later = [
        dict(final_info={"final_loss": float(i)}, config={"trainer_class": "CustomTrainer"})
        for i in range(6)
    ]
    words = [f"## {name}\nIt's {{so}}:\n{ {name: record}!r}\n" for name, record in records.items()]
    log, packaged = (
        read(written("\n".join([*words, *map(repr, later)]), "log.txt")),
        read(FOLDER / "run_0.json"),
    )
    assert sorted(log) == sorted([*packaged, *(f"training ({n})" for n in range(2, 8))])
    for kind, evaluation in packaged.items():
        pd.testing.assert_frame_equal(log[kind].metrics, evaluation.metrics)
        pd.testing.assert_frame_equal(log[kind].details, evaluation.details)
        assert log[kind].config == evaluation.config


def test_means_and_rates_follow_from_the_details():
    run = read(FOLDER / "run_0.json")
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


# ---- side by side ----


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


def evaluations(*runs, config=None):
    empty = pd.DataFrame({"x": [1]})
    frames = [
        pd.DataFrame(
            {
                "group": "g",
                "metric": list(m),
                "size": pd.array([pd.NA] * len(m), dtype="Int64"),
                "value": list(m.values()),
            }
        )
        for m in runs
    ]
    return [saebench.Evaluation("core", config or {}, frame, empty) for frame in frames]


def test_compare_knows_neighbours_from_differences():
    a = {"cossim": 0.965, "mse": 3.281, "l0": 1652.80, "only_a": 1.0, "same": 0.5, "gone": math.nan}
    frame = compare(
        *evaluations(
            a,
            {"cossim": 0.961, "mse": 3.422, "l0": 1652.81, "same": 0.5, "gone": 1.0, "only_b": 2.0},
        )
    ).set_index("metric")
    assert frame.index.tolist() == ["cossim", "mse", "l0", "only_a", "same", "gone", "only_b"]
    assert frame.loc["cossim", ["bfloat16_step", "neighbours"]].tolist() == [
        2**-8,
        True,
    ]  # 247/256 and 246/256, as printed
    assert frame.loc["mse", ["bfloat16_step", "neighbours"]].tolist() == [
        2**-6,
        False,
    ]  # nine steps
    assert (
        math.isnan(frame.bfloat16_step["l0"]) and not frame.neighbours["l0"]
    )  # 1652.8 is no bfloat16 number, so it was not in it
    assert frame.neighbours["same"] and frame.difference["same"] == 0
    assert frame.difference["mse"] == pytest.approx(0.141)
    assert frame.loc[["only_a", "gone", "only_b"], "difference"].isna().all()


def test_compare_of_float32_and_of_different_kinds():
    a, b = evaluations({"x": 0.5}, {"x": 0.50390625}, config={"llm_dtype": "float32"})
    assert not compare(a, b).neighbours.any()
    assert compare(*evaluations({"x": 0.5}, {"x": 0.50390625})).neighbours.all()
    other = saebench.Evaluation("scr", {}, a.metrics, a.details)
    with pytest.raises(
        ValueError, match="a is 'core' and b is 'scr'; compare two evaluations of one kind"
    ):
        compare(a, other)


# ---- the lint ----


@pytest.fixture(scope="module")
def runs():
    return {path.stem: read(path) for path in sorted(FOLDER.glob("run_*.json"))}


def found(frame, check):
    return frame[frame.check == check].set_index("run").finding


def test_the_lint_of_the_study(runs):
    frame = lint(runs, target_l0=20, stated=json.loads((FOLDER / "stated.json").read_text()))
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
    assert (
        found(frame, "stated").str.endswith("it got worse").sum() == 8
        and found(frame, "stated").str.endswith("equal").sum() == 7
    )


def test_the_lint_of_one_run_takes_the_target_from_its_training(runs):
    frame = lint(runs["run_0"])
    assert found(frame, "L0 target").tolist() == [
        "mean L0 is 1,639.48 features per token, 82 times the target of 20"
    ]
    assert set(frame.check) == {"L0 target", "details", "settings"}


def test_sound_results_are_not_flagged():
    a, b = evaluations({"l0": 20.5, "mse": 2.0}, {"l0": 19.5, "mse": 1.5})
    better = [{"run": "b", "against": "a", "metric": "mse", "before": 2.0, "after": 1.5}]
    assert lint({"a": {"core": a}, "b": {"core": b}}, target_l0=20, stated=better).empty
    assert lint({}).empty


def test_a_low_l0_and_a_stated_step_of_one_rounding():
    a, b = evaluations({"l0": 5.0}, {"cossim": 0.9609375})
    assert "25% of the target of 20" in lint({"core": a}, target_l0=20).finding[0]
    (finding,) = lint(
        {"core": b}, stated=[{"run": "r", "metric": "cossim", "before": 0.957, "after": 0.961}]
    ).finding
    assert "neighbours in bfloat16" in finding


def test_statements_that_cannot_be_judged():
    with pytest.raises(ValueError, match="evaluations are a Evaluation; give what read"):
        lint(evaluations({"l0": 1.0})[0])
    with pytest.raises(ValueError, match="lacks after; give run, metric, before, after"):
        lint({}, stated=[{"run": "a", "metric": "mse", "before": 1}])
    unknown = {"run": "a", "metric": "wonder", "before": 1.0, "after": 9.0}
    with pytest.raises(
        ValueError,
        match="better for 'wonder' is not known here; add better='higher' or better='lower'",
    ):
        lint({}, stated=[unknown])
    assert lint({}, stated=[unknown | {"better": "higher"}]).empty
    assert "it got worse" in lint({}, stated=[unknown | {"better": "lower"}]).finding[0]


# ---- SAEBench's own file, and the way to another ----


def test_the_file_that_saebench_wrote_is_what_we_measure():
    import saework

    theirs = read(FOLDER / "core_gelu_1l_mini.json")["core"]
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
    assert theirs.value("mse") == pytest.approx(
        4 * ours["mse_saebench"], rel=1e-4
    )  # four batches, each with its own tokens below
    for name, own in {
        "ce_loss_score": "ce_loss_score",
        "kl_div_score": "kl_div_score",
        "ce_loss_without_sae": "ce_loss_clean",
    }.items():
        assert theirs.value(name) == pytest.approx(ours[own], rel=1e-3), name


def test_an_exported_sae_is_the_same_and_its_script_says_how(tiny, tmp_path):
    from sae_lens import SAE

    script = saebench.export(
        tiny.sae, tmp_path / "out", name="it's mine", model_name="gpt2", dataset="rows", batches=7
    )
    assert script == tmp_path / "out" / "run_core.py"
    sae = SAE.load_from_disk(script.parent)
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sae.encode(x), tiny.sae.encode(x)) and torch.equal(sae.W_dec, tiny.sae.W_dec)
    assert (
        sae.cfg.metadata.hook_name,
        sae.cfg.metadata.model_name,
        sae.cfg.metadata.prepend_bos,
    ) == (tiny.hook, "gpt2", True)
    text = script.read_text(encoding="utf-8")
    compile(text, "run_core.py", "exec")
    assert 'pip install "sae-bench==0.6.0" "pyarrow<20"\nsaebench/bin/python run_core.py' in text
    assert (
        '"it\'s mine"' in text
        and "n_eval_reconstruction_batches=7" in text
        and "dataset='rows'" in text
    )
    assert tiny.sae.cfg.metadata.model_name is None, "the SAE itself is left as it was"


def test_what_cannot_be_exported(tiny, tmp_path):
    from types import SimpleNamespace

    with pytest.raises(
        ValueError, match="a SimpleNamespace cannot be written; give an sae_lens.SAE, such as load"
    ):
        saebench.export(SimpleNamespace(), tmp_path, name="x", model_name="m")
    bare = SimpleNamespace(
        save_model=None, cfg=SimpleNamespace(metadata=SimpleNamespace(hook_name=None))
    )
    with pytest.raises(
        ValueError, match="the SAE does not say its hook; give hook='blocks.0.hook_resid_post'"
    ):
        saebench.export(bare, tmp_path, name="x", model_name="m")
