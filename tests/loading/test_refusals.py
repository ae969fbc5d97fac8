"""What refuses what, in words; that it is true is tested by ``tests/test_matrix.py``."""

from __future__ import annotations

import pytest

from saework.loading.refusals import ARCHITECTURES, FUNCTIONS, PLACES, in_words, refusals


@pytest.mark.parametrize(
    "architecture, place, refused",
    [
        ("standard", "resid_post", ""),
        ("jumprelu", "embed", "write_reference"),
        ("topk", "hook_z", "select_features"),
        ("standard", "mlp_in", "logit_effect, explore (search)"),
        ("skip_transcoder", "mlp_in", "write_reference"),
    ],
)
def test_refusals(architecture, place, refused):
    assert in_words(refusals(architecture, place)) == refused


def test_all_of_a_function_is_its_name_alone():
    assert in_words(["steer (clamp)", "explore (search)", "explore"]) == "explore, steer (clamp)"
    assert in_words(FUNCTIONS).count("steer") == 1


def test_each_refusal_says_why():
    for architecture in ARCHITECTURES:
        for place in PLACES:
            assert all(r.why and r.words for r in refusals(architecture, place).values())
