"""Bounds on the release that wrote a file, from each mark."""

from __future__ import annotations

import math

import evaluation_records as records
import pytest

from saework.studies.saebench import read
from saework.studies.saebench.releases import ORDER, RELEASES, date_of, release_bounds


@pytest.fixture
def bounds_of(written):
    def bounds(record):
        (evaluation,) = read(written(record)).values()
        return release_bounds(evaluation)

    return bounds


def test_releases_are_in_the_order_of_time():
    assert list(RELEASES.values()) == sorted(RELEASES.values()) and ORDER[0] == "0.1.0"


@pytest.mark.parametrize(
    "record, expected",
    [
        (records.current("core", records.CORE), "contradict"),  # legacy is missing in a new one
        (records.current("core", records.core_metrics(explained_variance_legacy=0.5)), "0.5.0"),
        (records.old("core", records.CORE, "2025-03-01"), "0.1.0 to 0.4.0"),
        (records.old("unlearning", {"u": {"x": 1}}, "2024-11-05"), "0.1.0"),
        (records.old("unlearning", {"u": {"x": 1}}, "2025-01-16"), "0.1.0 to 0.4.0"),
        (records.old("unlearning", {"u": {"x": 1}}, "2025-03-01"), "0.1.0 to 0.4.1"),
        (records.MDL, "0.1.0"),
        (
            records.old("tpp", {"t": {"x": 1}}, "2025-03-01", eval_result_unstructured={"a": 1}),
            "0.4.0 to 0.4.1",
        ),
    ],
)
def test_the_bounds_of_a_file(bounds_of, record, expected):
    bounds = bounds_of(record)
    if expected == "contradict":
        assert not bounds.known and bounds.reasons[-1] == "these contradict each other"
    else:
        assert bounds.known and str(bounds).startswith(expected)


def test_absorption_is_dated_by_its_settings(bounds_of):
    metrics = {"mean": {"mean_absorption_fraction_score": 0.1}}
    new = {"eval_config": {"min_GT_probe_f1": 0.6}}
    unsaid = {"sae_lens_version": None, "datetime_epoch_millis": None}
    assert bounds_of(records.current("absorption", metrics, **new, **unsaid)).first == "0.4.1"
    # an installed SAEBench without that setting is 0.4.0 at most, whatever the day
    installed = records.current("absorption", metrics, sae_lens_version="5.3.0")
    assert bounds_of(installed).last == "0.4.0"
    # a checkout after 0.4.0 may have one of two changes and lack the other
    assert bounds_of(records.old("absorption", metrics, "2025-03-01")).last == "0.4.1"
    first = records.old("absorption", {"mean": {"mean_absorption_score": 0.1}}, "2025-01-16")
    assert bounds_of(first).last == "0.2.0"


def test_a_part_of_a_result_has_no_mark(bounds_of):
    bounds = bounds_of({"eval_type_id": "core", "eval_result_metrics": {"a": {"l0": 1.0}}})
    assert (bounds.first, bounds.last, bounds.reasons, bounds.known) == ("0.1.0", "0.6.0", [], True)


def test_what_is_older_than_all_that_is_known(bounds_of):
    bounds = bounds_of(records.old("core", records.CORE, "2024-09-01"))
    assert not bounds.known
    assert bounds.reasons == ["it is of 2024-09-01, and no file before 2024-10-25 is known"]
    template = dict(records.TEMPLATE)
    template["custom_eval_results"] = {"sae": {"llm_test_accuracy": 0.5}}
    assert not bounds_of(template).known


@pytest.mark.parametrize("millis", [None, -1, 0, 10**20, math.nan, math.inf, "1738044936713", True])
def test_a_date_that_is_none(written, millis):
    record = records.current("core", records.CORE, datetime_epoch_millis=millis)
    (evaluation,) = read(written(record)).values()
    assert date_of(evaluation) is None


def test_mdl_writes_its_date_as_text(written):
    assert date_of(read(written(records.MDL))["mdl"]) == "2024-11-05"
    assert date_of(read(written(records.MDL | {"date_time": "soon"}))["mdl"]) is None
