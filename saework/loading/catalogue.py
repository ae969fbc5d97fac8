"""The table of what is published: repositories (pinned where a commit is known), or folders of this package.

Nothing is guessed from a name, and a mini stands in the very layout of the system it stands for, so
that one loader reads both. The ids of the suites that sae_lens lists are taken from its table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import pandas as pd

from saework.core.errors import UnknownNameError, unknown
from saework.core.files import DATA
from saework.core.ledger import Claim
from saework.core.protocols import sae_metadata
from saework.loading.hub import Repository
from saework.loading.sae_ids import registry

BUNDLED_TEXT = DATA / "gelu-1l-mini" / "text"
MODEL_FILES = {
    "neel": ("config.json", "model_final.pth"),
    "huggingface": ("config.json", "*.safetensors"),
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
ALSO = (
    "*.safetensors.index.json",
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""Fetched with the model or the tokenizer where they exist."""
STUDIES = {
    "feature-ordering": "gemma-mini",
    "feature-ordering-2b": "gemma-scope-2b-pt-res",
    "saebench": "gelu-1l-mini",
}
"""What has claims and a notebook of its own, though it is no release; and the release whose model it uses."""
_ORDERING = (
    "feature-ordering",
    "feature-ordering-2b",
)  # a study's small and real setting, whose claims stand side by side


@dataclass(frozen=True)
class SaeFile:
    """Where one SAE of a release lies, and what was published of it."""

    id: str
    layout: str
    """``neel``, ``gemma_scope``, ``sae_lens`` or ``qresearch`` (see ``formats``); ``registry``: sae_lens's own loader."""
    files: tuple[str, ...] = ()
    """In the release's repository; the first one decides."""
    hook: str = ""
    d_in: int = 0
    d_sae: int = 0
    l0: float | None = None
    """Mean L0 as published (or recorded, for a mini); None where none was."""
    scale: float | None = None
    """The activation norm factor that sae_lens lists."""

    @property
    def size_mb(self) -> float:
        """Of the weights, float32."""
        return 2 * self.d_in * self.d_sae * 4 / 1e6


@dataclass(frozen=True)
class Release:
    """One published set of SAEs, with the model and the text they were made for."""

    name: str
    model_layout: str
    """``neel`` or ``huggingface``."""
    text: str
    """How ``load`` gets rows: ``published`` (the gelu-1l notebook's cut), ``packed`` (sae_lens's cut of the bundled
    text), ``streamed`` (the same of the corpus that the SAE names), ``conversation`` (qresearch's)."""
    row_length: int
    """Tokens of a row, BOS included."""
    licence: str
    gated: bool | None
    """Whether its licence has to be accepted on the Hub; None where that is not known beforehand."""
    memory_gb: float
    """About what its notebooks need, float32. Measured for the minis' and gelu-1l's sizes; for the others, reckoned
    from the weights and the largest tensors, and not measured."""
    repositories: dict[str, Repository] = field(repr=False)
    """``model``, ``tokenizer``, ``sae``, ``text``."""
    family: tuple[str, ...]
    """The mini and the full releases whose claims stand side by side."""
    find: Callable[[str], SaeFile | None] = field(repr=False)
    """An SAE by its id, or None."""
    ids: Callable[[], list[str]] = field(repr=False)
    """All ids; where no ``default`` is set, the first one is it."""
    more_ids: str = ""
    """What else ``find`` takes, in words."""
    default: SaeFile | None = field(default=None, repr=False)
    """The SAE to load when none is named."""
    corpus: str | None = None
    """The data set to stream where the SAE names none."""
    shown: tuple[str | None, ...] = (None,)
    """The ids that its notebooks read; None is the default."""

    @property
    def offline(self) -> bool:
        """Whether all of it lies in this package."""
        return all(repository.folder for repository in self.repositories.values())

    def sae(self, sae_id: str | int | None = None) -> SaeFile:
        """The SAE of an id; the release's first by default. Raises: UnknownNameError, with what there is."""
        if sae_id is None and self.default:
            return self.default
        found = self.find(self.ids()[0] if sae_id is None else str(sae_id))
        if found is None:
            raise unknown(
                "SAE id",
                sae_id,
                self.ids(),
                see=f"{self.name} has {_choices(str(sae_id), self.ids(), self.more_ids)}.",
            )
        return found

    def files(self, sae_id: str | int | None = None) -> list[tuple[str, str, float]]:
        """``(repository, file or pattern, MB)`` of all that a load reads."""
        sae = self.sae(sae_id)
        found = [("model", file) for file in MODEL_FILES[self.model_layout]]
        found += [("tokenizer", file) for file in TOKENIZER_FILES]
        if self.text in ("published", "packed"):
            found.append(("text", "data/*.parquet"))
        listed = [(part, file, self.repositories[part].size_mb(file)) for part, file in found]
        in_package = bool(self.repositories["sae"].folder)
        heavy = [
            file for file in sae.files if not file.endswith("cfg.json") and "sparsity" not in file
        ]
        return listed + [
            ("sae", file, sae.size_mb if file in heavy and not in_package else 0)
            for file in sae.files
        ]


