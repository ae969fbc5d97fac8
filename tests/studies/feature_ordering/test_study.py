"""A study that is killed and continues, its summary, and what of it is committed."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from toy_study import STUDIED, TOY, assert_same_run, toy_study

import saework
from saework.core.errors import UnknownNameError, WeightsError
from saework.core.files import DATA
from saework.loading.catalogue import STUDIES, claims_of
from saework.studies.feature_ordering import paired_differences, read_study
from saework.studies.feature_ordering.variants import SMALL, variants

# The package's attribute of this name is the function.
study = importlib.import_module("saework.studies.feature_ordering.study")

IN_ANOTHER_PROCESS = """
import os, signal, sys, threading, time, torch, toy_study
from pathlib import Path

def kill_in_the_second_run():
    runs = Path(sys.argv[1]) / "runs"
    while not (list(runs.glob("*.json")) and list(runs.glob("*/step_*"))):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=kill_in_the_second_run, daemon=True).start()
torch.set_num_threads(1)
toy_study.toy_study(sys.argv[1])
"""


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, toy_study(folder)


def test_a_study_that_is_killed_goes_on_to_the_same_bits(studied, tmp_path):
    repository = Path(saework.__file__).parents[1]
    folders = [str(repository), str(repository / "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    assert process.wait() == -signal.SIGKILL, "it was killed before it was done"
    assert not (tmp_path / "study.json").exists()
    assert len(list(tmp_path.glob("runs/*.json"))) < 9
    toy_study(tmp_path)
    for file in ("study.json", "study.safetensors", "setting.json"):
        assert (tmp_path / file).read_bytes() == (studied[0] / file).read_bytes()


def test_a_study_is_read_as_it_was_made(studied):
    done, read = studied[1], read_study(studied[0])
    assert read.setting == done.setting and read.table.equals(done.table)
    assert list(read.table["variant"].unique()) == ["run 3", "run 9", "plain"] and set(
        read.table["seed"]
    ) == {0, 1, 2}
    assert_same_run(read.first("run 9"), done.first("run 9"))
    assert read.runs["plain", 1].rates is None, "the summary has the rates of the first seed only"
    assert read.first("run 3").rates.shape == (20, 16)


def test_what_a_study_refuses(studied, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"holds a study of another setting \(l1 0.3 there, 0.5 now\); give an empty folder",
    ):
        study.study(replace(STUDIED, l1=0.5), studied[0])
    with pytest.raises(
        UnknownNameError, match="there is no variant 'run 10'.*Did you mean 'run 1'"
    ):
        study.study(TOY, tmp_path / "new", names=["run 10"])
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "setting.json").write_text("")
    with pytest.raises(WeightsError, match=r"damaged/setting.json is not JSON"):
        study.study(TOY, tmp_path / "damaged")
    with pytest.raises(
        FileNotFoundError,
        match="holds no study.json; train one with saework reproduce feature-ordering --out OUT",
    ):
        read_study(tmp_path / "nothing")


def test_paired_differences_by_hand():
    rows = [
        {"variant": v, "seed": s, "mse": value}
        for v, values in {"plain": (10, 20, 30), "a": (11, 22, 33), "b": (10.1, 19.8, 30.1)}.items()
        for s, value in enumerate(values)
    ]
    found = paired_differences(pd.DataFrame(rows), "mse")
    assert list(found.index) == ["a", "b"]
    assert found.loc["a", "difference"] == pytest.approx(2) and found.loc[
        "a", "high"
    ] == pytest.approx(2 + 4.302653 / 3**0.5, rel=1e-5)
    assert list(found["verdict"]) == ["none shown", "none shown"]
    rows += [{"variant": "c", "seed": s, "mse": value} for s, value in enumerate((8, 18.1, 27.9))]
    assert paired_differences(pd.DataFrame(rows), "mse").loc["c", "verdict"] == "lower"
    with pytest.raises(
        ValueError, match="2 seeds say too little about noise; train at least three"
    ):
        paired_differences(pd.DataFrame([row for row in rows if row["seed"]]), "mse")


def test_the_catalogue_names_the_release_that_a_study_loads():
    for name, setting in study.SETTINGS.items():
        assert setting.release == STUDIES[name].release


def test_the_committed_study_is_whole_and_small():
    committed = read_study(DATA / "feature-ordering")
    assert committed.setting == SMALL
    table = committed.table
    assert (
        set(table["variant"]) == set(variants(SMALL))
        and (table.groupby("variant")["seed"].nunique() >= 3).all()
    )
    assert sum(path.stat().st_size for path in (DATA / "feature-ordering").iterdir()) < 1e6
    assert all(committed.first(name).rates.shape == (20, 512) for name in variants(SMALL))
    claims = {
        claim.id: claim.value
        for claim in claims_of("feature-ordering")
        if claim.tier == "feature-ordering"
    }
    assert claims["ordering/plain/mse"] == pytest.approx(
        table[table.variant == "plain"]["mse"].mean()
    )


def test_recording_writes_claims_that_the_study_holds(studied, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "DATA", tmp_path)
    done = studied[1]
    folder = study.record("feature-ordering", done)
    assert {path.name for path in folder.iterdir()} == {
        "claims.json",
        "setting.json",
        "study.json",
        "study.safetensors",
    }
    assert read_study(folder).table.equals(done.table)


def test_reproduce_trains_first_and_hands_the_study_to_the_notebook(tmp_path, monkeypatch, capsys):
    from saework import cli
    from saework.core.ledger import Ledger
    from saework.reproduction import run

    asked = {}
    monkeypatch.setattr(
        study, "study", lambda setting, folder, **_: asked.update(setting=setting, folder=folder)
    )
    monkeypatch.setattr(
        run,
        "reproduce",
        lambda name, out, *, parameters, **_: asked.update(parameters) or Ledger([], tier=name),
    )
    assert cli.main(["reproduce", "feature-ordering", "--out", str(tmp_path)]) == 0
    assert asked == {
        "setting": SMALL,
        "folder": tmp_path / "study",
        "STUDY": str(tmp_path / "study"),
    }
    assert "gemma-mini: ready" in capsys.readouterr().out


def test_the_command_trains_a_study_and_records_it(tmp_path, monkeypatch, capsys, studied):
    asked = {}

    def stand_in(setting, folder, *, seeds, device):
        asked.update(setting=setting, folder=folder, seeds=seeds, device=device)
        return studied[1]

    monkeypatch.setattr(study, "study", stand_in)
    monkeypatch.setattr(study, "DATA", tmp_path / "data")
    out = ["--out", str(tmp_path / "runs"), "--seeds", "0", "1", "2", "--device", "cpu"]
    assert study.main(["feature-ordering", *out]) == 0
    assert asked == {
        "setting": SMALL,
        "folder": tmp_path / "runs",
        "seeds": [0, 1, 2],
        "device": "cpu",
    }
    assert not (tmp_path / "data").exists()
    live = {"id": "live/plain/mse"}
    monkeypatch.setattr(study, "study_data", lambda setting: ("batches", "held out"))
    monkeypatch.setattr(study, "live_claims", lambda setting, batches, held_out: [live])
    assert study.main(["feature-ordering", *out, "--record"]) == 0
    claims = json.loads((tmp_path / "data" / "feature-ordering" / "claims.json").read_text())
    assert claims[-1] == live and claims[0]["id"].startswith("ordering/")
    assert study._live_claims("feature-ordering-2b") == []
    assert "recorded in" in capsys.readouterr().out


def test_differences_of_seeds_that_are_not_all_there():
    table = pd.DataFrame(
        {"variant": ["plain", "run 1"] * 3, "seed": [0, 0, 1, 1, 2, 2], "mse": [1.0, 2.0] * 3}
    )
    assert paired_differences(table, "mse").loc["run 1", "difference"] == 1.0
    for changed, words in {
        "a seed": (
            table.iloc[:-1],
            "run 1 lack a number for one seed or more; give the seeds that",
        ),
        "twice": (pd.concat([table, table[:1]]), "two rows of one variant and seed; leave one"),
    }.values():
        with pytest.raises(ValueError, match=words):
            paired_differences(changed, "mse")
    with pytest.raises(UnknownNameError, match="no metric 'msee'. Did you mean 'mse'"):
        paired_differences(table, "msee")
    with pytest.raises(UnknownNameError, match="no variant 'run 2'. Did you mean 'run 1'"):
        paired_differences(table, "mse", reference="run 2")


def test_a_variant_that_a_study_lacks(studied):
    _, done = studied
    with pytest.raises(UnknownNameError, match="there is no variant 'run 99'"):
        done.first("run 99")


@pytest.mark.parametrize("seed", ["0/../../mine", -1, 1.5])
def test_a_seed_becomes_no_path(tmp_path, seed):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="a seed is .*; give a whole number"):
        study.study(TOY, tmp_path / "study", seeds=[seed], data=())
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_is_no_folder_or_setting():
    with pytest.raises(ValueError, match="folder is 5; give a path"):
        read_study(5)
    with pytest.raises(ValueError, match="setting is 'small'; give a Setting, such as"):
        variants("small")
