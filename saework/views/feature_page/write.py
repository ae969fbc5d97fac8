"""Pages of features: one, many, or as files with an index."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.core.arguments import check_feature
from saework.core.files import check_own_page, read_json, write_whole
from saework.core.protocols import SparseAutoencoder
from saework.loading.workbook import Workbook
from saework.views.feature_page.html import render
from saework.views.feature_page.measure import measure, pages, source_of
from saework.views.feature_page.page import FeaturePage
from saework.views.feature_page.parts import percent, signed
from saework.views.feature_page.sections import label_name
from saework.views.tables import significant

LINES = "pages.json"
"""Beside the index: its lines, for the next call."""
N_INDEX_TOKENS = 4


def feature_page(
    workbook: Workbook,
    feature: int,
    *,
    scan: FeatureScan | None = None,
    other: SparseAutoencoder | Workbook | None = None,
) -> FeaturePage:
    """One feature on one page: where it fires, what it writes, what its absence costs.

    Losses are in nats. Ablation puts ``x - f * W_dec[feature]`` in the place of ``x``, so the
    SAE's error stays. It is measured on the top examples and on a few firings of each interval of
    activation. The mean weighs each interval by its share of the firings.

    Args:
        scan: of the workbook's SAE over ``workbook.tokens``, row 0 first. By default these are
            scanned here without BOS. The section on co-firing needs a scan made with
            ``cofiring=[feature]``.
        other: another SAE in which to look for the same feature, or a workbook with it, such as
            ``workbook.with_sae("run2")``.

    Raises:
        ValueError: the feature does not exist, or the scan is of another SAE, of other tokens, or
            without positions.

    >>> from saework import feature_page, load
    >>> page = feature_page(load("gelu-1l-mini", n_tokens=2048, check=False), 985)
    >>> page.feature, page.n_tokens, page.dead
    (985, 2032, False)
    """
    return next(feature_pages(workbook, [feature], scan=scan, other=other))


def feature_pages(
    workbook: Workbook,
    features: Iterable[int],
    *,
    scan: FeatureScan | None = None,
    other: SparseAutoencoder | Workbook | None = None,
    progress: bool = True,
) -> Iterator[FeaturePage]:
    """The pages of many features, in their order, each as ``feature_page`` gives it.

    All share one scan, made at once. After it, each row with an example is read once for all
    features (every row, where there are labels). It is read once more for each feature that is
    taken out of it, at most 31 times a feature.

    Args:
        features: their numbers; a page for each, in this order.
        scan: as in ``feature_page``.
        other: as in ``feature_page``.
        progress: whether to show bars.

    Raises:
        ValueError: as in ``feature_page``; or the other SAE has another ``d_in``.

    Memory: 30 kB for each feature, and 9 bytes times ``d_sae`` for each feature's co-firing.

    >>> from saework import feature_pages, load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> [page.feature for page in feature_pages(book, [985, 3])]
    [985, 3]
    """
    d_sae, d_in = workbook.sae.W_dec.shape
    features = [check_feature(feature, d_sae) for feature in features]
    other_sae = other.sae if isinstance(other, Workbook) else other
    other_source = source_of(other) if isinstance(other, Workbook) else "the other SAE"
    if other_sae is not None and other_sae.W_dec.shape[1] != d_in:
        raise ValueError(
            f"d_in is {d_in} in this SAE and {other_sae.W_dec.shape[1]} in the other; "
            "give other= an SAE of one hook and model"
        )
    if not features:
        return iter(())
    measured = measure(
        workbook,
        features,
        scan=scan,
        other=other_sae,
        other_source=other_source,
        progress=progress,
    )
    return pages(measured, features)


class IndexRow(NamedTuple):
    """One feature in the index: cells that are already text."""

    feature: int
    file: str
    firing_rate: str
    max_activation: str
    loss_change: str
    raised: str
    best_label: str

    @classmethod
    def of(cls, page: FeaturePage) -> IndexRow:
        """The page in one line."""
        raised = "–"
        if page.logits is not None:
            raised = "  ".join(page.logits.raised["token"].head(N_INDEX_TOKENS))
        best_label = "–"
        if page.labels is not None and not page.dead:
            best_f1 = percent(page.labels["f1"].iloc[0])
            best_label = f"{label_name(page.labels.index[0])} ({best_f1})"
        return cls(
            feature=page.feature,
            file=f"feature-{page.feature}.html",
            firing_rate="never" if page.dead else percent(page.firing_rate),
            max_activation=significant(page.max_activation),
            loss_change=signed(page.mean_loss_change),
            raised=raised,
            best_label=best_label,
        )


def write_pages(pages: Iterable[FeaturePage], folder: str | Path) -> Path:
    """Write one HTML file per page (``feature-7.html``), and ``index.html``, which lists them.

    The index also lists the pages that earlier calls wrote there; ``pages.json`` keeps its lines.

    Returns:
        The path of the index.

    Raises:
        ValueError: there are no pages; a file of this name is not saework's; or the folder's pages
            are of another SAE or other tokens.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    check_own_page(folder / "index.html")
    rows = _rows_before(folder)
    page = None
    for page in pages:
        row = IndexRow.of(page)
        check_own_page(folder / row.file)
        of = [page.source, page.counted]
        if rows and rows["of"] != of:
            raise ValueError(
                f"the pages in {folder} are of {', '.join(rows['of'])}, and these of "
                f"{', '.join(of)}; give another folder"
            )
        page.save(folder / row.file)
        lines = {**rows.get("lines", {}), str(page.feature): row._asdict()}
        rows = {"of": of, "lines": lines}
    if page is None:
        raise ValueError("there are no pages to write; give at least one feature")
    write_whole(folder / LINES, json.dumps(rows, indent=1))
    listed = [IndexRow(**line) for line in rows["lines"].values()]
    index = render("index.html", rows=listed, source=page.source, counted=page.counted)
    return write_whole(folder / "index.html", index.encode("utf-8", errors="replace"))


def _rows_before(folder: Path) -> dict[str, Any]:
    """What ``pages.json`` keeps of earlier pages; empty if there is none."""
    if not (folder / LINES).exists():
        return {}
    try:
        rows = read_json(folder / LINES)
        for line in rows["lines"].values():
            IndexRow(**line)
        rows["of"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{folder / LINES} is not what saework wrote; give another folder"
        ) from error
    return rows
