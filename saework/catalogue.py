"""The table of what is published: repositories at pinned revisions, or folders of this package.

Nothing is guessed from a name, and a mini stands in the very layout of the system it stands for, so
that one loader reads both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from saework._checks import unknown
from saework.claims import Claim
from saework.hub import Repository

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Release:
    """One published set of SAEs, with the model and the text they were made for."""

    name: str
    hook: str
    d_in: int
    d_sae: int
    row_length: int
    """Tokens of a row, BOS included."""
    licence: str
    gated: bool
    memory_gb: float
    """Peak of a default load and one score, float32."""
    repositories: dict[str, Repository] = field(repr=False)
    """``model``, ``tokenizer``, ``sae``, ``text``."""
    checkpoints: dict[str, int]
    """Names of the final checkpoints; any other number is a checkpoint too."""
    family: tuple[str, ...]
    """The mini and the full release whose claims stand side by side."""
    published_l0: float | None = None
    """Mean L0 as published (or recorded, for a mini); None where none was published."""

    @property
    def offline(self) -> bool:
        """Whether all of it lies in this package."""
        return all(repository.folder for repository in self.repositories.values())

    def checkpoint(self, sae_id: str | int | None) -> int:
        """The checkpoint's number for an id such as ``run1``, ``25`` or ``"25"``."""
        if sae_id is None:
            return next(iter(self.checkpoints.values()))
        if str(sae_id).isdigit():
            return int(sae_id)
        if sae_id not in self.checkpoints:
            raise unknown("SAE id", sae_id, self.checkpoints, see=f"{self.name} has {', '.join(self.checkpoints)}, or a checkpoint's number.")
        return self.checkpoints[sae_id]

    def files(self, sae_id: str | int | None = None) -> list[tuple[str, str]]:
        """``(repository, file or pattern)`` of all that a load reads."""
        number = self.checkpoint(sae_id)
        return [
            ("model", "config.json"),
            ("model", "model_final.pth"),
            ("tokenizer", "tokenizer.json"),
            ("tokenizer", "tokenizer_config.json"),
            ("tokenizer", "special_tokens_map.json"),
            ("sae", f"{number}_cfg.json"),
            ("sae", f"{number}.pt"),
            ("text", "data/*.parquet"),
        ]


def _packaged(name: str) -> dict[str, Repository]:
    return {part: Repository(f"saework/{name}/{part}", folder=DATA / name / part) for part in ("model", "tokenizer", "sae", "text")}


_GELU_FAMILY = ("gelu-1l-mini", "gelu-1l")
_RELEASES = {
    release.name: release
    for release in (
        Release(
            name="gelu-1l-mini",
            hook="blocks.0.mlp.hook_post",
            d_in=512,
            d_sae=4096,
            row_length=128,
            licence="MIT",
            gated=False,
            memory_gb=1.0,
            repositories=_packaged("gelu-1l-mini"),
            checkpoints={"run1": 25, "run2": 47},
            family=_GELU_FAMILY,
        ),
        Release(
            name="gelu-1l",
            hook="blocks.0.mlp.hook_post",
            d_in=2048,
            d_sae=16384,
            row_length=128,
            licence="not stated by the repositories' owner",
            gated=False,
            memory_gb=2.7,
            repositories={
                "model": Repository(
                    "NeelNanda/GELU_1L512W_C4_Code",
                    revision="bddc0e332f0ae84279e6a6a45d91b314899e1603",
                    sizes_mb={"config.json": 0, "model_final.pth": 213},
                ),
                "tokenizer": Repository(
                    "NeelNanda/gpt-neox-tokenizer-digits",
                    revision="0f6671571a20be9756b9991d978047c03b75e749",
                    sizes_mb={"tokenizer.json": 2, "tokenizer_config.json": 0, "special_tokens_map.json": 0},
                ),
                "sae": Repository("NeelNanda/sparse_autoencoder", default_mb=269),
                "text": Repository("NeelNanda/c4-code-20k", kind="dataset", default_mb=43),
            },
            checkpoints={"run1": 25, "run2": 47},
            family=_GELU_FAMILY,
        ),
    )
}


def release_named(name: str) -> Release:
    """A release by its name. Raises: UnknownNameError, with the nearest names."""
    if name not in _RELEASES:
        raise unknown("release", name, _RELEASES, see="saework.releases() lists them.")
    release = _RELEASES[name]
    return replace(release, published_l0=_recorded_l0(name)) if release.offline else release


def releases() -> pd.DataFrame:
    """One row a curated release; the index is the name to give to ``load``.

    Returns: columns ``model``, ``hook``, ``d_in``, ``d_sae``, ``corpus``, ``licence``, ``gated``,
    ``download_mb``, ``memory_gb``, ``offline``.
    """
    rows = {
        name: {
            "model": release.repositories["model"].name,
            "hook": release.hook,
            "d_in": release.d_in,
            "d_sae": release.d_sae,
            "corpus": release.repositories["text"].name,
            "licence": release.licence,
            "gated": release.gated,
            "download_mb": sum(release.repositories[part].size_mb(file) for part, file in release.files()),
            "memory_gb": release.memory_gb,
            "offline": release.offline,
        }
        for name, release in _RELEASES.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


def claims_of(name: str, topic: str = "") -> list[Claim]:
    """The published claims of a release, and of its mini or full sibling, whose id begins with ``topic``."""
    found = []
    for member in release_named(name).family:
        path = DATA / member / "claims.json"
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        found += [Claim(**row, tier=member) for row in rows]
    return [claim for claim in found if claim.id.startswith(topic)]


def _recorded_l0(name: str) -> float | None:
    card = DATA / name / "card.json"
    return json.loads(card.read_text(encoding="utf-8"))["runs"]["25"]["mean_l0"] if card.exists() else None