def _choices(given: str, ids: list[str], more: str) -> str:
    """What there is, as far down the id's path as it agrees: ``layer_0 has width_16k, width_65k``."""
    parts = given.split("/")
    for depth in range(len(parts), 0, -1):
        prefix = "/".join(parts[:depth]) + "/"
        if below := sorted(
            {known[len(prefix) :].split("/")[0] for known in ids if known.startswith(prefix)},
            key=_numbers_in,
        ):
            return f"under {prefix}: {', '.join(below)}"
    tops = sorted({known.split("/")[0] for known in ids}, key=_numbers_in)
    return ", ".join([*([more] if more else []), *tops])


def _numbers_in(text: str) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def scan_file(sae_id: str) -> str:
    """The file name of the scan that a mini's builder recorded for an SAE."""
    return f"{sae_id.replace('/', '-')}.safetensors"


# ---- the SAEs of each kind of release ----


@lru_cache(maxsize=None)
def card_of(name: str) -> dict:
    """What a mini's builder recorded: recipes, curves, scores. Empty for a release that is not a mini."""
    path = DATA / name / "card.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"saes": {}}


def _mini_sae(name: str) -> Callable[[str], SaeFile | None]:
    def find(sae_id: str) -> SaeFile | None:
        entry = card_of(name)["saes"].get(sae_id)
        if entry is None:
            return None
        recipe = entry["recipe"]
        shape = {"hook": recipe["hook"], "d_in": recipe["d_in"], "d_sae": recipe["d_sae"]}
        return SaeFile(sae_id, entry["layout"], tuple(entry["files"]), **shape, l0=entry["mean_l0"])

    return find


_NEEL_RUNS = {"run1": 25, "run2": 47}


def _neel_sae(sae_id: str) -> SaeFile | None:
    number = _NEEL_RUNS.get(sae_id, int(sae_id) if sae_id.isdigit() else None)
    if number is None:
        return None
    return SaeFile(
        sae_id,
        "neel",
        (f"{number}_cfg.json", f"{number}.pt"),
        "blocks.0.mlp.hook_post",
        2048,
        16384,
    )


_WIDTHS = {
    "16k": 2**14,
    "32k": 2**15,
    "65k": 2**16,
    "131k": 2**17,
    "262k": 2**18,
    "524k": 2**19,
    "1m": 2**20,
}


def _gemma_scope_sae(sae_id: str) -> SaeFile | None:
    path = registry()["gemma-scope-2b-pt-res"].saes_map.get(sae_id)
    if path and not path.startswith(
        "layer_"
    ):  # the embedding's SAEs are scaled on loading, which sae_lens knows how to do
        return SaeFile(sae_id, "registry", hook="hook_embed", d_in=2304)
    return _gemma_scope_file(sae_id, path) if path else None


def _gemma_scope_file(sae_id: str, path: str) -> SaeFile:
    layer, width, l0 = re.fullmatch(r"layer_(\d+)/width_(\w+)/average_l0_(\d+)", path).groups()
    return SaeFile(
        sae_id,
        "gemma_scope",
        (f"{path}/params.npz",),
        f"blocks.{layer}.hook_resid_post",
        2304,
        _WIDTHS[width],
        float(l0),
    )


def _gemma_2b_sae(sae_id: str) -> SaeFile | None:
    from sae_lens.loading.pretrained_saes_directory import get_norm_scaling_factor

    listed = registry()["gemma-2b-res-jb"]
    if sae_id not in listed.saes_map:
        return None
    scale = get_norm_scaling_factor("gemma-2b-res-jb", sae_id)
    return _gemma_2b_file(
        sae_id, listed.saes_map[sae_id], l0=listed.expected_l0[sae_id], scale=scale
    )


def _gemma_2b_file(sae_id: str, folder: str, *, l0: float, scale: float | None = None) -> SaeFile:
    files = tuple(
        f"{folder}/{file}"
        for file in ("sae_weights.safetensors", "cfg.json", "sparsity.safetensors")
    )
    return SaeFile(sae_id, "sae_lens", files, sae_id, 2048, 16384, l0, scale)


