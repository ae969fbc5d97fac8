"""The table of releases and studies, and the claims of each."""

from __future__ import annotations

import pytest
from local_hub import MODEL, TEXT

import saework
from saework.core.errors import UnknownNameError
from saework.loading import catalogue
from saework.loading.catalogue import NOTEBOOKS, SAE_LAYOUTS, STUDIES, release_named
from saework.loading.layouts.sae_lens import Registered
from saework.reproduction.run import notebook_folder

HOOK = "blocks.0.mlp.hook_post"


def test_releases():
    table = saework.releases()
    columns = [
        "model",
        "hook",
        "d_in",
        "d_sae",
        "corpus",
        "licence",
        "gated",
        "download_mb",
        "memory_gb",
        "offline",
    ]
    assert list(table.columns) == columns
    assert {"gelu-1l", "gelu-1l-mini"} <= set(table.index) and table.index.is_unique
    gelu = table.loc["gelu-1l"]
    assert (gelu["model"], gelu["corpus"], gelu["hook"]) == (MODEL, TEXT, HOOK)
    assert (gelu["d_in"], gelu["d_sae"], gelu["download_mb"], gelu["gated"], gelu["offline"]) == (
        2048,
        16384,
        526,
        False,
        False,
    )
    mini = table.loc["gelu-1l-mini"]
    assert (mini["d_in"], mini["d_sae"], mini["download_mb"], mini["offline"]) == (
        512,
        4096,
        0,
        True,
    )
    assert (table.loc[table["offline"], "download_mb"] == 0).all()
    assert table["gated"].dtype == bool and table["offline"].dtype == bool


def test_claims_of_both_siblings():
    claims = saework.claims_of("gelu-1l")
    assert saework.claims_of("gelu-1l-mini") == claims
    full = {claim.id: claim for claim in claims if claim.tier == "gelu-1l"}
    published = {"loss": 3.2546, "recons_loss": 3.7507, "zero_abl_loss": 8.8403, "score": 0.9112}
    assert {name: full[f"reconstruction/run1/{name}"].value for name in published} == published
    assert all(claim.source and claim.tolerance >= 0 for claim in claims)
    assert len({(claim.tier, claim.id) for claim in claims}) == len(
        claims
    )  # one ledger can hold them all


def test_claims_of_one_topic():
    found = saework.claims_of("gelu-1l", "reconstruction/")
    assert found and found == [
        claim for claim in saework.claims_of("gelu-1l") if claim.id.startswith("reconstruction/")
    ]
    assert len(found) < len(saework.claims_of("gelu-1l"))


def test_claims_of_a_study_are_those_of_its_small_and_its_real_setting():
    claims = saework.claims_of("feature-ordering-2b")
    assert claims == saework.claims_of("feature-ordering")
    assert {claim.tier for claim in claims} == set(STUDIES["feature-ordering"].family)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_each_notebook_of_the_table_exists(name):
    assert NOTEBOOKS[name]
    assert all((notebook_folder() / f"{stem}.ipynb").exists() for stem in NOTEBOOKS[name])


def test_each_notebook_is_in_the_table():
    stems = {path.stem for path in notebook_folder().glob("*.ipynb")}
    assert stems == {stem for notebooks in NOTEBOOKS.values() for stem in notebooks}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_uses_a_release_and_has_no_name_of_one(name):
    assert STUDIES[name].release in catalogue._RELEASES
    with pytest.raises(UnknownNameError, match=f"'{name}' is a study, and no release"):
        release_named(name)


@pytest.mark.parametrize("name", catalogue._RELEASES)
def test_each_release_has_its_family_and_its_shown_saes(name):
    release = release_named(name)
    assert name in release.family
    assert all(
        release_named(member).offline == member.endswith("-mini") for member in release.family
    )
    for sae_id in release.shown:
        sae = release.sae(sae_id)
        assert sae.hook and sae.d_in and sae.d_sae
        assert sae.layout in SAE_LAYOUTS.values() or sae.layout == Registered(name, sae.id)


def test_any_release_of_sae_lens_can_be_named():
    release = release_named("gpt2-small-res_scefr-ajt")
    sae = release.sae("blocks.2.hook_resid_pre")
    assert (sae.layout.name, sae.files, sae.layout.release) == ("registry", (), release.name)
    assert release.repositories["model"].name == "gpt2" and not release.offline
    with pytest.raises(UnknownNameError, match="there is no release 'gpt2-small-res-jx'.*-jb"):
        release_named("gpt2-small-res-jx")
