"""The table of what is published: repositories on the Hub, or folders of this package.

Nothing is guessed from a name. A mini has the very layout of the system that it stands for, so one
loader reads both.
"""

from __future__ import annotations

import pandas as pd

from saework.core.claims import Claim
from saework.core.errors import UnknownNameError, unknown
from saework.core.files import DATA
from saework.loading import sae_ids
from saework.loading.corpus import STEERING_PASSAGE
from saework.loading.hub import Repository
from saework.loading.layouts.gemma_scope import GEMMA_SCOPE
from saework.loading.layouts.neel import NEEL
from saework.loading.layouts.qresearch import QRESEARCH
from saework.loading.layouts.sae_layout import SaeLayout
from saework.loading.layouts.sae_lens import SAE_LENS
from saework.loading.model_layouts import HUGGINGFACE, ModelLayout
from saework.loading.model_layouts import NEEL as NEEL_MODEL
from saework.loading.needs import memory_gb
from saework.loading.release import Release, Study, claims_of_family
from saework.loading.sae_ids import (
    GELU_1L_RUNS,
    LLAMA_SAE,
    registered_ids,
    registered_names,
    registry,
)
from saework.loading.small_releases import small_releases
from saework.loading.subject import Subject
from saework.loading.text_sources import (
    PARQUET_FILES,
    TextSource,
    conversation,
    packed,
    published,
    streamed,
)

BUNDLED_TEXT = DATA / "gelu-1l-mini" / "text"
SAE_LAYOUTS: dict[str, SaeLayout] = {
    layout.name: layout for layout in (GEMMA_SCOPE, SAE_LENS, NEEL, QRESEARCH)
}
"""By the names that the minis' cards use."""


def _packaged(name: str) -> dict[str, Repository]:
    """The repositories of a mini; all minis have the same text."""
    repositories = {}
    for part in ("model", "tokenizer", "sae"):
        folder = DATA / name / part
        repositories[part] = Repository(f"saework/{name}/{part}", folder=folder)
    text = Repository("saework/gelu-1l-mini/text", folder=BUNDLED_TEXT)
    return repositories | {"text": text}


def _mini(
    name: str,
    *,
    full: tuple[str, ...],
    model_layout: ModelLayout,
    text: TextSource,
    notebooks: tuple[str, ...],
    subject: Subject | None = None,
) -> Release:
    return Release(
        name=name,
        model_layout=model_layout,
        text=text,
        text_files=(PARQUET_FILES,),
        row_length=128,
        licence="MIT",
        gated=False,
        repositories=_packaged(name),
        family=(name, *full),
        find=sae_ids.mini_sae(name, SAE_LAYOUTS),
        ids=lambda: list(sae_ids.card_of(name)["saes"]),
        subject=subject,
        notebooks=notebooks,
    )


def _gated_model(name: str, *, weights_mb: float, tokenizer_mb: float) -> dict[str, Repository]:
    sizes_mb = {"*.safetensors": weights_mb, "tokenizer.json": tokenizer_mb}
    repository = Repository(name, sizes_mb=sizes_mb)
    return {"model": repository, "tokenizer": repository}


GELU_NOTEBOOKS = (
    "00_start_here",
    "01_train_an_sae",
    "02_gelu_1l_reading_a_feature",
    "03_gelu_1l_reconstruction",
    "04_gelu_1l_rare_features",
)
GEMMA_SCOPE_NOTEBOOKS = ("05_gemma_scope_validation", "06_gemma_scope_frontier")
GEMMA_2B_NOTEBOOKS = ("07_gemma_2b_residual_saes",)
LLAMA_NOTEBOOKS = ("08_llama_steering",)
# The validation notebook reads the first of these, the frontier notebook the seven of layer 12.
VALIDATED = "layer_0/width_16k/average_l0_105"
FRONTIER = (
    *(f"layer_12/width_16k/average_l0_{l0}" for l0 in (22, 41, 82, 176)),
    *(f"layer_12/width_65k/average_l0_{l0}" for l0 in (21, 38, 72)),
)
STREAMED = Repository("the corpus that the SAE names, streamed", kind="dataset")