_QRESEARCH = SaeFile(
    "l9",
    "qresearch",
    ("Llama-3.2-1B-Instruct-SAE-l9.pt",),
    "blocks.9.hook_resid_pre",
    2048,
    32768,
    l0=63,
)


def _registered_ids(name: str) -> Callable[[], list[str]]:
    return lambda: list(registry()[name].saes_map)


# ---- the releases ----


def _packaged(name: str) -> dict[str, Repository]:
    parts = {
        part: Repository(f"saework/{name}/{part}", folder=DATA / name / part)
        for part in ("model", "tokenizer", "sae")
    }
    return parts | {"text": Repository("saework/gelu-1l-mini/text", folder=BUNDLED_TEXT)}


def _mini(name: str, *, full: tuple[str, ...], model_layout: str, text: str) -> Release:
    return Release(
        name=name,
        model_layout=model_layout,
        text=text,
        row_length=128,
        licence="MIT",
        gated=False,
        memory_gb=1.0,
        repositories=_packaged(name),
        family=(name, *full),
        find=_mini_sae(name),
        ids=lambda: list(card_of(name)["saes"]),
    )


def _gated_model(name: str, *, weights_mb: float, tokenizer_mb: float) -> dict[str, Repository]:
    repository = Repository(
        name, sizes_mb={"*.safetensors": weights_mb, "tokenizer.json": tokenizer_mb}
    )
    return {"model": repository, "tokenizer": repository}


_VALIDATED = "layer_0/width_16k/average_l0_105"  # notebook 04, and seven that notebook 05 compares:
_FRONTIER = (
    *(f"layer_12/width_16k/average_l0_{n}" for n in (22, 41, 82, 176)),
    *(f"layer_12/width_65k/average_l0_{n}" for n in (21, 38, 72)),
)
_STREAMED = Repository("the corpus that the SAE names, streamed", kind="dataset")
_RELEASES = {
    release.name: release
    for release in (
        _mini("gelu-1l-mini", full=("gelu-1l",), model_layout="neel", text="published"),
        Release(
            name="gelu-1l",
            model_layout="neel",
            text="published",
            row_length=128,
            licence="not stated by the repositories' owner",
            gated=False,
            memory_gb=2.7,
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
                    "NeelNanda/c4-code-20k", kind="dataset", sizes_mb={"data/*.parquet": 43}
                ),
            },
            family=("gelu-1l-mini", "gelu-1l"),
            find=_neel_sae,
            ids=lambda: list(_NEEL_RUNS),
            more_ids="a checkpoint's number",
            shown=tuple(_NEEL_RUNS),
        ),
        _mini(
            "gemma-mini",
            full=("gemma-scope-2b-pt-res", "gemma-2b-res-jb"),
            model_layout="huggingface",
            text="packed",
        ),
        Release(
            name="gemma-scope-2b-pt-res",
            model_layout="huggingface",
            text="streamed",
            row_length=1024,
            licence="SAEs CC-BY-4.0; model under the Gemma licence",
            gated=True,
            memory_gb=16,
            repositories=_gated_model("google/gemma-2-2b", weights_mb=10_500, tokenizer_mb=18)
            | {"sae": Repository("google/gemma-scope-2b-pt-res"), "text": _STREAMED},
            family=("gemma-mini", "gemma-scope-2b-pt-res"),
            find=_gemma_scope_sae,
            ids=_registered_ids("gemma-scope-2b-pt-res"),
            default=_gemma_scope_file(_VALIDATED, _VALIDATED),
            corpus="monology/pile-uncopyrighted",  # as sae_lens has it; what it was trained on is not public
            shown=(_VALIDATED, *_FRONTIER),
        ),
        Release(
            name="gemma-2b-res-jb",
            model_layout="huggingface",
            text="streamed",
            row_length=1024,
            licence="SAEs MIT; model under the Gemma licence",
            gated=True,
            memory_gb=13,
            repositories=_gated_model("google/gemma-2b", weights_mb=5_000, tokenizer_mb=18)
            | {"sae": Repository("jbloom/Gemma-2b-Residual-Stream-SAEs"), "text": _STREAMED},
            family=("gemma-mini", "gemma-2b-res-jb"),
            find=_gemma_2b_sae,
            ids=_registered_ids("gemma-2b-res-jb"),
            default=_gemma_2b_file(
                "blocks.0.hook_resid_post",
                "gemma_2b_blocks.0.hook_resid_post_16384_anthropic",
                l0=47,
            ),
            shown=("blocks.0.hook_resid_post", "blocks.6.hook_resid_post"),
        ),
        _mini(
            "llama-mini",
            full=("llama-3.2-1b-qresearch",),
            model_layout="huggingface",
            text="packed",
        ),
        Release(
            name="llama-3.2-1b-qresearch",
            model_layout="huggingface",
            text="conversation",
            row_length=128,
            licence="SAE Apache-2.0; model under Meta's Llama 3.2 licence",
            gated=True,
            memory_gb=6,
            repositories=_gated_model(
                "meta-llama/Llama-3.2-1B-Instruct", weights_mb=2_500, tokenizer_mb=9
            )
            | {
                "sae": Repository("qresearch/Llama-3.2-1B-Instruct-SAE-l9"),
                "text": Repository("the published conversation", folder=DATA),
            },
            family=("llama-mini", "llama-3.2-1b-qresearch"),
            find=lambda sae_id: _QRESEARCH if sae_id == _QRESEARCH.id else None,
            ids=lambda: [_QRESEARCH.id],
        ),
    )
}


