"""Search for features by a token: those that raise its logit, those whose examples are on it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pandas as pd
import torch

from saework.analysis.features import token_effect
from saework.analysis.scanning.feature_scan import FeatureScan
from saework.core.argument_kinds import check_no_surrogate, checked
from saework.core.arguments import check_positive
from saework.core.parts import check_workbook
from saework.core.protocols import Tokenizer, WorkbookParts
from saework.core.tokens import NEWLINE, SPACE, TAB, token_names, visible
from saework.views.explorer.controls import BY_EXAMPLES, BY_LOGIT
from saework.views.explorer.examples import ExampleReader

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

# How a reader types, or copies, what is invisible.
TYPED_SIGNS = str.maketrans(
    {
        SPACE: " ",
        NEWLINE: "\n",
        TAB: "\t",
    }
)
N_TOP_TOKENS = 3
Option = tuple[str, int]
"""What a list shows, and the feature that it stands for."""


@checked
def find_features(
    workbook: WorkbookParts,
    token: str,
    *,
    by: str = BY_EXAMPLES,
    scan: FeatureScan | None = None,
    n: int = 20,
) -> pd.DataFrame:
    """Features that have to do with a token: what the explorer's search lists.

    Args:
        workbook: model, SAE, tokens, tokenizer and hook.
        token: its text. It is read as typed and with a space in front; ``·``, ``↩`` and ``→`` also
            stand for space, newline and tab.
        by: ``"examples"``: features that fire on it, by how many of their strongest examples are
            this token. ``"logit"``: features that raise its logit most by the direct path, which
            says what they write, not where they fire.
        scan: of the workbook's tokens, for the examples. Without it, the first 8,192 tokens are
            scanned, BOS left out.
        n: features at most.

    Returns:
        Highest first, ties by number. By examples, the columns are

        - ``feature``;
        - ``on_token``: its examples on this token;
        - ``examples``: those that the scan kept of it, up to 20;
        - ``top_tokens``: the tokens of the most of its examples.

        By logit: ``feature``, ``effect`` (logits per unit of activation), ``token``.

    Raises:
        ValueError: what is no Workbook, no single token, or a scan of another SAE or without
            positions.
        HookError: by logit, at a hook that does not write to the residual stream.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", check=False)
    >>> find_features(book, "import", n=3)["feature"].tolist()
    [2812, 3922, 151]
    """
    check_workbook(workbook)
    if by not in (BY_EXAMPLES, BY_LOGIT):
        raise ValueError(f"by is {by!r}; give {BY_EXAMPLES!r} or {BY_LOGIT!r}")
    tokenizer = workbook.tokenizer
    tokens = token_forms(token, tokenizer)
    if by == BY_LOGIT:
        found = features_raising(workbook, tokens, n=n)
        names = _visible_tokens(tokens, tokenizer)
        found = found.assign(token=[names[token] for token in found["token"]])
        return found.rename(columns={"index": "feature", "value": "effect"})
    if scan is None:
        scan = ExampleReader(workbook, None).make_scan()
    else:
        scan.check_is_of(workbook)
    found = features_on(scan, workbook.tokens, tokens, n=n)
    found = found.rename(columns={"index": "feature", "value": "on_token", "of": "examples"})
    top = [
        " ".join(_top_tokens(scan, workbook.tokens, feature, tokenizer))
        for feature in found["feature"]
    ]
    return found.assign(top_tokens=top)


def raising_options(workbook: WorkbookParts, tokens: list[int]) -> list[Option]:
    """``features_raising`` for a list, each feature with its effect and its token."""
    found = features_raising(workbook, tokens)
    names = _visible_tokens(tokens, workbook.tokenizer)
    options = []
    for feature, effect, token in found.itertuples(index=False):
        label = f"{feature}: {effect:+.3g} on {names[token]}"
        options.append((label, feature))
    return options


def example_options(
    scan: FeatureScan,
    rows: Int[Tensor, "batch pos"],
    tokens: list[int],
    tokenizer: Tokenizer,
) -> list[Option]:
    """``features_on`` for a list, each feature with its counts and its most frequent tokens."""
    found = features_on(scan, rows, tokens)
    options = []
    for feature, n_on_tokens, n_examples in found.itertuples(index=False):
        top = " ".join(_top_tokens(scan, rows, feature, tokenizer))
        label = f"{feature}: {n_on_tokens} of {n_examples} examples (top tokens: {top})"
        options.append((label, feature))
    return options


def _top_tokens(
    scan: FeatureScan, rows: Int[Tensor, "batch pos"], feature: int, tokenizer: Tokenizer
) -> list[str]:
    """The tokens on which the most of a feature's examples are; ties by strength."""
    places = scan.top_positions[feature]
    kept = places[places[:, 0] >= 0]
    ids = rows.cpu()[kept[:, 0], kept[:, 1]].tolist()
    common = [token for token, _ in Counter(ids).most_common(N_TOP_TOKENS)]
    return token_names(common, tokenizer)