_RELEASES = {
    release.name: release
    for release in (
        _mini(
            "gelu-1l-mini",
            full=("gelu-1l",),
            model_layout=NEEL_MODEL,
            text=published,
            notebooks=(*GELU_NOTEBOOKS, "11_sparse_probing"),  # only its text has true labels
        ),
        Release(
            name="gelu-1l",
            model_layout=NEEL_MODEL,
            text=published,
            text_files=(PARQUET_FILES,),
            row_length=128,
            licence="not stated by the repositories' owner",
            gated=False,
            repositories={
                "model": Repository(
                    "NeelNanda/GELU_1L512W_C4_Code",
                    revision="bddc0e332f0ae84279e6a6a45d91b314899e1603",
                    sizes_mb={"model_final.pth": 213},
                ),
                "tokenizer": Repository(
                    "NeelNanda/gpt-neox-tokenizer-digits",
                    revision="0f6671571a20be9756b9991d978047c03b75e749",
                    sizes_mb={"tokenizer.json": 2},
                ),
                "sae": Repository("NeelNanda/sparse_autoencoder"),
                "text": Repository(
                    "NeelNanda/c4-code-20k", kind="dataset", sizes_mb={PARQUET_FILES: 43}
                ),
            },
            family=("gelu-1l-mini", "gelu-1l"),
            find=sae_ids.gelu_1l_sae,
            ids=lambda: list(GELU_1L_RUNS),
            more_ids="a checkpoint's number",
            shown=tuple(GELU_1L_RUNS),
            notebooks=GELU_NOTEBOOKS,
        ),
        _mini(
            "gemma-mini",
            full=("gemma-scope-2b-pt-res", "gemma-2b-res-jb"),
            model_layout=HUGGINGFACE,
            text=packed,
            notebooks=GEMMA_SCOPE_NOTEBOOKS + GEMMA_2B_NOTEBOOKS,
        ),
        *small_releases(STREAMED),
        Release(
            name="gemma-scope-2b-pt-res",
            model_layout=HUGGINGFACE,
            text=streamed,
            row_length=1024,
            licence="SAEs CC-BY-4.0; model under the Gemma licence",
            gated=True,
            repositories=_gated_model("google/gemma-2-2b", weights_mb=10_500, tokenizer_mb=18)
            | {"sae": Repository("google/gemma-scope-2b-pt-res"), "text": STREAMED},
            family=("gemma-mini", "gemma-scope-2b-pt-res"),
            find=sae_ids.gemma_scope_sae,
            ids=registered_ids("gemma-scope-2b-pt-res"),
            default=sae_ids.gemma_scope_file(VALIDATED, VALIDATED),
            # As sae_lens has it; what these SAEs were trained on is not public.
            corpus="monology/pile-uncopyrighted",
            shown=(VALIDATED, *FRONTIER),
            notebooks=GEMMA_SCOPE_NOTEBOOKS,
        ),
        Release(
            name="gemma-2b-res-jb",
            model_layout=HUGGINGFACE,
            text=streamed,
            row_length=1024,
            licence="SAEs MIT; model under the Gemma licence",
            gated=True,
            repositories=_gated_model("google/gemma-2b", weights_mb=5_000, tokenizer_mb=18)
            | {"sae": Repository("jbloom/Gemma-2b-Residual-Stream-SAEs"), "text": STREAMED},
            family=("gemma-mini", "gemma-2b-res-jb"),
            find=sae_ids.gemma_2b_sae,
            ids=registered_ids("gemma-2b-res-jb"),
            default=sae_ids.gemma_2b_file(
                "blocks.0.hook_resid_post",
                "gemma_2b_blocks.0.hook_resid_post_16384_anthropic",
                l0=47,
            ),
            shown=("blocks.0.hook_resid_post", "blocks.6.hook_resid_post"),
            notebooks=GEMMA_2B_NOTEBOOKS,
        ),
        _mini(
            "llama-mini",
            full=("llama-3.2-1b-qresearch",),
            model_layout=HUGGINGFACE,
            text=packed,
            notebooks=LLAMA_NOTEBOOKS,
            subject=Subject(("data",), STEERING_PASSAGE, strength=6.0),
        ),
        Release(
            name="llama-3.2-1b-qresearch",
            model_layout=HUGGINGFACE,
            text=conversation,
            row_length=128,
            licence="SAE Apache-2.0; model under Meta's Llama 3.2 licence",
            gated=True,
            repositories=_gated_model(
                "meta-llama/Llama-3.2-1B-Instruct", weights_mb=2_500, tokenizer_mb=9
            )
            | {
                "sae": Repository("qresearch/Llama-3.2-1B-Instruct-SAE-l9"),
                "text": Repository("the published conversation", folder=DATA),
            },
            family=("llama-mini", "llama-3.2-1b-qresearch"),
            find=lambda sae_id: LLAMA_SAE if sae_id == LLAMA_SAE.id else None,
            ids=lambda: [LLAMA_SAE.id],
            subject=Subject(("pirate", "ye", "arr", "matey"), strength=3.0),
            notebooks=LLAMA_NOTEBOOKS,
        ),
    )
}
ORDERING = ("feature-ordering", "feature-ordering-2b")
STUDIES = {
    study.name: study
    for study in (
        Study(
            name="feature-ordering",
            release="gemma-mini",
            family=ORDERING,
            notebooks=("09_feature_ordering",),
        ),
        Study(
            name="feature-ordering-2b",
            release="gemma-scope-2b-pt-res",
            family=ORDERING,
            notebooks=("09_feature_ordering",),
        ),
        Study(
            name="saebench",
            release="gelu-1l-mini",
            family=("saebench",),
            notebooks=("10_reading_saebench",),
        ),
    )
}
NOTEBOOKS = {
    **{name: release.notebooks for name, release in _RELEASES.items() if release.notebooks},
    **{name: study.notebooks for name, study in STUDIES.items()},
}
"""The notebooks of each release and study, in the order in which they are run."""


