"""GPT-2 small and Gemma 3 270M: published SAEs that any laptop can hold.

sae_lens's own loader reads them. Here stands what its table leaves out: sizes, widths, licences,
and which of them the notebooks read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from saework.loading.hub import Repository
from saework.loading.layouts.sae_lens import CONFIG, WEIGHTS, Registered
from saework.loading.model_layouts import HUGGINGFACE
from saework.loading.release import FindSae, Release, SaeFile
from saework.loading.sae_ids import WIDTHS, registered_ids, registry
from saework.loading.subject import Subject
from saework.loading.text_sources import streamed

GPT2_SMALL, GEMMA_3_270M = "gpt2-small-res-jb", "gemma-scope-2-270m-pt-res"
CATS = 16899
"""The feature of GPT-2 small's layer 10 that Neuronpedia tests its server on."""
CAT_PASSAGE = "My cat is sleeping on the couch."
"""Neuronpedia's prompt for that feature; its steering band is 30 to 75."""
OF_LAYER_10 = "blocks.10.hook_resid_pre"
OF_ANY_HOOK = (
    "02_gelu_1l_reading_a_feature",
    "03_gelu_1l_reconstruction",
    "05_gemma_scope_validation",
)
STEERING = "08_llama_steering"
GPT2_IDS = (
    *(f"blocks.{layer}.hook_resid_pre" for layer in range(12)),
    "blocks.11.hook_resid_post",
)
GEMMA_3_ID = re.compile(r"layer_(\d+)_width_(\w+)_l0_(?:small|medium|big)(?:_seed_\d+)?")
MEDIUM = "layer_12_width_16k_l0_medium"
FRONTIER = tuple(
    f"layer_12_width_{width}_l0_{l0}"
    for width in ("16k", "65k")
    for l0 in ("small", "medium", "big")
)


def gpt2_file(sae_id: str, *, l0: float) -> SaeFile:
    """An SAE of GPT-2 small; its id is its hook, and its folder."""
    files = (f"{sae_id}/{WEIGHTS}", f"{sae_id}/{CONFIG}")
    layout = Registered(GPT2_SMALL, sae_id)
    return SaeFile(sae_id, layout, files, hook=sae_id, d_in=768, d_sae=24576, l0=l0)


def gemma_3_file(sae_id: str, *, l0: float) -> SaeFile:
    """An SAE of Gemma 3 270M, by an id that says layer, width and kind of L0.

    >>> gemma_3_file("layer_5_width_65k_l0_small", l0=20).shape
    ('blocks.5.hook_resid_post', 640, 65536)
    """
    match = GEMMA_3_ID.fullmatch(sae_id)
    if match is None:
        raise ValueError(f"{sae_id} is not an id of Gemma Scope 2: layer_N_width_W_l0_small")
    layer, width = match.groups()
    return SaeFile(
        sae_id,
        Registered(GEMMA_3_270M, sae_id),
        (f"resid_post/{sae_id}/params.safetensors",),
        hook=f"blocks.{layer}.hook_resid_post",
        d_in=640,
        d_sae=WIDTHS[width],
        l0=l0,
    )


def _found(release: str, file_of: Callable[..., SaeFile]) -> FindSae:
    """A function that finds an SAE of the release by its id, with the L0 that the table lists."""

    def find(sae_id: str) -> SaeFile | None:
        listed = registry()[release]
        if sae_id not in listed.saes_map:
            return None
        return file_of(sae_id, l0=listed.expected_l0[sae_id])

    return find


def _release(name: str, *, saes: str, model: Repository, text: Repository, **more: Any) -> Release:
    repositories = {"model": model, "tokenizer": model, "sae": Repository(saes), "text": text}
    return Release(
        name=name,
        model_layout=HUGGINGFACE,
        text=streamed,
        repositories=repositories,
        family=(name,),
        ids=registered_ids(name),
        **more,
    )


def small_releases(text: Repository) -> tuple[Release, Release]:
    """Both releases; ``text`` is what is said of a corpus that the SAE itself names."""
    gpt2 = _release(
        GPT2_SMALL,
        saes="jbloom/GPT2-Small-SAEs-Reformatted",
        model=Repository("gpt2", sizes_mb={"*.safetensors": 548, "tokenizer.json": 1}),
        text=text,
        row_length=128,
        licence="MIT, model and SAEs",
        gated=False,
        find=_found(GPT2_SMALL, gpt2_file),
        default=gpt2_file(OF_LAYER_10, l0=52),
        shown=(OF_LAYER_10, *GPT2_IDS),
        feature=CATS,
        subject=Subject(("cat",), CAT_PASSAGE, strength=45.0),
        notebooks=(*OF_ANY_HOOK, STEERING),
    )
    gemma_3 = _release(
        GEMMA_3_270M,
        saes="google/gemma-scope-2-270m-pt",
        model=Repository(
            "google/gemma-3-270m", sizes_mb={"*.safetensors": 536, "tokenizer.json": 33}
        ),
        text=text,
        row_length=1024,
        licence="SAEs CC-BY-4.0; model under the Gemma licence",
        gated=True,
        find=_found(GEMMA_3_270M, gemma_3_file),
        default=gemma_3_file(MEDIUM, l0=60),
        # As sae_lens has it; what these SAEs were trained on is not public.
        corpus="monology/pile-uncopyrighted",
        shown=(MEDIUM, *FRONTIER),
        subject=Subject(("cat",), CAT_PASSAGE),
        notebooks=(*OF_ANY_HOOK, "06_gemma_scope_frontier", STEERING),
    )
    return gpt2, gemma_3
