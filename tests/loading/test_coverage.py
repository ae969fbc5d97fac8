"""What works with each registered release."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saework.loading import coverage
from saework.loading.refusals import CLT_LAYER, PLACES
from saework.loading.sae_ids import registry


@pytest.fixture(scope="module")
def table():
    return coverage.coverage()


def test_every_registered_sae_is_in_the_table(table):
    assert set(table["release"]) == set(registry())
    listed = {name: len(release.saes_map) for name, release in registry().items()}
    assert table.groupby("release")["saes"].sum().to_dict() == listed
    assert set(table["reads"]) <= set(PLACES.values())


@pytest.mark.parametrize(
    "release, reads, architecture, refused",
    [
        ("gpt2-small-res-jb", "hook_resid_pre", "as its config says", "select_features"),
        ("gemma-scope-2b-pt-att", "attn.hook_z", "jumprelu", ""),
        ("gemma-scope-2b-pt-transcoders", "ln2.hook_normalized", "jumprelu_", "write_reference"),
        ("gemma-scope-2-270m-pt-transcoders", "mlp.hook_in", "jumprelu_", "write_reference"),
        ("gemma-scope-2-1b-pt-att", "attn.hook_z", "jumprelu", ""),
        ("llama_scope_lxa_8x", "hook_attn_out", "jumprelu", ""),
        ("qwen-scope-3-8b-base-w64k-l50", "hook_resid_post", "topk", "select_features"),
        ("pythia-70m-deduped-att-sm", "hook_attn_out", "as its", "select_features"),
        ("mwhanna-qwen3-4b-transcoders", "mlp.hook_in", "transcoder", "write_reference"),
        ("mntss-gemma-2-2b-2.5m-clt-as-per-layer", "mlp.hook_in", CLT_LAYER, "recons_score"),
    ],
)
def test_rows(table, release, reads, architecture, refused):
    rows = table[table["release"] == release]
    found = rows[rows["reads"].str.endswith(reads)]
    assert found["architecture"].str.startswith(architecture).all()
    assert found["refused"].str.startswith(refused).all() and bool(found["refused"].any()) == bool(
        refused
    )


def test_the_embeddings_saes_are_told_apart(table):
    rows = table[table["release"] == "gemma-scope-2b-pt-res"].set_index("reads")["saes"]
    assert rows.to_dict() == {"hook_embed": 4, "blocks.L.hook_resid_post": 312}


def test_a_layout_or_a_family_that_is_not_known(monkeypatch):
    name = "gpt2-small-res-jb"
    monkeypatch.setitem(registry(), name, replace(registry()[name], conversion_func="a_new_one"))
    with pytest.raises(ValueError, match="the layout 'a_new_one' of gpt2-small-res-jb"):
        coverage.kinds_of(name)
    with pytest.raises(ValueError, match="the family of mamba-130m is not known"):
        coverage.family_of("mamba-130m")