def release_named(name: str) -> Release:
    """A release by its name: a curated one, or any that sae_lens lists.

    Args:
        name: such as ``gelu-1l-mini``; ``releases()`` lists the curated ones.

    Raises:
        UnknownNameError: for a name that does not exist; the message has the nearest names.

    >>> release = release_named("gemma-mini")
    >>> release.offline, release.ids()[0]
    (True, 'layer_1/width_1k/average_l0_9')
    """
    if name in _RELEASES:
        return _RELEASES[name]
    if name in STUDIES:
        raise UnknownNameError(
            f"{name!r} is a study, and no release to load; saework reproduce {name} runs it, and "
            f"its model is that of {STUDIES[name].release!r}"
        )
    if name not in registered_names():
        raise unknown(
            "release",
            name,
            [*_RELEASES, *registered_names()],
            see="saework.releases() lists the curated ones; any release of sae_lens loads too.",
        )
    listed = registry()[name]
    model = Repository(sae_ids.hub_name(listed.model))
    return Release(
        name=name,
        model_layout=HUGGINGFACE,
        text=streamed,
        row_length=128,
        licence="see its repositories",
        gated=None,
        repositories={
            "model": model,
            "tokenizer": model,
            "sae": Repository(listed.repo_id),
            "text": STREAMED,
        },
        family=(name,),
        find=sae_ids.registered_sae(name),
        ids=registered_ids(name),
    )


def is_curated(name: str) -> bool:
    """Whether ``releases()`` lists it."""
    return name in _RELEASES


def releases() -> pd.DataFrame:
    """One row per curated release; the index is the name to give to ``load``.

    Returns:
        Hook, widths and download are those of the release's default SAE. Columns:

        - ``model``: its name on the Hub.
        - ``hook``, ``d_in``, ``d_sae``: where the SAE reads, and its widths.
        - ``corpus``: the text that ``load`` takes.
        - ``licence``, ``gated``: of model and SAEs; whether it has to be accepted on the Hub.
        - ``download_mb``: of weights and text, as published.
        - ``memory_gb``: about what its notebooks need, float32.
        - ``offline``: whether all of it is in this package.

    >>> releases().loc["gelu-1l-mini", "hook"]
    'blocks.0.mlp.hook_post'
    """
    rows = {}
    for name, release in _RELEASES.items():
        sae = release.sae()
        rows[name] = {
            "model": release.repositories["model"].name,
            "hook": sae.hook,
            "d_in": sae.d_in,
            "d_sae": sae.d_sae,
            "corpus": release.repositories["text"].name,
            "licence": release.licence,
            "gated": release.gated,
            "download_mb": round(sum(size for _, _, size in release.files())),
            "memory_gb": round(memory_gb(release), 1),
            "offline": release.offline,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


def claims_of(name: str, topic: str = "") -> list[Claim]:
    """The published claims of a release or study, and of its mini or full sibling.

    Args:
        name: of a release or a study.
        topic: how their ids begin, such as ``reconstruction``; all claims by default.

    Raises:
        UnknownNameError: for a name that does not exist.

    >>> claim = claims_of("gelu-1l", "reconstruction/run1/score")[-1]
    >>> claim.value, claim.tier
    (0.9112, 'gelu-1l')
    """
    if name in STUDIES:
        return claims_of_family(STUDIES[name].family, topic)
    return release_named(name).claims(topic)
