"""Pages of features: one, many, or as files with an index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.core.argument_kinds import checked
from saework.core.arguments import check_feature, check_positive
from saework.core.errors import in_words
from saework.core.files import check_own_page, write_whole
from saework.core.folders import make_folder, only_writer
from saework.core.parts import ONLY_WEIGHTS, check_sae, check_workbook
from saework.core.plain_torch import plain_torch
from saework.core.protocols import SparseAutoencoder
from saework.loading.workbook import Workbook
from saework.views.feature_page.html import Made, render
from saework.views.feature_page.index import ORDERS, IndexRow, page_file, read_rows, write_rows
from saework.views.feature_page.links import link_pages
from saework.views.feature_page.measure import N_ABLATED, measure, pages, source_of
from saework.views.feature_page.page import FeaturePage


@checked
def feature_page(
    workbook: Workbook,
    feature: int,
    *,
    scan: FeatureScan | None = None,
    other: SparseAutoencoder | Workbook | None = None,
    n_ablated: int = N_ABLATED,
    note: str = "",
) -> FeaturePage:
    """One feature on one page: where it fires, what it writes, what its absence costs.

    Losses are in nats. Ablation puts ``x - f * W_dec[feature]`` in the place of ``x``, so the
    SAE's error stays. It is measured at all firings, or at ``n_ablated`` of them drawn by lot; the
    standard error takes each row of text as one draw.

    Args:
        scan: of the workbook's SAE over ``workbook.tokens``, row 0 first. By default these are
            scanned here without BOS. The section on co-firing needs a scan made with
            ``cofiring=[feature]``.
        other: another SAE in which to look for the same feature, or a workbook with it, such as
            ``workbook.with_sae("run2")``.
        n_ablated: firings to ablate, at most.
        note: your own words, which stand at the top of the page as plain text.

    Raises:
        ValueError: the feature does not exist, or the scan is of another SAE, of other tokens, or
            without positions.

    >>> from saework import feature_page, load
    >>> page = feature_page(load("gelu-1l-mini", n_tokens=2048, check=False), 985)
    >>> page.feature, page.n_tokens, page.dead
    (985, 2032, False)
    """
    return next(
        feature_pages(workbook, [feature], scan=scan, other=other, n_ablated=n_ablated, note=note)
    )


@checked
def feature_pages(
    workbook: Workbook,
    features: Iterable[int],
    *,
    scan: FeatureScan | None = None,
    other: SparseAutoencoder | Workbook | None = None,
    n_ablated: int = N_ABLATED,
    note: str = "",
    progress: bool = True,
) -> Iterator[FeaturePage]:
    """The pages of many features, in their order, each as ``feature_page`` gives it.

    All share one scan, made at once. After it, the tokens are read once more for all firings of
    the features, and each row with one of them once for all features. It is read once more for
    each feature that is taken out of it, at most ``n_ablated`` + 31 times a feature.

    Args:
        features: their numbers; a page for each, in this order.
        scan: as in ``feature_page``.
        other: as in ``feature_page``.
        n_ablated: as in ``feature_page``, for each feature. Fewer make many pages faster.
        note: as in ``feature_page``, on each of these pages.
        progress: whether to show bars.

    Raises:
        ValueError: as in ``feature_page``; or the other SAE has another ``d_in``.

    Memory: 150 kB for each feature, and 9 bytes times ``d_sae`` for each feature's co-firing.

    >>> from saework import feature_pages, load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> [page.feature for page in feature_pages(book, [985, 3])]
    [985, 3]
    """
    check_workbook(workbook)
    check_positive(n_ablated, "n_ablated")
    d_sae, d_in = workbook.sae.W_dec.shape
    features = [check_feature(feature, d_sae) for feature in features]
    if other is not None and not isinstance(other, Workbook):
        check_sae(other, needs=ONLY_WEIGHTS)
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
        n_ablated=n_ablated,
        progress=progress,
    )
    made = _with_plain_torch(pages(measured, features))
    return (replace(page, note=note) for page in made)


def check_notes(folder: str | Path, features: Iterable[int]) -> None:
    """Refuse to write pages without a note over those that carry the reader's own words.

    Args:
        folder: of the pages.
        features: whose pages are to be written.

    Raises:
        ValueError: one of them is there, and has a note; or ``pages.json`` is not saework's.
    """
    _, _, rows = read_rows(Path(folder))
    noted = [feature for feature in features if feature in rows and rows[feature].note]
    if noted:
        raise ValueError(
            f"{Path(folder) / page_file(noted[0])} has a note of yours, which would be lost; give "
            "it again (--note TEXT), or drop it (--note ''), or give another folder (--out DIR)"
        )


def _with_plain_torch(pages: Iterator[FeaturePage]) -> Iterator[FeaturePage]:
    """The pages, each made with torch's usual defaults when its turn comes."""
    while True:
        with plain_torch():
            page = next(pages, None)
        if page is None:
            return
        yield page


@checked
def write_pages(
    pages: Iterable[FeaturePage],
    folder: str | Path,
    *,
    command: str = "",
    when: datetime | None = None,
) -> Path:
    """Write one HTML file per page (``feature-7.html``), and ``index.html``, which lists them.

    The pages link to each other. A click on a column's head in the index leads to the same list in
    another order (``index-by-rate.html`` and so on). The index also lists the pages that earlier
    calls wrote there; ``pages.json`` keeps its lines.

    Args:
        pages: at least one.
        folder: made if it is not there.
        command: what made the pages, for their footers.
        when: the date in their footers; now by default.

    Returns:
        The path of the index.

    Raises:
        ValueError: there are no pages; a file of this name is not saework's; the folder's pages
            are of another SAE or other tokens; or it cannot be written to, or another process
            writes to it.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    if isinstance(pages, FeaturePage) or not isinstance(pages, Iterable):
        raise ValueError(f"pages is {in_words(pages)}; give a list of pages, or feature_pages(...)")
    make_folder(folder)
    with only_writer(folder):
        return _written(pages, folder, command, when or datetime.now())


def _written(pages: Iterable[FeaturePage], folder: Path, command: str, when: datetime) -> Path:
    """``write_pages``, in a folder that is there, and to which no one else writes."""
    for order in ORDERS:
        check_own_page(folder / order.file)
    source, counted, rows = read_rows(folder)
    new: set[int] = set()
    for page in pages:
        if not isinstance(page, FeaturePage):
            raise ValueError(f"a page is {in_words(page)}; give what feature_page(...) returns")
        row = IndexRow.of(page)
        check_own_page(folder / row.file)
        if rows and (source, counted) != (page.source, page.counted):
            raise ValueError(
                f"the pages in {folder} are of {source}, {counted}, and these of "
                f"{page.source}, {page.counted}; give another folder"
            )
        source, counted = page.source, page.counted
        document = page.document(when=when, command=command, has_index=True)
        write_whole(folder / row.file, document.encode("utf-8", errors="replace"))
        rows[page.feature] = row
        new.add(page.feature)
    if not new:
        raise ValueError("there are no pages to write; give at least one feature")
    write_rows(folder, source, counted, rows)
    made = Made.now(when, command=command)
    for order in ORDERS:
        index = render(
            "index.html",
            rows=order.sorted(rows.values()),
            order=order,
            orders=ORDERS,
            source=source,
            counted=counted,
            made=made,
        )
        write_whole(folder / order.file, index.encode("utf-8", errors="replace"))
    link_pages(folder, rows, new)
    return folder / ORDERS[0].file
