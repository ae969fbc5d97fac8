"""Every public function refuses an argument of the wrong kind, by its name."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import saework
from saework import FeatureScan, Workbook, feature_ordering, probing, saebench, steering
from saework.core import argument_kinds as kinds
from saework.core.argument_kinds import KINDS, checked
from saework.loading import corpus
from saework.views.feature_page.write import write_pages

NO_WHOLE_NUMBER = (None, "7", 1.5, True, [1], float("nan"))
GOOD_AND_BAD = {
    "seed": ([0, 7, np.int64(3), 2**63 - 1], [*NO_WHOLE_NUMBER, -1, 2**63]),
    "pos": ([0, -1, np.int32(5)], NO_WHOLE_NUMBER),
    "hook": (["hook_embed"], ["", None, 5, b"hook", ["hook"]]),
    "note": (["", "words"], [None, 5, b"words"]),
    "path": (["a.json", Path("a.json")], [None, 5, "", b"a.json", "a\0b", ["a"]]),
    "features": (
        [[1], (1, 2), {3}, range(4), torch.arange(2), np.arange(2)],
        [None, 5, "12", b"1"],
    ),
    "k": ([[1]], [torch.tensor(5), {"a": 1}]),
    "tokenizer": ([], [None, "gpt2", 5, SimpleNamespace(batch_decode=1)]),
    "scan": ([], [5, "scan", SimpleNamespace(count=1), FeatureScan]),
}


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_what_a_name_may_hold(name):
    good, bad = GOOD_AND_BAD[name]
    for value in good:
        KINDS[name](name, value)
    for value in bad:
        with pytest.raises(ValueError, match=f"^{name} is .*; give |^{name} is .*no file can"):
            KINDS[name](name, value)
            pytest.fail(f"{name} took {value!r}")


def test_the_scan_and_the_tokenizer_of_a_workbook_pass(tiny):
    KINDS["tokenizer"]("tokenizer", tiny.tokenizer)
    KINDS["scan"]("scan", saework.scan(tiny.model, tiny.sae, tiny.tokens, hook=tiny.hook))


def test_defaults_are_not_checked_and_names_and_places_are():
    @checked
    def function(hook=None, *, seed=0, other=None):
        return hook, seed, other

    assert function() == (None, 0, None)
    assert function(None, seed=3, other=object) == (None, 3, object)
    with pytest.raises(ValueError, match="hook is 5; give a hook's name"):
        function(5)
    with pytest.raises(ValueError, match="hook is 5; give a hook's name"):
        function(hook=5)
    with pytest.raises(ValueError, match="seed is None; give a whole number in 0"):
        function(seed=None)
    assert inspect.signature(function) == inspect.signature(function.__wrapped__)


@pytest.mark.parametrize("value", [1, 1.5, np.float32(2), np.int64(2), float("nan")])
def test_numbers(value):
    assert kinds.is_number(value)
    if value == value:
        kinds.check_number("threshold", value)


@pytest.mark.parametrize("value", [True, "1", None, 1j, [1], np.bool_(True), float("inf")])
def test_what_is_no_finite_number(value):
    with pytest.raises(ValueError, match="threshold is .*; give a finite number"):
        kinds.check_number("threshold", value)


def test_half_a_character_is_refused():
    kinds.check_no_surrogate("日 \0", "the text")
    with pytest.raises(
        ValueError, match="the text holds a lone surrogate at character 2, which no"
    ):
        kinds.check_no_surrogate("ab\ud800", "the text")


PUBLIC = {
    **{name: getattr(saework, name) for name in saework.__all__},
    "load": saework.load,
    "export": saebench.export,
    "smallest_shown": saebench.smallest_shown,
    "read_study": feature_ordering.read_study,
    "train": feature_ordering.train,
    "random_features": probing.random_features,
    "steering_hooks": steering.steering_hooks,
    "tokenize_rows": corpus.tokenize_rows,
    "packed_rows": corpus.packed_rows,
    "write_pages": write_pages,
    "top_examples": FeatureScan.top_examples,
    "save": FeatureScan.save,
}
CHECKED_BY_THEMSELVES = {
    ("read_reference", "path"),  # in test_reference_file
    ("release_named", "name"),  # a name that does not exist
    ("preflight", "name"),
    ("claims_of", "name"),
    ("feature_page", "scan"),  # feature_pages does
    ("feature_page", "note"),
    ("chat_tokens", "tokenizer"),  # in test_corpus
    ("permute_features", "order"),
}


def _kinds_of_public_functions():
    for name, function in PUBLIC.items():
        if inspect.isclass(function):  # a result, which functions make
            continue
        for parameter in inspect.signature(function).parameters:
            if parameter in KINDS and (name, parameter) not in CHECKED_BY_THEMSELVES:
                yield pytest.param(function, parameter, id=f"{name}-{parameter}")


@pytest.fixture(scope="module")
def valid(tiny, tmp_path_factory):
    """A good value of each argument that functions need beside the one that is tried."""
    return {
        **{"model": tiny.model, "sae": tiny.sae, "tokens": tiny.tokens, "feature": 3},
        **{"text_or_tokens": "text", "prompt": "text", "hook": tiny.hook, "strength": 1.0},
        "tokenizer": tiny.tokenizer,
        "workbook": Workbook(tiny.model, tiny.sae, tiny.tokens, tiny.tokenizer, tiny.hook),
        "path": tmp_path_factory.mktemp("kinds") / "file.json",
        **{"features": [3], "folder": "none", "name": "gelu-1l-mini", "model_name": "gelu-1l"},
    }


@pytest.mark.parametrize("function, parameter", _kinds_of_public_functions())
def test_every_public_function_refuses_another_kind(function, parameter, valid, monkeypatch):
    monkeypatch.setattr(valid["model"], "forward", None)  # nothing may run
    needed = inspect.signature(function).parameters.values()
    given = {
        needs.name: valid.get(needs.name)
        for needs in needed
        if needs.default is needs.empty and needs.kind is not needs.VAR_KEYWORD
    }
    with pytest.raises(ValueError, match=re.escape(f"{parameter} is ")):
        function(**{**given, parameter: object()})


def test_a_workbooks_own_parts(tiny):
    parts = (tiny.model, tiny.sae, tiny.tokens)
    with pytest.raises(ValueError, match="tokenizer is None, without batch_decode"):
        Workbook(*parts, None, tiny.hook)
    with pytest.raises(ValueError, match="hook is 5; give a hook's name"):
        Workbook(*parts, tiny.tokenizer, 5)