def token_words(tokens: list[int], tokenizer: Tokenizer) -> str:
    """The tokens of a search in words, such as ``return or ·return``."""
    return " or ".join(_visible_tokens(tokens, tokenizer).values())


def token_forms(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of the tokens that a reader may mean: as typed, and with a space in front.

    Args:
        text: one token. ``·``, ``↩`` and ``→`` are also read as space, newline and tab.
        tokenizer: the model's.

    Raises:
        ValueError: if no form is a single token; the message lists its parts.
    """
    if not isinstance(text, str):
        raise ValueError(f"token is {text!r}; give its text, such as {SPACE}return")
    check_no_surrogate(text, "token")
    plain = text.translate(TYPED_SIGNS)
    if not plain:
        raise ValueError(
            f"no token was typed; type one, such as {SPACE}return ({SPACE} is a space)"
        )
    forms = [text, plain]
    if not plain[0].isspace():
        forms.append(f" {plain}")
    found: list[int] = []
    for form in forms:
        ids = _token_ids(form, tokenizer)
        if len(ids) == 1 and ids[0] not in found:
            found += ids
    if found:
        return found
    plain_ids = _token_ids(plain, tokenizer)
    parts = "|".join(token_names(plain_ids, tokenizer))
    raise ValueError(
        f"{visible(plain)} is {len(plain_ids)} tokens here: {parts}; "
        f"type one of them ({SPACE} is a space)"
    )


def _token_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def features_raising(
    workbook: WorkbookParts,
    tokens: list[int],
    *,
    n: int = 20,
) -> pd.DataFrame:
    """Features that add most to the logit of one of these tokens, by the direct path.

    This says what a feature writes, not where it fires. Later layers are left out (see
    ``logit_effect``).

    Args:
        workbook: model, SAE and hook.
        tokens: token ids.
        n: features at most.

    Returns:
        Columns ``index`` (the feature), ``value`` (logits per unit of activation, the largest over
        the tokens) and ``token`` (the one that has it). Highest first, ties by index.
    """
    effects = []
    for token in tokens:
        effect = token_effect(
            workbook.model,
            workbook.sae,
            token,
            hook=workbook.hook,
        )
        effects.append(effect.float().cpu())
    largest, which = torch.stack(effects).max(0)
    found = _highest(largest, n)
    tokens_of_features = torch.tensor(tokens)[which]
    features = found["index"].tolist()
    return found.assign(token=tokens_of_features[features].tolist())


def features_on(
    scan: FeatureScan,
    rows: Int[Tensor, "batch pos"],
    tokens: list[int],
    *,
    n: int = 20,
) -> pd.DataFrame:
    """Features by how many of their strongest examples in a scan are one of these tokens.

    The count is exact over the examples that the scan kept. Features without any are left out.

    Args:
        scan: a scan that kept positions.
        rows: the tokens that were scanned, row 0 first.
        tokens: token ids.
        n: features at most.

    Returns:
        Columns ``index`` (the feature), ``value`` (examples on one of the tokens) and ``of``
        (examples kept). Highest first, ties by index.

    Raises:
        ValueError: if the scan kept no positions, or some of its rows are missing.
    """
    if scan.top_values.shape[1] == 0:
        raise ValueError(
            "this scan kept no positions (top_k=0, or a file of counts only); "
            "leave scan= out to have one made"
        )
    row, pos = scan.top_positions.unbind(-1)
    n_rows, n_pos = rows.shape
    if int(row.max()) >= n_rows or int(pos.max()) >= n_pos:
        raise ValueError(
            f"the scan has examples outside these {n_rows} rows of {n_pos} tokens; "
            "give the rows that were scanned"
        )
    kept = row >= 0
    # a place without an example is -1: read any token there, and leave it out by ``kept``
    row = row.clamp(min=0)
    pos = pos.clamp(min=0)
    token_of_example = rows.cpu()[row, pos]
    on_tokens = kept & torch.isin(token_of_example, torch.tensor(tokens))
    found = _highest(on_tokens.sum(-1), n)
    found = found[found["value"] > 0]
    n_kept = kept.sum(-1)
    features = found["index"].tolist()
    return found.assign(of=n_kept[features].tolist())


def _visible_tokens(tokens: list[int], tokenizer: Tokenizer) -> dict[int, str]:
    """The visible text of each token, by its id."""
    return dict(zip(tokens, token_names(tokens, tokenizer)))


def _highest(values: Float[Tensor, " d_sae"] | Int[Tensor, " d_sae"], n: int) -> pd.DataFrame:
    """The features with the ``n`` highest values; ties by index."""
    n = check_positive(n, "n")
    order = torch.argsort(values, descending=True, stable=True)[:n]
    return pd.DataFrame({"index": order.tolist(), "value": values[order].tolist()})
