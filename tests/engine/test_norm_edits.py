"""An edit inside a norm, which TransformerLens rebuilds."""

from __future__ import annotations

import pytest
from families import hugging_face_and_bridge

from saework import HookError
from saework.engine.norm_edits import check_norm_edit

NORMED = "blocks.1.ln2.hook_normalized"


def test_norms_that_are_rebuilt_as_they_are(tiny, gpt2_bridge, gemma2_bridge):
    check_norm_edit(tiny.model, "blocks.0.ln2.hook_normalized")
    for bridge in (gpt2_bridge, gemma2_bridge):
        check_norm_edit(bridge, NORMED)
        check_norm_edit(bridge, "ln_final.hook_normalized")


def test_a_norm_whose_weights_are_taken_for_others_is_refused(tiny, tmp_path):
    _, bridge = hugging_face_and_bridge("Qwen3_5Text", tiny, tmp_path)
    with pytest.raises(HookError, match=r"rebuilds this norm with other.*blocks\.1\.mlp\.hook_in"):
        check_norm_edit(bridge, NORMED)
    assert not bridge.hook_dict[NORMED].fwd_hooks


def test_other_hooks_and_other_models_are_left_alone(tiny):
    check_norm_edit(None, NORMED)
    check_norm_edit(tiny.model, "blocks.0.hook_resid_post")
    check_norm_edit(tiny.model, "blocks.9.ln2.hook_normalized")
