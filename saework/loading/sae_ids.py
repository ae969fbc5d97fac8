"""What the ids of published suites mean: layout, files, hook and widths of each SAE."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saework.core.errors import UnknownNameError
from saework.core.files import DATA
from saework.core.protocols import sae_metadata
from saework.loading.layouts.gemma_scope import GEMMA_SCOPE
from saework.loading.layouts.neel import NEEL
from saework.loading.layouts.qresearch import QRESEARCH
from saework.loading.layouts.sae_layout import SaeLayout
from saework.loading.layouts.sae_lens import SAE_LENS, Registered
from saework.loading.outside_code import no_programs_started
from saework.loading.release import FindSae, ListIds, SaeFile

if TYPE_CHECKING:
    from saework.core.protocols import SparseAutoencoder

GELU_1L_RUNS = {"run1": 25, "run2": 47}
WIDTHS = {
    "16k": 2**14,
    "32k": 2**15,
    "65k": 2**16,
    "131k": 2**17,
    "262k": 2**18,
    "524k": 2**19,
    "1m": 2**20,
}


@cache
def registry() -> dict[str, Any]:
    """sae_lens's table of releases, by name."""
    with no_programs_started():  # its first import would start git for a version
        from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    return get_pretrained_saes_directory()


def registered_names() -> list[str]:
    """The names of sae_lens's releases, without the seconds that sae_lens takes to import.

    They are the keys at the top level of the YAML file that sae_lens reads itself.
    """
    package = find_spec("sae_lens")
    if "sae_lens" in sys.modules or package is None or package.origin is None:
        return list(registry())
    path = Path(package.origin).parent / "pretrained_saes.yaml"
    if not path.exists():
        return list(registry())
    return re.findall(r"^([^\s#:]+):", path.read_text(encoding="utf-8"), re.MULTILINE)


def registered_ids(release: str) -> ListIds:
    """A function that lists the ids of any release of sae_lens."""
    return lambda: list(registry()[release].saes_map)


def registered_sae(release: str) -> FindSae:
    """A function that finds an SAE of any release of sae_lens by its id."""

    def find(sae_id: str) -> SaeFile | None:
        if sae_id not in registry()[release].saes_map:
            return None
        return SaeFile(sae_id, Registered(release, sae_id))

    return find


def gelu_1l_sae(sae_id: str) -> SaeFile | None:
    """``run1``, ``run2``, or a checkpoint's number."""
    number = int(sae_id) if sae_id.isdigit() else GELU_1L_RUNS.get(sae_id)
    if number is None:
        return None
    hook = "blocks.0.mlp.hook_post"
    return SaeFile(sae_id, NEEL, NEEL.files(str(number)), hook, d_in=2048, d_sae=16384)


def gemma_scope_sae(sae_id: str) -> SaeFile | None:
    """Such as ``layer_12/width_16k/average_l0_82``, or an SAE of the embedding."""
    release = "gemma-scope-2b-pt-res"
    path = registry()[release].saes_map.get(sae_id)
    if not path:
        return None
    if not path.startswith("layer_"):
        # The embedding's SAEs are scaled on loading, which sae_lens does itself.
        return SaeFile(sae_id, Registered(release, sae_id), hook="hook_embed", d_in=2304)
    return gemma_scope_file(sae_id, path)


def gemma_scope_file(sae_id: str, path: str) -> SaeFile:
    """The SAE in a folder whose path says layer, width and mean L0."""
    match = re.fullmatch(r"layer_(\d+)/width_(\w+)/average_l0_(\d+)", path)
    if match is None:
        raise ValueError(f"{path} is not a path of Gemma Scope: layer_N/width_W/average_l0_N")
    layer, width, l0 = match.groups()
    return SaeFile(
        sae_id,
        GEMMA_SCOPE,
        GEMMA_SCOPE.files(path),
        hook=f"blocks.{layer}.hook_resid_post",
        d_in=2304,
        d_sae=WIDTHS[width],
        l0=float(l0),
    )


def gemma_2b_sae(sae_id: str) -> SaeFile | None:
    """A hook, such as ``blocks.6.hook_resid_post``."""
    from sae_lens.loading.pretrained_saes_directory import get_norm_scaling_factor

    release = "gemma-2b-res-jb"
    listed = registry()[release]
    if sae_id not in listed.saes_map:
        return None
    return gemma_2b_file(
        sae_id,
        listed.saes_map[sae_id],
        l0=listed.expected_l0[sae_id],
        scale=get_norm_scaling_factor(release, sae_id),
    )


def gemma_2b_file(hook: str, folder: str, *, l0: float, scale: float | None = None) -> SaeFile:
    """The SAE in a folder; its id is its hook."""
    files = SAE_LENS.files(folder)
    return SaeFile(hook, SAE_LENS, files, hook, d_in=2048, d_sae=16384, l0=l0, scale=scale)


LLAMA_SAE = SaeFile(
    "l9",
    QRESEARCH,
    QRESEARCH.files("Llama-3.2-1B-Instruct-SAE-l9"),
    hook="blocks.9.hook_resid_pre",
    d_in=2048,
    d_sae=32768,
    l0=63,
)


@cache
def card_of(name: str) -> dict[str, Any]:
    """What a mini's builder recorded: recipes, curves, scores. No SAEs if it is not a mini."""
    path = DATA / name / "card.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"saes": {}}


def mini_sae(name: str, layouts: Mapping[str, SaeLayout]) -> FindSae:
    """A function that finds an SAE of a mini by its id.

    Args:
        name: the mini's.
        layouts: by the names that the mini's card uses.
    """

    def find(sae_id: str) -> SaeFile | None:
        entry = card_of(name)["saes"].get(sae_id)
        if entry is None:
            return None
        recipe = entry["recipe"]
        return SaeFile(
            sae_id,
            layouts[entry["layout"]],
            tuple(entry["files"]),
            hook=recipe["hook"],
            d_in=recipe["d_in"],
            d_sae=recipe["d_sae"],
            l0=entry["mean_l0"],
        )

    return find


def scan_file(sae_id: str) -> str:
    """The file name of the scan that a mini's builder recorded for an SAE."""
    return f"{sae_id.replace('/', '-')}.safetensors"


def neuronpedia_id(
    sae: SparseAutoencoder | None, name: str | None = None, sae_id: str | None = None
) -> str | None:
    """What Neuronpedia calls an SAE, such as ``gemma-2b/6-res-jb``; None if nothing says it.

    The SAE's own config comes first, then sae_lens's table.

    Args:
        sae: the SAE.
        name: of its release.
        sae_id: in that release.
    """
    own = sae_metadata(sae, "neuronpedia_id") if sae is not None else None
    is_mini = name is not None and bool(card_of(name)["saes"])
    if own or name is None or is_mini or name not in registry():
        return own
    return registry()[name].neuronpedia_id.get(sae_id)


def hub_name(model: str) -> str:
    """The Hub's name of a model that sae_lens lists by TransformerLens's name.

    Raises:
        UnknownNameError: if TransformerLens does not list it.
    """
    if "/" in model:
        return model
    try:
        from transformer_lens.loading_from_pretrained import get_official_model_name
    except ImportError:  # moved in TransformerLens 4
        supported_models = importlib.import_module("transformer_lens.supported_models")
        get_official_model_name = supported_models.get_official_model_name

    try:
        return get_official_model_name(model)
    except ValueError as error:
        raise UnknownNameError(
            f"sae_lens says that this release is for {model!r}, a model that TransformerLens does "
            "not list; load it yourself, and build a Workbook(...)"
        ) from error