def release_named(name: str) -> Release:
    """A release by its name: a curated one, or any that sae_lens lists.

    Raises: UnknownNameError, with the nearest names.
    """
    if name in _RELEASES:
        return _RELEASES[name]
    if name not in registry():
        raise unknown(
            "release",
            name,
            [*_RELEASES, *registry()],
            see="saework.releases() lists the curated ones; any release of sae_lens loads too.",
        )
    listed = registry()[name]
    model = Repository(_hub_name(listed.model))
    return Release(
        name=name,
        model_layout="huggingface",
        text="streamed",
        row_length=128,
        licence="see its repositories",
        gated=None,
        memory_gb=float("nan"),
        repositories={
            "model": model,
            "tokenizer": model,
            "sae": Repository(listed.repo_id),
            "text": _STREAMED,
        },
        family=(name,),
        find=lambda sae_id: SaeFile(sae_id, "registry") if sae_id in listed.saes_map else None,
        ids=lambda: list(listed.saes_map),
    )


def neuronpedia_id(sae, name: str | None = None, sae_id: str | None = None) -> str | None:
    """What Neuronpedia calls an SAE (``gemma-2b/6-res-jb``): as its config says, or else sae_lens's table; None if neither does."""
    own = sae_metadata(sae, "neuronpedia_id")
    if (
        own
        or name is None
        or (name in _RELEASES and _RELEASES[name].offline)
        or name not in registry()
    ):
        return own
    return registry()[name].neuronpedia_id.get(sae_id)


def another_run(release: Release, sae_id: str | None) -> str | None:
    """The next of the release's SAEs at the same hook and of the same shape, or None.

    Where loading downloads, only those count that the release's notebooks read.
    """
    ids = [
        known
        for known in (release.ids() if release.offline else release.shown)
        if known is not None
    ]
    found = release.find(sae_id) if sae_id else None
    if found is None or not found.hook:
        return None
    after = ids[ids.index(sae_id) + 1 :] + ids[: ids.index(sae_id)] if sae_id in ids else ids
    alike = lambda other: (
        (other.hook, other.d_in, other.d_sae) == (found.hook, found.d_in, found.d_sae)
    )  # noqa: E731
    return next((known for known in after if alike(release.sae(known))), None)


def _hub_name(model: str) -> str:
    """The Hub's name of a model that sae_lens lists by TransformerLens's."""
    if "/" in model:
        return model
    from transformer_lens.loading_from_pretrained import get_official_model_name

    try:
        return get_official_model_name(model)
    except ValueError as error:
        raise UnknownNameError(
            f"sae_lens says that this release is for {model!r}, a model that TransformerLens does not list; load it yourself, and build a Workbook(...)"
        ) from error


def releases() -> pd.DataFrame:
    """One row a curated release; the index is the name to give to ``load``.

    Returns: columns ``model``, ``hook``, ``d_in``, ``d_sae``, ``corpus``, ``licence``, ``gated``,
    ``download_mb``, ``memory_gb``, ``offline``. Hook, widths and download are those of the default SAE.
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
            "memory_gb": release.memory_gb,
            "offline": release.offline,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


def _family(name: str) -> tuple[str, ...]:
    if name in STUDIES:
        return _ORDERING if name in _ORDERING else (name,)
    return release_named(name).family


def claims_of(name: str, topic: str = "") -> list[Claim]:
    """The published claims of a release or a study, and of its mini or full sibling, whose id begins with ``topic``."""
    found = []
    for member in _family(name):
        path = DATA / member / "claims.json"
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        found += [Claim(**row, tier=member) for row in rows]
    return [claim for claim in found if claim.id.startswith(topic)]
