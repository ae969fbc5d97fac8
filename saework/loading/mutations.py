"""How many of the field's loading mistakes a set of published numbers would catch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from saework.analysis.reconstruction import reconstruction_metrics
from saework.analysis.reference import validate
from saework.core.arguments import accepts_workbook
from saework.core.claims import Claim, agree
from saework.engine.architectures import unchanged
from saework.loading.known_mistakes import MISTAKES, Loaded, loaded_from

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from saework.core.protocols import HookedModel, SparseAutoencoder

Measure = Callable[[Loaded], Mapping[str, Any]]
"""Measured values by claim id."""
_COLUMNS = ["mutation", "applies", "caught", "catching", "by", "reason", "source"]


def reconstruction_values(loaded: Loaded) -> dict[str, float]:
    """``reconstruction_metrics`` with BOS, by the names of its rows."""
    table = reconstruction_metrics(
        loaded.model, loaded.sae, loaded.tokens, hook=loaded.hook, progress=False
    )
    return table["with_bos"].to_dict()


def reference_values(reference: dict[str, Any]) -> Measure:
    """A measure of a reference's claims, for ``mutation_score``.

    Args:
        reference: as ``read_reference`` returns it. Its prompt is run, whatever the tokens.
    """
    return lambda loaded: validate(loaded.model, loaded.sae, reference, hook=loaded.hook)


@accepts_workbook
def mutation_score(
    model: HookedModel,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "batch pos"],
    claims: Iterable[Claim],
    *,
    hook: str | None = None,
    measure: Measure = reconstruction_values,
) -> pd.DataFrame:
    """The field's loading mistakes, made one by one, and which published numbers catch them.

    A mistake is caught if a number that holds without it does not hold with it, or if it raises an
    error. A number that fails already without any mistake can catch none, and is left out.

    Time: one measurement for each mistake, and one without.

    Args:
        model: the model, or a Workbook alone in place of model, sae and tokens.
        sae: the SAE. It is copied, and stays as it is.
        tokens: what the numbers are measured on.
        claims: the published numbers with their tolerances. Their ids are the measure's names.
        hook: the SAE's own by default.
        measure: gives the values of a load by claim id; by default ``reconstruction_metrics`` with
            BOS. ``reference_values(reference)`` gives those of a reference.
    Returns: one row per mistake:

        - ``mutation``: its name
        - ``applies``: whether it can be made here at all
        - ``caught``: whether it is found; False where it does not apply
        - ``catching``: how many of the claims find it
        - ``by``: their ids
        - ``reason``: why it does not apply, or the error that it raises
        - ``source``: who made it, or where its cause is

        ``attrs`` has ``claims`` (ids that hold without a mistake), ``failing`` (those that do not)
        and ``score`` (caught of those that apply).
    Raises:
        ValueError: if no claim holds without a mistake, or one is not measured.

    >>> from saework import Claim, load, mutations
    >>> book = load("gelu-1l-mini", n_tokens=1024, check=False)
    >>> l0 = Claim("l0", 26, "features per token", "a card", 1, "gelu-1l-mini")
    >>> table = mutations.mutation_score(book, [l0]).set_index("mutation")
    >>> table.caught[["input scale not folded", "decoder stored the other way round"]].tolist()
    [True, False]
    """
    loaded = loaded_from(model, sae, tokens, hook)
    holding, failing = _split(list(claims), measure(loaded))
    rows = []
    for mistake in MISTAKES:
        mutated = mistake.of(loaded)
        if isinstance(mutated, str):
            outcome: tuple = (False, False, 0, [], mutated)
        else:
            with unchanged(sae):  # a copy's scaling functions still write on the SAE itself
                outcome = _outcome(mutated, holding, measure)
        rows.append((mistake.name, *outcome, mistake.source))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    n_applied = int(table.applies.sum())
    n_caught = int(table.caught.sum())
    table.attrs = {
        "claims": [claim.id for claim in holding],
        "failing": [claim.id for claim in failing],
        "score": n_caught / n_applied if n_applied else math.nan,
    }
    return table


def _split(claims: list[Claim], measured: Mapping[str, Any]) -> tuple[list[Claim], list[Claim]]:
    """The claims that hold without any mistake, and those that do not."""
    missing = [claim.id for claim in claims if claim.id not in measured]
    if missing:
        raise ValueError(
            f"the measure gives no {', '.join(missing)}; it gives {', '.join(measured)}. "
            "Give claims with these ids, or another measure"
        )
    holding = [claim for claim in claims if _holds(claim, measured)]
    failing = [claim for claim in claims if not _holds(claim, measured)]
    if not holding:
        given = ", ".join(f"{claim.id} ({claim.value})" for claim in failing) or "none at all"
        raise ValueError(
            f"no claim holds for the SAE as it is loaded ({given}), so none can show a mistake; "
            "give claims of this SAE on these tokens, with their tolerances"
        )
    return holding, failing


def _holds(claim: Claim, measured: Mapping[str, Any]) -> bool:
    value = measured[claim.id]
    return agree(claim.value, value, claim.tolerance)


def _outcome(
    mutated: Loaded, holding: list[Claim], measure: Measure
) -> tuple[bool, bool, int, list[str], str]:
    """``applies`` to ``reason`` of one mistake."""
    try:
        measured = measure(mutated)
    except ValueError as error:  # a loud mistake: a shape that does not fit, no variance left
        return True, True, len(holding), [], str(error)
    catching = [claim.id for claim in holding if not _holds(claim, measured)]
    return True, bool(catching), len(catching), catching, ""
