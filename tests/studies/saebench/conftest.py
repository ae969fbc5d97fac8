"""Result files as tests write them, and evaluations of a few numbers."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from saework.studies.saebench import Evaluation


@pytest.fixture
def written(tmp_path):
    """``written(content, name)``: a file with a text, or with a value as JSON."""

    def write(content, name="result.json"):
        path = tmp_path / name
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def evaluations():
    """``evaluations({"mse": 1.0}, ...)``: a core evaluation for each mapping."""

    def make(*runs, config=None):
        return [Evaluation("core", config or {}, frame(run), DETAILS) for run in runs]

    return make


DETAILS = pd.DataFrame({"x": [1]})


def frame(values):
    columns = {"group": "g", "metric": list(values), "size": no_sizes(len(values))}
    return pd.DataFrame(columns | {"value": list(values.values())})


def no_sizes(n):
    return pd.array([pd.NA] * n, dtype="Int64")
