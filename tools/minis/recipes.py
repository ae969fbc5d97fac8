"""What each mini is made of: a language model, SAEs, and the layout that each is stored in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from saework.loading.layouts.gemma_scope import GEMMA_SCOPE
from saework.loading.layouts.neel import NEEL
from saework.loading.layouts.qresearch import QRESEARCH
from saework.loading.layouts.sae_layout import SaeLayout
from saework.loading.layouts.sae_lens import SAE_LENS
from saework.loading.sae_ids import GELU_1L_RUNS
from tools.minis import claims, rare_run
from tools.minis.language_model import ModelRecipe
from tools.minis.sae import SaeRecipe, train_sae

ROW_LENGTH = 128


@dataclass(frozen=True)
class PlannedSae:
    """One SAE to be trained, and how it is stored."""

    id: str
    """``{l0}`` in it becomes the measured mean L0, as in Gemma Scope's ids."""
    layout: SaeLayout
    place: str
    """Where the layout's files are (see ``SaeLayout.files``); ``{l0}`` as in the id."""
    recipe: SaeRecipe
    claims: Callable[[claims.MeasuredSae], list[dict[str, Any]]]
    """The function that writes its regression values."""
    record: dict[str, Any] = field(default_factory=dict)
    """What its config says of the training."""
    scan: bool = True
    """Whether the scan of 1.2 million tokens is stored."""
    train: Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]] = train_sae
    """The function that trains it: by default sae_lens's trainer."""
    trainer: str = ""
    """What the card calls another function than sae_lens's trainer."""


@dataclass(frozen=True)
class Recipe:
    """All that a mini is made of."""

    model: ModelRecipe
    saes: tuple[PlannedSae, ...]
    story: tuple[str, int] | None = None
    """The SAE and the feature that a notebook reads."""


def gelu_run(name: str, recipe: SaeRecipe) -> PlannedSae:
    """A run in Neel Nanda's layout, under the number of the published one."""
    return _neel_run(name, str(GELU_1L_RUNS[name]), recipe)


def _neel_run(name: str, place: str, recipe: SaeRecipe, **options: Any) -> PlannedSae:
    record = {
        "seed": recipe.seed,
        "batch_size": recipe.batch,
        "lr": recipe.lr,
        "num_tokens": recipe.steps * recipe.batch,
        "l1_coeff": recipe.l1,
        "seq_len": ROW_LENGTH,
    }
    return PlannedSae(name, NEEL, place, recipe, claims.score_claims, record, **options)


def gemma_scope(folder: str, recipe: SaeRecipe) -> PlannedSae:
    """A JumpReLU SAE in Gemma Scope's layout; the folder's name ends in the measured L0."""
    sae_id = f"{folder}/average_l0_{{l0}}"
    return PlannedSae(sae_id, GEMMA_SCOPE, sae_id, recipe, claims.frontier_claims, scan=False)


def bloom(recipe: SaeRecipe) -> PlannedSae:
    """A ReLU SAE in Joseph Bloom's layout, an older one of sae_lens."""
    record = {
        "model_name": "gemma-mini",
        "context_size": ROW_LENGTH,
        "dataset_path": "saework/gelu-1l-mini/text",
        "sae_lens_training_version": version("sae_lens"),
    }
    return PlannedSae(recipe.hook, SAE_LENS, recipe.hook, recipe, claims.card_claims, record)


def qresearch(sae_id: str, recipe: SaeRecipe) -> PlannedSae:
    """A ReLU SAE in qresearch's layout."""
    place = f"llama-mini-SAE-{sae_id}"
    return PlannedSae(sae_id, QRESEARCH, place, recipe, claims.steering_claims)


def _gelu_recipe(seed: int) -> SaeRecipe:
    return SaeRecipe("blocks.0.mlp.hook_post", 512, 4096, l1=2.3, seed=seed)


def _gemma_scope_sae(layer: int, width: int, target_l0: float) -> PlannedSae:
    recipe = SaeRecipe(
        f"blocks.{layer}.hook_resid_post",
        128,
        width,
        target_l0=target_l0,
        subtract_b_dec=False,
        bos=False,
        steps=2000,
    )
    return gemma_scope(f"layer_{layer}/width_{width // 1024}k", recipe)


def _bloom_sae(layer: int) -> PlannedSae:
    hook = f"blocks.{layer}.hook_resid_post"
    return bloom(SaeRecipe(hook, 128, 1024, l1=2.5, lr=2e-3, steps=2000))


LLAMA_RECIPE = SaeRecipe(
    "blocks.2.hook_resid_pre",
    128,
    2048,
    l1=2.5,
    subtract_b_dec=False,
    lr=2e-3,
    steps=3200,
)
DEEP: dict[str, Any] = {"n_layers": 4, "d_mlp": 384, "lr": 3e-3}
RECIPES = {
    "gelu-1l-mini": Recipe(
        model=ModelRecipe(),
        saes=(
            gelu_run("run1", _gelu_recipe(seed=1)),
            gelu_run("run2", _gelu_recipe(seed=2)),
            _neel_run(
                "run3", "3", rare_run.RARE_RUN, train=rare_run.train, trainer="published loop"
            ),
        ),
        story=("run1", 3018),  # fires on the name after "def"
    ),
    "gemma-mini": Recipe(
        model=ModelRecipe(architecture="gemma2", steps=1100, **DEEP),
        saes=(
            *(_gemma_scope_sae(layer, 1024, l0) for layer in (1, 2) for l0 in (8, 20, 50)),
            *(_gemma_scope_sae(2, 4096, l0) for l0 in (20, 50)),
            *(_bloom_sae(layer) for layer in (0, 2)),
        ),
    ),
    "llama-mini": Recipe(
        model=ModelRecipe(architecture="llama", steps=1300, **DEEP),
        saes=(qresearch("l2", LLAMA_RECIPE),),
    ),
}
