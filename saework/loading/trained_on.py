"""What an SAE's own config says of the model and the rows that it was trained on."""

from __future__ import annotations

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


def _bare(model: str) -> str:
    """A model's name without its owner; Meta's has two spellings."""
    return model.split("/")[-1].lower().removeprefix("meta-")


def rows_of_training(sae: SparseAutoencoder, release: Release) -> tuple[int, bool]:
    """``(tokens in a row, whether rows begin with BOS)``, as the SAE was trained.

    Args:
        sae: whose config may have ``context_size`` and ``prepend_bos``.
        release: whose row length an SAE gets that names none.

    Warns:
        UserWarning: for a ``context_size`` that is not honoured.
    """
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


def warn_of_other_training(text_of: SparseAutoencoder, sae: SparseAutoencoder) -> None:
    """Warn where an SAE was trained on another model or on other rows than those at hand.

    Args:
        text_of: the SAE that model and rows were loaded for.
        sae: the SAE to run on them.

    Warns:
        UserWarning: it names each field of the config that differs.
    """
    differences = []
    for field in ("model_name", "prepend_bos", "context_size"):
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
