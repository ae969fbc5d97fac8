"""What an SAE's own config says of the model and the rows that it was trained on."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from saework.core.errors import UnknownNameError
from saework.core.protocols import sae_metadata
from saework.loading.hub import Repository
from saework.loading.layouts.sae_lens import Registered
from saework.loading.sae_ids import hub_name
from saework.loading.text_sources import streamed

if TYPE_CHECKING:
    from saework.core.protocols import SparseAutoencoder
    from saework.loading.release import Release

LAYER_IN_ID = re.compile(r"(?:^|[/_.])(?:blocks\.|layer_?|l)(\d+)")
POINT_IN_ID = re.compile(r"hook_(resid_pre|resid_mid|resid_post|attn_out|mlp_out|z)(?![a-z])")
USUAL_ROWS = {
    "sequence_separator_token": ("bos",),
    "disable_concat_sequences": (False, None),
    "seqpos_slice": (None, [None], (None,), [None, None], (None, None)),
    "exclude_special_tokens": (False, None),
}
"""What sae_lens records of rows and positions, and the values that rows here have."""
LONGEST_ROW = 2048
"""Longer rows cost attention's memory, which grows with the square of the length."""


def with_own_model(release: Release, sae_id: str, sae: SparseAutoencoder) -> Release:
    """The release with the model that the SAE itself names, where sae_lens's table has another.

    Args:
        release: the release.
        sae_id: of the SAE in it; for a path on this machine, the release's model stays.
        sae: the loaded SAE.

    Warns:
        UserWarning: if the two differ; it names both.
    """
    listed = release.find(sae_id)
    own_name = sae_metadata(sae, "model_name")
    if listed is None or not isinstance(listed.layout, Registered) or not own_name:
        return release
    table_name = release.repositories["model"].name
    try:
        own_model = hub_name(own_name)
    except UnknownNameError:
        own_model = None
    if _bare(own_model or own_name) == _bare(table_name):
        return release
    contradiction = (
        f"sae_lens's table says that {release.name} is for {table_name}, but the SAE {sae_id} "
        f"says that it was trained on {own_name} (model_name in its config); "
    )
    if own_model is None:
        warnings.warn(
            contradiction + f"TransformerLens does not list that one, so {table_name} is taken: "
            "numbers may be off. Load the right model yourself, and build a Workbook(...)",
            stacklevel=3,
        )
        return release
    warnings.warn(
        contradiction + f"{own_model} is taken. For the other model build a Workbook(...)",
        stacklevel=3,
    )
    repository = Repository(own_model)
    repositories = {**release.repositories, "model": repository, "tokenizer": repository}
    return replace(release, repositories=repositories)


def warn_of_other_hook(release: Release, sae_id: str, sae: SparseAutoencoder) -> None:
    """Warn where sae_lens's table lists an SAE under another hook or layer than the SAE's own.

    Warns:
        UserWarning: if the two differ; it names both.
    """
    listed = release.find(sae_id)
    own = sae_metadata(sae, "hook_name")
    if listed is None or not isinstance(listed.layout, Registered) or not own:
        return
    differences = []
    for pattern in (LAYER_IN_ID, POINT_IN_ID):
        in_id = pattern.search(sae_id)
        in_own = pattern.search(own)
        if in_id and in_own and in_id[1] != in_own[1]:
            differences.append(f"{in_id[1]} for {in_own[1]}")
    if differences:
        warnings.warn(
            f"sae_lens's table lists this SAE of {release.name} as {sae_id}, but its own config "
            f"says that it reads {own} ({', '.join(differences)}); {own} is taken. "
            "find_site(...) ranks the hooks for it",
            stacklevel=3,
        )


def _bare(model: str) -> str:
    """A model's name without its owner; Meta's has two spellings."""
    return model.split("/")[-1].lower().removeprefix("meta-")


def rows_of_training(sae: SparseAutoencoder, release: Release) -> tuple[int, bool]:
    """``(tokens in a row, whether rows begin with BOS)``, as the SAE was trained.

    Args:
        sae: whose config may have ``context_size`` and ``prepend_bos``.
        release: whose row length an SAE gets that names none.

    Warns:
        UserWarning: for a ``context_size`` that is not honoured, and for positions or separators
            that differ (``USUAL_ROWS``).
    """
    _warn_of_other_rows(sae)
    prepend_bos = sae_metadata(sae, "prepend_bos") is not False
    context_size = sae_metadata(sae, "context_size")
    if context_size is None:
        return release.row_length, prepend_bos
    length, why = context_size, ""
    # Only models of streamed releases are known to have a context of so many tokens.
    longest = LONGEST_ROW if release.text is streamed else release.row_length
    if not isinstance(context_size, int) or context_size < 2:
        length, why = release.row_length, "which is no row's length"
    elif context_size > longest:
        length, why = longest, "more than is taken of this release's text"
    if why:
        warnings.warn(
            f"the SAE's config says context_size {context_size!r}, {why}: rows have {length} "
            "tokens. For other rows build a Workbook(...) with tokens of your own",
            stacklevel=4,
        )
    return length, prepend_bos


def _warn_of_other_rows(sae: SparseAutoencoder) -> None:
    """Warn of recorded facts about rows and positions that rows here do not follow."""
    metadata = getattr(getattr(sae, "cfg", None), "metadata", None)
    recorded = vars(metadata) if hasattr(metadata, "__dict__") else {}
    differences = [
        f"{name} {recorded[name]!r}"
        for name, usual in USUAL_ROWS.items()
        if name in recorded and recorded[name] not in usual
    ]
    if differences:
        warnings.warn(
            f"the SAE's config says {', '.join(differences)}, which is not followed: rows are "
            "documents end to end with BOS between them, and every position counts. Leave "
            "positions out by mask=, or build a Workbook(...) with rows of your own",
            stacklevel=5,
        )


def warn_of_other_training(text_of: SparseAutoencoder, sae: SparseAutoencoder) -> None:
    """Warn where an SAE was trained on another model or on other rows than those at hand.

    Args:
        text_of: the SAE that model and rows were loaded for.
        sae: the SAE to run on them.

    Warns:
        UserWarning: it names each field of the config that differs.
    """
    differences = []
    for field in ("model_name", "prepend_bos", "context_size", *USUAL_ROWS):
        at_hand = sae_metadata(text_of, field)
        own = sae_metadata(sae, field)
        if field == "model_name" and at_hand and own:
            at_hand, own = _bare(at_hand), _bare(own)
        if at_hand is not None and own is not None and at_hand != own:
            differences.append(f"{field} {own!r} (here {at_hand!r})")
    if differences:
        warnings.warn(
            f"this SAE was trained with {', '.join(differences)}; model and rows stay as they "
            "are. Load it by itself for the model and the rows of its own",
            stacklevel=3,
        )
