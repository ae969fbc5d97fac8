"""A release: its SAEs, the files of a load, the next run, and ids that do not exist."""

from __future__ import annotations

import pytest

from saework.core.errors import UnknownNameError
from saework.loading.catalogue import release_named
from saework.loading.layouts.gemma_scope import GEMMA_SCOPE
from saework.loading.layouts.neel import NEEL
from saework.loading.release import SaeFile


def test_the_size_of_an_sae():
    assert SaeFile("a", NEEL, d_in=2048, d_sae=16384).size_mb == pytest.approx(268.4, abs=0.1)


@pytest.mark.parametrize(
    "name,sae_id,hook,layout",
    [
        ("gelu-1l", None, "blocks.0.mlp.hook_post", NEEL),
        ("gelu-1l", 12, "blocks.0.mlp.hook_post", NEEL),
        ("gemma-scope-2b-pt-res", None, "blocks.0.hook_resid_post", GEMMA_SCOPE),
    ],
)
def test_an_sae_by_its_id(name, sae_id, hook, layout):
    sae = release_named(name).sae(sae_id)
    assert (sae.hook, sae.layout) == (hook, layout)
    assert repr(sae.layout) == layout.name


def test_the_files_of_a_load():
    files = release_named("gelu-1l").files("run2")
    assert files == [
        ("model", "config.json", 0),
        ("model", "model_final.pth", 213),
        ("tokenizer", "tokenizer.json", 2),
        ("tokenizer", "tokenizer_config.json", 0),
        ("text", "data/*.parquet", 43),
        ("sae", "47_cfg.json", 0),
        ("sae", "47.pt", pytest.approx(268.4, abs=0.1)),
    ]
    sizes = {file: size for part, file, size in release_named("gemma-2b-res-jb").files()}
    counted = {file.split("/")[-1] for file, size in sizes.items() if size}
    assert counted == {"*.safetensors", "tokenizer.json", "sae_weights.safetensors"}
    mini = release_named("gemma-mini")
    assert sum(size for _, _, size in mini.files()) == 0 and mini.offline


def test_the_next_run():
    gelu, gemma = release_named("gelu-1l-mini"), release_named("gemma-mini")
    ids = ("run1", "run2", "run3", "a/file", None)
    others = ["run2", "run3", "run1", None, None]
    assert [gelu.another_run(sae_id) for sae_id in ids] == others
    for sae_id in gemma.ids():
        near = gemma.another_run(sae_id)
        assert near != sae_id
        if near is not None:
            assert gemma.sae(near).shape == gemma.sae(sae_id).shape
    assert release_named("gelu-1l").another_run("run1") == "run2"


def test_a_checkpoint_is_followed_by_a_run_that_the_notebooks_read():
    assert release_named("gelu-1l").another_run("12") == "run1"


@pytest.mark.parametrize(
    "given,there_is",
    [
        ("layer_1/width_4k/average_l0_1", "under layer_1/: width_1k."),
        ("layer_2/width_1k/average_l0_1", "under layer_2/width_1k/: average_l0_"),
        ("nothing", "blocks.0.hook_resid_post, blocks.2.hook_resid_post, layer_1, layer_2."),
    ],
)
def test_an_id_that_does_not_exist(given, there_is):
    with pytest.raises(UnknownNameError) as caught:
        release_named("gemma-mini").sae(given)
    assert f"no SAE id {given!r}" in str(caught.value) and there_is in str(caught.value)


def test_numbers_in_ids_sort_by_size():
    with pytest.raises(UnknownNameError, match="layer_2, layer_3, .*, layer_10, layer_11"):
        release_named("gemma-scope-2b-pt-res").sae("layer_99")


def test_claims_of_a_topic():
    release = release_named("gelu-1l")
    assert {claim.tier for claim in release.claims()} == {"gelu-1l", "gelu-1l-mini"}
    some = release.claims("rare/")
    assert some and some == [c for c in release.claims() if c.id.startswith("rare/")]


def test_a_notebook_that_does_not_read_a_release():
    gpt2 = release_named("gpt2-small-res-jb")
    assert gpt2.for_notebook("02_gelu_1l_reading_a_feature") is gpt2
    with pytest.raises(ValueError) as caught:
        gpt2.for_notebook("06_gemma_scope_frontier")
    assert str(caught.value) == (
        "notebook 06_gemma_scope_frontier does not read gpt2-small-res-jb, which is read by "
        "02_gelu_1l_reading_a_feature, 03_gelu_1l_reconstruction, 05_gemma_scope_validation, "
        "08_llama_steering"
    )
    other = release_named("gpt2-small-hook-z-kk")
    with pytest.raises(ValueError, match=r"is read by no notebook \(load it in your own\)"):
        other.for_notebook("00_start_here")
