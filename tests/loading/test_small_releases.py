"""GPT-2 small and Gemma 3 270M: what stands beside sae_lens's table, and their claims."""

from __future__ import annotations

import pytest

import saework
from saework.loading import small_releases
from saework.loading.catalogue import release_named
from saework.loading.sae_ids import registry

GPT2, GEMMA_3 = small_releases.GPT2_SMALL, small_releases.GEMMA_3_270M


@pytest.mark.parametrize("name", [GPT2, GEMMA_3])
def test_each_id_of_the_table_has_its_files_hook_and_l0(name):
    release, listed = release_named(name), registry()[name]
    assert release.repositories["sae"].name == listed.repo_id
    assert release.repositories["model"].name in (listed.model, "gpt2")
    assert release.ids() == list(listed.saes_map)
    for sae_id, folder in listed.saes_map.items():
        sae = release.sae(sae_id)
        assert {file.rpartition("/")[0] for file in sae.files} == {folder}
        assert sae.l0 == listed.expected_l0[sae_id]
        assert sae.hook.split(".")[1] in sae_id.replace("_", ".").split(".")
    assert release.find("blocks.12.hook_resid_pre") is None
    assert None not in [release.find(shown) for shown in release.shown]
    assert release.sae() == release.sae(release.sae().id), "the default is what the table says"


def test_widths_and_downloads():
    gpt2, gemma_3 = release_named(GPT2), release_named(GEMMA_3)
    assert gpt2.sae().shape == ("blocks.10.hook_resid_pre", 768, 24576)
    assert gemma_3.sae("layer_9_width_262k_l0_medium_seed_1").shape == (
        "blocks.9.hook_resid_post",
        640,
        262_144,
    )
    size_mb = {
        name: sum(mb for _, _, mb in release_named(name).files()) for name in (GPT2, GEMMA_3)
    }
    assert [round(size_mb[name]) for name in (GPT2, GEMMA_3)] == [700, 653]
    assert not gpt2.gated and gemma_3.gated
    with pytest.raises(ValueError, match="embedding is not an id of Gemma Scope 2: layer_N_width"):
        small_releases.gemma_3_file("embedding", l0=1)


def test_the_frontier_has_two_widths_at_one_hook():
    release = release_named(GEMMA_3)
    shapes = {release.sae(sae_id).shape for sae_id in release.shown[1:]}
    assert shapes == {("blocks.12.hook_resid_post", 640, width) for width in (16384, 65536)}
    assert release.shown[0] == release.sae().id


def test_claims_of_the_table_are_the_tables():
    listed = registry()[GPT2]
    claims = {claim.id: claim for claim in saework.claims_of(GPT2)}
    assert sorted(set(release_named(GPT2).shown)) == sorted(listed.saes_map)
    for sae_id in listed.saes_map:
        of_sae = [claims[f"reconstruction/{sae_id}/{x}"] for x in ("l0", "variance_explained")]
        published = [listed.expected_l0[sae_id], listed.expected_var_explained[sae_id]]
        assert [claim.value for claim in of_sae] == published
    listed, claims = registry()[GEMMA_3], saework.claims_of(GEMMA_3)
    assert [claim.value for claim in claims] == [
        listed.expected_l0[claim.id.split("/")[1]] for claim in claims
    ]
    assert set(listed.expected_var_explained.values()) == {1.0}, "no values, so no claims of them"


def test_neuronpedias_feature_and_its_steering_band():
    claims = {claim.id: claim for claim in saework.claims_of(GPT2)}
    peak = claims["feature/peak_activation"]
    assert (peak.value - peak.tolerance, peak.value + peak.tolerance) == (54.0, 61.5)
    assert claims["feature/peak_token"].value == "·cat"
    assert release_named(GPT2).feature == 16899
    texts = {claim.id: claim.value for claim in claims.values() if claim.id.startswith("steering/")}
    assert "dog" in texts.pop("steering/unsteered") and "cat" not in texts.pop(
        "steering/steered_150"
    )
    assert len(texts) == 3 and set(texts.values()) == {" the cat. I love it. I love it. I"}
