"""What the catalogue says of an SAE: its page on Neuronpedia, and the run to compare with."""

from __future__ import annotations

from saework.loading.catalogue import another_run, neuronpedia_id, release_named


def test_neuronpedia_is_found_in_sae_lens_table_where_the_config_does_not_say():
    found = neuronpedia_id(None, "gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    assert found == "gpt2-small/8-res-jb"
    assert neuronpedia_id(None, "gelu-1l-mini", "run1") is None
    assert neuronpedia_id(None, "gpt2-small-res-jb", "a/file.safetensors") is None


def test_which_other_run_the_page_command_looks_in():
    gelu, gemma = release_named("gelu-1l-mini"), release_named("gemma-mini")
    others = [another_run(gelu, sae_id) for sae_id in ("run1", "run2", "a/file", None)]
    assert others == ["run2", "run1", None, None]
    for sae_id in gemma.ids():
        near = another_run(gemma, sae_id)
        assert near != sae_id
        if near is not None:
            found, given = gemma.sae(near), gemma.sae(sae_id)
            assert (found.hook, found.d_sae) == (given.hook, given.d_sae)
    assert another_run(release_named("gelu-1l"), "run1") == "run2"
