"""Write docs/coverage.md: ``python tools/coverage.py > docs/coverage.md``."""

from __future__ import annotations

import pandas as pd

from saework.loading import coverage, refusals
from saework.loading.coverage import FAMILIES
from saework.loading.refusals import ARCHITECTURES, PLACES, REFUSALS, in_words

HEAD = """\
# Which SAEs work

sae_lens lists {releases} releases with {saes:,} SAEs.
With {right:,} of them every function gives the number that a plain computation gives.
With the other {refused:,} some function refuses, before it computes, and says why; all other
functions are right.
Together: {saes:,} of {saes:,}.

`tests/test_matrix.py` makes these verdicts. It runs every architecture of sae_lens, every model
family of its table, and every function on tiny models with random weights, and compares each
number with plain module hooks, `sae.encode`, `sae.decode` and cross-entropy. A refusal that is not
listed here fails the tests, and so does a listed one that does not happen.

Not run here: the real weights. That a published file is read as its publisher meant is tested on
small files of the same layout. Models that also read images (Gemma 3 from 4B on) are read as their
text part.

This page is written by `python tools/coverage.py`; `saework list --all` prints the table of
releases.
"""
NOTES = """\
In brackets, a way to call a function: `recons_score` with mean ablation, the explorer's search by a
token, `steer` in mode clamp or without the error term. `write_reference` stands for `validate` too,
and `recons_score` for `recons_scores`.
"""
RELEASES = """\
Where only an SAE's own config says its architecture, the last column names what any of them
refuses: `select_features` refuses those whose features compete (TopK), and no other.
"""


def page() -> str:
    """The whole page."""
    table = coverage.coverage()
    total = int(table["saes"].sum())
    right = int(table.loc[table["refused"] == "", "saes"].sum())
    head = HEAD.format(
        releases=table["release"].nunique(), saes=total, right=right, refused=total - right
    )
    parts = [
        head,
        "## What is refused, and why\n\n" + markdown(_refusals(table)) + "\n" + NOTES,
        "## Architectures and functions\n\n" + markdown(_by_architecture()),
        "## Families and hooks\n\n" + _families(),
        "## Releases\n\n" + RELEASES + "\n" + markdown(_releases(table)),
    ]
    return "\n".join(parts)


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _refusals(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for refusal in REFUSALS:
        number = 0
        for release in table["release"].unique():
            for kind, saes in coverage.kinds_of(release).items():
                concerned = any(
                    refusal in refusals.refusals(architecture, kind.place).values()
                    for architecture in kind.architectures
                )
                number += saes * concerned
        is_any = len(refusal.architectures) > len(ARCHITECTURES) / 2
        kinds = "any" if is_any else ", ".join(refusal.architectures)
        places = "" if refusal.places is None else f", at {' or '.join(_hooks(refusal.places))}"
        functions = in_words(refusal.functions)
        rows.append([kinds + places, functions, refusal.why, f"{number:,}"])
    return pd.DataFrame(rows, columns=["SAEs", "functions", "why", "registered, at most"])


def _hooks(places: tuple[str, ...]) -> list[str]:
    return [f"`{PLACES[place].replace('blocks.L.', '')}`" for place in places]


def _by_architecture() -> pd.DataFrame:
    """Where a residual or MLP SAE of each architecture is refused."""
    rows = []
    for architecture in ARCHITECTURES:
        refused = refusals.refusals(architecture, "resid_post")
        rows.append([architecture, in_words(refused) or "none"])
    return pd.DataFrame(rows, columns=["architecture", "refused"])


def _families() -> str:
    hooks = ", ".join(_hooks(tuple(PLACES)))
    families = ", ".join(dict.fromkeys(FAMILIES.values()))
    return (
        f"All functions that run a model are right, but for the refusals above, with {families}, "
        "Granite, Olmo2 (transformers' names) and a HookedTransformer, at each of these hooks that "
        f"the model has: {hooks}. Pythia's parallel blocks have no `hook_resid_mid`, and models of "
        "experts no `mlp.hook_post`.\n\n"
        "One more refusal: an SAE at `ln2.hook_normalized` of Qwen 3.5 "
        f"({refusals.QWEN_3_5_NORM.why}).\n"
    )


def _releases(table: pd.DataFrame) -> pd.DataFrame:
    shown = table.sort_values(["family", "release", "reads"], kind="stable")
    shown = shown.assign(reads=shown["reads"].str.replace("blocks.L.", ""))
    shown["refused"] = shown["refused"].where(shown["refused"] != "", "none")
    return shown[["release", "model", "reads", "architecture", "saes", "refused"]]


if __name__ == "__main__":
    print(page(), end="")
